"""Results that are encoded in the threads that made them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from kn_sock._serving.budget import Account, Use
from kn_sock._wire.dialects import JSONRPC_2
from kn_sock._wire.encoding import SHORT_TEXT, reply_too_long
from kn_sock._wire.weight import HEAVY_BYTES
from kn_sock.errors import InternalError, RPCError

if TYPE_CHECKING:
    from kn_sock._serving.context import ServerCall


# Results of these take less to encode for many calls at once than to hand over.
_SMALL: Final = frozenset({int, float, bool, type(None)})

# Threads that all encode would keep the reactor from running: it would have to wait for each.
_one_at_a_time = threading.Lock()


class EncodedResult(Struct, eq=False, gc=False):
    """The reply to a call, encoded in a thread; or why there is none.

    ``counted`` is for how many bytes it is counted until the reactor takes it over.
    """

    line: bytes = b""
    counted: int = 0
    error: RPCError | None = None


def encode_in_thread(call: ServerCall, result: Any, limit: int, account: Account) -> Any:
    """Return the encoded reply to a call; or the result, if the reactor has to do more with it.

    Args:
        call: the call.
        result: what its function has returned.
        limit: the longest line, in bytes.
        account: counts the reply.

    Thread: any.
    """
    kind = type(result)
    if kind in _SMALL or (kind is str and len(result) <= SHORT_TEXT):
        return result
    if is_awaitable(result):
        return result
    request = call.request
    dialect, request_id = JSONRPC_2, call.key
    if request is not None:
        if not request.expects_reply:
            return None
        dialect, request_id = request.dialect, request.id  # type: ignore[assignment]
    try:
        with _one_at_a_time:
            line = dialect.encode_result(request_id, result, limit)
    except InternalError as problem:
        return EncodedResult(error=InternalError(f"{call.method}: {problem}"))
    except RPCError as problem:
        # Its traceback leads to the result, which may be large.
        return EncodedResult(error=problem.with_traceback(None))
    if len(line) > limit:
        return EncodedResult(error=reply_too_long(len(line), limit))
    counted = len(line) if len(line) >= HEAVY_BYTES else 0
    if counted:
        account.add(Use.RESULTS, counted)
    return EncodedResult(line, counted)


def is_awaitable(value: Any) -> bool:
    """Whether a result is still to be awaited."""
    try:
        return hasattr(type(value), "__await__")
    except BaseException:
        # Its metaclass may raise anything.
        return False
