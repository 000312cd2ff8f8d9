"""Serving with interceptors around each call. Without them this is not used, and costs nothing."""

from __future__ import annotations

import types
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Any

from msgspec import UNSET
from twisted.internet.defer import CancelledError, Deferred, fail
from typing_extensions import override

from kn_sock._intercept.chain import around, as_deferred
from kn_sock._serving.context import ServerCall, current, run_as
from kn_sock._serving.dispatcher import Dispatcher, is_awaitable
from kn_sock._serving.refusals import deferred_in_thread, no_thread, not_found, too_late
from kn_sock._wire.events import Request
from kn_sock.calls import ServedCall, show
from kn_sock.errors import InvalidParams, RPCError
from kn_sock.methods.table import LOGIN_METHOD, Method


class _Served(ServerCall, gc=True):
    """What is kept of a call with interceptors; they may keep what leads anywhere."""

    call: ServedCall | None = None
    # What a thread runs for it.
    job: Any = None
    # Whether its method has begun, or waits for a thread.
    has_begun: bool = False


class InterceptedDispatcher(Dispatcher):
    """Serves the calls of one connection, each within the interceptors of its server.

    The interceptors run on the reactor's thread, from when the call begins; where its method runs
    in a thread, that is taken by the innermost ``proceed()``. What is wrong with the name or the
    arguments is raised there, too.
    """

    @override
    def _run(self, request: Request) -> None:
        if request.deadline is not None and self._is_too_late(request):
            self._refuse(request, too_late(maybe_executed=False))
            return
        if self._is_of_strangers(request):
            super()._run(request)
            return
        served = _Served(self._own_connection(), request, request.method)
        call = served.call = ServedCall(served, self._protocol)
        show(call)
        proceed = partial(self._innermost, served, call, self._prepare(call, request))
        interceptors = self._runner.options.interceptors
        self._answer_later(served, run_as(served, around, (interceptors, call, proceed), None))

    def _is_of_strangers(self, request: Request) -> bool:
        """Tell what interceptors are not for: secrets, and what comes before the login."""
        if request.method == LOGIN_METHOD:
            return True
        return self._wants_login and request.method not in self._methods

    def _prepare(self, call: ServedCall, request: Request) -> Method | RPCError:
        """Find the method, and bind the arguments; or say what is wrong with them."""
        method = self._methods.get(request.method)
        params, named = request.params, request.kwargs
        request.params = request.kwargs = UNSET
        if method is not None:
            try:
                args, kwargs = method.bind(params, named)
            except InvalidParams as error:
                problem: RPCError = error
            else:
                call.args, call.kwargs = args, kwargs or {}
                return method
        else:
            problem = not_found(request.method)
        if isinstance(params, dict):
            call.kwargs = params
        elif isinstance(params, list):
            call.args = params
            call.kwargs = named if isinstance(named, dict) else {}
        return problem

    def _innermost(
        self, served: _Served, call: ServedCall, method: Method | RPCError
    ) -> Deferred[Any]:
        """Run the method, innermost."""
        if served.cancelled:
            return fail(CancelledError())
        if isinstance(method, RPCError):
            return fail(method)
        if not method.on_reactor and self._runner.uses_threads:
            return self._innermost_in_thread(served, call, method)
        served.has_begun = True
        token = current.set(served)
        try:
            return as_deferred(method.function(*call.args, **call.kwargs))
        except BaseException:
            return fail()
        finally:
            current.reset(token)

    def _innermost_in_thread(
        self, served: _Served, call: ServedCall, method: Method
    ) -> Deferred[Any]:
        done: Deferred[Any] = Deferred(lambda _: self._give_up_job(served))
        work = partial(run_as, served, method.function, call.args, call.kwargs)
        job = _Innermost(served, call, work, done)
        try:
            self._runner.submit(job, self._own_lane())
        except RuntimeError as problem:
            return fail(no_thread(problem))
        served.job = job
        served.has_begun = True
        return done.addCallback(self._resume, served)

    def _give_up_job(self, served: _Served) -> None:
        """Take the function back, or let it know that nobody waits for it any more."""
        if served.job is not None and not self._own_lane().withdraw(served.job):
            served.cancelled = True

    @override
    def _end_job(self, job: Any) -> None:
        if isinstance(job, _Innermost):
            job.served.job = None
            job.settle()
        else:
            super()._end_job(job)

    @staticmethod
    def _resume(result: Any, served: _Served) -> Any:
        """Wait for what a function in a thread gave back to be awaited."""
        if not is_awaitable(result):
            return result
        if not served.cancelled:
            return run_as(served, as_deferred, (result,), None)
        if isinstance(result, types.CoroutineType):
            result.close()
        raise CancelledError

    @override
    def _cancel(self, call: ServerCall) -> None:
        if isinstance(call, _Served) and call.job is not None and not self._waits(call.job):
            # A thread has the function, which can look; its interceptors wait for it, as we do.
            call.cancelled = True
            return
        super()._cancel(call)

    @override
    def _settled(self, call: ServerCall) -> None:
        super()._settled(call)
        if isinstance(call, _Served):
            # Each has the other.
            call.call = None

    @override
    def _was_begun(self, call: ServerCall) -> bool:
        if not isinstance(call, _Served):
            return super()._was_begun(call)
        return call.has_begun and not (call.job is not None and self._waits(call.job))

    def _waits(self, job: _Innermost) -> bool:
        """Tell whether no thread has a job yet."""
        return job in self._own_lane().waiting


class _Innermost:
    """What a thread runs of a call, inside its interceptors."""

    def __init__(
        self, served: _Served, call: ServedCall, work: Callable[[], Any], done: Deferred[Any]
    ) -> None:
        self.served = served
        # It may be asked for here when an interceptor has answered already.
        self._call = call
        self._done = done
        # What an interceptor set, such as the span of a trace, is there in the thread, too.
        self._function: Callable[[], Any] = partial(copy_context().run, work)
        self._result: Any = None
        self._error: BaseException | None = None

    def _run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:
            self._error = error

    def settle(self) -> None:
        """Tell the innermost interceptor. Reactor: its thread."""
        result, error = self._result, self._error
        if isinstance(result, Deferred):
            result.addErrback(lambda _: None)
            error = deferred_in_thread(self.served.method)
        if self._done.called:
            # An interceptor gave it up.
            if isinstance(result, types.CoroutineType):
                result.close()
        elif error is not None:
            self._done.errback(error)
        else:
            self._done.callback(result)
