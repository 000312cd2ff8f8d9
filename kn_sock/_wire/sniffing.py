"""Recognise peers that speak another protocol, by the first bytes of a connection."""

from __future__ import annotations

import re
from typing import Final

# What a request begins with; and one with another method, or another spelling of it.
_HTTP_METHOD: Final = re.compile(b"(GET|HEAD|POST|PUT|DELETE|CONNECT|OPTIONS|TRACE|PATCH|PRI) ")
_ANY_METHOD: Final = re.compile(rb"[a-z][a-z-]* +(/|\*|https?:|\S+:\d)", re.IGNORECASE)
_HTTP_VERSION: Final = re.compile(rb"[^\n]* HTTP/\d", re.IGNORECASE)

# A record of TLS: a handshake (0x16) or an alert (0x15), then the major version.
_TLS_RECORD: Final = re.compile(rb"[\x15\x16]\x03")

# How many of a connection's first bytes are needed.
_FIRST_BYTES: Final = 64

#: What a peer gets that speaks HTTP.
HTTP_ANSWER: Final = (
    b"HTTP/1.1 400 Bad Request\r\n"
    b"Content-Type: text/plain\r\n"
    b"Content-Length: 77\r\n"
    b"Connection: close\r\n"
    b"\r\n"
    b"This port speaks newline-delimited JSON-RPC over TCP (kn_sock), and no HTTP.\n"
)


class Sniffer:
    """Looks at the first bytes of a connection, as they come."""

    __slots__ = ("_start", "is_done")

    def __init__(self) -> None:
        self._start = b""
        #: Whether enough bytes have come.
        self.is_done = False

    def feed(self, data: bytes) -> str | None:
        """Return the name of another protocol that the peer speaks, or ``None``.

        No JSON document begins like HTTP or TLS.
        """
        start = self._start = (self._start + data.lstrip(b"\r\n"))[:_FIRST_BYTES]
        is_enough = len(start) == _FIRST_BYTES
        # Whatever it is, it is no request of HTTP.
        is_other = len(start) > 1 and not start[:1].isalpha()
        self.is_done = is_enough or is_other
        if _TLS_RECORD.match(start):
            return "TLS"
        if _HTTP_METHOD.match(start):
            return "HTTP"
        if _ANY_METHOD.match(start):
            is_long = is_enough and b"\n" not in start
            return "HTTP" if is_long or _HTTP_VERSION.match(start) else None
        return None
