"""The first members of a message that cannot be decoded as a whole."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import UNSET, UnsetType

from kn_sock._wire.dialects import JSONRPC_1, JSONRPC_2, Dialect

if TYPE_CHECKING:
    from kn_sock._wire.messages import RequestId

_scan_value = json.JSONDecoder().raw_decode


class Head(NamedTuple):
    """The id, the dialect and the direction of a message, as far as its first bytes show them."""

    request_id: RequestId | UnsetType
    dialect: Dialect
    is_reply: bool

    @property
    def known_id(self) -> RequestId:
        """The id, or ``None`` if it is not known."""
        return None if self.request_id is UNSET else self.request_id


def read_head(prefix: bytes) -> Head:
    """Return the head of a message, from its first bytes."""
    text = prefix.decode("utf-8", "replace").lstrip()
    members: dict[str, Any] = {}
    names: list[str] = []
    if text.startswith("{"):
        _read_members(text[1:], names, members)
    elif text.startswith("["):
        # A batch: its first member shows the direction, but its id is not the batch's.
        _read_members(text[1:].lstrip().removeprefix("{"), names, {})
    is_reply = "method" not in names and "params" not in names
    is_reply = is_reply and ("result" in names or "error" in names)
    request_id = members.get("id", UNSET)
    if isinstance(request_id, (bool, float, list, dict)) or "\ufffd" in str(request_id):
        request_id = UNSET
    dialect: Dialect = JSONRPC_1 if "id" in members and "jsonrpc" not in members else JSONRPC_2
    return Head(request_id, dialect, is_reply)


def _read_members(text: str, names: list[str], members: dict[str, Any]) -> None:
    """Read names and values until the text ends; the last name may lack its value."""
    try:
        while True:
            text = text.lstrip(" \t\r\n,")
            name, end = _scan_value(text)
            text = text[end:].lstrip()
            if not isinstance(name, str) or not text.startswith(":"):
                return
            names.append(name)
            text = text[1:].lstrip()
            value, end = _scan_value(text)
            text = text[end:]
            # Without a comma after it, the value may be incomplete.
            if not text.lstrip().startswith(","):
                return
            members[name] = value
    except (ValueError, RecursionError):
        return


NO_HEAD = Head(UNSET, JSONRPC_2, False)
