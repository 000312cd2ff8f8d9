"""Calls to lines, with the ids that their replies are found by."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from kn_sock._wire.dialects import JSONRPC_2, Dialect

# The notification that gives a call up, and which of its parameters is the call's id.
CANCELLATIONS: Final[Mapping[str, tuple[str, str] | None]] = {
    "lsp": ("$/cancelRequest", "id"),
    "mcp": ("notifications/cancelled", "requestId"),
    "none": None,
}


class RequestEncoder:
    """Writes requests. Connections that follow one another share one.

    Args:
        dialect: how they are written.
        cancellation: how a call is given up, a key of `CANCELLATIONS`.
        ids: where the ids of calls come from: increasing integers from 1. As connections share
            them, a late reply can never answer a newer call.

    May be used on any thread, as nothing but the next id is taken here.
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
        """Write a call; it is to be registered with `Session.register` before it is sent.

        Args:
            method: its name.
            args: arguments by position.
            kwargs: arguments by name.
            timeout: seconds for which the reply is waited, where the peer is to know.
            traceparent: the trace that the call belongs to, where there is one.

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
        """Write a notification.

        Args:
            method: its name.
            args: arguments by position.
            kwargs: arguments by name.
            traceparent: the trace that it belongs to, where there is one.

        Raises:
            TypeError, ValueError: an argument cannot be sent, or the dialect has no notifications.
        """
        if not self.dialect.has_notifications:
            raise TypeError("the kn-sock 0.3 dialect has no notifications; use call()")
        return self.dialect.encode_request(None, method, args, kwargs, None, traceparent)

    def encode_batch(self, lines: Sequence[bytes]) -> bytes:
        """Join calls and notifications, as written by the two methods above, into one batch.

        Raises:
            TypeError: the dialect has no batches.
        """
        if not self.dialect.has_batches:
            raise TypeError(f"the {self.dialect.name} dialect has no batches; use call()")
        return b"[%b]\n" % b",".join([line[:-1] for line in lines])

    def encode_cancel(self, request_id: int) -> bytes | None:
        """Write that a call is given up; ``None`` where there is no way to say it."""
        if not self.dialect.has_extensions or self.cancellation is None:
            return None
        method, member = self.cancellation
        return self.dialect.encode_request(None, method, (), {member: request_id})
