"""The serving half of a connection: calls that the peer made, until each of them is answered.

Where a method runs is `_runner`'s, and when it may begin `_admission`'s; here is what is under way,
and how a call ends.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast
from weakref import ReferenceType, ref

from msgspec import UNSET
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from typing_extensions import override

from kn_sock._io.outbox import Outbox
from kn_sock._observe.stats import outcome_of
from kn_sock._serving.admission import Admission
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
PLAIN_TYPES: Final = frozenset({int, str, float, bool, type(None), dict, list, tuple, bytes})


class Dispatcher(Replies):
    """Serves the calls of one connection.

    What few connections need, each of them makes when it needs it.
    """

    _absent: Callable[[Request], RPCError | None] | None = None
    # None where every request so far could begin as it came.
    _admission: Admission | None = None
    _time_limits: TimeLimits | None = None
    _lane: ConnectionQueue | None = None
    # What is awaited for calls.
    _awaited: dict[ServerCall, Deferred[Any]] | None = None
    # To the protocol, for the calls.
    _connection: ReferenceType[Any] | None = None
    _is_proceeding = _must_proceed = False
    #: Whether the protocol is to be told when every call has been answered.
    tells_when_idle = False

    def __init__(
        self,
        protocol: Connection,
        session: Session[Any],
        outbox: Outbox,
        runner: Runner,
    ) -> None:
        super().__init__(protocol, session, outbox, runner)
        self._most = runner.options.max_pending
        # By their ids, or by themselves where they have none, or another has the same.
        self._running: dict[Any, ServerCall] = {}
        self._update_fast_path()

    def _update_fast_path(self) -> None:
        """Find out whether requests may begin as they come; called whenever that changes."""

    @property
    def _is_guarded(self) -> bool:
        return self._admission is not None and self._admission.is_guarded

    def _admitting(self) -> Admission:
        """Give what lets requests begin, one after the other."""
        admission = self._admission
        if admission is None:
            admission = self._admission = Admission(
                self._most,
                self._running,
                run=self._run,
                put=self._outbox.put,
                refuse=self._refuse_unbegun,
                update_reading=self._protocol.update_reading,
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
            absent: what is answered where a method is none of them; by default, that it is not
                there. ``None`` is for a notification, and drops it.
        """
        self._methods = methods
        self._absent = absent
        self._reports.is_of_stranger = absent is not None
        self._update_fast_path()

    @property
    def _wants_login(self) -> bool:
        """Whether what is not in the table may be there after a login."""
        return self._absent is not None

    # --- what comes in ----------------------------------------------------------------------------

    def take(
        self,
        messages: list[Message],
        slow_path: Callable[[Message], object],
        batch: BatchReply | None = None,
    ) -> None:
        """Serve requests; what is anything else goes to *slow_path*, in its turn.

        Args:
            messages: what came, in order; the list may be empty afterwards.
            slow_path: gets what is no request, or no common one.
            batch: the batch that they are members of, if they are.
        """
        for message in messages:
            slow_path(message)
        if batch is not None:
            self._end_batch(batch)

    def _end_batch(self, batch: BatchReply) -> None:
        """Send what there is to reply to a batch, if all of it is there."""
        if not self._is_over:
            line = batch.line()
            if line is not None:
                self._outbox.put(line)

    def receive(self, request: Request) -> None:
        """Begin a call, or hold it back."""
        if self._is_over:
            return
        own = self._runner.options.call_timeout
        if request.timeout is not None or own is not None:
            self._limit_time(request, own)
        if self._is_guarded or request.dialect.answers_in_order:
            request.since = self._protocol.read_at
            self._admitting().receive(request, awaits_replies=self._protocol.awaits_replies)
        else:
            self._run(request)

    def receive_refusal(self, refusal: Refusal) -> None:
        """Answer what was no request, at once or in its turn."""
        if not self._is_over:
            self._reports.unreadable()
            self._admitting().receive_refusal(refusal)

    def cancel(self, request_id: Any) -> None:
        """End the call with this id, if it is under way: it may have ended already."""
        key = id_key(request_id)
        if key is None:
            return
        call = self._running.get(key)
        if call is not None:
            self._reports.cancelled()
            self._cancel(call)
            return
        admission = self._admission
        held = None if admission is None else admission.withdraw(key)
        if admission is not None and held is not None:
            self._reports.cancelled()
            self._refuse(held, CANCELLED)
            admission.check_capacity()

    def _cancel(self, call: ServerCall) -> None:
        """Stop a call; one that no thread has yet ends here."""
        call.cancelled = True
        awaited = None if self._awaited is None else self._awaited.get(call)
        if awaited is not None:
            try:
                awaited.cancel()
            except Exception:
                # The method's own canceller; nothing of ours waits for it.
                log.failure("cancelling {method} raised", method=call.method)
        elif call.is_in_thread:
            self._end_waiting(call, CANCELLED)

    def _end_waiting(self, call: ServerCall, verdict: RPCError) -> bool:
        """End a call that waits for a thread; ``False`` where one has it already."""
        if not self._own_lane().withdraw(call):
            return False
        call.forget_function()
        self._refuse(call.request, verdict)
        self._settled(call)
        return True

    # --- time limits ------------------------------------------------------------------------------

    def _limit_time(self, request: Request, own: float | None) -> None:
        """Find out when a request has to be over: by what its caller waits, and our own limit."""
        limits = (request.timeout, own)
        if self._time_limits is None:
            self._time_limits = TimeLimits(self._protocol.reactor, self._expire)
        self._time_limits.add(request, min(limit for limit in limits if limit is not None))

    def _is_too_late(self, request: Request) -> bool:
        deadline = request.deadline
        return deadline is not None and bool(deadline <= self._protocol.reactor.seconds())

    def _expire(self, late: Request | ServerCall) -> None:
        """End what has not ended in time."""
        if isinstance(late, ServerCall):
            is_in_thread = late.is_in_thread
            unbegun = too_late(maybe_executed=False)
            if is_in_thread and self._end_waiting(late, unbegun):
                return
            # Answered now; what comes of it later has no reader any more.
            # A job that could not be taken back was begun, whatever it looks like.
            was_begun = is_in_thread or self._was_begun(late)
            self._refuse(late.request, too_late(maybe_executed=was_begun))
            late.is_answered = True
            self._cancel(late)
            if self._has_waiting:
                # A thread may keep it for ever, and those behind it have their turn now.
                self._proceed()
        elif self._admission is not None and self._admission.drop(late):
            self._refuse(late, too_late(maybe_executed=False))
            self._admission.check_capacity()
        # Those that wait for the replies before theirs are refused in their turn.

    def _was_begun(self, call: ServerCall) -> bool:
        """Tell whether the method has begun of a call that no thread is asked to run."""
        return True

    # --- running ----------------------------------------------------------------------------------

    def _run(self, request: Request) -> None:
        if request.deadline is not None and self._is_too_late(request):
            self._refuse(request, too_late(maybe_executed=False))
            return
        method = self._methods.get(request.method)
        if method is None:
            self._refuse_absent(request)
            return
        try:
            args, kwargs = method.bind(request.params, request.kwargs)
        except InvalidParams as error:
            self._refuse(request, error)
            return
        request.params = request.kwargs = UNSET
        call = ServerCall(self._own_connection(), request, request.method)
        if not method.on_reactor and self._runner.uses_threads:
            self._run_in_thread(call, method, args, kwargs)
            return
        token = set_current(call)
        try:
            result = method.function(*args, **kwargs) if kwargs else method.function(*args)
        except BaseException as exception:
            call.is_over = True
            self._refuse(request, self._runner.error_of(call, exception), exception)
            return
        finally:
            reset_current(token)
        if type(result) in PLAIN_TYPES:
            call.is_over = True
            self._answer(request, result)
        else:
            self._answer_later(call, result)

    def _refuse_absent(self, request: Request) -> None:
        """Answer a request whose method is not there, or not for this caller."""
        error = not_found(request.method) if self._absent is None else self._absent(request)
        if error is not None:
            self._refuse(request, error)
            return
        self._leave_turn(request)
        outcome = outcome_of(ErrorCode.NOT_AUTHENTICATED)
        self._reports.ended(request, outcome, is_known=False)

    def _run_in_thread(
        self, call: ServerCall, method: Method, args: Sequence[Any], kwargs: dict[str, Any] | None
    ) -> None:
        call.function, call.args, call.kwargs = method.function, tuple(args), kwargs
        # Made now: the thread may ask for it, too.
        request = call.request
        try:
            self._runner.submit(call, self._lane or self._own_lane())
        except RuntimeError as problem:
            call.forget_function()
            self._refuse(request, no_thread(problem))
            return
        call.is_in_thread = True
        self._begun(call)

    def _own_connection(self) -> ReferenceType[Any]:
        if self._connection is None:
            self._connection = ref(self._protocol)
        return self._connection

    def _own_lane(self) -> ConnectionQueue:
        """Give the place among the connections that wait for threads; most never need one."""
        if self._lane is None:
            self._lane = self._runner.new_lane(self._jobs_ended)
        return self._lane

    def _jobs_ended(self) -> None:
        """Answer the calls whose functions have ended in threads."""
        ended = self._own_lane().ended
        # Those that end meanwhile are told of anew, so that others have their turn.
        for _ in range(len(ended)):
            self._try_to_end(ended.popleft())

    def _try_to_end(self, job: Any) -> None:
        try:
            self._end_job(job)
        except Exception:
            log.failure("delivering the result of a method failed")

    def _end_job(self, call: Any) -> None:
        """Answer one call whose function has ended in a thread."""
        result, error = call.result, call.error
        # They may lead back to it.
        call.result = call.error = None
        if error is None and type(result) not in PLAIN_TYPES and is_awaitable(result):
            if not isinstance(result, Deferred):
                self._go_on_here(call, result)
                return
            result.addErrback(lambda _: None)
            error = deferred_in_thread(call.method)
        self._end_call(call, result, error)

    def _go_on_here(self, call: ServerCall, awaitable: Any) -> None:
        """Run what a function in a thread gave back to be awaited, unless nobody waits any more."""
        if not call.cancelled:
            self._answer_later(call, awaitable)
            return
        if isinstance(awaitable, types.CoroutineType):
            awaitable.close()
        self._end_call(call, None, CANCELLED)

    def _end_call(self, call: ServerCall, result: Any, error: BaseException | None) -> None:
        """Answer a call that was under way, and go on with what waited for it."""
        call.is_over = True
        try:
            if call.is_answered:
                if error is not None:
                    # It may ask for the end of the process.
                    self._runner.error_of(call, error)
            elif error is not None:
                self._refuse(call.request, self._runner.error_of(call, error), error)
            else:
                self._answer(call.request, result)
        finally:
            self._settled(call)

    def _answer_later(self, call: ServerCall, result: Any) -> None:
        """Answer with what a Deferred, a coroutine or another awaitable gives; or at once."""
        if isinstance(result, Deferred):
            deferred = result
        elif is_awaitable(result):
            coroutine = result if isinstance(result, types.CoroutineType) else _awaited(result)
            deferred = run_as(call, Deferred.fromCoroutine, (coroutine,), None)
        else:
            call.is_over = True
            self._answer(call.request, result)
            return
        call.is_in_thread = False
        if self._awaited is None:
            self._awaited = {}
        self._awaited[call] = deferred
        self._begun(call)
        deferred.addCallbacks(
            self._succeeded, self._failed, callbackArgs=(call,), errbackArgs=(call,)
        )

    def _begun(self, call: ServerCall) -> None:
        request, running = call.request, self._running
        key = id_key(request.id)
        # A call may be here a second time: now that what its function gave is awaited.
        if key is None or call in running or running.get(key, call) is not call:
            key = None
        call.key = key
        running[call if key is None else key] = call
        if request.since is None:
            request.since = self._protocol.read_at
        if request.number and self._time_limits is not None:
            self._time_limits.begun(request, call)
        if len(running) >= self._most:
            self._admitting().check_capacity()

    def _succeeded(self, result: Any, call: ServerCall) -> None:
        self._end_call(call, result, None)

    def _failed(self, failure: Failure, call: ServerCall) -> None:
        # twisted.python.failure: the value always is an exception.
        self._end_call(call, None, cast(BaseException, failure.value))

    # --- capacity ---------------------------------------------------------------------------------

    @property
    def calls_in_flight(self) -> int:
        """How many calls have begun, and not ended."""
        return len(self._running)

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
        return not self._running and (self._admission is None or self._admission.is_empty)

    def wants_more(self, awaits_replies: bool) -> bool:
        """Tell whether to read on."""
        return self._admission is None or self._admission.wants_more(awaits_replies)

    def set_peer_reads(self, reads: bool) -> None:
        """Take note whether the peer takes what is written to it; if not, nothing new is begun."""
        self._bytes_while_paused = None if reads else self._bytes_while_paused or 0
        admission = self._admitting()
        admission.set_peer_reads(reads)
        if reads:
            self._proceed()
        else:
            # In the middle of a write: nothing may be begun, or closed, from here.
            admission.check_capacity()

    def _settled(self, call: ServerCall) -> None:
        """Take a call off, once it has been answered, and go on with what waited for it."""
        self._running.pop(call if call.key is None else call.key, None)
        call.is_in_thread = False
        if self._awaited is not None:
            self._awaited.pop(call, None)
        if self._has_waiting or self.tells_when_idle:
            self._proceed()

    @property
    def _has_waiting(self) -> bool:
        """Whether the end of a call may let another begin."""
        return self._admission is not None and self._admission.has_waiting

    def _proceed(self) -> None:
        if self._is_over:
            return
        if self._is_proceeding:
            # A call that ended as soon as it began: the next is begun below, and not inside it.
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
            self._protocol.serving_is_idle()

    # --- the end ----------------------------------------------------------------------------------

    def drain(self) -> None:
        """Refuse new calls from now on; those that were read before are run."""
        self._admitting().drain()

    def end(self) -> None:
        """Cancel what is under way: nobody waits for it any more."""
        if self._is_over:
            return
        self._is_over = True
        self._update_fast_path()
        running = list(self._running.values())
        begun = [call.request for call in running if not call.is_answered]
        waiting = self._waiting
        if begun or waiting or self._own_reports is not None:
            self._reports.end([*begun, *waiting])
        if self._admission is not None:
            self._admission.end()
        if self._time_limits is not None:
            self._time_limits.stop()
        for call in running:
            self._cancel(call)

    @override
    def _leave_turn(self, request: Request) -> None:
        if request.dialect.answers_in_order and self._admission is not None:
            self._admission.answered(request)
        if request.number and self._time_limits is not None:
            self._time_limits.settled(request)


def is_awaitable(value: Any) -> bool:
    """Tell whether a result is still to be awaited."""
    return hasattr(type(value), "__await__")


async def _awaited(awaitable: Any) -> Any:
    return await awaitable
