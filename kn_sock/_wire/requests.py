"""Our own requests, with the ids that match replies to them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from kn_sock._wire.dialects import JSONRPC_2, Dialect

# The notification that cancels a call, and the parameter that holds the call's id.
CANCELLATIONS: Final[Mapping[str, tuple[str, str] | None]] = {
    "lsp": ("$/cancelRequest", "id"),
    "mcp": ("notifications/cancelled", "requestId"),
    "none": None,
}


class RequestEncoder:
    """Encodes requests. Successive connections of a client share one.

    Args:
        dialect: the dialect of the requests.
        cancellation: how a call is cancelled, a key of `CANCELLATIONS`.
        ids: the ids of calls: increasing integers from 1. Connections share them, so that a late
            reply never answers a newer call.

    Thread: any.
    """

    def __init__(
        self,
        dialect: Dialect = JSONRPC_2,
        cancellation: str = "lsp",
        ids: Iterator[int] | None = None,
    ) -> None:
        self.dialect = dialect
        self.cancellation = CANCELLATIONS[cancellation]
        self._ids = itertools.count(1) if ids is None else ids

    def encode_call(
        self,
        method: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        timeout: float | None = None,
        traceparent: str | None = None,
    ) -> tuple[int, bytes]:
        """Encode a call. It must be registered by `Session.register` before it is sent.

        Args:
            method: its name.
            args: arguments by position.
            kwargs: arguments by name.
            timeout: seconds that the caller waits, if the peer should know.
            traceparent: the trace that the call belongs to, if any.

        Raises:
            TypeError, ValueError: an argument cannot be sent.
        """
        request_id = next(self._ids)
        return request_id, self.dialect.encode_request(
            request_id, method, args, kwargs, timeout, traceparent
        )

    def encode_notification(
        self,
        method: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        traceparent: str | None = None,
    ) -> bytes:
        """Encode a notification.

        Args:
            method: its name.
            args: arguments by position.
            kwargs: arguments by name.
            traceparent: the trace that it belongs to, if any.

        Raises:
            TypeError, ValueError: an argument cannot be sent, or the dialect has no notifications.
        """
        if not self.dialect.has_notifications:
            raise TypeError("the kn-sock 0.3 dialect has no notifications; use call()")
        return self.dialect.encode_request(None, method, args, kwargs, None, traceparent)

    def encode_batch(self, lines: Sequence[bytes]) -> bytes:
        """Join encoded calls and notifications into one batch.

        Raises:
            TypeError: the dialect has no batches.
        """
        if not self.dialect.has_batches:
            raise TypeError(f"the {self.dialect.name} dialect has no batches; use call()")
        return b"[%b]\n" % b",".join([line[:-1] for line in lines])

    def encode_cancel(self, request_id: int) -> bytes | None:
        """Encode the cancellation of a call; ``None`` if the dialect or the option has none."""
        if not self.dialect.has_extensions or self.cancellation is None:
            return None
        method, member = self.cancellation
        return self.dialect.encode_request(None, method, (), {member: request_id})
