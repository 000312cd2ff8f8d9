"""What comes in over a connection: bytes to lines, lines to messages, messages to their handlers.

What a message means is the session's to say; requests go to the dispatcher, replies to the calls
that wait for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from typing import TYPE_CHECKING, Any, Final, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from kn_sock._wire.decoding import LONG_BYTES, UNREADABLE, decode_long, decode_message
from kn_sock._wire.dialects import JSONRPC_2
from kn_sock._wire.events import (
    Answered,
    Cancel,
    Event,
    Failed,
    ProtocolViolation,
    Refusal,
    Request,
    Stray,
    UnmatchedError,
)
from kn_sock._wire.framing import Framer, Line, OverlongLine
from kn_sock._wire.sniffing import FIRST_BYTES, other_protocol
from kn_sock.errors import ParseError

if TYPE_CHECKING:
    from kn_sock._io.outbox import Outbox, WriteCoalescer
    from kn_sock._io.watchdogs import IdleWatchdog
    from kn_sock._wire.batches import BatchReply
    from kn_sock._wire.messages import Message
    from kn_sock._wire.session import Session
    from kn_sock.errors import RPCError

log = Logger()

# An OverlongLine cannot be decoded.
_UNUSUAL: Final = (*UNREADABLE, TypeError)

# Lines that are processed before other connections have their turn.
_LINES_PER_TURN: Final = 500


class Serves(Protocol):
    """What serves the peer's requests."""

    path: Any
    tells_when_idle: bool

    def receive(self, request: Request) -> None:
        """Begin a call, or hold it back."""

    def receive_refusal(self, refusal: Refusal) -> None:
        """Answer what was no request."""

    def cancel(self, request_id: Any) -> None:
        """Cancel a call."""


class Calls(Protocol):
    """Our own calls in flight."""

    @property
    def queued(self) -> Sized:
        """Lines that wait for the calls in flight to become fewer."""

    def proceed(self) -> None:
        """Send what waits for the calls in flight to become fewer."""

    def receive_unmatched(self, error: RPCError) -> None:
        """Take an error that names no call."""


class Reads(Protocol):
    """The connection that is read."""

    reactor: IReactorTime
    read_at: float

    @property
    def outgoing(self) -> Calls | None:
        """Our own calls in flight; ``None`` until one is made."""

    @property
    def peer_text(self) -> str:
        """The peer's address, as text."""

    def calls(self) -> Calls:
        """Our own calls in flight; made when first needed."""

    def update_reading(self) -> None:
        """Read on, or pause."""

    def close_when_answered(self) -> None:
        """Close once every call of the peer has been answered."""

    def refuse(self, protocol: str) -> None:
        """Disconnect a peer that speaks another protocol."""

    def ignored(self, reason: str) -> None:
        """Log a reply that belongs to no call."""

    def violated(self, reason: str) -> None:
        """Disconnect a peer that broke the protocol."""


