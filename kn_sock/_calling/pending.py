"""Our own calls over one connection, until each of them has ended.

Every call that is started ends once: with a result, the peer's error, a timeout, a cancellation, or
the loss of the connection. A call is registered first and written then.
"""

from __future__ import annotations

from collections import deque
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from kn_sock._io.deadlines import Deadlines
from kn_sock.errors import CallTimeout, ConnectionLost, ErrorCode, RPCError
from kn_sock.options import MAX_PENDING

if TYPE_CHECKING:
    from kn_sock._io.outbox import Outbox
    from kn_sock._wire.session import Session

log = Logger()

# Calls that wait for replies over one connection; more wait here. A server has as many in flight
# for one connection: past that it stops reading, and two ends that did so would wait for ever.
_MOST_IN_FLIGHT = MAX_PENDING

# The number of a line that is not in the outbox yet.
_QUEUED = -1

# Below this many calls that were given up it is not worth looking for their lines.
_FEW = 64

# Errors that name no call where a batch has them, and a single call where that does.
_OF_BATCHES = (ErrorCode.BATCH_TOO_LARGE, ErrorCode.REQUEST_TOO_LONG, ErrorCode.REPLY_TOO_LONG)


class BatchCalls(Protocol):
    """What the calls of one batch share."""

    calls: list[ClientCall]


class RetryQueue(Protocol):
    """What outlives a connection, and may send over the next one what this one leaves open."""

    def take_over(self, left: list[UnfinishedWrite], loss: ConnectionLost) -> None:
        """Mark those that it takes; the others fail."""


class Resend:
    """What it takes to send a line once more, for calls that may be run twice.

    Attributes:
        line: the line.
        loss: how the connection was lost that it was written to, once it was.
    """

    __slots__ = ("line", "loss")

    def __init__(self, line: bytes) -> None:
        self.line = line
        self.loss: ConnectionLost | None = None


class ClientCall(Struct, eq=False):
    """One call that waits for its reply. What is done with the outcome is the subclass's.

    Attributes:
        method: the name, for the text of errors.
        timeout: seconds to wait for the reply; ``None`` for no limit.
    """

    method: str
    timeout: float | None
    call_id: int = 0
    line_number: int = 0
    # What the calls of one batch share; None for a call alone.
    unit: BatchCalls | None = None
    # What the loss of the connection is told to; for a batch, the first call has it.
    keeper: RetryQueue | None = None
    # Shared by the calls of a batch; None where the call must not be run twice.
    again: Resend | None = None

    @property
    def was_written_before(self) -> bool:
        """Whether it was written to an earlier connection, so that it may have been run."""
        return self.again is not None and self.again.loss is not None

    def succeed(self, result: Any) -> None:
        """Take the result. Reactor: its thread."""
        raise NotImplementedError

    def fail(self, error: BaseException) -> None:
        """Take the error. Reactor: its thread."""
        raise NotImplementedError


class UnfinishedWrite:
    """What one line asked for, and the end of the connection left open.

    Attributes:
        calls: the calls that wait for a reply.
        line: the line; ``None`` if it was written.
        deadline: when their time is up, in the clock's seconds; ``None`` for no limit.
        is_taken: whether somebody takes it over; the calls fail otherwise.
    """

    __slots__ = ("calls", "deadline", "is_taken", "line")

    def __init__(self, calls: list[ClientCall], line: bytes | None, deadline: float | None) -> None:
        self.calls = calls
        self.line = line
        self.deadline = deadline
        self.is_taken = False

    @property
    def is_whole(self) -> bool:
        """Whether no call of the line has ended yet."""
        unit = self.calls[0].unit
        return unit is None or len(self.calls) == len(unit.calls)


