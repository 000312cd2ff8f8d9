"""The calling end: `connect` for one connection, `RPCClientService` for one that comes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IAddress, IReactorFromThreads, IReactorTime
from twisted.internet.protocol import Factory
from typing_extensions import override

from kn_sock._calling.context import ConnectionContext
from kn_sock._calling.options import DEFAULT_TIMEOUT, CallOptions
from kn_sock._client.endpoints import EndpointLike, endpoints_for
from kn_sock._client.failover import Connector, OnConnected
from kn_sock._client.queue import RequestQueue
from kn_sock._client.reconnector import Reconnector
from kn_sock._intercept.batch import intercepting
from kn_sock._io.outbox import WriteCoalescer
from kn_sock._observe.setup import reports_for, stats_methods
from kn_sock._serving.runner import Runner
from kn_sock._version import __version__
from kn_sock._wire.dialects import DialectName, dialect_named
from kn_sock._wire.requests import RequestEncoder
from kn_sock.connection import DeferredVerbs, RPCConnection
from kn_sock.methods.discovery import standard_methods
from kn_sock.methods.table import Functions, MethodTable
from kn_sock.options import ServerOptions, check_flag, options_from
from kn_sock.protocol import RPCProtocol

if TYPE_CHECKING:
    from kn_sock._client.credentials import CredentialsLike
    from kn_sock._intercept.chain import Interceptor

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
    "queue_while_disconnected",
    "timeout",
)


class ClientFactory(Factory):
    """Builds the calling end of connections.

    Args:
        reactor: the reactor that they are on.
        dialect: how calls are written: ``"2.0"``, ``"1.0"`` or ``"kn-sock"``.
        timeout: seconds that a call may take unless said otherwise; ``None`` for no limit.
        propagate_deadline: whether the peer is told how long that is, unless said otherwise.
        funcs: what the peer may call in turn.
        interceptors: functions around each call that is made.
        callback_interceptors: functions around each call that is served.
        turn: gathers what is written; shared by factories on one reactor that write together.
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
        interceptors: Sequence[Interceptor] = (),
        callback_interceptors: Sequence[Interceptor] = (),
        turn: WriteCoalescer | None = None,
        on_exit: Callable[[BaseException], object] | None = None,
        ended: Callable[[RPCProtocol], object] = lambda _: None,
        **options: Any,
    ) -> None:
        methods = MethodTable(funcs)
        turn = turn or WriteCoalescer(reactor)
        # A server's are around what it serves, a client's around what it calls.
        options |= {
            "interceptors": callback_interceptors,
            "callback_interceptors": interceptors,
        }
        server_options = options_from(ServerOptions, options, others=_CLIENT_OPTIONS)
        self._reports = reports_for(server_options)
        self._runner = Runner(
            {
                **methods,
                **standard_methods(methods, __version__),
                **stats_methods(server_options, self._reports),
            },
            server_options,
            turn,
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
            intercepting=intercepting(interceptors, reactor),
        )
        self._ended = ended
        self._connections: set[RPCProtocol] = set()

    @override
    def buildProtocol(self, addr: IAddress | None) -> RPCProtocol:
        protocol = RPCProtocol(self.settings, self)
        protocol.factory = self
        return protocol

    def connection_made(self, protocol: RPCProtocol) -> None:
        """Take note of a connection."""
        self._connections.add(protocol)

    def connection_opened(self, protocol: RPCProtocol) -> None:
        """Take note that a connection is of use: whoever dialled it waits for that."""

    def connection_ended(self, protocol: RPCProtocol) -> None:
        """Take note that a connection is gone."""
        self._connections.discard(protocol)
        self._ended(protocol)
        if not self._connections:
            self._runner.stop()
            self._reports.close()

    def close(self) -> Deferred[None]:
        """Close every connection, of use or not yet.

        Returns:
            A Deferred that fires when they are closed.
        """
        closing = [protocol.close() for protocol in list(self._connections)]
        return DeferredList(closing, consumeErrors=True).addCallback(lambda _: None)


