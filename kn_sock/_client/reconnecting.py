"""A client that reconnects: how its connector, its reconnector and its queue work together.

Used by the service, and by the blocking client on the background reactor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.logger import Logger

from kn_sock._client.failover import Connector, OnConnected
from kn_sock._client.queue import RequestQueue
from kn_sock._client.reconnector import Reconnector
from kn_sock.errors import ConnectionLost, LoginFailed

if TYPE_CHECKING:
    from kn_sock._client.credentials import CredentialsLike
    from kn_sock.client import ClientFactory
    from kn_sock.protocol import RPCProtocol

log = Logger()

#: Called with the loss of each connection.
OnLost: TypeAlias = Callable[[ConnectionLost], object]


class Owner(Protocol):
    """Who wants the connection."""

    def is_wanted(self) -> bool:
        """Whether to connect again after a failed attempt."""

    def connected(self, protocol: RPCProtocol) -> None:
        """A connection has been made and prepared."""

    def gave_up(self, error: BaseException) -> None:
        """An attempt has failed, and there will be no other."""

    def need_connection(self) -> None:
        """A call waits for a connection."""

    def closed(self) -> None:
        """The client is closing."""


class ReconnectingClient:
    """The parts of a client that reconnects.

    Args:
        owner: who wants the connection.
        factory: builds connections.
        endpoints: where to connect to, in the order in which they are tried.
        reactor: the reactor.
        connect_timeout: seconds for each endpoint; ``None`` for no limit.
        on_connected: prepares each connection before any call is sent.
        credentials: for the login on each connection.
        retry_policy: from the number of failed attempts to the seconds before the next.
        queues: whether calls wait while there is no connection.

    Reactor: its thread only.
    """

    def __init__(
        self,
        owner: Owner,
        factory: ClientFactory,
        endpoints: list[IStreamClientEndpoint],
        reactor: Any,
        *,
        connect_timeout: float | None,
        on_connected: OnConnected | None,
        credentials: CredentialsLike | None,
        retry_policy: Callable[[int], float] | None = None,
        queues: bool = True,
        on_lost: OnLost | None = None,
    ) -> None:
        if on_lost is not None and not callable(on_lost):
            raise TypeError(f"on_lost must be a function, not {on_lost!r}")
        self._on_lost = on_lost
        self._owner = owner
        self._factory = factory
        #: Makes one attempt.
        self.connector = Connector(
            endpoints, factory, connect_timeout, reactor, on_connected, credentials
        )
        #: Decides when to make one.
        self.reconnector = Reconnector(
            self.connector.dial,
            reactor,
            retry_policy,
            is_wanted=owner.is_wanted,
            up=owner.connected,
            gave_up=owner.gave_up,
            failed=self._failed,
        )
        #: Sends calls over the present connection, or queues them.
        self.queue = RequestQueue(
            factory.settings.writer,
            reactor,
            queues=queues,
            servers=len(endpoints),
            need_connection=owner.need_connection,
            close=self._close,
        )

    def lost(self, protocol: RPCProtocol) -> bool:
        """Discard a connection that has ended, and report it; ``False`` if it is not in use."""
        was_current = self.queue.ended(protocol)
        if was_current and self._on_lost is not None:
            reason, cause = protocol.loss or ("", None)
            error = ConnectionLost(f"the connection to {protocol.peer_text} is lost: {reason}")
            error.__cause__ = cause
            try:
                self._on_lost(error)
            except Exception:
                log.failure("on_lost failed")
        return was_current

    def _failed(self, error: BaseException) -> None:
        self.queue.last_problem = error
        if isinstance(error, LoginFailed):
            # It may be refused again, and again.
            self.queue.fail_waiting(error)

    def _close(self) -> Deferred[None]:
        self._owner.closed()
        self.reconnector.stop()
        return self._factory.close()
