"""Recognise peers that speak another protocol, by the first bytes of a connection."""

from __future__ import annotations

import re
from typing import Final

_HTTP_METHODS: Final = b"GET|HEAD|POST|PUT|DELETE|CONNECT|OPTIONS|TRACE|PATCH|PRI"

_HTTP_REQUEST: Final = re.compile(b"(%b) " % _HTTP_METHODS)

# A record of TLS: a handshake (0x16) or an alert (0x15), then the major version.
_TLS_RECORD: Final = re.compile(rb"[\x15\x16]\x03")

# How many of a connection's first bytes are needed.
FIRST_BYTES: Final = 8


def other_protocol(start: bytes) -> str | None:
    """Return the name of the protocol that these first bytes belong to, or ``None``.

    No JSON document begins like HTTP or TLS.
    """
    if _TLS_RECORD.match(start):
        return "TLS"
    return "HTTP" if _HTTP_REQUEST.match(start) else None