def connect(
    endpoint: EndpointLike | Sequence[EndpointLike],
    *,
    reactor: Any = None,
    connect_timeout: float | None = DEFAULT_CONNECT_TIMEOUT,
    on_connected: OnConnected | None = None,
    credentials: CredentialsLike | None = None,
    **options: Any,
) -> Deferred[RPCConnection]:
    """Connect to a server.

    Args:
        endpoint: a Twisted client endpoint or its description, as ``"tcp:localhost:8080"``,
            ``"tls:example.com:8443"`` or ``"unix:/run/app.sock"``; or several of them in a list,
            which are tried in order, until one answers.
        reactor: the reactor; by default the global one.
        connect_timeout: seconds for the connection to be made, at each endpoint, with the TLS
            handshake and *on_connected*; ``None`` for no limit but the endpoint's own.
        on_connected: called with the connection when it is made. It may give a Deferred or a
            coroutine, and is waited for. If it fails, the connection is closed, and counts as not
            made.
        credentials: what to log in with, before anything else: a tuple of a username and a
            password, or a token.
        options: ``timeout``, seconds that a call may take (30; ``None`` for no limit);
            ``propagate_deadline``, whether the server is told of that (no); ``dialect`` (``"2.0"``,
            ``"1.0"``, ``"kn-sock"``); ``interceptors``, functions around each call that is made;
            ``funcs``, functions that the server may call in turn; and the `ServerOptions` for
            those.

    Returns:
        A Deferred that fires with the connection, or fails with `ConnectFailed`, which is an
        ``OSError``, and where each endpoint refuses, a ``ConnectionRefusedError`` too; where the
        login is refused, with `LoginFailed`. Its ``__cause__`` is what went wrong. Cancelling it
        gives up.

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
    endpoints = endpoints_for(endpoint, reactor)
    dialler = Connector(endpoints, factory, connect_timeout, reactor, on_connected, credentials)
    return dialler.dial().addCallback(lambda protocol: protocol.connection)


class RPCClientService(Service, DeferredVerbs):
    """A client that connects when it is started, and again whenever the connection is lost.

    Args:
        endpoint: where to connect, as for `connect`: one endpoint or several. Each attempt begins
            with the first.
        reactor: the reactor; by default the global one.
        retry_policy: how long to wait before an attempt: a function of the number of attempts that
            failed, to seconds, as for `ClientService
            <twisted.application.internet.ClientService>`. By default the wait grows from 0.1 s to
            30 s, with jitter.
        connect_timeout: as for `connect`.
        on_connected: as for `connect`, for each connection: it is done before any call goes out
            that waited for the connection. Its own calls have to be made over the connection that
            it is given. If it fails, that is logged, and the service tries again.
        queue_while_disconnected: whether a call that is made while there is no connection waits for
            one: for as long as it may take in all, then it fails with `CallTimeout`; at most 1,000
            wait. Otherwise it fails at once with `ConnectionLost`.
        credentials: as for `connect`, for each connection. When a login is refused, the calls that
            wait fail with `LoginFailed`; the service tries again.
        options: as for `connect`.

    Its verbs are `RPCConnection`'s. When the connection is lost, a call that was not written yet
    waits for the next one. A call that was written fails with `ConnectionLost`, and is not sent
    again, unless ``with_options(idempotent=True)`` allows it.

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
        **options: Any,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor
        check_flag("queue_while_disconnected", queue_while_disconnected)
        self._factory = ClientFactory(reactor, ended=self._lost, **options)
        self._options = self._factory.settings.call_options
        self._intercepting = self._factory.settings.intercepting
        endpoints = endpoints_for(endpoint, reactor)
        dialler = Connector(
            endpoints, self._factory, connect_timeout, reactor, on_connected, credentials
        )
        self._redialler = Reconnector(
            dialler.dial,
            cast(IReactorTime, reactor),
            retry_policy,
            is_wanted=lambda: bool(self.running),
            up=self._up,
            gave_up=lambda _: None,
            refused=lambda error: self._channel.fail_waiting(error),
        )
        self._channel: RequestQueue = RequestQueue(
            self._factory.settings.writer,
            cast(IReactorTime, reactor),
            queues=queue_while_disconnected,
            need_connection=self._need_connection,
            close=self._close_all,
        )

    def _up(self, protocol: RPCProtocol) -> None:
        self._channel.opened(protocol)

    def _lost(self, protocol: RPCProtocol) -> None:
        if self._channel.ended(protocol) and self.running:
            self._redialler.begin_later()

    def _need_connection(self) -> None:
        # It may be that the connection is there, and its peer has said that it sends no more.
        if self.running:
            self._redialler.begin_later()

    def _close_all(self) -> Deferred[None]:
        # Here too, as a connection made by with_options() may have been told to close.
        super().stopService()
        self._redialler.stop()
        return self._factory.close()

    @override
    def startService(self) -> None:
        if self.running:
            return
        super().startService()
        self._channel.begin()
        self._redialler.begin()

    @override
    def stopService(self) -> Deferred[None]:
        super().stopService()
        return self._channel.close()

    def close(self) -> Deferred[None]:
        """Stop the service, as `RPCConnection.close` closes a connection. Idempotent."""
        return self.stopService()
