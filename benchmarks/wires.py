"""How one call looks on each wire that the load generator writes by itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["WIRES", "Wire", "WrongReply"]


class WrongReply(Exception):
    """A reply is not the right one: what was counted would mean nothing."""


@dataclass(frozen=True)
class Wire:
    """One wire.

    Attributes:
        encode: gives the bytes of a call, from its method, its arguments and its number.
        mark: bytes that each reply has exactly once, so that replies can be counted.
        check: raises `WrongReply` unless the first reply of what came is the right result; it is
            given the replies and the result.
        has_batches: whether many calls can go as one request.
        most_bytes: the longest argument that it can carry.
        is_ended_by_mark: whether the mark is the end of a reply.
    """

    encode: Callable[[str, list[Any], int], bytes]
    mark: bytes
    check: Callable[[bytes, Any], None]
    has_batches: bool = False
    most_bytes: int | None = None
    is_ended_by_mark: bool = True


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _check_document(reply: Any, result: Any) -> None:
    if not isinstance(reply, dict) or reply.get("error") is not None:
        raise WrongReply(f"an error: {reply!r:.200}")
    if "result" not in reply or reply["result"] != result:
        raise WrongReply(f"not {result!r:.60}: {reply!r:.200}")


def _decoded(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise WrongReply(f"not JSON: {text[:200]!r}") from None


def check_line(replies: bytes, result: Any) -> None:
    """Check the first line; a list is checked member by member."""
    reply = _decoded(replies.partition(b"\n")[0])
    if not isinstance(reply, list):
        _check_document(reply, result)
        return
    # A batch: its members may be in any order, so they have one result.
    for member in reply:
        _check_document(member, result)


def _encode_2_0(method: str, params: list[Any], number: int) -> bytes:
    return _json({"jsonrpc": "2.0", "id": number, "method": method, "params": params}) + b"\n"


def _encode_kn_sock(method: str, params: list[Any], number: int) -> bytes:
    return _json({"method": method, "params": params, "kwargs": {}}) + b"\n"


def _encode_netstring(method: str, params: list[Any], number: int) -> bytes:
    text = _encode_2_0(method, params, number)[:-1]
    return b"%d:%s," % (len(text), text)


def _check_netstring(replies: bytes, result: Any) -> None:
    length, _, rest = replies.partition(b":")
    if not length.isdigit():
        raise WrongReply(f"no netstring: {replies[:200]!r}")
    _check_document(_decoded(rest[: int(length)]), result)


def _box(**values: bytes) -> bytes:
    pieces = []
    for name, value in values.items():
        pieces += [len(name).to_bytes(2, "big"), name.encode()]
        pieces += [len(value).to_bytes(2, "big"), value]
    return b"".join(pieces) + b"\0\0"


def _encode_amp(method: str, params: list[Any], number: int) -> bytes:
    arguments = {name: str(value).encode() for name, value in zip("ab", params, strict=False)}
    return _box(_ask=b"%x" % number, _command=method.encode(), **arguments)


def _check_amp(replies: bytes, result: Any) -> None:
    named = b"\0\x06result"
    value = str(result).encode()
    box = replies.partition(b"\0\0\0\x07_answer")[0]
    if not replies.startswith(b"\0\x07_answer") or (
        named + len(value).to_bytes(2, "big") + value not in box + replies[: len(value) + 64]
    ):
        raise WrongReply(f"not {result!r:.60}: {replies[:200]!r}")


def _check_echo(replies: bytes, result: Any) -> None:
    request = _decoded(replies.partition(b"\n")[0])
    if not isinstance(request, dict) or "method" not in request:
        raise WrongReply(f"not what was sent: {replies[:200]!r}")


#: The wires by name: JSON-RPC 2.0 in lines, that of kn-sock 0.3, JSON-RPC 2.0 in netstrings,
#: Twisted's AMP, and what a server gives back that does nothing.
WIRES = {
    "2.0": Wire(_encode_2_0, b"\n", check_line, has_batches=True),
    "kn-sock": Wire(_encode_kn_sock, b"\n", check_line),
    "netstring": Wire(_encode_netstring, b"},", _check_netstring),
    "amp": Wire(_encode_amp, b"_answer", _check_amp, most_bytes=0xFFFF, is_ended_by_mark=False),
    "echo": Wire(_encode_2_0, b"\n", _check_echo),
}


def encode_batch(wire: Wire, method: str, params: list[Any], numbers: range) -> bytes:
    """Give many calls as one line."""
    calls = (wire.encode(method, params, number)[:-1] for number in numbers)
    return b"[" + b",".join(calls) + b"]\n"
