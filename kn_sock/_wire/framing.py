"""Lines out of chunks: linear in time whatever the chunking, bounded in memory.

Only bytes belong here: `decoding` reads the lines, `protocol` delivers the chunks.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeAlias

from typing_extensions import override

Line: TypeAlias = bytes | bytearray

# Enough of an over-long line to find out which call it was.
PREFIX_BYTES = 512

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class OverlongLine:
    """Stands in the stream where a line was longer than allowed; carries how that line began.

    Args:
        line: the line, or its beginning.
        excess: what is too much about it, if it is not its length.
    """

    __slots__ = ("excess", "prefix")

    def __init__(self, line: Line, excess: str = "") -> None:
        self.prefix = bytes(line[:PREFIX_BYTES])
        self.excess = excess


class Framer:
    """What every way to find the ends of messages has alike: the message that has not ended yet.

    Args:
        max_line_bytes: the longest message. A longer one is reported once, as soon as it is too
            long, and skipped to its end; what comes after it is read as usual.
    """

    __slots__ = ("_at_start", "_excess", "_max", "_most", "_skipping", "_tail")

    #: What to say of a stream that ends where it is unfinished.
    missing_end: ClassVar[str]

    def __init__(self, max_line_bytes: int) -> None:
        self._max = self._most = max_line_bytes
        self._excess = ""
        self._tail = bytearray()
        self._skipping = False
        self._at_start = True

    def limit(self, most: int | None, excess: str = "") -> None:
        """Set a shorter limit for the time being; or, with ``None``, remove it.

        Args:
            most: the longest message, in bytes.
            excess: what is said of a longer one.
        """
        self._max = self._most if most is None else min(most, self._most)
        self._excess = excess if self._max < self._most else ""

    @property
    def unfinished(self) -> bool:
        """Whether the stream stands inside a message."""
        return self._skipping or bool(self._tail.strip())

    def feed(self, chunk: bytes) -> list[Line | OverlongLine]:
        """Take what one read delivered; return the messages that it ended, in order."""
        raise NotImplementedError

    def _complete(self, pieces: list[Line], *, must_check: bool) -> list[Line | OverlongLine]:
        """Put what came before in front of the first, and look through those that may be odd."""
        was_split = False
        if pieces and self._skipping:
            self._skipping = False
            del pieces[0]
        elif pieces and self._tail:
            # Handed on as it is: a bytearray decodes like bytes, and is not copied again.
            self._tail += pieces[0]
            pieces[0], self._tail = self._tail, bytearray()
            was_split = True
        lines: list[Line | OverlongLine] = pieces  # type: ignore[assignment]  # lists are invariant
        if must_check:
            lines = self._check(pieces)
        elif was_split:
            lines[:1] = self._check(pieces[:1])
        return lines

    def _keep(self, rest: Line) -> list[Line | OverlongLine]:
        """Remember how a line begins; report it when it is too long already."""
        if self._skipping:
            return []
        self._tail += rest
        # One more, for a carriage return that may turn out to belong to the line's end.
        if len(self._tail) <= self._max + 1:
            return []
        overlong = OverlongLine(self._tail, self._excess)
        self._tail = bytearray()
        self._skipping = True
        return [overlong]

    def _drop_byte_order_mark(self, chunk: bytes) -> bytes:
        start = bytes(self._tail) + chunk
        self._tail = bytearray()
        if len(start) < len(_BYTE_ORDER_MARK) and _BYTE_ORDER_MARK.startswith(start):
            self._tail += start
            return b""
        self._at_start = False
        return start.removeprefix(_BYTE_ORDER_MARK)

    def _check(self, lines: list[Line]) -> list[Line | OverlongLine]:
        checked: list[Line | OverlongLine] = []
        for line in lines:
            if line.endswith(b"\r"):
                line = line[:-1]
            if line:
                checked.append(line if len(line) <= self._max else OverlongLine(line, self._excess))
        return checked


class LineFramer(Framer):
    r"""Split a stream at ``\n``, dropping one ``\r`` before it and every empty line.

    Args:
        max_line_bytes: the longest line, its end not counted. A longer one is reported once, as
            soon as it is too long, and skipped to its end; the lines after it are read as usual.

    Spec: one JSON document a line; a byte order mark at the start of the stream is dropped.
    """

    __slots__ = ()

    missing_end = "the last line has no newline at its end"

    @override
    def feed(self, chunk: bytes) -> list[Line | OverlongLine]:
        """Take what one read delivered; return the lines that it ended, in order."""
        if self._at_start:
            chunk = self._drop_byte_order_mark(chunk)
        pieces: list[Any] = chunk.split(b"\n")
        rest = pieces.pop()
        if not pieces:
            return self._keep(rest)
        must_check = len(chunk) > self._max or b"\r" in chunk or b"" in pieces
        if must_check or self._tail or self._skipping:
            pieces = self._complete(pieces, must_check=must_check)
        return pieces + self._keep(rest) if rest else pieces
