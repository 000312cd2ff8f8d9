"""Interceptors around served calls. Without interceptors, nothing of this is used."""

from __future__ import annotations

import types
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

from msgspec import UNSET
from twisted.internet.defer import CancelledError, Deferred, fail
from typing_extensions import override

from kn_sock._intercept.chain import around, as_deferred
from kn_sock._serving.context import ServerCall, run_as
from kn_sock._serving.refusals import deferred_in_thread, no_thread, not_found
from kn_sock._serving.results import is_awaitable
from kn_sock.calls import ServedCall, show
from kn_sock.errors import InvalidParams, RPCError
from kn_sock.methods.signature import LOGIN_METHOD, Method

if TYPE_CHECKING:
    from kn_sock._serving.dispatcher import Dispatcher
    from kn_sock._serving.threads import ConnectionQueue
    from kn_sock._wire.events import Request


class _Served(ServerCall, gc=True):
    """What is kept of a call with interceptors; they may keep what leads anywhere."""

    call: ServedCall | None = None
    # What a thread runs for it.
    job: Any = None
    # Whether its method has begun, or waits for a thread.
    is_begun: bool = False

    @override
    def is_kept_by_thread(self, lane: ConnectionQueue) -> bool:
        # The function can look at ``cancelled``; its interceptors wait for it, as we do.
        return self.job is not None and self.job not in lane.waiting

    @override
    def has_begun(self, lane: ConnectionQueue) -> bool:
        return self.is_begun and not (self.job is not None and self.job in lane.waiting)


class ServeInterceptors:
    """Runs each request of one connection within the interceptors of its server.

    The interceptors run on the reactor's thread, from when the call begins; a method that runs in a
    thread gets one in the innermost ``proceed()``. A wrong name and wrong arguments are raised
    there, too.

    Args:
        dispatcher: serves the calls of the connection.
        protocol: the connection.
    """

    __slots__ = ("_dispatcher", "_protocol")

    def __init__(self, dispatcher: Dispatcher, protocol: Any) -> None:
        self._dispatcher = dispatcher
        self._protocol = ref(protocol)

    def run(self, request: Request) -> None:
        """Run a request, and answer it with what the outermost interceptor returns."""
        dispatcher = self._dispatcher
        protocol = self._protocol()
        if protocol is None or self._is_hidden(request):
            dispatcher.calls.invoke(request)
            return
        served = _Served(dispatcher.calls.own_ref(), request, request.method)
        call = served.call = ServedCall(served, protocol)
        show(call)
        proceed = partial(self._innermost, served, call, self._prepare(call, request))
        interceptors = dispatcher.runner.options.serve_interceptors
        deferred = run_as(served, around, (interceptors, call, proceed), None)
        dispatcher.calls.answer_later(served, deferred)
        # Each refers to the other.
        deferred.addBoth(_release, served)

    def _is_hidden(self, request: Request) -> bool:
        """Whether a request is not for interceptors: it holds secrets, or precedes the login."""
        if request.method == LOGIN_METHOD:
            return True
        dispatcher = self._dispatcher
        return dispatcher.wants_login and request.method not in dispatcher.replies.methods

    def _prepare(self, call: ServedCall, request: Request) -> Method | RPCError:
        """Return the method, its arguments bound; or the error, if they do not fit."""
        method = self._dispatcher.replies.methods.get(request.method)
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
        """Run the method."""
        if served.cancelled:
            return fail(CancelledError())
        if isinstance(method, RPCError):
            return fail(method)
        if not method.on_reactor and self._dispatcher.runner.uses_threads:
            return self._run_in_thread(served, call, method)
        served.is_begun = True
        try:
            return as_deferred(run_as(served, method.function, call.args, call.kwargs))
        except BaseException:
            return fail()

    def _run_in_thread(self, served: _Served, call: ServedCall, method: Method) -> Deferred[Any]:
        lane = self._dispatcher.calls.own_lane()
        done: Deferred[Any] = Deferred(lambda _: _give_up_job(served, lane))
        work = partial(run_as, served, method.function, call.args, call.kwargs)
        job = _Innermost(served, call, work, done)
        try:
            self._dispatcher.runner.submit(job, lane)
        except RuntimeError as problem:
            return fail(no_thread(problem))
        served.job = job
        served.is_begun = True
        return done.addCallback(_await_in_call, served)


def _release(result: Any, served: _Served) -> Any:
    served.call = None
    return result


def _give_up_job(served: _Served, lane: ConnectionQueue) -> None:
    """Withdraw the function, or let it see that it was cancelled."""
    if served.job is not None and not lane.withdraw(served.job):
        served.cancelled = True


def _await_in_call(result: Any, served: _Served) -> Any:
    """Await what a function in a thread returned."""
    if not is_awaitable(result):
        return result
    if not served.cancelled:
        return run_as(served, as_deferred, (result,), None)
    if isinstance(result, types.CoroutineType):
        result.close()
    raise CancelledError


class _Innermost:
    """What a thread runs of a call, inside its interceptors."""

    is_common = False

    def __init__(
        self, served: _Served, call: ServedCall, work: Callable[[], Any], done: Deferred[Any]
    ) -> None:
        self.served = served
        # Of the job's own result nothing is left to the dispatcher.
        self.result = self.error = None
        # It may be asked for here when an interceptor has answered already.
        self._call = call
        self._done = done
        # What an interceptor set, such as the span of a trace, is there in the thread, too.
        self._function: Callable[[], Any] = partial(copy_context().run, work)
        self._result: Any = None
        self._error: BaseException | None = None

    def _run(self, lane: ConnectionQueue) -> None:
        try:
            self._result = self._function()
        except BaseException as error:
            self._error = error

    def give_up(self, error: RPCError) -> None:
        """End with an error, before a thread has taken it."""
        self._error = error
        self.settle()

    def settle(self) -> None:
        """Pass the outcome to the innermost interceptor. Reactor: its thread."""
        self.served.job = None
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
