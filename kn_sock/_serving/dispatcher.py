"""The calls that the peer makes, from the request to the reply.

`admission` decides when a request may begin, `runner` and `threads` where its method runs,
`time_limits` by when it has to be over, `replies` what is sent. Here is what is in flight, and how
a call ends. `fastpath` does the same for common requests, in one loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from twisted.logger import Logger

from kn_sock._serving.admission import NO_METHODS, Admission, Path, may_bypass
from kn_sock._serving.budget import TURN_SECONDS
from kn_sock._serving.context import ServerCall, current
from kn_sock._serving.execution import Execution
from kn_sock._serving.refusals import too_late
from kn_sock._serving.replies import Connection, EndedConnection, Replies
from kn_sock._serving.runner import CANCELLED, Runner
from kn_sock._serving.time_limits import TimeLimits
from kn_sock._wire.events import Refusal, Request, id_key

if TYPE_CHECKING:
    from kn_sock._io.outbox import Outbox
    from kn_sock._wire.batches import BatchReply
    from kn_sock._wire.messages import Message
    from kn_sock._wire.session import Session
    from kn_sock.errors import RPCError
    from kn_sock.methods.signature import Method

log = Logger()

set_current = current.set
reset_current = current.reset

# Requests that are held while their caller logs in.
_MOST_OF_STRANGERS: Final = 16


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
        "_admission",
        "_is_proceeding",
        "_must_proceed",
        "_time_limits",
        "around",
        "calls",
        "connection",
        "fast_methods",
        "is_over",
        "max_pending",
        "outbox",
        "path",
        "replies",
        "runner",
        "tells_when_idle",
    )

    #: In seconds: the turn of a connection ends after so long.
    turn_seconds = TURN_SECONDS

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
        self.replies = Replies(connection, session, outbox, runner, self)
        self.max_pending = runner.options.max_pending
        #: Runs the calls.
        self.calls = Execution(self, connection, runner, self.replies)
        #: Runs a request within interceptors; ``None`` without any.
        self.around: Callable[[Request], object] | None = None
        #: Whether the connection is to be notified when every call has been answered.
        self.tells_when_idle = False
        self.is_over = False
        # None while every request could begin as it came.
        self._admission: Admission | None = None
        self._time_limits: TimeLimits | None = None
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
                self.calls.running,
                self.replies.account,
                seconds=self.connection.reactor.seconds,
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
        self.calls.absent = absent
        self.replies.reports.is_of_stranger = absent is not None
        self._update_fast_path()

    @property
    def wants_login(self) -> bool:
        """Whether a method that is not in the table may be there after a login."""
        return self.calls.absent is not None

    # --- requests come in -------------------------------------------------------------------------

    def receive(self, request: Request) -> None:
        """Begin a call, or hold it back."""
        if self.is_over:
            return
        if self.calls.absent is not None and self._is_too_much(request):
            self.admission.refuse(request, self.calls.absent(request))
            return
        timeout, limit = request.timeout, self.runner.options.call_timeout
        if limit is not None and (timeout is None or limit < timeout):
            timeout = limit
        if timeout is not None:
            request.deadline = self.connection.reactor.seconds() + timeout
        is_guarded = self._admission is not None and self._admission.is_guarded
        if is_guarded or request.dialect.answers_in_order:
            request.since = self.connection.read_at
            if is_guarded and timeout is not None:
                self._watch(request, request)
            self.admission.receive(request, awaits_replies=self.connection.awaits_replies)
        else:
            self._run(request)

    def _is_too_much(self, request: Request) -> bool:
        """Whether a request of a peer that has not logged in is not even held until it has."""
        is_absent = request.method not in self.replies.methods
        return (is_absent and request.weight > 0) or self.calls_waiting >= _MOST_OF_STRANGERS

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
        call = self.calls.running.get(key)
        if call is not None:
            self.replies.reports.cancelled()
            self.calls.cancel(call)
            return
        admission = self._admission
        held = None if admission is None else admission.withdraw(key)
        if admission is not None and held is not None:
            self.replies.reports.cancelled()
            self.replies.refuse(held, CANCELLED)
            admission.check_capacity()

    # --- time limits ------------------------------------------------------------------------------

    def _watch(self, request: Request, waiting: Request | ServerCall) -> None:
        """Watch the deadline of a request that is held back, or of its call in flight."""
        if self._time_limits is None:
            self._time_limits = TimeLimits(self.connection.reactor, self._expire)
        self._time_limits.watch(request, waiting)

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
        if is_in_thread and self.calls.end_waiting(call, too_late(maybe_executed=False)):
            return
        # Answered now; a later result is discarded. A job that could not be taken back was begun.
        was_begun = is_in_thread or call.has_begun(self.calls.lane)
        self.replies.refuse(call.own_request(), too_late(maybe_executed=was_begun))
        call.is_answered = True
        self.calls.cancel(call)
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
            self.calls.invoke(request)

    # --- threads ----------------------------------------------------------------------------------

    def deliver(self) -> None:
        """Answer the calls whose functions have ended in threads."""
        self.path.deliver(self)

    # --- ends -------------------------------------------------------------------------------------

    def call_begun(self, request: Request, call: ServerCall) -> None:
        """Set the deadline of a call, and stop reading if it was the last one allowed."""
        if request.deadline is not None:
            self._watch(request, call)
        if len(self.calls.running) >= self.max_pending or not self.replies.may_begin:
            self.admission.check_capacity()

    def call_settled(self) -> None:
        """Begin what waited for the end of a call."""
        lane = self.calls.lane
        if self._has_waiting or self.tells_when_idle or (lane is not None and lane.is_blocked):
            self.proceed()

    def answered(self, request: Request) -> None:
        """Free the turn and the deadline of a request that is answered."""
        if request.dialect.answers_in_order and self._admission is not None:
            self._admission.answered(request)
        if request.number and self._time_limits is not None:
            self._time_limits.settled(request)

    # --- capacity ---------------------------------------------------------------------------------

    @property
    def calls_in_flight(self) -> int:
        """How many calls have begun, and not ended."""
        return len(self.calls.running)

    @property
    def calls_waiting(self) -> int:
        """How many calls were read, and have not begun."""
        return 0 if self._admission is None else self._admission.count

    @property
    def _waiting(self) -> list[Request]:
        return [] if self._admission is None else self._admission.waiting

    @property
    def is_idle(self) -> bool:
        """Whether every call that came has been answered."""
        return not self.calls.running and (self._admission is None or self._admission.is_empty)

    def wants_more(self, awaits_replies: bool) -> bool:
        """Whether to read on."""
        return self._admission is None or self._admission.wants_more(awaits_replies)

    def set_peer_reads(self, reads: bool, unsent: int = 0) -> None:
        """Begin nothing new while the peer does not read, and so many bytes are unsent."""
        self.replies.set_peer_reads(reads, unsent)
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
        reactor = self.connection.reactor
        until = reactor.seconds() + TURN_SECONDS
        try:
            while self._must_proceed:
                self._must_proceed = False
                if self._admission is not None and not self._admission.proceed(until):
                    reactor.callLater(0, self.proceed)
        finally:
            self._is_proceeding = False
        self.calls.open_lane()
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
        self.is_over = True
        self._update_fast_path()
        running = list(self.calls.running.values())
        begun = [call.own_request() for call in running if not call.is_answered]
        waiting = self._waiting
        self.replies.close()
        if begun or waiting or self.replies.has_reports:
            self.replies.reports.end([*begun, *waiting])
        if self._admission is not None:
            self._admission.end()
        if self._time_limits is not None:
            self._time_limits.stop()
        for call in running:
            self.calls.cancel(call)

    def detach(self) -> None:
        """Forget the connection, which has ended and has no calls in flight.

        Two that refer to each other would wait for the garbage collector.
        """
        ended = EndedConnection()
        self.connection = self.calls.connection = ended
        self.around = None
        self.replies.detach(ended)
        self.calls.detach()


def _serve_each(
    dispatcher: Dispatcher,
    messages: list[Message],
    slow_path: Callable[[Message], object],
    batch: BatchReply | None = None,
    until: float = math.inf,
    factor: float = 0,
) -> None:
    clock = dispatcher.connection.reactor.seconds
    waiting = iter(messages)
    for message in waiting:
        slow_path(message)
        if clock() >= until:
            break
    messages[:] = waiting
    if batch is not None:
        dispatcher.replies.end_batch(batch)


def _deliver_each(dispatcher: Dispatcher) -> None:
    ended = dispatcher.calls.own_lane().ended
    # Those that end meanwhile are announced again, so that other connections have their turn.
    for _ in range(len(ended)):
        dispatcher.calls.end_job(ended.popleft())
    if dispatcher.calls.own_lane().is_blocked:
        dispatcher.proceed()


#: Serves each request by itself.
ORDINARY: Final = Path(_serve_each, _deliver_each)
