"""The replies to one batch."""

from __future__ import annotations

from kn_sock._wire.dialects import JSONRPC_2
from kn_sock._wire.encoding import PLAIN_BYTES, Success, encode_plain_members, reply_too_long


class BatchReply:
    """The replies to one batch, collected until the last has arrived."""

    __slots__ = ("awaited", "counted", "is_sent", "limit", "parts", "plain", "room", "size")

    def __init__(self, awaited: int, limit: int) -> None:
        self.awaited = awaited
        self.limit = limit
        self.parts: list[bytes] = []
        # Plain replies, encoded all at once; ``awaited`` counts each as it is appended.
        self.plain: list[Success] = []
        self.size = 0
        #: For how many bytes it is counted now.
        self.counted = 0
        self.is_sent = False
        # How many more may be appended before `has_room` must be called; each counts as the longest
        # until it is encoded.
        self.room = limit // PLAIN_BYTES

    def add(self, line: bytes) -> None:
        """Add one reply, a line with its newline."""
        self.encode_plain()
        self.parts.append(line[:-1])
        self.size += len(line)
        self.room = (self.limit - self.size) // PLAIN_BYTES
        self.awaited -= 1

    def has_room(self) -> bool:
        """Whether one more plain reply is certain to fit."""
        self.encode_plain()
        return self.room > 0

    def encode_plain(self) -> None:
        """Encode the plain replies, so that ``size`` counts all of them."""
        if self.plain:
            part = encode_plain_members(self.plain)
            self.parts.append(part)
            self.plain.clear()
            self.size += len(part) + 1
            self.room = (self.limit - self.size) // PLAIN_BYTES

    def line(self) -> bytes | None:
        """Return the encoded reply, or ``None`` while members are pending, or without any reply."""
        if self.awaited:
            return None
        self.is_sent = True
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
        # Too many errors: one replaces them.
        return JSONRPC_2.encode_error(None, reply_too_long(len(line), self.limit))
