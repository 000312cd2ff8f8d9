"""What a line means: the events that a session yields."""

from __future__ import annotations

from typing import Any, Generic, TypeAlias, TypeVar

from msgspec import Raw, Struct, UnsetType

from kn_sock._wire.batches import BatchReply
from kn_sock._wire.dialects import Dialect
from kn_sock._wire.messages import RequestId
from kn_sock.errors import RPCError

# Whatever the caller registered with a call, to find again when the reply comes.
P = TypeVar("P")


class Request(Struct, eq=False, gc=False):
    """The peer calls one of our methods, or notifies us.

    The collector does not look at it. Whoever begins it takes its arguments out of it, which lead
    anywhere.
    """

    id: RequestId | UnsetType
    method: str
    params: list[Any] | dict[str, Any] | UnsetType | None
    kwargs: dict[str, Any] | UnsetType | None
    dialect: Dialect
    expects_reply: bool
    batch: BatchReply | None = None
    # When it was read, in the reactor's seconds: None where it has ended by the end of that read.
    since: float | None = None
    # Seconds for which the caller still waits, when it came.
    timeout: float | None = None
    traceparent: str | None = None
    # When it has to be over, in the reactor's seconds: whoever serves it finds that out.
    deadline: float | None = None
    # By which its deadline finds it; 0 where it has none.
    number: int = 0
    # The error that was sent in place of its result, if one was.
    replaced_by: RPCError | None = None


class Cancel(Struct):
    """The peer gave up the call with this id."""

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
    """What came was no request; this line answers it."""

    line: bytes
    # Whether it has its turn after the answers to what came before, as kn-sock 0.3 has no ids.
    in_order: bool = False


class UnmatchedError(Struct):
    """The peer reports something it could not read; which call it was, it could not say."""

    error: RPCError


class ProtocolViolation(Struct):
    """The peer broke the protocol so that nothing it says can be matched to a call any more."""

    reason: str


Event: TypeAlias = (
    Request | Cancel | Answered[P] | Failed[P] | Refusal | UnmatchedError | ProtocolViolation
)


def id_key(request_id: Any) -> Any:
    """Make ids comparable, the way a cancel names them, without taking 1 for 1.0 or true."""
    if isinstance(request_id, Raw):
        # A fraction, in its own text.
        return float, float(bytes(request_id))
    kind = type(request_id)
    if kind is int or kind is str:
        return request_id
    return (kind, request_id) if kind is float else None
