"""What a long line costs: the bytes that it takes decoded, and the containers that it has."""

from __future__ import annotations

import marshal
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msgspec import UNSET

if TYPE_CHECKING:
    from kn_sock._wire.events import Request
    from kn_sock._wire.framing import Line
    from kn_sock._wire.messages import Message

#: Requests and results of fewer bytes are not counted.
HEAVY_BYTES: Final = 2048

# In bytes, about: an empty list, an empty dict, and what one more value in either takes.
_LIST: Final = 64
_DICT: Final = 160
_VALUE: Final = 24

# What a message takes at least beside its arguments.
_ENVELOPE_BYTES: Final = 40

# What each member of a batch has once.
_KEY: Final = b'"jsonrpc"'

# Containers are counted in pieces of this size, to stop where there are too many.
_PIECE_BYTES: Final = 256 * 1024

# What is counted, and up to how many it is found instead.
_COUNTED: Final = (b"[", b"{", b":", b",")
_FEW: Final = 8

# What counting needs to look at; everything else is deleted first.
_STRUCTURE: Final = b'[{:,"'
_REST: Final = bytes(byte for byte in range(256) if byte not in _STRUCTURE)


class Structure(NamedTuple):
    """How often the characters occur in a line of which there are many in one that costs much.

    Those in strings are counted, too.
    """

    lists: int
    dicts: int
    members: int
    commas: int

    @property
    def containers(self) -> int:
        """How many containers there are, as ``max_containers`` counts them."""
        return self.lists + self.dicts + self.members + self.commas // 4


def structure_of(line: Line) -> Structure:
    """Count the characters that make the structure of a line."""
    return Structure(*[_count(line, character) for character in _COUNTED])


def _count(line: Line, character: bytes) -> int:
    """Return what ``line.count`` does: finding a few is twenty times as fast as counting."""
    place = -1
    for number in range(_FEW):
        place = line.find(character, place + 1)
        if place < 0:
            return number
    return _FEW + line.count(character, place + 1)


def decoded_bytes(line: Line, found: Structure) -> int:
    """Estimate how many bytes the values of a line take once they are decoded."""
    values = found.commas + found.members
    return len(line) + _LIST * found.lists + _DICT * found.dicts + _VALUE * values


def decoded_factor(line: Line, members: int, found: Structure | None) -> float:
    """Return how many bytes the members of a batch take decoded, for each byte of theirs.

    It is 0 if none of them can be so long that it is counted.

    Args:
        line: the batch.
        members: how many it has.
        found: its structure, if it is known.
    """
    if len(line) - _ENVELOPE_BYTES * members < HEAVY_BYTES:
        return 0
    if line.count(_KEY) == members and _is_dense(line):
        return 0
    return decoded_bytes(line, found or structure_of(line)) / len(line)


def _is_dense(line: Line) -> bool:
    """Whether a member of a batch begins at least so often that none is heavy."""
    step = HEAVY_BYTES // 2
    return all(
        line.find(_KEY, start, start + step + len(_KEY)) >= 0
        for start in range(0, len(line) - step, step)
    )


def has_more_containers(line: Line, found: Structure, most: int) -> bool:
    """Whether a line has more containers than *most*: those in strings are not counted."""
    if found.containers <= most:
        return False
    count = start = 0
    is_in_string = False
    while start < len(line):
        end = start + _PIECE_BYTES
        # An escaped quote must not be torn apart.
        while line[end - 1 : end] == b"\\":
            end += 1
        piece = line[start:end]
        if b"\\" in piece:
            piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
        piece = piece.translate(None, _REST)
        # Few strings have any of these characters: most are empty now.
        parts = piece.replace(b'""', b"").split(b'"')
        count += structure_of(b"".join(parts[is_in_string::2])).containers
        if count > most:
            return True
        is_in_string ^= len(parts) % 2 == 0
        start = end
    return False


def pack(params: Any, kwargs: Any) -> bytes:
    """Pack the arguments of a request that waits: decoded, they may take twenty times as much.

    What `unpack` returns equals them: marshal has exact forms for all that JSON decodes to.

    Raises:
        ValueError: they are nested too deeply.
    """
    return marshal.dumps((_or_ellipsis(params), _or_ellipsis(kwargs)))


def unpack(packed: bytes) -> tuple[Any, Any]:
    """Return the arguments that were packed."""
    params, kwargs = marshal.loads(packed)  # noqa: S302  # of our own making
    return UNSET if params is ... else params, UNSET if kwargs is ... else kwargs


def packed_bytes(message: Message | Request) -> int:
    """Return how many bytes the arguments of a request take packed."""
    try:
        return len(pack(message.params, message.kwargs))
    except ValueError:
        # Nested too deeply to be packed: as many as are counted.
        return HEAVY_BYTES


def _or_ellipsis(value: Any) -> Any:
    return ... if value is UNSET else value
