"""How a call of the peer runs: on the reactor or in a thread, until it is answered."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, cast
from weakref import ReferenceType, ref

from msgspec import UNSET
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from kn_sock._observe.stats import outcome_of
from kn_sock._serving.budget import Use
from kn_sock._serving.context import ServerCall, current, run_as
from kn_sock._serving.refusals import deferred_in_thread, no_thread, not_found
from kn_sock._serving.results import EncodedResult, encode_in_thread, is_awaitable
from kn_sock._serving.runner import CANCELLED, Runner
from kn_sock._wire.events import Request, id_key
from kn_sock.errors import ErrorCode, InternalError, InvalidParams, RPCError

if TYPE_CHECKING:
    from kn_sock._serving.replies import Connection, Replies
    from kn_sock._serving.threads import ConnectionQueue
    from kn_sock.methods.signature import Method

log = Logger()


# Results of these types are certainly no Deferred, coroutine or other awaitable.
_PLAIN_TYPES: Final = frozenset({int, str, float, bool, type(None), dict, list, tuple, bytes})


# The arguments of requests that take more bytes are bound and converted by the thread that runs the
# method.
_BIND_IN_THREAD: Final = 64 * 1024


class Owner(Protocol):
    """What is notified of calls."""

    def call_begun(self, request: Request, call: ServerCall) -> None:
        """A call is in flight, and has not ended by the end of the read that brought it."""

    def call_settled(self) -> None:
        """A call that was in flight has been answered."""

    def answered(self, request: Request) -> None:
        """A request has been answered."""

    def deliver(self) -> None:
        """Functions have ended in threads."""


class Execution:
    """Runs the calls of one connection.

    What few connections need is made when it is needed.

    Args:
        owner: is notified of calls.
        connection: whose calls these are.
        runner: has the threads.
        replies: answers them.
    """

    __slots__ = (
        "_awaited",
        "_owner",
        "absent",
        "connection",
        "connection_ref",
        "lane",
        "replies",
        "runner",
        "running",
    )

    def __init__(
        self, owner: Owner, connection: Connection, runner: Runner, replies: Replies
    ) -> None:
        self._owner = owner
        self.connection = connection
        self.runner = runner
        self.replies = replies
        #: The calls in flight: by their ids, or by themselves if they have none, or a duplicate.
        self.running: dict[Any, ServerCall] = {}
        #: The place among the connections that wait for threads; ``None`` until it is needed.
        self.lane: ConnectionQueue | None = None
        #: To the connection, for its calls; ``None`` until it is needed.
        self.connection_ref: ReferenceType[Any] | None = None
        #: Returns the error for a method that is not there, or ``None`` to drop a notification.
        self.absent: Callable[[Request], RPCError | None] | None = None
        # What is awaited for calls.
        self._awaited: dict[ServerCall, Deferred[Any]] | None = None

    def detach(self) -> None:
        """Forget the owner: the connection has ended, and no call is in flight."""
        self._owner = _NO_OWNER

    def invoke(self, request: Request) -> None:
        """Call the method of a request, without interceptors."""
        method = self.replies.methods.get(request.method)
        if method is None:
            self.refuse_absent(request)
            return
        args: Any = request.params
        kwargs: Any = request.kwargs or None
        if request.weight > _BIND_IN_THREAD and not method.on_reactor and self.runner.uses_threads:
            request.params = request.kwargs = UNSET
            call = ServerCall(self.connection_ref or self.own_ref(), request, request.method)
            call.unbound = method
            self.run_in_thread(call, method, args, kwargs)
            return
        is_fit = type(args) is list and method.required <= len(args) <= method.most
        if not is_fit or kwargs or (method.kinds and method.kinds != [*map(type, args)]):
            try:
                args, kwargs = method.bind(args, kwargs)
            except InvalidParams as error:
                self.replies.refuse(request, error)
                return
        request.params = request.kwargs = UNSET
        call = ServerCall(self.connection_ref or self.own_ref(), request, request.method)
        if not method.on_reactor and self.runner.uses_threads:
            self.run_in_thread(call, method, args, kwargs)
            return
        run = copy_context().run
        run(current.set, call)
        try:
            result = run(method.function, *args, **(kwargs or {}))
        except BaseException as exception:
            self.finish(call, None, exception)
            return
        self.finish(call, result)

    def finish(self, call: ServerCall, result: Any, raised: BaseException | None = None) -> None:
        """End a call whose function has returned or raised on the reactor. Never raises."""
        try:
            if raised is not None:
                call.is_over = True
                self.replies.refuse(call.own_request(), self.runner.error_of(call, raised), raised)
            elif type(result) in _PLAIN_TYPES:
                call.is_over = True
                self.replies.answer(call.request or call.own_request(), result)
            else:
                self.answer_later(call, result)
        except BaseException as problem:
            self._end_broken(call, problem)

    def _end_broken(self, call: ServerCall, problem: BaseException) -> None:
        """Answer a call whose outcome cannot be handled: whatever it is raised something."""
        log.failure("the outcome of {method} cannot be handled", method=call.method)
        call.is_over = True
        text = f"the outcome of {call.method} cannot be handled: {type(problem).__name__}"
        try:
            self.replies.refuse(call.own_request(), InternalError(text))
        except BaseException:
            log.failure("the call of {method} cannot be answered", method=call.method)

    def bind(
        self, method: Method, params: Any, request: Request | None, key: Any
    ) -> tuple[Sequence[Any], dict[str, Any] | None] | None:
        """Fit arguments to a method; ``None`` if they do not fit, and that was answered."""
        try:
            return method.bind(params, None)
        except InvalidParams as error:
            call = ServerCall(self.connection_ref or self.own_ref(), request, method.name, key)
            self.replies.refuse(call.own_request(), error)
            return None

    def refuse_absent(self, request: Request) -> None:
        """Answer a request whose method is not there, or not for this caller."""
        error = not_found(request.method) if self.absent is None else self.absent(request)
        if error is not None:
            self.replies.refuse(request, error)
            return
        self._owner.answered(request)
        outcome = outcome_of(ErrorCode.NOT_AUTHENTICATED)
        self.replies.reports.ended(request, outcome, is_known=False)

    def own_ref(self) -> ReferenceType[Any]:
        """Return a weak reference to the connection."""
        if self.connection_ref is None:
            self.connection_ref = ref(self.connection)
        return self.connection_ref

    def run_in_thread(
        self,
        call: ServerCall,
        method: Method,
        args: Sequence[Any],
        kwargs: dict[str, Any] | None,
    ) -> None:
        """Run a method in a thread."""
        call.function, call.args, call.kwargs = method.function, args, kwargs
        if call.unbound is None:
            call.args = tuple(args)
        # Made now: the thread may ask for it, too.
        call.own_request()
        try:
            self.runner.submit(call, self.lane or self.own_lane())
        except RuntimeError as problem:
            self.refuse_without_thread(call, problem)
            return
        call.is_in_thread = True
        self._begun(call)

    def refuse_without_thread(self, call: ServerCall, problem: RuntimeError) -> None:
        """Answer a call for which no thread can be had."""
        call.forget_function()
        self.replies.refuse(call.own_request(), no_thread(problem))

    def own_lane(self) -> ConnectionQueue:
        """Return the place among the connections that wait for threads; most never need one."""
        if self.lane is None:
            account, limit = self.replies.account, self.runner.options.max_line_bytes
            encode = partial(encode_in_thread, limit=limit, account=account)
            self.lane = self.runner.new_lane(self._owner.deliver, account, encode)
        return self.lane

    def open_lane(self) -> None:
        """Resume threads, if they have stopped for lack of room for results and there is some.

        Where everything in flight waits for a thread, one goes on in any case: the replies to
        batches take room until their last member has run.
        """
        lane = self.lane
        if lane is None or not lane.is_blocked:
            return
        if not self.replies.account.may_finish:
            if len(lane.waiting) < len(self.running) or self.replies.is_paused:
                return
            lane.passes = 1
        try:
            self.runner.resume(lane)
        except Exception as problem:
            for job in [*lane.waiting]:
                if isinstance(job, ServerCall):
                    self.end_waiting(job, no_thread(problem))
                elif lane.withdraw(job):
                    job.give_up(no_thread(problem))

    def end_job(self, job: Any) -> None:
        """Answer a call whose function has ended in a thread. Never raises."""
        try:
            if isinstance(job, ServerCall):
                self._end_thread_call(job)
            else:
                job.settle()
        except BaseException:
            log.failure("delivering the result of a method failed")

    def _end_thread_call(self, call: ServerCall) -> None:
        result, error = call.result, call.error
        # They may lead back to the call.
        call.result = call.error = None
        if type(result) is EncodedResult:
            if result.counted:
                self.replies.account.add(Use.RESULTS, -result.counted)
            error = result.error
        elif error is None and type(result) not in _PLAIN_TYPES and is_awaitable(result):
            if not isinstance(result, Deferred):
                self._await_on_reactor(call, result)
                return
            result.addErrback(lambda _: None)
            error = deferred_in_thread(call.method)
        self._end_call(call, result, error)

    def _await_on_reactor(self, call: ServerCall, awaitable: Any) -> None:
        """Await what a function in a thread returned, unless the call was cancelled."""
        if not call.cancelled:
            self.answer_later(call, awaitable)
            return
        if isinstance(awaitable, types.CoroutineType):
            awaitable.close()
        self._end_call(call, None, CANCELLED)

    def answer_later(self, call: ServerCall, result: Any) -> None:
        """Answer with what a Deferred, a coroutine or another awaitable yields; or at once."""
        if isinstance(result, Deferred):
            deferred = result
        elif is_awaitable(result):
            coroutine = result if isinstance(result, types.CoroutineType) else _awaited(result)
            deferred = run_as(call, Deferred.fromCoroutine, (coroutine,), None)
        else:
            call.is_over = True
            self.replies.answer(call.own_request(), result)
            return
        call.is_in_thread = False
        if self._awaited is None:
            self._awaited = {}
        self._awaited[call] = deferred
        self._begun(call)
        deferred.addCallbacks(
            self._succeeded, self._failed, callbackArgs=(call,), errbackArgs=(call,)
        )

    def _succeeded(self, result: Any, call: ServerCall) -> None:
        self._end_call(call, result, None)

    def _failed(self, failure: Failure, call: ServerCall) -> None:
        # The value of a Failure always is an exception.
        self._end_call(call, None, cast(BaseException, failure.value))

    def _begun(self, call: ServerCall) -> None:
        request, running = call.own_request(), self.running
        key = id_key(request.id)
        # A call may be here a second time, now that what its function returned is awaited.
        if key is None or call in running or running.get(key, call) is not call:
            key = None
        call.key = key
        running[call if key is None else key] = call
        if request.since is None:
            request.since = self.connection.read_at
        if request.weight and not request.counted:
            request.counted = request.weight
            self.replies.account.add(Use.CALLS, request.weight)
        self._owner.call_begun(request, call)

    def _end_call(self, call: ServerCall, result: Any, error: BaseException | None) -> None:
        """Answer a call that was in flight, and begin what waited for it."""
        call.is_over = True
        try:
            if call.is_answered:
                if error is not None:
                    # It may ask the process to exit.
                    self.runner.error_of(call, error)
            elif error is not None:
                self.replies.refuse(call.own_request(), self.runner.error_of(call, error), error)
            else:
                self.replies.answer(call.own_request(), result)
        except BaseException as problem:
            self._end_broken(call, problem)
        finally:
            self._settled(call)

    def _settled(self, call: ServerCall) -> None:
        """Remove a call that has been answered, and begin what waited for it."""
        self.running.pop(call if call.key is None else call.key, None)
        call.is_in_thread = False
        request = call.request
        if request is not None and request.counted:
            self.replies.account.add(Use.CALLS, -request.counted)
            request.counted = 0
        if self._awaited is not None:
            self._awaited.pop(call, None)
        self._owner.call_settled()

    def cancel(self, call: ServerCall) -> None:
        """Stop a call; one that no thread has taken yet ends here."""
        call.cancelled = True
        if call.is_kept_by_thread(self.lane):
            return
        awaited = None if self._awaited is None else self._awaited.get(call)
        if awaited is not None:
            try:
                awaited.cancel()
            except BaseException:
                # The method's own canceller; nothing of ours depends on it.
                log.failure("cancelling {method} raised", method=call.method)
        elif call.is_in_thread:
            self.end_waiting(call, CANCELLED)

    def end_waiting(self, call: ServerCall, error: RPCError) -> bool:
        """End a call that waits for a thread; ``False`` if one has taken it already."""
        if not self.own_lane().withdraw(call):
            return False
        call.forget_function()
        self.replies.refuse(call.own_request(), error)
        self._settled(call)
        return True


class _NoOwner:
    """Stands for the owner once the connection has ended."""

    def call_begun(self, request: Request, call: ServerCall) -> None:
        """Nothing counts it."""

    def call_settled(self) -> None:
        """Nothing waits for it."""

    def answered(self, request: Request) -> None:
        """Nothing waits for it."""

    def deliver(self) -> None:
        """Nothing is delivered."""


_NO_OWNER = _NoOwner()


async def _awaited(awaitable: Any) -> Any:
    return await awaitable
