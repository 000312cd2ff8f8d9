"""The messages of the wire, as they are decoded."""

from __future__ import annotations

from typing import Any, TypeAlias

from msgspec import UNSET, Raw, Struct, UnsetType

# An integer or a string as it came; a fraction as its own text, so that the echo is exact.
RequestId: TypeAlias = int | str | Raw | None


class Message(Struct, gc=False):
    """One JSON object of the wire, request or reply, as it was decoded.

    The collector does not look at it: nothing that a method gets leads back to it, so that it is
    part of no cycle.
    """

    jsonrpc: Any = UNSET
    id: int | str | UnsetType | None = UNSET
    method: str | UnsetType = UNSET
    params: list[Any] | dict[str, Any] | UnsetType | None = UNSET
    kwargs: dict[str, Any] | UnsetType | None = UNSET
    result: Any = UNSET
    error: Any = UNSET
    # Beside the specification, as members that other servers ignore.
    timeout: Any = UNSET
    traceparent: Any = UNSET