class PendingCalls:
    """Starts calls, and ends them.

    Args:
        session: writes requests and correlates replies.
        outbox: where lines go.
        clock: tells when a call has taken too long.
        peer: how the peer is called in errors.
    """

    def __init__(
        self, session: Session[ClientCall], outbox: Outbox, clock: IReactorTime, peer: str
    ) -> None:
        self._session = session
        self._outbox = outbox
        self.peer_text = peer
        self._deadlines = Deadlines(clock, session.pending, self._time_out)
        self._complaint: RPCError | None = None
        # Those that were told to the peer; one that knows no notifications answers each with an
        # error, and no id.
        self._cancelled = 0
        # Lines behind those that are in flight, each with the calls that it makes.
        self._queued: deque[tuple[list[ClientCall], bytes]] = deque()
        self._queued_calls = 0
        # Those given up since it was last looked for their lines.
        self._given_up = 0
        self._ended: str | None = None
        self._cause: BaseException | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether a reply is still to come."""
        return bool(self._session.pending)

    def start(self, calls: list[ClientCall], line: bytes) -> None:
        """Send a line, and expect the replies to the calls that it makes.

        Each call carries the id that it was written with. A connection that has ended fails them at
        once.

        Raises:
            ConnectionLost: the connection has ended, and the line makes no call that could fail.
        """
        if self._ended is not None:
            if not calls:
                raise ConnectionLost(self._ended, maybe_executed=False) from self._cause
            for call in calls:
                call.fail(self._lost_error(call, maybe_executed=False))
            return
        session = self._session
        pending = session.pending
        in_flight = len(pending)
        for call in calls:
            session.register(call.call_id, call)
            if call.timeout is not None:
                self._deadlines.add(call.call_id, call.timeout, len(pending))
        if in_flight >= _MOST_IN_FLIGHT or self._queued:
            self._queue(calls, line)
            return
        number = self._outbox.put(line)
        for call in calls:
            call.line_number = number

    def _queue(self, calls: list[ClientCall], line: bytes) -> None:
        self._queued.append((calls, line))
        self._queued_calls += len(calls)
        for call in calls:
            call.line_number = _QUEUED

    def proceed(self) -> None:
        """Send what waits for the calls in flight to become fewer."""
        pending = self._session.pending
        while self._queued:
            calls, line = self._queued[0]
            if calls and len(pending) - self._queued_calls >= _MOST_IN_FLIGHT:
                return
            self._queued.popleft()
            alive = [call for call in calls if pending.get(call.call_id) is call]
            self._queued_calls -= len(alive)
            if calls and not alive:
                continue
            number = self._outbox.put(line)
            for call in alive:
                call.line_number = number
            if len(alive) < len(calls):
                for call in calls:
                    if pending.get(call.call_id) is not call:
                        self._tell_cancelled(call)

    def notify(self, line: bytes) -> None:
        """Send a line that is not answered.

        Raises:
            ConnectionLost: the connection has ended.
        """
        if self._ended is not None:
            raise ConnectionLost(self._ended, maybe_executed=False) from self._cause
        if self._queued:
            self._queue([], line)
        else:
            self._outbox.put(line)

    def cancel(self, call: ClientCall) -> bool:
        """Drop a call, and tell the peer; the call itself is told nothing. Idempotent.

        Returns:
            Whether the request was written, so that the peer may be running it.
        """
        session = self._session
        if session.pending.get(call.call_id) is not call:
            return False
        if call.line_number == _QUEUED:
            # Its line is left out when its turn comes, or what it shares it with is cancelled then.
            session.discard(call.call_id, was_sent=False)
            self._queued_calls -= 1
            self._given_up += 1
            if self._given_up > _FEW + len(self._queued) // 2:
                self._drop_given_up()
            return False
        # What shares its line with other calls of a batch is left to be written.
        was_sent = call.unit is not None or not self._outbox.withdraw(call.line_number)
        session.discard(call.call_id, was_sent=was_sent)
        if was_sent:
            self._tell_cancelled(call)
        self.proceed()
        return was_sent

    def _drop_given_up(self) -> None:
        """Forget the lines whose calls have all been given up."""
        pending = self._session.pending
        self._given_up = 0
        self._queued = deque(
            (calls, line)
            for calls, line in self._queued
            if not calls or any(pending.get(call.call_id) is call for call in calls)
        )

    def cancel_all(self) -> None:
        """Cancel every call at the peer, before this side closes.

        The peer could take the close for a half-close, and go on.
        """
        for call in list(self._session.pending.values()):
            if call.line_number != _QUEUED:
                self._tell_cancelled(call)

    def _tell_cancelled(self, call: ClientCall) -> None:
        line = self._session.encoder.encode_cancel(call.call_id)
        if line is not None:
            self._outbox.put(line)
            self._cancelled += 1

    def _time_out(self, call_id: int) -> None:
        call = self._session.pending[call_id]
        was_sent = self.cancel(call)
        text = f"no reply to {call.method} from {self.peer_text} within {call.timeout:g} s"
        call.fail(CallTimeout(text, maybe_executed=was_sent or call.was_written_before))

    def receive_unmatched(self, error: RPCError) -> None:
        """Take an error that names no call: it is for the only one there is, or for the log."""
        if (
            self._cancelled
            and error.code != ErrorCode.PARSE_ERROR
            and error.code not in _OF_BATCHES
        ):
            self._cancelled -= 1
            log.debug(
                "{peer} answers a cancellation: {error}", peer=self.peer_text, error=str(error)
            )
            return
        # What has not been sent is not what the peer could not read.
        every = self._session.pending.values()
        pending = [call for call in every if call.line_number != _QUEUED]
        if error.code in _OF_BATCHES:
            batched = [call for call in pending if call.unit is not None]
            pending = batched or pending
        first = pending[0].unit if pending else None
        if len(pending) == 1 or (first is not None and all(c.unit is first for c in pending)):
            for call in pending:
                self._session.discard(call.call_id, was_sent=True)
            for call in pending:
                call.fail(error)
            return
        self._complaint = error
        log.warn(
            "{peer} reports an error of no call in particular: {error}",
            peer=self.peer_text,
            error=str(error),
        )

    def end(self, reason: str, cause: BaseException | None) -> None:
        """Fail every call, in order, and each one that is started from now on. Idempotent.

        What was not written is not written any more. The keeper of a call may take it over.
        """
        if self._ended is not None:
            return
        times = self._deadlines.times()
        self._deadlines.stop()
        if self._complaint is not None:
            reason = f"{reason}; before that it reported: {self._complaint}"
        self._ended = f"the connection to {self.peer_text} is lost: {reason}"
        self._cause = cause
        left: list[UnfinishedWrite] = []
        queued = {call: line for calls, line in self._queued for call in calls}
        self._queued.clear()
        # Those of a batch stand together.
        for _, group in groupby(self._session.take_all_pending(), lambda call: call.unit or call):
            calls = list(group)
            first = calls[0]
            if first.line_number == _QUEUED:
                line: bytes | None = queued[first]
            else:
                line = self._outbox.take_back(first.line_number)
            left.append(UnfinishedWrite(calls, line, times.get(calls[0].call_id)))
        kept = [one for one in left if one.calls[0].keeper is not None]
        if kept:
            # First, so that they stand before the calls that are made of the others' failing.
            loss = ConnectionLost(self._ended)
            loss.__cause__ = cause
            kept[0].calls[0].keeper.take_over(kept, loss)  # type: ignore[union-attr]  # not None
        for one in left:
            if one.is_taken:
                continue
            for call in one.calls:
                call.fail(self._lost_error(call, maybe_executed=one.line is None))

    def _lost_error(self, call: ClientCall, *, maybe_executed: bool) -> ConnectionLost:
        maybe_executed = maybe_executed or call.was_written_before
        fate = "it may have been run" if maybe_executed else "it was not sent"
        error = ConnectionLost(
            f"{self._ended} (the call of {call.method}: {fate})", maybe_executed=maybe_executed
        )
        error.__cause__ = self._cause
        return error
