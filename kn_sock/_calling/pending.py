"""Our own calls over one connection, until each of them has ended.

Every call that is started ends once: with a result, the peer's error, a timeout, a cancellation, or
the loss of the connection. A call is registered first and written then.
"""

from __future__ import annotations

from collections import deque
from itertools import groupby
from threading import get_ident
from typing import TYPE_CHECKING, NoReturn, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from kn_sock._calling.call import UnfinishedWrite
from kn_sock._calling.heartbeat import suspect
from kn_sock._exceptions import another
from kn_sock._io.deadlines import Deadlines
from kn_sock.errors import CallTimeout, ConnectionLost, ErrorCode, RPCError
from kn_sock.options import MAX_PENDING

if TYPE_CHECKING:
    from kn_sock._calling.call import ClientCall
    from kn_sock._calling.context import ConnectionContext
    from kn_sock._io.flow import FlowControl
    from kn_sock._io.outbox import Outbox
    from kn_sock._wire.requests import RequestEncoder
    from kn_sock._wire.session import Session

# Calls that wait for replies over one connection; more wait here. A server has as many in flight
# for one connection: past that it stops reading, and two ends that did so would wait for ever.
_MOST_IN_FLIGHT = MAX_PENDING

# The number of a line that is not in the outbox yet.
_QUEUED = -1

# With fewer cancelled calls than this, their queued lines are not looked for.
_FEW = 64

# Errors without an id if they are about a batch, and with the call's id otherwise.
_OF_BATCHES = (ErrorCode.BATCH_TOO_LARGE, ErrorCode.REQUEST_TOO_LONG, ErrorCode.REPLY_TOO_LONG)


class Connection(Protocol):
    """The connection that the calls are made over."""

    context: ConnectionContext
    reactor: IReactorTime
    read_at: float

    @property
    def peer_text(self) -> str:
        """The peer's address, as text."""

    @property
    def is_open(self) -> bool:
        """Whether calls can be made."""

    def update_reading(self) -> None:
        """Read on, or pause."""

    def stalled(self, reason: str) -> None:
        """Disconnect the peer."""

    def calls(self) -> PendingCalls:
        """Return these."""

    def when_closed(self) -> Deferred[None]:
        """Return a Deferred that fires when the connection has ended."""

    def close(self) -> Deferred[None]:
        """Close the connection."""