class Reader:
    """Reads for one connection.

    Args:
        connection: the connection.
        framer: splits what comes into lines.
        session: says what they mean.
        dispatcher: serves requests.
        outbox: the connection's.
        turn: collects what is written while lines are processed.
    """

    __slots__ = (
        "_backlog_timer",
        "_connection",
        "_dispatcher",
        "_framer",
        "_outbox",
        "_session",
        "_start",
        "_turn",
        "backlog",
        "idle_watchdog",
        "is_open",
        "messages",
        "received_bytes",
    )

    def __init__(
        self,
        connection: Reads,
        framer: Framer,
        session: Session[Any],
        dispatcher: Serves,
        outbox: Outbox,
        turn: WriteCoalescer,
    ) -> None:
        self._connection = connection
        self._framer = framer
        self._session = session
        self._dispatcher = dispatcher
        self._outbox = outbox
        self._turn = turn
        #: Whether what comes in is processed.
        self.is_open = False
        #: Restarted by whatever comes in; ``None`` without a limit.
        self.idle_watchdog: IdleWatchdog | None = None
        #: Lines that wait until other connections have had their turn.
        self.backlog: Sequence[Line | OverlongLine] = ()
        self._backlog_timer: IDelayedCall | None = None
        # The first bytes of the stream, until there are enough to recognise the protocol.
        self._start: bytes | None = b""
        #: Lines and bytes that came in.
        self.messages = self.received_bytes = 0

    def feed(self, data: bytes) -> None:
        """Process what was read."""
        if not self.is_open:
            return
        if self.idle_watchdog is not None:
            self.idle_watchdog.heard()
        if self._start is not None and self._is_foreign(data):
            return
        lines = self._framer.feed(data)
        self.received_bytes += len(data)
        self.messages += len(lines)
        if self.backlog:
            self.backlog = [*self.backlog, *lines]
        else:
            self._process(lines)

    def _is_foreign(self, data: bytes) -> bool:
        """Look at the first bytes, and disconnect a peer that speaks another protocol."""
        start = ((self._start or b"") + data.lstrip(b"\r\n"))[:FIRST_BYTES]
        self._start = start if len(start) < FIRST_BYTES else None
        name = other_protocol(start)
        if name is None:
            return False
        self._connection.refuse(name)
        return True

    def _process(self, lines: list[Line | OverlongLine]) -> None:
        connection = self._connection
        if len(lines) > _LINES_PER_TURN:
            self.backlog = lines[_LINES_PER_TURN:]
            del lines[_LINES_PER_TURN:]
            self._backlog_timer = connection.reactor.callLater(0, self._resume)
            connection.update_reading()
        connection.read_at = now = connection.reactor.seconds()
        turn = self._turn
        turn.begin_read(now)
        try:
            self.handle(lines)
            outgoing = connection.outgoing
            if outgoing is not None and outgoing.queued:
                outgoing.proceed()
        finally:
            turn.end_read(self._outbox, now)
        if self._dispatcher.tells_when_idle:
            connection.close_when_answered()

    def handle(self, lines: Iterable[Line | OverlongLine]) -> None:
        """Decode lines, and pass the messages on, in order."""
        dispatcher = self._dispatcher
        messages: list[Message] = []
        for line in lines:
            try:
                # An OverlongLine has no length. The message gets no name: `serve` empties the list.
                messages.append(
                    decode_message(line) if len(line) < LONG_BYTES else decode_long(line)  # type: ignore[arg-type]
                )
            except _UNUSUAL as problem:
                if messages:
                    dispatcher.path.serve(dispatcher, messages, self._receive)
                    messages = []
                if not self.is_open:
                    return
                self._handle_unusual(line, problem)
        dispatcher.path.serve(dispatcher, messages, self._receive)

    def _receive(self, message: Message) -> None:
        if not self.is_open:
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
        self._handle_batch(messages, reply)

    def _handle_batch(self, messages: list[Message], reply: BatchReply) -> None:
        def receive(message: Message) -> None:
            if self.is_open:
                self._dispatch_event(self._session.receive_member(message, reply))

        self._dispatcher.path.serve(self._dispatcher, messages, receive, reply)

    def _resume(self) -> None:
        self._backlog_timer = None
        lines, self.backlog = self.backlog, ()
        self._process([*lines])
        self._connection.update_reading()

    def _dispatch_event(self, event: Event[Any] | None) -> None:
        if not self.is_open:
            return
        if isinstance(event, Answered):
            event.pending.succeed(event.result)
        elif isinstance(event, Request):
            self._dispatcher.receive(event)
        elif isinstance(event, Failed):
            event.pending.fail(event.error)
        elif isinstance(event, Refusal):
            self._dispatcher.receive_refusal(event)
        elif isinstance(event, Cancel):
            self._dispatcher.cancel(event.id)
        elif isinstance(event, UnmatchedError):
            self._connection.calls().receive_unmatched(event.error)
        elif isinstance(event, Stray):
            self._connection.ignored(event.reason)
        elif isinstance(event, ProtocolViolation):
            self._connection.violated(event.reason)

    # --- the end ----------------------------------------------------------------------------------

    def read_to_end(self) -> None:
        """Process what was read; the peer sends no more."""
        if self.backlog:
            self.handle(self.take_backlog())
        if self._framer.unfinished and self.is_open:
            error = ParseError(f"{self._framer.missing_end}; nothing in it was run")
            self._outbox.put(JSONRPC_2.encode_error(None, error))

    def settle_from(self, lines: Iterable[Line | OverlongLine]) -> None:
        """End our own calls whose replies are among these lines; ignore everything else."""
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

    def detach(self) -> None:
        """Forget the connection, which has ended."""
        self.idle_watchdog = None
        del self._connection

    def take_backlog(self) -> Sequence[Line | OverlongLine]:
        """Remove and return the lines that were left for later turns."""
        lines, self.backlog = self.backlog, ()
        if self._backlog_timer is not None:
            self._backlog_timer.cancel()
            self._backlog_timer = None
        return lines
