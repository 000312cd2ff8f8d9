"""Write coalescing: lines are collected during a turn of the reactor, and written once."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from kn_sock._wire.encoding import UNENCODABLE, Success, encode_lines, encode_plain

log = Logger()

# What is as large as this is worth a write of its own.
_LARGE_BYTES = 16 * 1024

# What is written at once of what was kept.
_PIECE_BYTES = 256 * 1024

# So many other connections were read since this one was: replies wait for the turn's end.
_MANY = 8

# In seconds: no other connection's requests are handled before what has waited for so long.
_LONGEST_WAIT = 0.001


class Outbox:
    """Lines that wait to be written to one transport.

    Args:
        write: the transport's ``write``.
        turn: what decides when.
        is_prompt: whether replies never wait for other connections. With TLS, close_notify may come
            with the request, and nothing is sent after it.
    """

    __slots__ = (
        "_is_held",
        "_lines",
        "_turn",
        "_write",
        "_written",
        "is_paused",
        "is_prompt",
        "read",
        "replies",
        "written_bytes",
    )

    def __init__(
        self, write: Callable[[bytes], object], turn: WriteCoalescer, *, is_prompt: bool = False
    ) -> None:
        self._write = write
        self._turn = turn
        self.is_prompt = is_prompt
        self._lines: list[bytes] = []
        #: Plain replies, which are encoded all at once; `begin` comes before the first of them.
        self.replies: list[Success] = []
        self._written = 0
        #: How many bytes went to the transport.
        self.written_bytes = 0
        #: How many reads there had been, of all connections, when this was last read.
        self.read = turn.reads
        self._is_held = False
        #: Whether the transport has enough to send.
        self.is_paused = False

    def put(self, line: bytes) -> int:
        """Add a line, and return its number, by which it can be withdrawn until it is written."""
        lines = self._lines
        if self.replies:
            self._encode_replies()
        elif not lines:
            self._turn.add(self)
        lines.append(line)
        number = self._written + len(lines) - 1
        if len(line) > _LARGE_BYTES:
            # Not gathered any further, so that the transport can pause its producer.
            self.flush()
        return number

    def begin(self) -> None:
        """Schedule a write for the end of the turn, before the first reply is appended."""
        if not self._lines:
            self._turn.add(self)

    def is_waiting(self, number: int) -> bool:
        """Whether a line has not been written yet."""
        return number >= self._written

    def withdraw(self, number: int) -> bool:
        """Remove a line; ``False`` if it has been written."""
        return self.take_back(number) is not None

    def take_back(self, number: int) -> bytes | None:
        """Remove and return a line; ``None`` if it has been written."""
        place = number - self._written
        if place < 0:
            return None
        line, self._lines[place] = self._lines[place], b""
        return line

    def hold(self) -> None:
        """Write nothing until `release`: the transport is not ready."""
        self._is_held = True

    def release(self) -> None:
        """Write what waits when the turn ends, and what comes from now on."""
        self._is_held = False
        if self._lines or self.replies:
            self._turn.add(self)

    # --- while the peer does not read -------------------------------------------------------------

    def pause(self) -> None:
        """Hold back what comes until `resume`: the transport has enough to send."""
        self.is_paused = True

    def resume(self) -> None:
        """Write what was kept, until the transport has enough again.

        It gets no more at once: it copies what it has not sent when more comes.
        """
        self.is_paused = False
        if self.replies:
            self._encode_replies()
        while self._lines and not (self.is_paused or self._is_held):
            lines = self._lines
            size = count = 0
            while count < len(lines) and size < _PIECE_BYTES:
                size += len(lines[count])
                count += 1
            self._lines = lines[count:]
            self._written += count
            self.written_bytes += size
            self._write(b"".join(lines[:count]))

    @property
    def waiting_bytes(self) -> int:
        """How many bytes wait here, encoded."""
        return sum(map(len, self._lines))

    # --- writing ----------------------------------------------------------------------------------

    def finish(self) -> None:
        """Write everything, as nothing follows."""
        self.is_paused = False
        self.flush()

    def flush(self) -> None:
        """Write what waits, in one piece."""
        if self._is_held or self.is_paused:
            return
        lines = self._lines
        if not lines:
            # Nothing but replies: the common case, without another call.
            if not self.replies:
                return
            try:
                data = encode_lines(self.replies)
            except UNENCODABLE:
                data = encode_plain(self.replies)
            self.replies.clear()
        else:
            if self.replies:
                self._encode_replies()
            self._lines = []
            self._written += len(lines)
            data = lines[0] if len(lines) == 1 else b"".join(lines)
        self.written_bytes += len(data)
        self._write(data)

    def _encode_replies(self) -> None:
        self._lines.append(encode_plain(self.replies))
        self.replies.clear()

    def close(self) -> None:
        """Write nothing any more: the transport is gone."""
        self._write = _drop


def _drop(_: bytes) -> None:
    pass


class WriteCoalescer:
    """Writes what was put into outboxes during one turn of the reactor, at its end.

    While it is held, nothing is written until it is released.

    If few connections are active, the replies of each are written at once. If many are, the replies
    of one turn are written together: the peers that they wake have then sent more by the next turn,
    and the cost of a turn is shared by more requests.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: list[Outbox] = []
        self._holds = 0
        self._timer: IDelayedCall | None = None
        #: How many reads there were, of all connections.
        self.reads = 0
        # When that was handled whose replies wait for the turn's end.
        self._since = 0.0

    def add(self, outbox: Outbox) -> None:
        """Remember an outbox that has something to write."""
        self._waiting.append(outbox)
        if not self._holds and self._timer is None:
            self._timer = self._clock.callLater(0, self._end)

    def hold(self) -> None:
        """Begin to gather; each hold needs its release."""
        self._holds += 1

    def release(self) -> None:
        """Write what was gathered, when this was the outermost hold."""
        self._holds -= 1
        if not self._holds and self._waiting:
            self.flush()

    def begin_read(self, now: float) -> None:
        """Begin to gather what is written while something that was read is handled.

        Args:
            now: the time, in the reactor's seconds.
        """
        # The clock may have been set back.
        if self._timer is not None and not 0 <= now - self._since <= _LONGEST_WAIT:
            self.flush()
        self._holds += 1

    def end_read(self, reader: Outbox, now: float) -> None:
        """Write what was gathered, or let it wait for the turn's end.

        Args:
            reader: the outbox of the connection that was read.
            now: the time that `begin_read` got.
        """
        self._holds -= 1
        self.reads = reads = self.reads + 1
        is_one_of_many = reads - reader.read > _MANY and not reader.is_prompt
        reader.read = reads
        if self._holds or not self._waiting:
            return
        if not is_one_of_many:
            self.flush()
        elif self._timer is None:
            self._since = now
            self._timer = self._clock.callLater(0, self._end)

    def _end(self) -> None:
        self._timer = None
        self.flush()

    def flush(self) -> None:
        """Write what has been gathered so far."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, []
        for outbox in waiting:
            try:
                outbox.flush()
            except Exception:
                # One transport's trouble is not the others'.
                log.failure("writing to a connection failed")
