"""What a line means: the events that a session yields."""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from msgspec import Raw, Struct, UnsetType

if TYPE_CHECKING:
    from kn_sock._wire.batches import BatchReply
    from kn_sock._wire.dialects import Dialect
    from kn_sock._wire.messages import RequestId
    from kn_sock.errors import RPCError


class Role(enum.Enum):
    """What an end of a connection expects from its peer, besides replies to its own calls.

    The value is how many lines it answers in the life of a connection that it cannot read.
    """

    #: Requests from anybody. A reply that belongs to no call is ignored.
    SERVER = math.inf
    #: Nothing: it serves no functions.
    CALLER = 0
    #: Requests, from the server that it calls.
    PEER = 16


# Whatever the caller registered with a call, to find again when the reply comes.
P = TypeVar("P")


class Request(Struct, eq=False, gc=False):
    """The peer calls one of our methods, or sends a notification.

    The garbage collector does not track it. Its arguments, which may refer to anything, are taken
    out of it when the call begins.
    """

    id: RequestId | UnsetType
    method: str
    params: list[Any] | dict[str, Any] | UnsetType | None
    kwargs: dict[str, Any] | UnsetType | None
    dialect: Dialect
    expects_reply: bool
    batch: BatchReply | None = None
    # When it was read, in the reactor's seconds; None if it ended during that read.
    since: float | None = None
    # Seconds that the caller still waits, from when it was read.
    timeout: float | None = None
    traceparent: str | None = None
    # When it has to be over, in the reactor's seconds; set by the serving side.
    deadline: float | None = None
    # Its number among the requests with a deadline; 0 without one.
    number: int = 0
    # The error that was sent in place of its result, if any.
    replaced_by: RPCError | None = None
    # About how many bytes its arguments take decoded; 0 if they are too few to count.
    weight: int = 0
    # Its arguments while it waits, if they are many.
    packed: bytes | None = None
    # For how many bytes it is counted now, while it waits or is in flight.
    counted: int = 0


class Cancel(Struct):
    """The peer cancels the call with this id."""

    id: Any


class Answered(Struct, Generic[P]):
    """A call of ours has its result."""

    pending: P
    result: Any


class Failed(Struct, Generic[P]):
    """A call of ours has its error."""

    pending: P
    error: RPCError


class Refusal(Struct):
    """The line was not a request; this is the reply."""

    line: bytes
    # Whether it must wait for the replies to earlier requests, in a dialect without ids.
    in_order: bool = False


class UnmatchedError(Struct):
    """The peer reports an error that names no call."""

    error: RPCError


class Stray(Struct):
    """A client sent a reply that belongs to no call: it is ignored."""

    reason: str


class ProtocolViolation(Struct):
    """The peer broke the protocol: later replies cannot be matched to calls."""

    reason: str


Event: TypeAlias = (
    Request
    | Cancel
    | Answered[P]
    | Failed[P]
    | Refusal
    | UnmatchedError
    | Stray
    | ProtocolViolation
)


def id_key(request_id: Any) -> Any:
    """Return a key that compares ids by type and value: 1, 1.0 and true differ."""
    if isinstance(request_id, Raw):
        # A fraction, in its own text.
        return float, float(bytes(request_id))
    kind = type(request_id)
    if kind is int or kind is str:
        return request_id
    return (kind, request_id) if kind is float else None