class PendingCalls:
    """Starts calls over one connection, and ends them.

    Args:
        connection: the connection.
        session: writes requests and correlates replies.
        outbox: where lines go.
        flow: says whether the connection reads.

    Reactor: its thread only.
    """

    def __init__(
        self,
        connection: Connection,
        session: Session[ClientCall],
        outbox: Outbox,
        flow: FlowControl,
    ) -> None:
        # None once the connection has ended.
        self._connection: Connection | None = connection
        self._context = connection.context
        self._session = session
        self._outbox = outbox
        self._flow = flow
        self.peer_text = connection.peer_text
        self._deadlines = Deadlines(connection.reactor, session.pending, self._time_out)
        self._complaint: RPCError | None = None
        # Cancellations sent; a peer without notifications answers each with an error without an id.
        self._cancelled = 0
        #: Lines that wait for the calls in flight to become fewer, each with its calls.
        self.queued: deque[tuple[list[ClientCall], bytes]] = deque()
        self._queued_calls = 0
        # Queued calls cancelled since their lines were last looked for.
        self._cancelled_queued = 0
        self._ended: str | None = None
        self._cause: BaseException | None = None

    @property
    def writer(self) -> RequestEncoder:
        """What encodes requests for this connection."""
        return self._session.encoder

    @property
    def is_open(self) -> bool:
        """Whether calls can be made."""
        return self._connection is not None and self._connection.is_open

    def when_closed(self) -> Deferred[None]:
        """Return a Deferred that fires when the connection has ended."""
        return succeed(None) if self._connection is None else self._connection.when_closed()

    def has(self, kind: type[ClientCall]) -> bool:
        """Whether a call of this class is in flight."""
        return any(type(call) is kind for call in self._session.pending.values())

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
            RuntimeError: this is not the reactor's thread.
        """
        if get_ident() != self._context.thread_id:
            _wrong_thread()
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
        if in_flight >= _MOST_IN_FLIGHT or self.queued:
            self._queue(calls, line)
            return
        number = self._outbox.put(line)
        for call in calls:
            call.line_number = number
        if not self._flow.is_reading and self._connection is not None:
            self._connection.update_reading()

    def _queue(self, calls: list[ClientCall], line: bytes) -> None:
        self.queued.append((calls, line))
        self._queued_calls += len(calls)
        for call in calls:
            call.line_number = _QUEUED

    def proceed(self) -> None:
        """Send what waits for the calls in flight to become fewer."""
        pending = self._session.pending
        while self.queued:
            calls, line = self.queued[0]
            if calls and len(pending) - self._queued_calls >= _MOST_IN_FLIGHT:
                return
            self.queued.popleft()
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
                        self._send_cancel(call)

    def send_notification(self, line: bytes, timeout: float | None = None) -> Deferred[None]:
        """Send a line that is not answered. It does not wait here, whatever the *timeout*.

        Raises:
            ConnectionLost: the connection has ended.
            RuntimeError: this is not the reactor's thread.
        """
        if get_ident() != self._context.thread_id:
            _wrong_thread()
        if self._ended is not None:
            raise ConnectionLost(self._ended, maybe_executed=False) from self._cause
        if self.queued:
            self._queue([], line)
        else:
            self._outbox.put(line)
        return succeed(None)

    def cancel_call(self, call: ClientCall) -> bool:
        """Discard a call and cancel it at the peer; the call gets no outcome. Idempotent.

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
            self._cancelled_queued += 1
            if self._cancelled_queued > _FEW + len(self.queued) // 2:
                self._drop_cancelled()
            return False
        # What shares its line with other calls of a batch is left to be written.
        was_sent = call.unit is not None or not self._outbox.withdraw(call.line_number)
        session.discard(call.call_id, was_sent=was_sent)
        if was_sent:
            self._send_cancel(call)
        self.proceed()
        return was_sent

    def _drop_cancelled(self) -> None:
        """Discard the lines whose calls have all been cancelled."""
        pending = self._session.pending
        self._cancelled_queued = 0
        self.queued = deque(
            (calls, line)
            for calls, line in self.queued
            if not calls or any(pending.get(call.call_id) is call for call in calls)
        )

    def cancel_all(self) -> None:
        """Cancel every call at the peer, before this side closes.

        The peer could take the close for a half-close, and continue.
        """
        for call in list(self._session.pending.values()):
            if call.line_number != _QUEUED:
                self._send_cancel(call)

    def _send_cancel(self, call: ClientCall) -> None:
        line = self._session.encoder.encode_cancel(call.call_id)
        if line is not None:
            self._outbox.put(line)
            self._cancelled += 1

    def _time_out(self, call_id: int) -> None:
        call = self._session.pending[call_id]
        was_sent = self.cancel_call(call)
        text = f"no reply to {call.method} from {self.peer_text} within {call.timeout:g} s"
        call.fail(CallTimeout(text, maybe_executed=was_sent or call.was_written_before))
        if was_sent and self._connection is not None:
            suspect(self._connection, call)

    def receive_unmatched(self, error: RPCError) -> None:
        """Take an error that names no call: it is for the only one there is, or for the log."""
        if (
            self._cancelled
            and error.code != ErrorCode.PARSE_ERROR
            and error.code not in _OF_BATCHES
        ):
            self._cancelled -= 1
            self._context.runner.reports.log.debug(
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
                call.fail(another(error))
            return
        self._complaint = error
        self._context.runner.reports.log.warn(
            "{peer} reports an error of no call in particular: {error}",
            peer=self.peer_text,
            error=str(error),
        )

    def close(self) -> Deferred[None]:
        """Close the connection; the Deferred fires when it is closed."""
        return succeed(None) if self._connection is None else self._connection.close()

    def detach(self) -> None:
        """Forget the connection, which has ended."""
        self._connection = None

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
        queued = {call: line for calls, line in self.queued for call in calls}
        self.queued.clear()
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


def _wrong_thread() -> NoReturn:
    raise RuntimeError(
        "a connection is for its reactor's thread; elsewhere, wait for it by "
        "blockingCallFromThread(current_call().reactor, current_call().connection.call, …)"
    )
