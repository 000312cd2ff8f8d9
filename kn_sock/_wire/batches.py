"""The replies to one batch."""

from __future__ import annotations

from kn_sock._wire.dialects import JSONRPC_2
from kn_sock._wire.encoding import PLAIN_BYTES, Success, encode_plain_members, reply_too_long


class BatchReply:
    """The replies to one batch, gathered until the last is there."""

    __slots__ = ("awaited", "limit", "parts", "plain", "room", "size")

    def __init__(self, awaited: int, limit: int) -> None:
        self.awaited = awaited
        self.limit = limit
        self.parts: list[bytes] = []
        # Plain replies, encoded all at once; each is counted as it is put here.
        self.plain: list[Success] = []
        self.size = 0
        # So many more may be put there before it has to be asked whether there is room: each counts
        # for the longest, until it is encoded.
        self.room = limit // PLAIN_BYTES

    def add(self, line: bytes) -> None:
        """Add one reply, a line with its newline."""
        self.encode_plain()
        self.parts.append(line[:-1])
        self.size += len(line)
        self.room = (self.limit - self.size) // PLAIN_BYTES
        self.awaited -= 1

    def has_room(self) -> bool:
        """Tell whether one more plain reply is certain to be within the limit."""
        self.encode_plain()
        return self.room > 0

    def encode_plain(self) -> None:
        """Encode the plain replies, so that ``size`` tells of all."""
        if self.plain:
            part = encode_plain_members(self.plain)
            self.parts.append(part)
            self.plain.clear()
            self.size += len(part) + 1
            self.room = (self.limit - self.size) // PLAIN_BYTES

    def line(self) -> bytes | None:
        """Give the whole reply once it is there; ``None`` before, and for mere notifications."""
        if self.awaited:
            return None
        if self.plain:
            self.parts.append(encode_plain_members(self.plain))
            self.plain.clear()
        if not self.parts:
            return None
        line = b"[%b]\n" % b",".join(self.parts)
        # Once.
        self.parts = []
        if len(line) <= self.limit:
            return line
        # Mere errors, too many of them: one stands for all.
        return JSONRPC_2.encode_error(None, reply_too_long(len(line), self.limit))
