"""The serving end: a factory to listen with, and a service that listens and drains."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IReactorCore,
    IReactorFromThreads,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure
from typing_extensions import override

from kn_sock._discover import standard_methods
from kn_sock._intercepted_batch import intercepting
from kn_sock._observing import reports_for, stats_methods
from kn_sock._options import ServerOptions, options_from
from kn_sock._outbox import Turn
from kn_sock._peer import address_text
from kn_sock._runner import Runner
from kn_sock._stats import Stats
from kn_sock._version import __version__
from kn_sock._writer import Writer
from kn_sock.methods import Functions, MethodTable
from kn_sock.protocol import RPCProtocol, Settings

__all__ = ["RPCServerFactory", "RPCServerService"]

log = Logger()

# The kernel's queue of connections not accepted yet; fifty, Twisted's own, makes a burst wait.
LISTEN_BACKLOG = 1024


class RPCServerFactory(Factory):
    """Serves functions to every connection: ``endpoint.listen(RPCServerFactory(FUNCS))``.

    Args:
        funcs: what can be called: a mapping of names to callables, an object, a module, or a
            `MethodTable`.
        reactor: the reactor that the connections are on; by default the global one.
        on_exit: called with the ``SystemExit`` or ``KeyboardInterrupt`` that a method raised, on
            the reactor's thread; by default the reactor is stopped.
        options: the server options, by name; see `ServerOptions`.

    Raises:
        TypeError, ValueError: the functions or an option cannot be used; the text says which.

    Reactor: its thread only. The functions run on it or in a thread pool, as `in_reactor` and
    `in_thread` say: ``async def`` and functions annotated to return a Deferred on it, all others in
    the pool.
    """

    noisy = False

    def __init__(
        self,
        funcs: Functions,
        *,
        reactor: Any = None,
        on_exit: Callable[[BaseException], object] | None = None,
        **options: Any,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor
        self._reactor = reactor
        self.options = options_from(ServerOptions, options)
        #: The methods that are served, by name.
        self.methods = funcs if isinstance(funcs, MethodTable) else MethodTable().add(funcs)
        self._reports = reports_for(self.options)
        clock = cast(IReactorTime, reactor)
        turn = Turn(clock)
        runner = Runner(
            {
                **self.methods,
                **standard_methods(self.methods, __version__),
                **stats_methods(self.options, self._reports),
            },
            self.options,
            turn,
            cast(IReactorFromThreads, reactor).callFromThread,
            on_exit or self._stop_reactor,
            self._reports,
        )
        self._settings = Settings(
            runner,
            turn,
            clock,
            Writer(cancellation=self.options.cancellation),
            intercepting=intercepting(self.options.callback_interceptors, reactor),
        )
        #: The connections that are open.
        self.connections: set[RPCProtocol] = set()
        self._is_draining = False

    @override
    def buildProtocol(self, addr: IAddress | None) -> RPCProtocol | None:
        if self._is_draining:
            self._reports.refused("draining")
            return None
        # Not every protocol that is built gets a connection: TLS may fail to begin.
        protocol = RPCProtocol(
            self._settings, opened=self.connections.add, ended=self._connection_ended
        )
        protocol.factory = self
        return protocol

    def _connection_ended(self, protocol: RPCProtocol) -> None:
        self.connections.discard(protocol)
        self._release_threads()

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
        if not self.numPorts and not self.connections:
            self._settings.runner.stop()
            self._reports.close()

    @property
    def stats(self) -> Stats | None:
        """The figures; ``None`` unless ``stats`` or ``metrics`` asks for them."""
        return self._reports.stats

    def drain(self) -> Deferred[None]:
        """Refuse new calls with -32009, let those under way finish, flush, close the connections.

        What is still open after ``drain_timeout`` seconds is aborted.

        Returns:
            A Deferred that fires when no connection is left. It does not fail.
        """
        self._is_draining = True
        draining = [protocol.drain() for protocol in list(self.connections)]
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
        """Close every connection at once, whatever is under way."""
        for protocol in list(self.connections):
            log.warn("{peer}: aborted while it was still busy", peer=protocol.peer_text)
            protocol.abort()


class RPCServerService(Service):
    """Listens when it is started, and drains when it is stopped.

    Args:
        endpoint: where to listen: a Twisted server endpoint, or its description, as
            ``"tcp:8080:interface=127.0.0.1"``.
        funcs: what can be called, as for `RPCServerFactory`.
        reactor: the reactor; by default the global one.
        options: the server options, by name; see `ServerOptions`.

    ``privilegedStartService`` listens, so that under twistd a low port can be had before the
    process gives up its rights; ``stopService`` returns a Deferred that fires when everything is
    drained.
    """

    def __init__(
        self,
        endpoint: IStreamServerEndpoint | str,
        funcs: Functions,
        *,
        reactor: Any = None,
        **options: Any,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor
        self._endpoint = endpoint_for(endpoint, reactor)
        #: The factory, with its open connections.
        self.factory = RPCServerFactory(funcs, reactor=reactor, **options)
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
            methods=", ".join(sorted(self.factory.methods)) or "no methods",
            address=address_text(port.getHost()),
        )
        return port

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

    @override
    def stopService(self) -> Deferred[None]:
        super().stopService()
        port, self.port, self._is_listening = self.port, None, False
        stopped = maybeDeferred(port.stopListening) if port is not None else succeed(None)
        return stopped.addCallback(lambda _: self.factory.drain())


def endpoint_for(endpoint: IStreamServerEndpoint | str, reactor: Any) -> IStreamServerEndpoint:
    """Take a server endpoint as it is, or make one of its description.

    Raises:
        TypeError: it is neither.
        ValueError: the description cannot be understood.
    """
    if IStreamServerEndpoint.providedBy(endpoint):
        return endpoint
    if not isinstance(endpoint, str):
        raise TypeError(f"a server endpoint or its description is wanted, not {endpoint!r}")
    description = endpoint
    kind, _, rest = description.partition(":")
    port = rest.partition(":")[0]
    if kind.startswith("tcp") and port.isdigit() and int(port) > 65535:
        raise ValueError(f"{endpoint!r} is no server endpoint: a port is at most 65535")
    if kind in ("tcp", "tcp6", "ssl", "unix") and ":backlog=" not in description:
        description = f"{description}:backlog={LISTEN_BACKLOG}"
    try:
        return cast(IStreamServerEndpoint, serverFromString(reactor, description))
    except Exception as problem:
        if kind == "ssl" and isinstance(problem, (NameError, ImportError)):
            raise ValueError(f"{endpoint!r} needs TLS: pip install 'kn-sock[tls]'") from problem
        raise ValueError(f"{endpoint!r} is no server endpoint: {problem}") from problem


def as_os_error(failure: Failure) -> Failure:
    """Turn Twisted's error into the builtin one, with the number that says what it was."""
    problem = failure.value
    if not isinstance(problem, CannotListenError):
        return failure
    number = getattr(problem.socketError, "errno", None) or errno.EADDRNOTAVAIL
    place = f"{problem.interface or '*'}:{problem.port}"
    reason = getattr(problem.socketError, "strerror", None) or str(problem.socketError)
    error = OSError(number, f"cannot listen on {place}: {reason}")
    error.__cause__ = problem
    return Failure(error)
