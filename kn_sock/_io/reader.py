"""What comes in over a connection: bytes to lines, lines to messages, and whose each of them is.

What a message means is `_session`'s; what is done about it `_serving`'s and `_outgoing`'s. How the
connection begins and ends is `protocol`'s.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.protocols.basic import LineReceiver
from typing_extensions import override

from kn_sock._wire.decoding import LONG_BYTES, UNREADABLE, decode_long, decode_message
from kn_sock._wire.events import (
    Answered,
    Cancel,
    Event,
    Failed,
    ProtocolViolation,
    Refusal,
    Request,
    UnmatchedError,
)
from kn_sock._wire.framing import Framer, Line, OverlongLine
from kn_sock._wire.sniffing import FIRST_BYTES, other_protocol

if TYPE_CHECKING:
    from kn_sock._calling.pending import ClientCall, Outgoing
    from kn_sock._io.outbox import Outbox
    from kn_sock._io.watchdogs import IdleWatchdog
    from kn_sock._serving.dispatcher import Dispatcher
    from kn_sock._settings import ConnectionContext
    from kn_sock._wire.messages import Message
    from kn_sock._wire.session import Session

log = Logger()

# An OverlongLine is nothing that can be decoded.
_UNUSUAL: Final = (*UNREADABLE, TypeError)

# Lines handled before other connections have their turn.
_QUANTUM: Final = 500


class State(enum.Enum):
    """The life of a connection: each state may only be followed by a later one."""

    NEW = 0
    # There is a transport, and TLS is at its handshake: nothing is written or read.
    SECURING = 1
    OPEN = 2
    # No more input is looked at; what was written still goes out.
    CLOSING = 3
    LOST = 4


# To look a member up costs as much as to decode a request, until Python 3.12.
_OPEN: Final = State.OPEN


class Inbound(LineReceiver):
    """The half of a protocol that reads."""

    delimiter = b"\n"
    reactor: Any
    _settings: ConnectionContext
    _framer: Framer
    _session: Session[ClientCall]
    _outbox: Outbox
    _serving: Dispatcher
    # None until a call is made.
    _outgoing: Outgoing | None = None
    _state = State.NEW
    _idle_watch: IdleWatchdog | None = None
    # Lines that wait until others have had their turn.
    _backlog: Sequence[Line | OverlongLine] = ()
    _backlog_timer: IDelayedCall | None = None
    # The first bytes of the stream, until there are enough to tell what the peer speaks.
    _start: bytes | None = b""
    #: Lines that came, and what they had in bytes.
    messages = 0
    received_bytes = 0
    #: When what is handled now was read, in the reactor's seconds.
    read_at: float

    @property
    def peer_text(self) -> str:
        """The peer's address as a person would write it."""
        raise NotImplementedError

    def _abort(self, reason: str) -> None:
        """Close at once."""

    def _refused(self, reason: str) -> None:
        """Take note that the log knows why the connection is closed before it could call."""

    def _violated(self, reason: str) -> None:
        """Close at once, as the peer broke the protocol."""

    def update_reading(self) -> None:
        """Read on, or stop reading, by what is under way."""

    def _close_when_answered(self, *, is_read_to_the_end: bool = False) -> None:
        """Close once every call of the peer is answered.

        Args:
            is_read_to_the_end: whether the transport has just told that the peer sends no more.
        """

    def _calls(self) -> Outgoing:
        """Give what makes our own calls."""
        raise NotImplementedError

    @override
    def dataReceived(self, data: bytes) -> None:
        if self._state is not _OPEN:
            return
        if self._idle_watch is not None:
            self._idle_watch.heard()
        if self._start is not None and self._is_foreign(data):
            return
        lines = self._framer.feed(data)
        self.received_bytes += len(data)
        self.messages += len(lines)
        if self._backlog:
            self._backlog = [*self._backlog, *lines]
        else:
            self._process(lines)

    def _is_foreign(self, data: bytes) -> bool:
        """Look at the first bytes, and close the connection where they are of another protocol."""
        start = ((self._start or b"") + data.lstrip(b"\r\n"))[:FIRST_BYTES]
        self._start = start if len(start) < FIRST_BYTES else None
        name = other_protocol(start)
        if name is None:
            return False
        log.warn(
            "{peer} speaks {protocol}: closed, nothing was run",
            peer=self.peer_text,
            protocol=name,
        )
        self._refused(name.lower())
        self._abort(f"the peer speaks {name}")
        return True

    def _process(self, lines: list[Line | OverlongLine]) -> None:
        if len(lines) > _QUANTUM:
            self._backlog = lines[_QUANTUM:]
            del lines[_QUANTUM:]
            self._backlog_timer = self.reactor.callLater(0, self._resume)
            self.update_reading()
        self.read_at = now = self.reactor.seconds()
        turn = self._settings.turn
        turn.begin_read(now)
        try:
            self._handle(lines)
            if self._outgoing is not None:
                self._outgoing.proceed()
        finally:
            turn.end_read(self._outbox, now)
        if self._serving.tells_when_idle:
            self._close_when_answered()

    def _handle(self, lines: Iterable[Line | OverlongLine]) -> None:
        messages: list[Message] = []
        for line in lines:
            try:
                # An OverlongLine has no length. No name for the message: `take` lets go of all.
                messages.append(
                    decode_message(line) if len(line) < LONG_BYTES else decode_long(line)  # type: ignore[arg-type]
                )
            except _UNUSUAL as problem:
                if messages:
                    self._serving.path.serve(self._serving, messages, self._receive)
                    messages = []
                if self._state is not _OPEN:
                    return
                self._handle_unusual(line, problem)
        self._serving.path.serve(self._serving, messages, self._receive)

    def _receive(self, message: Message) -> None:
        if self._state is not _OPEN:
            return
        event = self._session.receive_message(message)
        if type(event) is Answered:
            event.pending.succeed(event.result)
        else:
            self._dispatch_event(event)

    def _handle_unusual(self, line: Line | OverlongLine, problem: BaseException) -> None:
        if isinstance(line, OverlongLine):
            self._dispatch_event(self._session.receive_overlong(line))
            return
        batch = self._session.receive_batch(line)
        if batch is None:
            event = self._session.receive_unusual(line, problem)
            for one in event if isinstance(event, list) else (event,):
                self._dispatch_event(one)
            return
        messages, reply = batch

        def receive(message: Message) -> None:
            if self._state is _OPEN:
                self._dispatch_event(self._session.receive_member(message, reply))

        self._serving.path.serve(self._serving, messages, receive, reply)

    def _resume(self) -> None:
        self._backlog_timer = None
        lines, self._backlog = self._backlog, ()
        self._process([*lines])
        self.update_reading()

    @override
    def lineReceived(self, line: Line) -> None:
        self._handle([line])

    def _dispatch_event(self, event: Event[ClientCall] | None) -> None:
        if self._state is not _OPEN:
            return
        if isinstance(event, Answered):
            event.pending.succeed(event.result)
        elif isinstance(event, Request):
            self._serving.receive(event)
        elif isinstance(event, Failed):
            event.pending.fail(event.error)
        elif isinstance(event, Refusal):
            self._serving.receive_refusal(event)
        elif isinstance(event, Cancel):
            self._serving.cancel(event.id)
        elif isinstance(event, UnmatchedError):
            self._calls().complain(event.error)
        elif isinstance(event, ProtocolViolation):
            self._violated(event.reason)

    def _settle_from(self, lines: Iterable[Line | OverlongLine]) -> None:
        """End our own calls whose replies are among these lines; nothing else counts now."""
        for line in lines:
            if isinstance(line, OverlongLine):
                event: Any = self._session.receive_overlong(line)
            else:
                event = self._session.receive(line)
            for one in event if isinstance(event, list) else (event,):
                if isinstance(one, Answered):
                    one.pending.succeed(one.result)
                elif isinstance(one, Failed):
                    one.pending.fail(one.error)

    def _take_backlog(self) -> Sequence[Line | OverlongLine]:
        """Give what was read and left for later turns, which then do not come."""
        lines, self._backlog = self._backlog, ()
        if self._backlog_timer is not None:
            self._backlog_timer.cancel()
            self._backlog_timer = None
        return lines
