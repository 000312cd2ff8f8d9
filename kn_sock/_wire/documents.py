"""JSON documents out of chunks, for peers that end none of them with a newline.

Only where a document ends is found out here. What it means, and whether it is JSON at all, is
`decoding`'s to say.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from itertools import accumulate, compress, islice
from operator import methodcaller
from typing import Final

from typing_extensions import override

from kn_sock._wire.framing import Framer, Line, OverlongLine

_OPENING: Final = b"[{"
_CLOSING: Final = b"]}"
# Between documents. Some peers put a NUL there.
_BLANK: Final = b" \t\r\n\0"

# How much deeper a document is after each byte, as a signed one.
_STEPS: Final = bytes(
    1 if byte in _OPENING else 255 if byte in _CLOSING else 0 for byte in range(256)
)
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in _OPENING + _CLOSING)

# A string ends at its quote; or at a newline, which no string of JSON holds. Where a newline ends
# what is searched, this never fails, so that it never goes back.
_STRING: Final = re.compile(rb'("[^"\\\n]*(?:\\[^\n][^"\\\n]*)*(?:"|\\?\n))')

_ends_in_newline: Final = methodcaller("endswith", b"\n")

# As much as is looked at in one piece, whatever a read delivers: the depths take some room.
_PIECE_BYTES: Final = 64 * 1024


class DocumentFramer(Framer):
    r"""Find the end of each JSON object or array by itself, whatever is between them.

    Brackets are counted, but for those in strings; whether they match is not looked at. Between
    documents blanks, newlines and NULs are ignored. Any other byte there begins a line, which runs
    to its ``\n`` and is handed on as it is; a closing bracket is handed on alone, and those after
    it are dropped. A newline in a string ends the document there, which is handed on as far as it
    goes: so one quote too few does not spoil what comes on later lines.

    Args:
        max_line_bytes: the longest document. A longer one is reported once, as soon as it is too
            long, and skipped to its end; the documents after it are read as usual.

    Spec: one JSON object or array after the other; a byte order mark at the start is dropped.
    """

    __slots__ = ("_depth", "_in_line", "_is_astray", "_quote")

    missing_end = "the last document has no end"

    def __init__(self, max_line_bytes: int) -> None:
        super().__init__(max_line_bytes)
        self._depth = 0
        self._in_line = False
        # Whether nothing came since a closing bracket that closed nothing.
        self._is_astray = False
        # What puts a later reader into the string where the stream stands; nothing outside of
        # strings. A backslash there is not in the tail yet.
        self._quote = b""

    @override
    def feed(self, chunk: bytes) -> list[Line | OverlongLine]:
        """Take what one read delivered; return the documents that it ended, in order."""
        if self._at_start:
            chunk = self._drop_byte_order_mark(chunk)
        if len(chunk) <= _PIECE_BYTES:
            return self._take(chunk)
        pieces = (chunk[at : at + _PIECE_BYTES] for at in range(0, len(chunk), _PIECE_BYTES))
        return [one for piece in pieces for one in self._take(piece)]

    def _take(self, chunk: bytes) -> list[Line | OverlongLine]:
        data = self._quote + chunk
        start = 1 if self._quote else 0
        outline = _Outline(data)
        if self._depth:
            depth = outline.depth_after(self._depth)
            if depth is not None:
                # The common case in a long document, at less cost than below.
                self._depth = depth
                self._quote = outline.quote
                return self._keep(data[start : len(data) - len(outline.quote[1:])])
        ended, begin = self._split(data, start, outline)
        found = self._complete(ended, must_check=len(data) > self._max or b"\r" in data)
        return found + self._keep(data[begin : len(data) - len(self._quote[1:])])

    def _split(self, data: bytes, at: int, outline: _Outline) -> tuple[list[Line], int]:
        """Cut out what ends in this piece, and say where what does not end there begins.

        Long, as a call for each document would take longer than all else that is done for it.
        """
        depths = outline.depths()
        newlines = outline.newlines_in_strings()
        size = len(data)
        find, index = data.find, depths.index
        ended: list[Line] = []
        begin, base, after, stop = at, -self._depth, at, -1
        is_line, is_astray = self._in_line, self._is_astray
        is_inside = is_line or self._depth > 0
        while at < size:
            if not is_inside:
                byte = data[at]
                is_line = byte not in _OPENING
                if is_line and byte in _BLANK:
                    at += 1
                    continue
                if is_line and byte in _CLOSING:
                    at += 1
                    if not is_astray:
                        ended.append(data[at - 1 : at])
                    is_astray = True
                    continue
                begin, base, after = at, depths[at], at + 1
                is_inside, is_astray = True, False
            if is_line:
                end = find(b"\n", at)
                if end < 0:
                    break
                at = end + 1
            else:
                while stop < at:
                    stop = next(newlines, size + 1)
                # A newline in a string ends the search, which otherwise would pass it over and
                # over; so does the end. Nobody asks for the depth at that place.
                depths[stop] = base
                end = at = index(base, after)
                if end > size:
                    break
                at += end == stop
            ended.append(data[begin:end])
            is_inside = False
        self._in_line, self._is_astray = is_inside and is_line, is_astray
        self._depth = depths[size] - base if is_inside and not is_line else 0
        self._quote = outline.quote if self._depth else b""
        return ended, begin if is_inside else size


class _Outline:
    """A piece of the stream, split into the parts inside and outside of strings.

    Attributes:
        quote: what the next piece is to begin with, for its beginning to be read as the rest of the
            string in which this one ends: a quote, and the backslash that this one ends with.
    """

    __slots__ = ("_parts", "quote")

    def __init__(self, data: bytes) -> None:
        # What is not in strings, and in between the strings. The last of them has the newline.
        parts = _STRING.split(data + b"\n")
        if len(parts) > 1 and not parts[-1]:
            string = parts[-2] = parts[-2][:-1]
            backslashes = len(string) - len(string.rstrip(b"\\"))
            self.quote = b'"\\' if backslashes % 2 else b'"'
        else:
            parts[-1] = parts[-1][:-1]
            self.quote = b""
        self._parts: list[bytes] = parts

    def depth_after(self, depth: int) -> int | None:
        """Return the nesting depth after this piece, or ``None`` if the document may end in it."""
        if self._has_newlines_in_strings:
            return None
        steps = array("b", b"".join(self._parts[::2]).translate(_STEPS, _NO_BRACKETS))
        if min(accumulate(steps, initial=depth)) <= 0:
            return None
        return depth + sum(steps)

    def depths(self) -> list[int]:
        """Return the nesting depth before each byte and after the last, relative to the start.

        One more stands behind them, which says nothing.
        """
        parts = self._parts.copy()
        parts[1::2] = map(bytes, map(len, parts[1::2]))
        return [*accumulate(array("b", b"".join(parts).translate(_STEPS)), initial=0), 0]

    def newlines_in_strings(self) -> Iterator[int]:
        """Return the positions of the newlines that end strings."""
        if not self._has_newlines_in_strings:
            return iter(())
        ends = islice(accumulate(map(len, self._parts), initial=-1), 2, None, 2)
        return compress(ends, map(_ends_in_newline, self._parts[1::2]))

    @property
    def _has_newlines_in_strings(self) -> bool:
        return b"\n" in b"".join(self._parts[1::2])
