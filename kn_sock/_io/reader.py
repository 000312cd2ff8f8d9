"""What comes in over a connection: bytes to lines, lines to messages, messages to their handlers.

What a message means is the session's to say; requests go to the dispatcher, replies to the calls
that wait for them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from kn_sock._io.neighbours import Reads, Serves
from kn_sock._io.rest import Rest, Work
from kn_sock._wire.decoding import UNREADABLE, decode_long, decode_message
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
from kn_sock._wire.framing import PREFIX_BYTES, Framer, Line, OverlongLine
from kn_sock._wire.heads import read_head
from kn_sock._wire.sniffing import Sniffer
from kn_sock._wire.weight import (
    HEAVY_BYTES,
    Structure,
    decoded_bytes,
    decoded_factor,
    has_more_containers,
    packed_bytes,
    structure_of,
)
from kn_sock.errors import ParseError

if TYPE_CHECKING:
    from kn_sock._io.outbox import Outbox, WriteCoalescer
    from kn_sock._io.watchdogs import IdleWatchdog
    from kn_sock._wire.batches import BatchReply
    from kn_sock._wire.messages import Message
    from kn_sock._wire.session import Session

log = Logger()

# An OverlongLine cannot be decoded.
_UNUSUAL: Final = (*UNREADABLE, TypeError)


_BRACKET: Final = ord("[")

# Before a login a line may have so many bytes.
_STRANGER_BYTES: Final = 64 * 1024


class Reader:
    """Reads for one connection.

    Args:
        connection: the connection.
        framer: splits what comes into lines.
        session: says what they mean.
        dispatcher: serves requests.
        outbox: the connection's.
        turn: collects what is written while lines are processed.
        max_containers: how many containers a line may have.
    """

    __slots__ = (
        "_backlog_timer",
        "_connection",
        "_dispatcher",
        "_framer",
        "_is_at_end",
        "_max_containers",
        "_outbox",
        "_session",
        "_sniffer",
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
        max_containers: int = sys.maxsize,
    ) -> None:
        self._max_containers = max_containers
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
        self.backlog: Sequence[Work] = ()
        self._backlog_timer: IDelayedCall | None = None
        # Until there are enough bytes to recognise the protocol.
        self._sniffer: Sniffer | None = Sniffer()
        # Whether the peer sends no more.
        self._is_at_end = False
        #: Lines and bytes that came in.
        self.messages = self.received_bytes = 0

    def limit_lines(self, *, is_stranger: bool) -> None:
        """Take only short lines of a peer that has to log in first; of others those allowed."""
        if is_stranger:
            text = f"is longer than a line may be before the login ({_STRANGER_BYTES:,} bytes)"
            self._framer.limit(_STRANGER_BYTES, text)
        else:
            self._framer.limit(None)

    def feed(self, data: bytes) -> None:
        """Process what was read."""
        if not self.is_open:
            return
        if self.idle_watchdog is not None:
            self.idle_watchdog.heard()
        if self._sniffer is not None:
            protocol = self._sniffer.feed(data)
            if protocol is not None:
                self._connection.refuse(protocol)
                return
            if self._sniffer.is_done:
                self._sniffer = None
        lines = self._framer.feed(data)
        self.received_bytes += len(data)
        self.messages += len(lines)
        if self.backlog:
            self.backlog = [*self.backlog, *lines]
        else:
            self._process(lines)

    def _process(self, work: Sequence[Work]) -> None:
        connection = self._connection
        connection.read_at = now = connection.reactor.seconds()
        turn = self._turn
        turn.begin_read(now)
        try:
            left = self._handle(work, now + self._dispatcher.turn_seconds)
            outgoing = connection.outgoing
            if outgoing is not None and outgoing.queued:
                outgoing.proceed()
        finally:
            turn.end_read(self._outbox, now)
        if left and self.is_open:
            self.backlog = left
            self._backlog_timer = connection.reactor.callLater(0, self._resume)
            connection.update_reading()
        elif self._dispatcher.tells_when_idle:
            connection.close_when_answered()

    def handle(self, work: Sequence[Work]) -> None:
        """Decode lines, and pass the messages on, in order."""
        self._handle(work, math.inf)

    def _handle(self, work: Sequence[Work], until: float) -> list[Work]:
        """Process what was read, in order, and return what is left at that time."""
        messages: list[Message] = []
        for place, line in enumerate(work):
            try:
                # The others have no length. The message gets no name: `serve` empties the list.
                if len(line) < HEAVY_BYTES:  # type: ignore[arg-type]
                    messages.append(decode_message(line))  # type: ignore[arg-type]
                    continue
                problem = None
            except _UNUSUAL as found:
                problem = found
            left = self._serve(messages, until)
            if left or not self.is_open:
                return [*left, *work[place:]]
            left = self._handle_odd(line, problem, until)
            if left or not self.is_open or self._connection.reactor.seconds() >= until:
                return [*left, *work[place + 1 :]]
        if messages:
            self._dispatcher.path.serve(self._dispatcher, messages, self._receive, None, until)
        return [Rest(messages)] if messages else []

    def _serve(
        self,
        messages: list[Message],
        until: float,
        reply: BatchReply | None = None,
        factor: float = 0,
    ) -> list[Work]:
        """Pass messages on, in order, and return what is left at that time."""
        if not messages:
            return []
        receive: Callable[[Message], None] = self._receive
        if reply is not None:
            receive = partial(self._receive_member, reply, factor)
        dispatcher = self._dispatcher
        dispatcher.path.serve(dispatcher, messages, receive, reply, until, factor)
        return [Rest(messages, reply, factor)] if messages else []

    def _receive(self, message: Message, weight: int = 0) -> None:
        if not self.is_open:
            return
        event = self._session.receive_message(message)
        if type(event) is Answered:
            event.pending.succeed(event.result)
        else:
            self._dispatch_event(event, weight)

    def _receive_member(self, reply: BatchReply, factor: float, message: Message) -> None:
        if self.is_open:
            weight = int(factor * packed_bytes(message)) if factor else 0
            self._dispatch_event(self._session.receive_member(message, reply), weight)

    def _handle_odd(self, line: Work, problem: BaseException | None, until: float) -> list[Work]:
        """Process what is no short message, and return what is left of it at that time."""
        if isinstance(line, Rest):
            if line.events is None:
                return self._serve(line.messages, until, line.reply, line.factor)
            return self._dispatch_each(line.events, line.factor, until)
        if isinstance(line, OverlongLine):
            self._dispatch_event(self._session.receive_overlong(line))
            return []
        found = None
        if len(line) >= HEAVY_BYTES:
            # Each container is a byte at least.
            if len(line) > self._max_containers:
                found = structure_of(line)
                if self._has_too_many(line, found):
                    excess = f"has more containers than max_containers ({self._max_containers:,})"
                    self._dispatch_event(self._session.receive_overlong(OverlongLine(line, excess)))
                    return []
            if problem is None and line[0] != _BRACKET:
                try:
                    message = decode_long(line)
                except UNREADABLE as unreadable:
                    problem = unreadable
                else:
                    self._receive(message, decoded_bytes(line, found or structure_of(line)))
                    return []
        batch = self._session.receive_batch(line)
        if batch is None:
            event = self._session.receive_unusual(line, cast(BaseException, problem))
            events = iter(event if isinstance(event, list) else (event,))
            return self._dispatch_each(events, decoded_factor(line, 1, found), until)
        messages, reply = batch
        return self._serve(messages, until, reply, decoded_factor(line, len(messages), found))

    def _has_too_many(self, line: Line, found: Structure) -> bool:
        """Whether a request has more containers than a line to a server may have."""
        if not has_more_containers(line, found, self._max_containers):
            return False
        return not read_head(bytes(line[:PREFIX_BYTES])).is_reply

    def _dispatch_each(
        self, events: Iterator[Event[Any] | None], factor: float, until: float
    ) -> list[Work]:
        for event in events:
            is_heavy = factor and isinstance(event, Request)
            self._dispatch_event(event, int(factor * packed_bytes(event)) if is_heavy else 0)  # type: ignore[arg-type]
            if self.is_open and self._connection.reactor.seconds() >= until:
                return [Rest([], None, factor, events)]
        return []

    def _resume(self) -> None:
        self._backlog_timer = None
        work, self.backlog = self.backlog, ()
        self._process(work)
        if self.backlog or not self.is_open:
            return
        if self._is_at_end:
            self._connection.read_to_its_end()
        else:
            self._connection.update_reading()

    def _dispatch_event(self, event: Event[Any] | None, weight: int = 0) -> None:
        if not self.is_open:
            return
        if isinstance(event, Answered):
            event.pending.succeed(event.result)
        elif isinstance(event, Request):
            event.weight = weight if weight >= HEAVY_BYTES else 0
            self._dispatcher.receive(event)
        elif isinstance(event, Failed):
            event.pending.answered_with(event.error)
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

    def read_to_end(self) -> bool:
        """Process what was read; the peer sends no more.

        Returns:
            Whether all is processed; if not, the connection is notified when it is.
        """
        if self.backlog:
            self._is_at_end = True
            return False
        if self._framer.unfinished and self.is_open:
            error = ParseError(f"{self._framer.missing_end}; nothing in it was run")
            self._outbox.put(JSONRPC_2.encode_error(None, error))
        return True

    def settle_from(self, work: Iterable[Work]) -> None:
        """End our own calls whose replies are among these; ignore everything else."""
        for line in work:
            if isinstance(line, Rest):
                events: Iterable[Any] = line.events or map(
                    self._session.receive_message, line.messages
                )
            else:
                if isinstance(line, OverlongLine):
                    event: Any = self._session.receive_overlong(line)
                else:
                    event = self._session.receive(line)
                events = event if isinstance(event, list) else (event,)
            for one in events:
                if isinstance(one, Answered):
                    one.pending.succeed(one.result)
                elif isinstance(one, Failed):
                    one.pending.answered_with(one.error)

    def detach(self) -> None:
        """Forget the connection, which has ended."""
        self.idle_watchdog = None
        del self._connection

    def take_backlog(self) -> Sequence[Work]:
        """Remove and return the lines that were left for later turns."""
        lines, self.backlog = self.backlog, ()
        if self._backlog_timer is not None:
            self._backlog_timer.cancel()
            self._backlog_timer = None
        return lines
