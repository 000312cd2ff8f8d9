"""Clients: `connect` for one connection, `RPCClientService` for one that reconnects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.interfaces import IAddress, IReactorFromThreads
from twisted.internet.protocol import Factory
from typing_extensions import override

from kn_sock._calling.context import ConnectionContext
from kn_sock._calling.options import DEFAULT_TIMEOUT, CallOptions
from kn_sock._client.endpoints import EndpointLike, endpoints_for, host_endpoint
from kn_sock._client.failover import Connector, OnConnected
from kn_sock._client.reconnecting import OnLost, ReconnectingClient
from kn_sock._declarations import check_flag
from kn_sock._exceptions import another
from kn_sock._intercept.batch import intercepting
from kn_sock._io.outbox import WriteCoalescer
from kn_sock._observe.setup import reports_for, stats_methods
from kn_sock._serving.runner import Runner
from kn_sock._serving.tables import served_table
from kn_sock._version import __version__
from kn_sock._wire.dialects import DialectName, dialect_named
from kn_sock._wire.events import Role
from kn_sock._wire.requests import RequestEncoder
from kn_sock.connection import DeferredVerbs, RPCConnection
from kn_sock.errors import ConnectionLost
from kn_sock.methods.discovery import standard_methods
from kn_sock.methods.table import Functions, MethodTable
from kn_sock.options import CLIENT_ALIASES, ServerOptions, options_from, without_aliases
from kn_sock.protocol import RPCProtocol

if TYPE_CHECKING:
    from kn_sock._client.credentials import CredentialsLike
    from kn_sock._client.queue import RequestQueue

__all__ = ["RPCClientService", "connect"]

DEFAULT_CONNECT_TIMEOUT = 10.0

# Those beside the ServerOptions.
_CLIENT_OPTIONS = (
    "connect_timeout",
    "credentials",
    "dialect",
    "funcs",
    "on_connected",
    "propagate_deadline",
    "on_lost",
    "queue_while_disconnected",
    "stay_connected",
    "timeout",
)


class ClientFactory(Factory):
    """Builds the client's end of connections.

    Args:
        reactor: the reactor that they are on.
        dialect: how calls are written: ``"2.0"``, ``"1.0"`` or ``"kn-sock"``.
        timeout: the default time limit of calls, in seconds; ``None`` for no limit.
        propagate_deadline: whether calls carry their time limit by default.
        funcs: what the peer may call.
        turn: collects what is written; factories on one reactor may share it.
        on_exit: as for `RPCServerFactory`.
        options: how the peer's calls are treated, by name; see `ServerOptions`.
    """

    noisy = False

    def __init__(
        self,
        reactor: Any,
        *,
        dialect: DialectName = "2.0",
        timeout: float | None = DEFAULT_TIMEOUT,
        propagate_deadline: bool = False,
        funcs: Functions | None = None,
        turn: WriteCoalescer | None = None,
        on_exit: Callable[[BaseException], object] | None = None,
        ended: Callable[[RPCProtocol], object] = lambda _: None,
        **options: Any,
    ) -> None:
        turn = turn or WriteCoalescer(reactor)
        options = without_aliases(options, CLIENT_ALIASES)
        server_options = options_from(ServerOptions, options, others=_CLIENT_OPTIONS)
        methods = served_table(MethodTable(funcs), server_options)
        self._reports = reports_for(server_options, reactor)
        self._runner = Runner(
            {
                **methods,
                **standard_methods(methods, __version__),
                **stats_methods(server_options, self._reports),
            },
            server_options,
            turn,
            reactor,
            cast(IReactorFromThreads, reactor).callFromThread,
            on_exit or (lambda _: reactor.callLater(0, reactor.stop)),
            self._reports,
        )
        call_options = CallOptions(timeout, propagate_deadline)
        writer = RequestEncoder(dialect_named(dialect), server_options.cancellation)
        self.settings = ConnectionContext(
            self._runner,
            turn,
            reactor,
            writer,
            call_options,
            role=Role.PEER if methods else Role.CALLER,
            intercepting=intercepting(server_options.call_interceptors, reactor),
        )
        self._ended = ended
        self._connections: set[RPCProtocol] = set()

    @override
    def buildProtocol(self, addr: IAddress | None) -> RPCProtocol:
        protocol = RPCProtocol(self.settings, self)
        protocol.factory = self
        return protocol

    def connection_made(self, protocol: RPCProtocol) -> None:
        """Register a connection."""
        self._connections.add(protocol)

    def connection_opened(self, protocol: RPCProtocol) -> None:
        """Nothing: the connector waits for the connection to open."""

    def connection_ended(self, protocol: RPCProtocol) -> None:
        """Discard a connection."""
        self._connections.discard(protocol)
        self._ended(protocol)
        if not self._connections:
            self._runner.stop()
            self._reports.close()

    def abort(self) -> None:
        """Close every connection at once, whatever is not sent."""
        for protocol in list(self._connections):
            protocol.abort()

    def close(self) -> Deferred[None]:
        """Close every connection, open or not yet.

        Returns:
            A Deferred that fires when they are closed.
        """
        closing = [protocol.close() for protocol in list(self._connections)]
        return DeferredList(closing, consumeErrors=True).addCallback(lambda _: None)


def connect(
    endpoint: EndpointLike | Sequence[EndpointLike],
    port: int | None = None,
    *,
    reactor: Any = None,
    connect_timeout: float | None = DEFAULT_CONNECT_TIMEOUT,
    on_connected: OnConnected | None = None,
    credentials: CredentialsLike | None = None,
    **options: Any,
) -> Deferred[RPCConnection]:
    """Connect to a server.

    Args:
        endpoint: a Twisted client endpoint or its description, such as ``"tcp:localhost:8080"``,
            ``"tls:example.com:8443"`` or ``"unix:/run/app.sock"``; or a list of them, which are
            tried in order until one answers. With *port*, a host.
        port: the port of a host, from 1 to 65535.
        reactor: the reactor; by default the global one.
        connect_timeout: seconds for each endpoint, including the TLS handshake and *on_connected*;
            ``None`` for no limit but the endpoint's own.
        on_connected: called with each new connection. It may return a Deferred or a coroutine,
            which is awaited. If it fails, the connection is closed and counts as not made.
        credentials: for the login, which comes first: a tuple of a username and a password, or a
            token.
        options: ``timeout``, the time limit of calls in seconds (30; ``None`` for no limit);
            ``propagate_deadline``, whether calls carry it (no); ``dialect`` (``"2.0"``, ``"1.0"``,
            ``"kn-sock"``); ``call_interceptors``, functions around each call; ``funcs``, functions
            that the server may call; and the `ServerOptions` for those.

    Returns:
        A Deferred that fires with the connection. It fails with `ConnectFailed`, an ``OSError``
        (also a ``ConnectionRefusedError`` if every endpoint refuses), or with `LoginFailed`; the
        ``__cause__`` is the error of Twisted. Cancelling it ends the attempt.

    Raises:
        ValueError, TypeError: a description or an option cannot be used.

    Reactor: its thread only.
    """
    if reactor is None:
        from twisted.internet import reactor
    if "queue_while_disconnected" in options:
        raise TypeError(
            "a connection that connect() makes does not come back; "
            "queue_while_disconnected is for RPCClientService and RPCClient"
        )
    factory = ClientFactory(reactor, **options)
    endpoints = (
        endpoints_for(endpoint, reactor)
        if port is None
        else [host_endpoint(reactor, cast(str, endpoint), port)]
    )
    dialler = Connector(endpoints, factory, connect_timeout, reactor, on_connected, credentials)
    return dialler.dial().addCallback(lambda protocol: protocol.connection)


class RPCClientService(Service, DeferredVerbs):
    """A client that connects when it is started, and reconnects when the connection is lost.

    Args:
        endpoint: where to connect, as for `connect`: one endpoint or several. Each attempt begins
            with the first.
        reactor: the reactor; by default the global one.
        retry_policy: a function from the number of failed attempts to the seconds before the next
            one, as for `ClientService <twisted.application.internet.ClientService>`. By default
            the wait grows from 0.1 s to 30 s, with jitter.
        connect_timeout: as for `connect`.
        on_connected: as for `connect`, for each connection. It completes before any waiting call is
            sent, and must use the connection that it gets. If it fails, that is logged, and the
            service tries again.
        queue_while_disconnected: whether calls wait while there is no connection: within their
            time limit, at most 1,000 of them. Otherwise they fail at once with `ConnectionLost`.
        credentials: as for `connect`, for each connection. If the login is refused, waiting calls
            fail with `LoginFailed`, and the service tries again.
        on_lost: called with the `ConnectionLost` of each connection that was lost.
        options: as for `connect`.

    Calls are made as over `RPCConnection`. If the connection is lost, a call that was not written
    waits for the next one. A call that was written fails with `ConnectionLost`; it is sent again
    only with ``with_options(idempotent=True)``.

    Reactor: its thread only.
    """

    def __init__(
        self,
        endpoint: EndpointLike | Sequence[EndpointLike],
        *,
        reactor: Any = None,
        retry_policy: Callable[[int], float] | None = None,
        connect_timeout: float | None = DEFAULT_CONNECT_TIMEOUT,
        on_connected: OnConnected | None = None,
        queue_while_disconnected: bool = True,
        credentials: CredentialsLike | None = None,
        on_lost: OnLost | None = None,
        **options: Any,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor
        check_flag("queue_while_disconnected", queue_while_disconnected)
        self._factory = ClientFactory(reactor, ended=self._lost, **options)
        self._options = self._factory.settings.call_options
        self._intercepting = self._factory.settings.intercepting
        self._client = ReconnectingClient(
            _ServiceOwner(self),
            self._factory,
            endpoints_for(endpoint, reactor),
            reactor,
            connect_timeout=connect_timeout,
            on_connected=on_connected,
            credentials=credentials,
            retry_policy=retry_policy,
            queues=queue_while_disconnected,
            on_lost=on_lost,
        )
        self._waiters: list[Deferred[None]] = []
        self._channel: RequestQueue = self._client.queue

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection."""
        return self._channel.is_connected

    def when_connected(self) -> Deferred[None]:
        """Return a Deferred that fires when there is a connection.

        It fails with `ConnectionLost` when the service stops before that.
        """
        if self.is_connected:
            return succeed(None)
        waiter: Deferred[None] = Deferred(lambda waiter: self._waiters.remove(waiter))
        self._waiters.append(waiter)
        return waiter

    def _settle_waiters(self, error: ConnectionLost | None = None) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if error is None:
                waiter.callback(None)
            else:
                waiter.errback(another(error))

    def _need_connection(self) -> None:
        # The connection may still be there, and its peer have sent EOF.
        if self.running:
            self._client.reconnector.begin_later()

    def _stop(self) -> None:
        # Here too: a connection of with_options() may have been closed.
        super().stopService()

    def _lost(self, protocol: RPCProtocol) -> None:
        if not self.running:
            self._channel.ended(protocol)
        elif self._client.lost(protocol):
            self._client.reconnector.begin_later()

    @override
    def startService(self) -> None:
        if self.running:
            return
        super().startService()
        self._channel.begin()
        self._client.reconnector.begin()

    @override
    def stopService(self) -> Deferred[None]:
        super().stopService()
        self._settle_waiters(ConnectionLost("the service was stopped", maybe_executed=False))
        return self._channel.close()

    def close(self) -> Deferred[None]:
        """Stop the service, as `RPCConnection.close` closes a connection. Idempotent."""
        return self.stopService()


class _ServiceOwner:
    """The service, as its `ReconnectingClient` sees it."""

    def __init__(self, service: RPCClientService) -> None:
        self._service = service

    def is_wanted(self) -> bool:
        """Whether the service runs."""
        return bool(self._service.running)

    def connected(self, protocol: RPCProtocol) -> None:
        """Send what waits over a new connection."""
        self._service._channel.opened(protocol)
        self._service._settle_waiters()

    def gave_up(self, error: BaseException) -> None:
        """Do nothing: a running service tries again."""

    def need_connection(self) -> None:
        """Connect, if the service runs."""
        self._service._need_connection()

    def closed(self) -> None:
        """Stop the service."""
        self._service._stop()
