"""Connections over the limit: answered with an error, and closed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from typing_extensions import override

from kn_sock._io.transport import is_tls
from kn_sock._wire.dialects import JSONRPC_2
from kn_sock.errors import ErrorCode, RPCError

# A close while the peer's bytes are unread would be a reset, which may overtake the reply.
_LINGER = 2.0


class OverLimitProtocol(Protocol):
    """Tells its peer -32009, reads what it sends without a look at it, and closes.

    Args:
        clock: the reactor.
        most: how many connections the server takes.
        ended: called when the connection is gone.
    """

    transport: Any

    def __init__(
        self, clock: IReactorTime, most: int, ended: Callable[[OverLimitProtocol], object]
    ) -> None:
        self._clock = clock
        self._most = most
        self._ended = ended
        self._timer: IDelayedCall | None = None

    @override
    def connectionMade(self) -> None:
        text = f"the server has as many connections as it takes ({self._most:,}); try again later"
        self.transport.write(JSONRPC_2.encode_error(None, RPCError(ErrorCode.SERVER_BUSY, text)))
        self._timer = self._clock.callLater(_LINGER, self._abort)
        if is_tls(self.transport):
            # There, close_notify goes both ways before anything is closed.
            self.transport.loseConnection()
        else:
            self.transport.loseWriteConnection()

    def _abort(self) -> None:
        self._timer = None
        self.transport.abortConnection()

    @override
    def connectionLost(self, reason: Failure = Failure(ConnectionError())) -> None:  # noqa: B008
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._ended(self)
