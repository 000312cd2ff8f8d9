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

from kn_sock._call import Call, ServedCall, current, run_as
from kn_sock._interceptors import around, as_deferred
from kn_sock._serving import Serving, is_awaitable
from kn_sock._session import Request
from kn_sock._verdicts import deferred_in_thread, no_thread, not_found, too_late
from kn_sock.errors import InvalidParams, RPCError
from kn_sock.methods import LOGIN_METHOD, Method


class InterceptedServing(Serving):
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
        call = ServedCall(self._protocol, request)
        proceed = partial(self._innermost, call, self._prepare(call, request))
        interceptors = self._runner.options.interceptors
        self._answer_later(call, run_as(call, around, (interceptors, call, proceed), None))

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

    def _innermost(self, call: ServedCall, method: Method | RPCError) -> Deferred[Any]:
        """Run the method, innermost."""
        if call.cancelled:
            return fail(CancelledError())
        if isinstance(method, RPCError):
            return fail(method)
        if not method.on_reactor and self._runner.uses_threads:
            return self._innermost_in_thread(call, method)
        call._has_begun = True
        token = current.set(call)
        try:
            return as_deferred(method.function(*call.args, **call.kwargs))
        except BaseException:
            return fail()
        finally:
            current.reset(token)

    def _innermost_in_thread(self, call: ServedCall, method: Method) -> Deferred[Any]:
        done: Deferred[Any] = Deferred(lambda _: self._give_up_job(call))
        job = _Innermost(call, method.function, done)
        try:
            self._runner.submit(job, self._own_lane())
        except RuntimeError as problem:
            return fail(no_thread(problem))
        call._job = job
        call._has_begun = True
        return done.addCallback(self._go_on, call)

    def _give_up_job(self, call: ServedCall) -> None:
        """Take the function back, or let it know that nobody waits for it any more."""
        if call._job is not None and not self._own_lane().withdraw(call._job):
            call.cancelled = True

    @override
    def _end_job(self, job: Any) -> None:
        if isinstance(job, _Innermost):
            job.call._job = None
            job.settle()
        else:
            super()._end_job(job)

    @staticmethod
    def _go_on(result: Any, call: ServedCall) -> Any:
        """Wait for what a function in a thread gave back to be awaited."""
        if not is_awaitable(result):
            return result
        if not call.cancelled:
            return run_as(call, as_deferred, (result,), None)
        if isinstance(result, types.CoroutineType):
            result.close()
        raise CancelledError

    @override
    def _cancel(self, call: Call) -> None:
        if isinstance(call, ServedCall) and call._job is not None and not self._waits(call._job):
            # A thread has the function, which can look; its interceptors wait for it, as we do.
            call.cancelled = True
            return
        super()._cancel(call)

    @override
    def _was_begun(self, call: Call) -> bool:
        assert isinstance(call, ServedCall)
        return call._has_begun and not (call._job is not None and self._waits(call._job))

    def _waits(self, job: _Innermost) -> bool:
        """Tell whether no thread has a job yet."""
        return job in self._own_lane().waiting


class _Innermost:
    """What a thread runs of a call, inside its interceptors."""

    def __init__(self, call: ServedCall, function: Callable[..., Any], done: Deferred[Any]) -> None:
        self.call = call
        self._done = done
        # What an interceptor set, such as the span of a trace, is there in the thread, too.
        work = partial(run_as, call, function, call.args, call.kwargs)
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
            error = deferred_in_thread(self.call.method)
        if self._done.called:
            # An interceptor gave it up.
            if isinstance(result, types.CoroutineType):
                result.close()
        elif error is not None:
            self._done.errback(error)
        else:
            self._done.callback(result)
