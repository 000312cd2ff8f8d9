"""The lines that answer requests: within the limit, and collected if they belong to a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kn_sock._wire.encoding import reply_too_long

if TYPE_CHECKING:
    from kn_sock._wire.events import Request
    from kn_sock.errors import RPCError


def encode_answer(request: Request, result: Any, limit: int) -> bytes | None:
    """Return the encoded reply, or ``None`` for a notification or while members are pending.

    Args:
        request: the request.
        result: its result.
        limit: the longest line, in bytes.

    Raises:
        RPCError: the result has no JSON form, or is certain to exceed the limit. The request still
            waits for its answer.
    """
    if not request.expects_reply:
        return None
    line = request.dialect.encode_result(request.id, result, limit)
    if len(line) > limit or request.batch is not None:
        return within_limit(request, line, limit, is_result=True)
    return line


def encode_refusal(request: Request, error: RPCError, limit: int) -> bytes | None:
    """Return the encoded error, or ``None`` as for `encode_answer`. Never raises."""
    if not request.expects_reply:
        return None
    line = request.dialect.encode_error(request.id, error)
    if len(line) > limit or request.batch is not None:
        return within_limit(request, line, limit)
    return line


def within_limit(
    request: Request, line: bytes, limit: int, *, is_result: bool = False
) -> bytes | None:
    """Return a reply that is no longer than the limit; collect it, if it belongs to a batch.

    Returns:
        The line, an error in place of one that is too long, the reply to the whole batch, or
        ``None`` while members of the batch are pending.
    """
    batch = request.batch
    size = len(line)
    if batch is not None:
        batch.encode_plain()
        size += batch.size
    if size > limit:
        error = reply_too_long(size, limit)
        line = request.dialect.encode_error(request.id, error)
        if is_result:
            request.replaced_by = error
        if len(line) > limit:
            # Even the id alone exceeds the limit.
            line = request.dialect.encode_error(None, error)
    if batch is None:
        return line
    batch.add(line)
    return batch.line()
