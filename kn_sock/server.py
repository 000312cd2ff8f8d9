"""Servers: a factory, and a service that listens and drains."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from twisted.application.service import Service
from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred, succeed
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IReactorCore,
    IReactorFromThreads,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from typing_extensions import override

from kn_sock._calling.context import ConnectionContext
from kn_sock._intercept.batch import intercepting
from kn_sock._io.outbox import WriteCoalescer
from kn_sock._io.transport import address_text, asks_for_certificates
from kn_sock._observe.setup import reports_for, stats_methods
from kn_sock._server.listening import ExposureWarning, as_os_error, endpoint_for, kind_of
from kn_sock._server.login_guard import LoginGuard
from kn_sock._server.refusing import OverLimitProtocol
from kn_sock._server.tls import server_options, tls_around
from kn_sock._serving.runner import Runner
from kn_sock._serving.tables import served_table
from kn_sock._version import __version__
from kn_sock._wire.events import Role
from kn_sock._wire.requests import RequestEncoder
from kn_sock.auth import table_of
from kn_sock.methods.discovery import standard_methods
from kn_sock.methods.table import Functions, MethodTable
from kn_sock.options import SERVER_ALIASES, ServerOptions, options_from, without_aliases
from kn_sock.protocol import RPCProtocol

if TYPE_CHECKING:
    from kn_sock._observe.stats import Stats
    from kn_sock.methods.signature import Method

__all__ = ["RPCServerFactory", "RPCServerService"]

log = Logger()

# Those beside the ServerOptions.
_OTHER_OPTIONS = ("on_exit", "portal", "reactor", "tls_cert", "tls_client_ca", "tls_key")
# Connections over max_connections that are being refused; further ones are just closed.
_MOST_REFUSED = 100

# Seconds for a TLS handshake: a peer that never ends it must not keep its connection for ever.
_HANDSHAKE_TIMEOUT = 10.0


class RPCServerFactory(Factory):
    """Serves functions to every connection: ``endpoint.listen(RPCServerFactory(FUNCS))``.

    Args:
        funcs: the functions: a mapping of names to callables, an object, a module, or a
            `MethodTable`. ``None`` with a *portal* whose avatars have functions of their own.
        reactor: the reactor that the connections are on; by default the global one.
        on_exit: called with the ``SystemExit`` or ``KeyboardInterrupt`` that a method raised, on
            the reactor's thread; by default the reactor is stopped.
        portal: a `Portal <twisted.cred.portal.Portal>`: callers have to log in, and its avatars
            determine what each may call; see `MethodsRealm <kn_sock.auth.MethodsRealm>`. Without
            one, anyone who connects may call everything.
        tls_cert: path of a PEM file with the server's certificate, and those that lead to its CA:
            every connection speaks TLS.
        tls_key: path of a PEM file with the certificate's private key; by default it is in
            *tls_cert*.
        tls_client_ca: path of a PEM file with CAs: only clients with a certificate of theirs get
            past the handshake.
        options: the server options, by name; see `ServerOptions`.

    Raises:
        TypeError, ValueError: the functions or an option cannot be used; the text says which.
        OSError: a file that an option names cannot be read.

    Reactor: its thread only. The functions run on it or in a thread pool, as `in_reactor` and
    `in_thread` say: ``async def`` and functions annotated to return a Deferred on it, all others in
    the pool.
    """

    noisy = False

    def __init__(
        self,
        funcs: Functions | None,
        *,
        reactor: Any = None,
        on_exit: Callable[[BaseException], object] | None = None,
        portal: Portal | None = None,
        tls_cert: str | os.PathLike[str] | None = None,
        tls_key: str | os.PathLike[str] | None = None,
        tls_client_ca: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor
        self._reactor = reactor
        options = without_aliases(options, SERVER_ALIASES)
        self.options = options_from(ServerOptions, options, others=_OTHER_OPTIONS)
        table = MethodTable() if funcs is None and portal is not None else table_of(funcs)
        #: The methods that are served, by name.
        self.methods = served_table(table, self.options)
        self._reports = reports_for(self.options, cast(IReactorTime, reactor))
        served = {
            **self.methods,
            **standard_methods(self.methods, __version__),
            **stats_methods(self.options, self._reports),
        }
        self._gate = None
        if portal is not None:
            self._gate = LoginGuard(
                portal,
                served,
                reactor,
                self.options.login_timeout,
                options=self.options,
                reports=self._reports,
            )
        #: Whether callers have to log in.
        self.wants_login = portal is not None
        #: Whether callers have to show who they are: by a login, or by a certificate.
        self.knows_callers = portal is not None or tls_client_ca is not None
        self._tls_files = (tls_cert, tls_key, tls_client_ca)
        self._around: Callable[[Protocol], Protocol] | None = None
        self.reload()
        self._context = self._make_context(served, on_exit)
        #: The connections that are open.
        self.connections: set[RPCProtocol] = set()
        # Those whose TLS handshake is not done.
        self._unopened: set[RPCProtocol] = set()
        # Connections over the limit, while they are being refused.
        self._refused: set[OverLimitProtocol] = set()
        self._is_draining = False

    def reload(self) -> None:
        """Read the TLS files again; new connections use them.

        Raises:
            OSError, ValueError: they cannot be used; the old ones stay in use.
        """
        tls = server_options(*self._tls_files)
        if tls is not None:
            self._around = tls_around(tls, self._reactor)

    def _make_context(
        self,
        served: Mapping[str, Method],
        on_exit: Callable[[BaseException], object] | None,
    ) -> ConnectionContext:
        """Return what the connections share."""
        clock = cast(IReactorTime, self._reactor)
        turn = WriteCoalescer(clock)
        runner = Runner(
            served if self._gate is None else self._gate.before,
            self.options,
            turn,
            clock,
            cast(IReactorFromThreads, self._reactor).callFromThread,
            on_exit or self._stop_reactor,
            self._reports,
        )
        return ConnectionContext(
            runner,
            turn,
            clock,
            RequestEncoder(cancellation=self.options.cancellation),
            handshake_timeout=_HANDSHAKE_TIMEOUT,
            role=Role.SERVER,
            intercepting=intercepting(self.options.call_interceptors, self._reactor),
        )

    @override
    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        if self._is_draining:
            self._reports.refused("draining")
            return None
        protocol = self._build(addr)
        return protocol if protocol is None or self._around is None else self._around(protocol)

    def _build(self, addr: IAddress | None) -> Protocol | None:
        most = self.options.max_connections
        if most is not None and len(self.connections) + len(self._unopened) >= most:
            return self._refuse(most, addr)
        # Not every protocol that is built gets a connection: TLS may fail to begin.
        protocol = RPCProtocol(self._context, self)
        protocol.factory = self
        return protocol

    def _refuse(self, most: int, addr: IAddress | None) -> Protocol | None:
        self._reports.log.warn(
            "{peer}: refused, there are {most} connections", peer=address_text(addr), most=most
        )
        self._reports.refused("max_connections")
        if len(self._refused) >= _MOST_REFUSED:
            # They are refused with a reply as long as there are few.
            return None
        refusing = OverLimitProtocol(cast(IReactorTime, self._reactor), most, self._refused.discard)
        self._refused.add(refusing)
        return refusing

    def connection_made(self, protocol: RPCProtocol) -> None:
        """Register a connection, before its TLS handshake."""
        self._unopened.add(protocol)

    def connection_opened(self, protocol: RPCProtocol) -> None:
        """Register a connection over which calls can come."""
        self._unopened.discard(protocol)
        self.connections.add(protocol)
        if self._gate is not None:
            self._gate.opened(protocol)

    def connection_ended(self, protocol: RPCProtocol) -> None:
        """Discard a connection."""
        self._unopened.discard(protocol)
        self.connections.discard(protocol)
        if self._gate is not None:
            self._gate.ended(protocol)
        self._release_threads()

    @property
    def failed_logins(self) -> int:
        """How many tries to log in have failed, on all connections together."""
        return 0 if self._gate is None else self._gate.failed_logins

    def _stop_reactor(self, _: BaseException) -> None:
        cast(IReactorTime, self._reactor).callLater(0, cast(IReactorCore, self._reactor).stop)

    @override
    def startFactory(self) -> None:
        self._is_draining = False

    @override
    def stopFactory(self) -> None:
        self._release_threads()

    def _release_threads(self) -> None:
        # A factory may listen on several ports, and connections outlive the ports.
        if not self.numPorts and not self.connections and not self._unopened:
            self._context.runner.stop()
            self._reports.close()

    @property
    def stats(self) -> Stats | None:
        """The metrics; ``None`` unless ``stats`` or ``metrics`` asks for them."""
        return self._reports.stats

    def drain(self) -> Deferred[None]:
        """Refuse new calls with -32009, finish the calls in flight, flush, close all connections.

        What is still open after ``drain_timeout`` seconds is aborted.

        Returns:
            A Deferred that fires when no connection is left. It does not fail.
        """
        self._is_draining = True
        draining = [protocol.drain() for protocol in [*self._unopened, *self.connections]]
        closed = DeferredList(draining, consumeErrors=True)
        timeout = self.options.drain_timeout
        if timeout is None or closed.called:
            return closed.addCallback(lambda _: None)
        timer = cast(IReactorTime, self._reactor).callLater(timeout, self.abort)

        def done(_: object) -> None:
            if timer.active():
                timer.cancel()

        return closed.addCallback(done)

    def abort(self) -> None:
        """Close every connection at once, with the calls in flight."""
        for refused in list(self._refused):
            refused.transport.abortConnection()
        for protocol in list(self.connections):
            self._reports.log.warn(
                "{peer}: aborted while it was still busy", peer=protocol.peer_text
            )
            protocol.abort()


class RPCServerService(Service):
    """Listens when it is started, and drains when it is stopped.

    Args:
        endpoint: where to listen: a Twisted server endpoint, or its description, as
            ``"tcp:8080:interface=127.0.0.1"``.
        funcs: what can be called, as for `RPCServerFactory`.
        reactor: the reactor; by default the global one.
        options: the other options of `RPCServerFactory`.

    ``privilegedStartService`` listens, so that under twistd a low port can be had before the
    process gives up its rights; ``stopService`` returns a Deferred that fires when everything is
    drained.
    """

    def __init__(
        self,
        endpoint: IStreamServerEndpoint | str,
        funcs: Functions | None,
        *,
        reactor: Any = None,
        **options: Any,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor
        has_tls = isinstance(endpoint, str) and kind_of(endpoint) in ("ssl", "tls")
        if has_tls and options.get("tls_cert"):
            raise ValueError(f"{endpoint!r} has TLS of its own: give tls_cert to tcp: instead")
        self._endpoint = endpoint_for(endpoint, reactor)
        self._endpoint_knows_callers = asks_for_certificates(self._endpoint)
        #: The factory, with its open connections.
        self.factory = RPCServerFactory(funcs, reactor=reactor, **options)
        #: Warns about addresses that are open to everybody; services may share one.
        self.exposure = ExposureWarning()
        self._is_listening = False
        #: The port, while it listens; its ``getHost()`` is the bound address.
        self.port: IListeningPort | None = None

    def listen(self) -> Deferred[IListeningPort]:
        """Begin to listen. Starting the service does it too, for those who need not wait for it.

        Returns:
            A Deferred that fires with the port, or fails with ``OSError``: the address is in use
            (``errno.EADDRINUSE``) or cannot be had.
        """
        self._is_listening = True
        listening = maybeDeferred(self._endpoint.listen, self.factory)
        return listening.addCallbacks(self._listens, self._does_not_listen)

    def _listens(self, port: IListeningPort) -> IListeningPort:
        if not self._is_listening:
            # Stopped before it had begun.
            port.stopListening()
            return port
        self.port = port
        log.info(
            "serving {methods} on {address}",
            methods=", ".join(sorted(self.factory.methods)) or self._nothing_named(),
            address=address_text(port.getHost()),
        )
        if not (self.factory.knows_callers or self._endpoint_knows_callers):
            self.exposure.consider(port.getHost())
        return port

    def _nothing_named(self) -> str:
        return "what each login may call" if self.factory.wants_login else "no methods"

    def _does_not_listen(self, failure: Failure) -> Failure:
        self._is_listening = False
        return as_os_error(failure)

    @override
    def privilegedStartService(self) -> None:
        super().privilegedStartService()
        self._listen_or_raise()

    @override
    def startService(self) -> None:
        super().startService()
        if not self._is_listening:
            self._listen_or_raise()

    def _listen_or_raise(self) -> None:
        """Raise what goes wrong at once; what goes wrong later can only be logged."""
        problems: list[Failure] = []
        listening = self.listen()
        listening.addErrback(problems.append)
        if problems:
            problems[0].raiseException()
        listening.addCallback(lambda _: self._log_problems(problems))

    @staticmethod
    def _log_problems(problems: list[Failure]) -> None:
        for problem in problems:
            log.failure("cannot listen", problem)

    def abort(self) -> None:
        """Close every connection at once, with the calls in flight."""
        self.factory.abort()

    def reload(self) -> None:
        """Read the TLS files again; see `RPCServerFactory.reload`."""
        self.factory.reload()

    @override
    def stopService(self) -> Deferred[None]:
        super().stopService()
        port, self.port, self._is_listening = self.port, None, False
        stopped = maybeDeferred(port.stopListening) if port is not None else succeed(None)
        return stopped.addCallback(lambda _: self.factory.drain())
