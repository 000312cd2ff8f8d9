"""The calling end: `connect` for one connection, `RPCClientService` for one that comes back."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Iterator
from typing import Any, cast

from twisted.application.internet import ClientService, backoffPolicy
from twisted.application.service import Service
from twisted.internet import error as twisted_error
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    clientFromString,
)
from twisted.internet.interfaces import (
    IAddress,
    IReactorCore,
    IReactorFromThreads,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from typing_extensions import override

from kn_sock._codec import DIALECTS, Dialect
from kn_sock._discover import standard_methods
from kn_sock._options import ServerOptions, check_seconds
from kn_sock._outbox import Turn
from kn_sock._serving import Runner
from kn_sock._verbs import DEFAULT_TIMEOUT, CallOptions
from kn_sock._version import __version__
from kn_sock._waiting import WaitingChannel
from kn_sock.connection import DeferredVerbs, RPCConnection
from kn_sock.errors import ConnectFailed, ConnectRefused
from kn_sock.methods import Functions, MethodTable
from kn_sock.protocol import RPCProtocol, Settings

__all__ = ["RPCClientService", "connect"]

DEFAULT_CONNECT_TIMEOUT = 10.0

# Between the attempts at the addresses of a name. Twisted's own 300 ms is waited out in full even
# when the first address refuses at once, as ::1 does for a server on 127.0.0.1.
_ATTEMPT_DELAY = 0.025


class ClientFactory(Factory):
    """Builds the calling end of connections.

    Args:
        reactor: the reactor that they are on.
        dialect: how calls are written: ``"2.0"``, ``"1.0"`` or ``"kn-sock"``.
        timeout: seconds that a call may take unless said otherwise; ``None`` for no limit.
        funcs: what the peer may call in turn.
        turn: gathers what is written; shared by factories on one reactor that write together.
        options: how the peer's calls are treated, by name; see `ServerOptions`.
    """

    noisy = False

    def __init__(
        self,
        reactor: Any,
        *,
        dialect: Dialect = "2.0",
        timeout: float | None = DEFAULT_TIMEOUT,
        funcs: Functions | None = None,
        turn: Turn | None = None,
        opened: Callable[[RPCProtocol], object] = lambda _: None,
        ended: Callable[[RPCProtocol], object] = lambda _: None,
        **options: Any,
    ) -> None:
        if dialect not in DIALECTS:
            raise ValueError(f"dialect must be one of {', '.join(DIALECTS)}, not {dialect!r}")
        methods = MethodTable(funcs) if funcs is not None else MethodTable()
        turn = turn or Turn(reactor)
        self._runner = Runner(
            {**methods, **standard_methods(methods, __version__)},
            ServerOptions(**options),
            turn,
            cast(IReactorFromThreads, reactor).callFromThread,
            lambda _: cast(IReactorTime, reactor).callLater(0, cast(IReactorCore, reactor).stop),
        )
        ids: Iterator[int] = itertools.count(1)
        self.settings = Settings(self._runner, turn, reactor, dialect, CallOptions(timeout), ids)
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
        options: ``timeout``, seconds that a call may take (30; ``None`` for no limit); ``dialect``
            (``"2.0"``, ``"1.0"``, ``"kn-sock"``); ``funcs``, functions that the server may call in
            turn; and the `ServerOptions` for those.

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


def dial(
    endpoint: IStreamClientEndpoint, factory: ClientFactory, timeout: float | None, reactor: Any
) -> Deferred[RPCProtocol]:
    """Make one connection; the Deferred fails with `ConnectFailed`."""
    check_seconds("connect_timeout", timeout)
    attempt = cast("Deferred[RPCProtocol]", maybeDeferred(endpoint.connect, factory))
    if timeout is not None:
        attempt.addTimeout(timeout, reactor)
    return attempt.addErrback(_as_connect_failed, endpoint, timeout)


def host_endpoint(reactor: Any, host: str, port: int) -> IStreamClientEndpoint:
    """Make the endpoint of a name or an address, and a port.

    Raises:
        ValueError, TypeError: it is no port.
    """
    if type(port) is not int:
        raise TypeError(f"a port is a whole number, not {port!r}")
    if not 0 < port < 65536:
        raise ValueError(f"a port is between 1 and 65535, not {port}")
    if not isinstance(host, str) or not host:
        raise TypeError(f"a host is a name or an address, not {host!r}")
    kind: Any = HostnameEndpoint
    if ":" in host:
        kind = TCP6ClientEndpoint
    elif host.replace(".", "").isdigit():
        kind = TCP4ClientEndpoint
    else:
        return HostnameEndpoint(reactor, host, port, attemptDelay=_ATTEMPT_DELAY)
    return cast(IStreamClientEndpoint, kind(reactor, host, port))


def endpoint_for(endpoint: IStreamClientEndpoint | str, reactor: Any) -> IStreamClientEndpoint:
    """Take a client endpoint as it is, or make one of its description.

    Raises:
        ValueError: the description cannot be understood.
    """
    if not isinstance(endpoint, str):
        return endpoint
    kind, _, rest = endpoint.partition(":")
    host, _, port = rest.rpartition(":")
    if kind == "tcp" and host and port.isdigit() and "=" not in rest and "\\" not in host:
        return host_endpoint(reactor, host, int(port))
    try:
        return cast(IStreamClientEndpoint, clientFromString(reactor, endpoint))
    except Exception as problem:
        raise ValueError(
            f"{endpoint!r} is no client endpoint ({problem}); "
            "one is tcp:localhost:8080, tls:example.com:8443 or unix:/run/app.sock"
        ) from problem


def _as_connect_failed(
    failure: Failure, endpoint: IStreamClientEndpoint, timeout: float | None
) -> Failure:
    """Turn what Twisted says of a connection attempt into our error, which builtins know too."""
    problem = failure.value
    if isinstance(problem, CancelledError):
        return failure
    place = _endpoint_text(endpoint)
    error: ConnectFailed
    if isinstance(problem, twisted_error.ConnectionRefusedError):
        error = ConnectRefused(
            f"cannot connect to {place}: connection refused; is the server running?"
        )
    elif isinstance(problem, (TimeoutError, twisted_error.TimeoutError)) or (
        type(problem).__name__ == "TimeoutError"
    ):
        within = f" within {timeout:g} s" if timeout is not None else ""
        error = ConnectFailed(f"cannot connect to {place}: no answer{within}", errno.ETIMEDOUT)
    else:
        number = getattr(problem, "osError", None)
        number = number if isinstance(number, int) else getattr(problem, "errno", None)
        error = ConnectFailed(f"cannot connect to {place}: {failure.getErrorMessage()}", number)
    error.__cause__ = problem
    return Failure(error)


def _endpoint_text(endpoint: Any) -> str:
    for host_name, port_name in (("_hostStr", "_port"), ("_host", "_port")):
        host, port = getattr(endpoint, host_name, None), getattr(endpoint, port_name, None)
        if host is not None and port is not None:
            text = host.decode("idna") if isinstance(host, bytes) else host
            return f"{text}:{port}"
    path = getattr(endpoint, "_path", None)
    return str(path) if path is not None else type(endpoint).__name__


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
        self._inner = ClientService(
            endpoint_for(endpoint, reactor),
            factory,
            retryPolicy=retry_policy or backoffPolicy(initialDelay=0.1, maxDelay=30.0, factor=1.6),
            clock=reactor,
        )
        self._channel: WaitingChannel = WaitingChannel(
            reactor, self._options.timeout, need_connection=lambda: None, close=self._stop_inner
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
