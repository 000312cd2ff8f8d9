"""The messages of the wire, as they are decoded."""

from __future__ import annotations

from typing import Any, TypeAlias

from msgspec import UNSET, Raw, Struct, UnsetType

# An integer or a string as received; a fraction as its own text, so that the echo is exact.
RequestId: TypeAlias = int | str | Raw | None


class Message(Struct, gc=False):
    """One JSON object of the wire, a request or a reply, as it was decoded.

    The garbage collector does not track it: nothing that a method gets refers back to it, so it is
    never part of a cycle.
    """

    jsonrpc: Any = UNSET
    id: int | str | UnsetType | None = UNSET
    method: str | UnsetType = UNSET
    params: list[Any] | dict[str, Any] | UnsetType | None = UNSET
    kwargs: dict[str, Any] | UnsetType | None = UNSET
    result: Any = UNSET
    error: Any = UNSET
    # Extensions; other servers ignore them.
    timeout: Any = UNSET
    traceparent: Any = UNSET
