"""What a long line costs: the bytes that it takes decoded, and the containers that it has."""

from __future__ import annotations

import marshal
from typing import TYPE_CHECKING, Any, Final

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


def decoded_bytes(line: Line) -> int:
    """Estimate how many bytes the values of a line take once they are decoded."""
    values = line.count(b",") + line.count(b":")
    return len(line) + _LIST * line.count(b"[") + _DICT * line.count(b"{") + _VALUE * values


# What a message takes at least beside its arguments.
_ENVELOPE_BYTES: Final = 40


def decoded_factor(line: Line, members: int) -> float:
    """Return how many bytes the members of a batch take decoded, for each byte of theirs.

    It is 0 if none of them can be so long that it is counted.
    """
    if len(line) - _ENVELOPE_BYTES * members < HEAVY_BYTES:
        return 0
    pieces = line.split(b'"jsonrpc"')
    if len(pieces) == members + 1 and max(map(len, pieces)) < HEAVY_BYTES:
        return 0
    return decoded_bytes(line) / len(line)


# Containers are counted in pieces of this size, to stop where there are too many.
_PIECE_BYTES: Final = 256 * 1024

# What counting needs to look at; everything else is deleted first.
_STRUCTURE: Final = b'[{:"\\'
_REST: Final = bytes(byte for byte in range(256) if byte not in _STRUCTURE)


def has_more_containers(line: Line, most: int) -> bool:
    """Whether a line has more arrays, objects and members of objects than *most*."""
    # The shortest of them takes two bytes.
    if len(line) <= 2 * most or _containers(line) <= most:
        return False
    # Again, without the contents of strings.
    count = start = 0
    is_in_string = False
    while start < len(line):
        end = start + _PIECE_BYTES
        # An escaped quote must not be torn apart.
        while line[end - 1 : end] == b"\\":
            end += 1
        piece = line[start:end].translate(None, _REST)
        if b"\\" in piece:
            piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
        parts = piece.split(b'"')
        count += _containers(b"".join(parts[is_in_string::2]))
        if count > most:
            return True
        is_in_string ^= len(parts) % 2 == 0
        start = end
    return False


def _containers(line: Line) -> int:
    return line.count(b"[") + line.count(b"{") + line.count(b":")


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
