"""The calling end: `connect` for one connection, `RPCClientService` for one that comes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from twisted.application.internet import ClientService, backoffPolicy
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorFromThreads, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from typing_extensions import override

from kn_sock._codec import DIALECTS, Dialect
from kn_sock._dial import dial, endpoint_for
from kn_sock._discover import standard_methods
from kn_sock._intercepted_batch import intercepting
from kn_sock._interceptors import Interceptor
from kn_sock._observing import reports_for, stats_methods
from kn_sock._options import ServerOptions, options_from
from kn_sock._outbox import Turn
from kn_sock._runner import Runner
from kn_sock._verbs import DEFAULT_TIMEOUT, CallOptions
from kn_sock._version import __version__
from kn_sock._waiting import WaitingChannel
from kn_sock._writer import Writer
from kn_sock.connection import DeferredVerbs, RPCConnection
from kn_sock.methods import Functions, MethodTable
from kn_sock.protocol import RPCProtocol, Settings

__all__ = ["RPCClientService", "connect"]

DEFAULT_CONNECT_TIMEOUT = 10.0

# Those beside the ServerOptions.
_CLIENT_OPTIONS = ("connect_timeout", "dialect", "funcs", "propagate_deadline", "timeout")


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
        dialect: Dialect = "2.0",
        timeout: float | None = DEFAULT_TIMEOUT,
        propagate_deadline: bool = False,
        funcs: Functions | None = None,
        interceptors: Sequence[Interceptor] = (),
        callback_interceptors: Sequence[Interceptor] = (),
        turn: Turn | None = None,
        on_exit: Callable[[BaseException], object] | None = None,
        opened: Callable[[RPCProtocol], object] = lambda _: None,
        ended: Callable[[RPCProtocol], object] = lambda _: None,
        **options: Any,
    ) -> None:
        if dialect not in DIALECTS:
            raise ValueError(f"dialect must be one of {', '.join(DIALECTS)}, not {dialect!r}")
        methods = MethodTable(funcs)
        turn = turn or Turn(reactor)
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
        writer = Writer(dialect, server_options.cancellation)
        around = intercepting(interceptors, reactor)
        self.settings = Settings(self._runner, turn, reactor, writer, call_options, around)
        self._opened = opened
        self._ended = ended

    @override
    def buildProtocol(self, addr: IAddress | None) -> RPCProtocol:
        protocol = RPCProtocol(self.settings, opened=self._opened, ended=self._connection_ended)
        protocol.factory = self
        return protocol

    def _connection_ended(self, protocol: RPCProtocol) -> None:
        self._ended(protocol)
        self._runner.stop()
        self._reports.close()


def connect(
    endpoint: IStreamClientEndpoint | str,
    *,
    reactor: Any = None,
    connect_timeout: float | None = DEFAULT_CONNECT_TIMEOUT,
    **options: Any,
) -> Deferred[RPCConnection]:
    """Connect to a server.

    Args:
        endpoint: a Twisted client endpoint or its description, as ``"tcp:localhost:8080"``,
            ``"tls:example.com:8443"`` or ``"unix:/run/app.sock"``.
        reactor: the reactor; by default the global one.
        connect_timeout: seconds for the connection to be made; ``None`` for no limit but the
            endpoint's own.
        options: ``timeout``, seconds that a call may take (30; ``None`` for no limit);
            ``propagate_deadline``, whether the server is told of that (no); ``dialect`` (``"2.0"``,
            ``"1.0"``, ``"kn-sock"``); ``interceptors``, functions around each call that is made;
            ``funcs``, functions that the server may call in turn; and the `ServerOptions` for
            those.

    Returns:
        A Deferred that fires with the connection, or fails with `ConnectFailed`, which is an
        ``OSError``, and for a refusal a ``ConnectionRefusedError`` too. Cancelling it gives up.

    Raises:
        ValueError, TypeError: the description or an option cannot be used.

    Reactor: its thread only.
    """
    if reactor is None:
        from twisted.internet import reactor
    factory = ClientFactory(reactor, **options)
    dialled = dial(endpoint_for(endpoint, reactor), factory, connect_timeout, reactor)
    return dialled.addCallback(lambda protocol: protocol.connection)


class RPCClientService(Service, DeferredVerbs):
    """A client that connects when it is started, and again whenever the connection is lost.

    Args:
        endpoint: where to connect, as for `connect`.
        reactor: the reactor; by default the global one.
        retry_policy: how long to wait before an attempt, as for `ClientService
            <twisted.application.internet.ClientService>`: a function of the number of attempts that
            failed, to seconds. By default the wait grows from 0.1 s to 30 s, with jitter.
        options: as for `connect`.

    Its verbs are `RPCConnection`'s. A call that is made while there is no connection waits for one,
    for as long as it may take in all, then fails with `CallTimeout`; at most 1,000 wait. A call
    that was written when the connection was lost fails with `ConnectionLost`, and is not sent
    again.

    Reactor: its thread only.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint | str,
        *,
        reactor: Any = None,
        retry_policy: Callable[[int], float] | None = None,
        **options: Any,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor
        factory = ClientFactory(reactor, opened=self._opened, ended=self._lost, **options)
        self._options = factory.settings.call_options
        self._intercepting = factory.settings.intercepting
        self._inner = ClientService(
            endpoint_for(endpoint, reactor),
            factory,
            retryPolicy=retry_policy or backoffPolicy(initialDelay=0.1, maxDelay=30.0, factor=1.6),
            clock=reactor,
        )
        self._channel: WaitingChannel = WaitingChannel(
            factory.settings.writer,
            reactor,
            self._options.timeout,
            need_connection=lambda: None,
            close=self._stop_inner,
        )

    def _opened(self, protocol: RPCProtocol) -> None:
        self._channel.opened(protocol)

    def _lost(self, protocol: RPCProtocol) -> None:
        self._channel.ended(protocol)

    def _stop_inner(self) -> Deferred[None]:
        return self._inner.stopService()

    @override
    def startService(self) -> None:
        super().startService()
        self._channel.begin()
        self._inner.startService()

    @override
    def stopService(self) -> Deferred[None]:
        super().stopService()
        return self._channel.close()

    def close(self) -> Deferred[None]:
        """Stop the service, as `RPCConnection.close` closes a connection. Idempotent."""
        return self.stopService()
