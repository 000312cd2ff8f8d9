"""The calls that the peer makes, from the request to the reply.

`admission` decides when a request may begin, `runner` and `threads` where its method runs,
`time_limits` by when it has to be over, `replies` what is sent. Here is what is in flight, and how
a call ends. `fastpath` does the same for common requests, in one loop.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast
from weakref import ReferenceType, ref

from msgspec import UNSET
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from kn_sock._io.outbox import Outbox
from kn_sock._observe.stats import outcome_of
from kn_sock._serving.admission import Admission, may_bypass
from kn_sock._serving.context import ServerCall, current, run_as
from kn_sock._serving.refusals import deferred_in_thread, no_thread, not_found, too_late
from kn_sock._serving.replies import Connection, Replies
from kn_sock._serving.runner import CANCELLED, Runner
from kn_sock._serving.threads import ConnectionQueue
from kn_sock._serving.time_limits import TimeLimits
from kn_sock._wire.batches import BatchReply
from kn_sock._wire.events import Refusal, Request, id_key
from kn_sock._wire.messages import Message
from kn_sock._wire.session import Session
from kn_sock.errors import ErrorCode, InvalidParams, RPCError
from kn_sock.methods.table import Method

log = Logger()

set_current = current.set
reset_current = current.reset

# Results of these types are certainly no Deferred, coroutine or other awaitable.
_PLAIN_TYPES: Final = frozenset({int, str, float, bool, type(None), dict, list, tuple, bytes})

#: The methods that may be called by the fast path, while it may not be taken.
NO_METHODS: Final[Mapping[str, Method]] = {}


class Path(NamedTuple):
    """A way to serve what one read brought, and to answer calls that have ended in threads."""

    serve: Callable[..., None]
    deliver: Callable[..., None]


class _EndedConnection:
    """Stands for a connection that has ended."""

    reactor: Any = None
    read_at = 0.0
    peer_text = "a connection that has ended"
    awaits_replies = False

    def update_reading(self) -> None:
        """Nothing is read any more."""

    def serving_is_idle(self) -> None:
        """Nothing waits for that."""


_ENDED = _EndedConnection()


class Dispatcher:
    """Serves the calls of one connection.

    What few connections need is made when it is needed.

    Args:
        connection: reads for it, and is notified when every call has been answered.
        session: encodes replies.
        outbox: sends them.
        runner: has the methods, the threads and the options.
        path: serves what one read brings.
    """

    __slots__ = (
        "__weakref__",
        "_absent",
        "_admission",
        "_awaited",
        "_is_proceeding",
        "_must_proceed",
        "_time_limits",
        "around",
        "connection",
        "connection_ref",
        "fast_methods",
        "is_over",
        "lane",
        "max_pending",
        "outbox",
        "path",
        "replies",
        "runner",
        "running",
        "tells_when_idle",
    )

    def __init__(
        self,
        connection: Connection,
        session: Session[Any],
        outbox: Outbox,
        runner: Runner,
        path: Path,
    ) -> None:
        self.connection = connection
        self.outbox = outbox
        self.runner = runner
        self.path = path
        self.replies = Replies(connection, session, outbox, runner, self._answered)
        self.max_pending = runner.options.max_pending
        #: The calls in flight: by their ids, or by themselves if they have none, or a duplicate.
        self.running: dict[Any, ServerCall] = {}
        #: Runs a request within interceptors; ``None`` without any.
        self.around: Callable[[Request], object] | None = None
        #: The place among the connections that wait for threads; ``None`` until it is needed.
        self.lane: ConnectionQueue | None = None
        #: To the connection, for its calls; ``None`` until it is needed.
        self.connection_ref: ReferenceType[Any] | None = None
        #: Whether the connection is to be notified when every call has been answered.
        self.tells_when_idle = False
        self.is_over = False
        self._absent: Callable[[Request], RPCError | None] | None = None
        # None while every request could begin as it came.
        self._admission: Admission | None = None
        self._time_limits: TimeLimits | None = None
        # What is awaited for calls.
        self._awaited: dict[ServerCall, Deferred[Any]] | None = None
        self._is_proceeding = self._must_proceed = False
        self._update_fast_path()

    def _update_fast_path(self) -> None:
        """Find out which methods the fast path may call; called when `may_bypass` may change."""
        bypasses = not self.is_over and may_bypass(self.runner.options, self._admission)
        self.fast_methods = self.replies.methods if bypasses else NO_METHODS

    @property
    def admission(self) -> Admission:
        """What lets requests begin; made when first needed."""
        admission = self._admission
        if admission is None:
            admission = self._admission = Admission(
                self.max_pending,
                self.running,
                run=self._run,
                put=self.outbox.put,
                refuse=self.replies.encode_refusal,
                update_reading=self.connection.update_reading,
                guard=self._update_fast_path,
            )
        return admission

    def serve(
        self,
        methods: Mapping[str, Method],
        absent: Callable[[Request], RPCError | None] | None = None,
    ) -> None:
        """Serve these methods from now on.

        Args:
            methods: by name.
            absent: returns the error for a method that is none of them, or ``None`` to drop a
                notification. By default the error is -32601.
        """
        self.replies.methods = methods
        self._absent = absent
        self.replies.reports.is_of_stranger = absent is not None
        self._update_fast_path()

    @property
    def wants_login(self) -> bool:
        """Whether a method that is not in the table may be there after a login."""
        return self._absent is not None

    # --- requests come in -------------------------------------------------------------------------

    def receive(self, request: Request) -> None:
        """Begin a call, or hold it back."""
        if self.is_over:
            return
        own = self.runner.options.call_timeout
        if request.timeout is not None or own is not None:
            self._limit_time(request, own)
        admission = self._admission
        if request.dialect.answers_in_order or (admission is not None and admission.is_guarded):
            request.since = self.connection.read_at
            self.admission.receive(request, awaits_replies=self.connection.awaits_replies)
        else:
            self._run(request)

    def receive_refusal(self, refusal: Refusal) -> None:
        """Answer what was no request, at once or in its turn."""
        if not self.is_over:
            self.replies.reports.unreadable()
            self.admission.receive_refusal(refusal)

    def cancel(self, request_id: Any) -> None:
        """Cancel the call with this id, if it is in flight; it may have ended already."""
        key = id_key(request_id)
        if key is None:
            return
        call = self.running.get(key)
        if call is not None:
            self.replies.reports.cancelled()
            self._cancel(call)
            return
        admission = self._admission
        held = None if admission is None else admission.withdraw(key)
        if admission is not None and held is not None:
            self.replies.reports.cancelled()
            self.replies.refuse(held, CANCELLED)
            admission.check_capacity()

    def _cancel(self, call: ServerCall) -> None:
        """Stop a call; one that no thread has taken yet ends here."""
        call.cancelled = True
        if call.is_kept_by_thread(self.lane):
            return
        awaited = None if self._awaited is None else self._awaited.get(call)
        if awaited is not None:
            try:
                awaited.cancel()
            except Exception:
                # The method's own canceller; nothing of ours depends on it.
                log.failure("cancelling {method} raised", method=call.method)
        elif call.is_in_thread:
            self._end_waiting(call, CANCELLED)

    def _end_waiting(self, call: ServerCall, error: RPCError) -> bool:
        """End a call that waits for a thread; ``False`` if one has taken it already."""
        if not self.own_lane().withdraw(call):
            return False
        call.forget_function()
        self.replies.refuse(call.request, error)
        self._settled(call)
        return True

    # --- time limits ------------------------------------------------------------------------------

    def _limit_time(self, request: Request, own: float | None) -> None:
        """Set the deadline of a request, by its caller's time limit and our own."""
        limits = (request.timeout, own)
        if self._time_limits is None:
            self._time_limits = TimeLimits(self.connection.reactor, self._expire)
        self._time_limits.add(request, min(limit for limit in limits if limit is not None))

    def _expire(self, late: Request | ServerCall) -> None:
        """End what has not ended in time."""
        if isinstance(late, ServerCall):
            self._expire_call(late)
        elif self._admission is not None and self._admission.drop(late):
            self.replies.refuse(late, too_late(maybe_executed=False))
            self._admission.check_capacity()
        # Requests that wait for the replies before theirs are refused in their turn.

    def _expire_call(self, call: ServerCall) -> None:
        is_in_thread = call.is_in_thread
        if is_in_thread and self._end_waiting(call, too_late(maybe_executed=False)):
            return
        # Answered now; a later result is discarded. A job that could not be taken back was begun.
        was_begun = is_in_thread or call.has_begun(self.lane)
        self.replies.refuse(call.request, too_late(maybe_executed=was_begun))
        call.is_answered = True
        self._cancel(call)
        if self._has_waiting:
            # A thread may keep it for ever, and the next ones have their turn now.
            self.proceed()

    # --- running ----------------------------------------------------------------------------------

    def _run(self, request: Request) -> None:
        deadline = request.deadline
        if deadline is not None and deadline <= self.connection.reactor.seconds():
            self.replies.refuse(request, too_late(maybe_executed=False))
        elif self.around is not None:
            self.around(request)
        else:
            self.invoke(request)

    def invoke(self, request: Request) -> None:
        """Call the method of a request, without interceptors."""
        method = self.replies.methods.get(request.method)
        if method is None:
            self._refuse_absent(request)
            return
        try:
            args, kwargs = method.bind(request.params, request.kwargs)
        except InvalidParams as error:
            self.replies.refuse(request, error)
            return
        request.params = request.kwargs = UNSET
        call = ServerCall(self.connection_ref or self.own_ref(), request, request.method)
        if not method.on_reactor and self.runner.uses_threads:
            self.run_in_thread(call, method, args, kwargs)
            return
        token = set_current(call)
        try:
            result = method.function(*args, **kwargs) if kwargs else method.function(*args)
        except BaseException as exception:
            self.finish(call, None, exception)
            return
        finally:
            reset_current(token)
        self.finish(call, result)

    def finish(self, call: ServerCall, result: Any, raised: BaseException | None = None) -> None:
        """End a call whose function has returned or raised on the reactor."""
        if raised is not None:
            call.is_over = True
            self.replies.refuse(call.request, self.runner.error_of(call, raised), raised)
        elif type(result) in _PLAIN_TYPES:
            call.is_over = True
            self.replies.answer(call.request, result)
        else:
            self.answer_later(call, result)

    def bind(
        self, method: Method, params: Any, request: Request | None, key: Any
    ) -> tuple[Sequence[Any], dict[str, Any] | None] | None:
        """Fit arguments to a method; ``None`` if they do not fit, and that was answered."""
        try:
            return method.bind(params, None)
        except InvalidParams as error:
            call = ServerCall(self.connection_ref or self.own_ref(), request, method.name, key)
            self.replies.refuse(call.request, error)
            return None

    def _refuse_absent(self, request: Request) -> None:
        """Answer a request whose method is not there, or not for this caller."""
        error = not_found(request.method) if self._absent is None else self._absent(request)
        if error is not None:
            self.replies.refuse(request, error)
            return
        self._answered(request)
        outcome = outcome_of(ErrorCode.NOT_AUTHENTICATED)
        self.replies.reports.ended(request, outcome, is_known=False)

    def own_ref(self) -> ReferenceType[Any]:
        """Return a weak reference to the connection."""
        if self.connection_ref is None:
            self.connection_ref = ref(self.connection)
        return self.connection_ref

    # --- threads ----------------------------------------------------------------------------------

    def run_in_thread(
        self,
        call: ServerCall,
        method: Method,
        args: Sequence[Any],
        kwargs: dict[str, Any] | None,
    ) -> None:
        """Run a method in a thread."""
        call.function, call.args, call.kwargs = method.function, tuple(args), kwargs
        # Made now: the thread may ask for it, too.
        call.request  # noqa: B018
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
        self.replies.refuse(call.request, no_thread(problem))

    def own_lane(self) -> ConnectionQueue:
        """Return the place among the connections that wait for threads; most never need one."""
        if self.lane is None:
            self.lane = self.runner.new_lane(self._deliver)
        return self.lane

    def _deliver(self) -> None:
        self.path.deliver(self)

    def end_job(self, job: Any) -> None:
        """Answer a call whose function has ended in a thread. Never raises."""
        try:
            if isinstance(job, ServerCall):
                self._end_thread_call(job)
            else:
                job.settle()
        except Exception:
            log.failure("delivering the result of a method failed")

    def _end_thread_call(self, call: ServerCall) -> None:
        result, error = call.result, call.error
        # They may lead back to the call.
        call.result = call.error = None
        if error is None and type(result) not in _PLAIN_TYPES and is_awaitable(result):
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

    # --- ends -------------------------------------------------------------------------------------

    def answer_later(self, call: ServerCall, result: Any) -> None:
        """Answer with what a Deferred, a coroutine or another awaitable yields; or at once."""
        if isinstance(result, Deferred):
            deferred = result
        elif is_awaitable(result):
            coroutine = result if isinstance(result, types.CoroutineType) else _awaited(result)
            deferred = run_as(call, Deferred.fromCoroutine, (coroutine,), None)
        else:
            call.is_over = True
            self.replies.answer(call.request, result)
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
        request, running = call.request, self.running
        key = id_key(request.id)
        # A call may be here a second time, now that what its function returned is awaited.
        if key is None or call in running or running.get(key, call) is not call:
            key = None
        call.key = key
        running[call if key is None else key] = call
        if request.since is None:
            request.since = self.connection.read_at
        if request.number and self._time_limits is not None:
            self._time_limits.begun(request, call)
        if len(running) >= self.max_pending:
            self.admission.check_capacity()

    def _end_call(self, call: ServerCall, result: Any, error: BaseException | None) -> None:
        """Answer a call that was in flight, and begin what waited for it."""
        call.is_over = True
        try:
            if call.is_answered:
                if error is not None:
                    # It may ask the process to exit.
                    self.runner.error_of(call, error)
            elif error is not None:
                self.replies.refuse(call.request, self.runner.error_of(call, error), error)
            else:
                self.replies.answer(call.request, result)
        finally:
            self._settled(call)

    def _settled(self, call: ServerCall) -> None:
        """Remove a call that has been answered, and begin what waited for it."""
        self.running.pop(call if call.key is None else call.key, None)
        call.is_in_thread = False
        if self._awaited is not None:
            self._awaited.pop(call, None)
        if self._has_waiting or self.tells_when_idle:
            self.proceed()

    def _answered(self, request: Request) -> None:
        """Free the turn and the deadline of a request that is answered."""
        if request.dialect.answers_in_order and self._admission is not None:
            self._admission.answered(request)
        if request.number and self._time_limits is not None:
            self._time_limits.settled(request)

    # --- capacity ---------------------------------------------------------------------------------

    @property
    def calls_in_flight(self) -> int:
        """How many calls have begun, and not ended."""
        return len(self.running)

    @property
    def calls_waiting(self) -> int:
        """How many calls were read, and have not begun."""
        return len(self._waiting)

    @property
    def _waiting(self) -> list[Request]:
        return [] if self._admission is None else self._admission.waiting

    @property
    def is_idle(self) -> bool:
        """Whether every call that came has been answered."""
        return not self.running and (self._admission is None or self._admission.is_empty)

    def wants_more(self, awaits_replies: bool) -> bool:
        """Whether to read on."""
        return self._admission is None or self._admission.wants_more(awaits_replies)

    def set_peer_reads(self, reads: bool) -> None:
        """Begin nothing new while the peer does not read what is written to it."""
        self.replies.set_peer_reads(reads)
        admission = self.admission
        admission.set_peer_reads(reads)
        if reads:
            self.proceed()
        else:
            # In the middle of a write: nothing may be begun, or closed, from here.
            admission.check_capacity()

    @property
    def _has_waiting(self) -> bool:
        """Whether the end of a call may let another begin."""
        return self._admission is not None and self._admission.has_waiting

    def proceed(self) -> None:
        """Begin what may begin now; notify the connection if every call has been answered."""
        if self.is_over:
            return
        if self._is_proceeding:
            # A call ended as soon as it began: the next begins in the loop below, not inside it.
            self._must_proceed = True
            return
        self._is_proceeding = self._must_proceed = True
        try:
            while self._must_proceed:
                self._must_proceed = False
                if self._admission is not None:
                    self._admission.proceed()
        finally:
            self._is_proceeding = False
        if self.tells_when_idle and self.is_idle:
            self.connection.serving_is_idle()

    # --- the end ----------------------------------------------------------------------------------

    def drain(self) -> None:
        """Refuse new calls from now on; those that were read before still run."""
        self.admission.drain()

    def close(self) -> None:
        """Cancel the calls in flight: the connection has ended."""
        if self.is_over:
            return
        self.is_over = self.replies.is_over = True
        self._update_fast_path()
        running = list(self.running.values())
        begun = [call.request for call in running if not call.is_answered]
        waiting = self._waiting
        if begun or waiting or self.replies.has_reports:
            self.replies.reports.end([*begun, *waiting])
        if self._admission is not None:
            self._admission.end()
        if self._time_limits is not None:
            self._time_limits.stop()
        for call in running:
            self._cancel(call)

    def detach(self) -> None:
        """Forget the connection, which has ended and has no calls in flight.

        Two that refer to each other would wait for the garbage collector.
        """
        self.connection = _ENDED
        self.around = None
        self.replies.detach(_ENDED)


def is_awaitable(value: Any) -> bool:
    """Whether a result is still to be awaited."""
    return hasattr(type(value), "__await__")


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def _serve_each(
    dispatcher: Dispatcher,
    messages: list[Message],
    slow_path: Callable[[Message], object],
    batch: BatchReply | None = None,
) -> None:
    for message in messages:
        slow_path(message)
    if batch is not None:
        dispatcher.replies.end_batch(batch)


def _deliver_each(dispatcher: Dispatcher) -> None:
    ended = dispatcher.own_lane().ended
    # Those that end meanwhile are announced again, so that other connections have their turn.
    for _ in range(len(ended)):
        dispatcher.end_job(ended.popleft())


#: Serves each request by itself.
ORDINARY: Final = Path(_serve_each, _deliver_each)
