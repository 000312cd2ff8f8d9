"""Client endpoints from descriptions, names and addresses."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

from twisted.internet import error as twisted_error
from twisted.internet.abstract import isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, clientFromString
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHostResolution,
    IProtocol,
    IProtocolFactory,
    IReactorPluggableNameResolver,
    IResolutionReceiver,
    IStreamClientEndpoint,
)
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from zope.interface import implementer

from kn_sock._io.transport import check_path

#: A client endpoint, or the description of one.
EndpointLike: TypeAlias = IStreamClientEndpoint | str

# What an address of a name has before the next one is tried beside it: RFC 8305, section 5.
_ATTEMPT_DELAY = 0.25


def endpoints_for(
    given: EndpointLike | Sequence[EndpointLike], reactor: Any
) -> list[IStreamClientEndpoint]:
    """Return a list of endpoints, from one or several, each an endpoint or its description.

    Raises:
        TypeError: there is something else among them.
        ValueError: a description cannot be understood, or there is none.
    """
    if isinstance(given, str) or not isinstance(given, Sequence):
        return [endpoint_for(given, reactor)]
    if not given:
        raise ValueError("at least one client endpoint is needed")
    return [endpoint_for(each, reactor) for each in given]


def endpoint_for(endpoint: IStreamClientEndpoint | str, reactor: Any) -> IStreamClientEndpoint:
    """Return a client endpoint unchanged, or make one from its description.

    Raises:
        TypeError: it is neither.
        ValueError: the description cannot be understood.
    """
    if IStreamClientEndpoint.providedBy(endpoint):
        check_path(endpoint)
        return endpoint
    if not isinstance(endpoint, str):
        raise TypeError(f"a client endpoint or its description is wanted, not {endpoint!r}")
    kind, _, rest = _spelled_out(endpoint).partition(":")
    host, _, port = rest.rpartition(":")
    if kind == "tcp" and port.isdigit() and _HOST.fullmatch(host):
        return host_endpoint(reactor, host, int(port))
    # Twisted's own descriptions have no brackets.
    rest = _BRACKETED.sub(lambda found: found[1].replace(":", "\\:"), rest)
    try:
        made = cast(IStreamClientEndpoint, clientFromString(reactor, f"{kind}:{rest}"))
    except Exception as problem:
        raise ValueError(_problem_with(endpoint, kind, rest, problem)) from problem
    check_path(made)
    return made


# A name, an address, or an IPv6 address in brackets.
_HOST = re.compile(r"[^\[\]=:/\\]+|\[[^\[\]]+\]")

_BRACKETED = re.compile(r"\[([^\[\]]*)\]")

_KINDS = ("tcp", "tls", "ssl", "unix")


def _spelled_out(endpoint: str) -> str:
    """Return the description that is meant by ``localhost:8080`` or ``tcp://localhost:8080``."""
    text = endpoint.strip()
    kind, separator, rest = text.partition("://")
    if separator and kind in _KINDS:
        return f"{kind}:{rest}"
    host, _, port = text.rpartition(":")
    is_bare = port.isdigit() and _HOST.fullmatch(host) and host not in _KINDS
    return f"tcp:{text}" if is_bare else text


def _problem_with(endpoint: str, kind: str, rest: str, problem: Exception) -> str:
    """Return what is wrong with a description that Twisted does not take."""
    if kind in ("tls", "ssl"):
        if isinstance(problem, (NameError, ImportError)):
            return f"{endpoint!r} needs TLS: pip install 'twisted[tls]'"
        if "trustRoots=" in rest:
            return (
                f"{endpoint!r}: trustRoots= has to be a directory with certificates in files "
                f"whose names end with .pem ({problem or type(problem).__name__})"
            )
    return (
        f"{endpoint!r} is no client endpoint ({problem or type(problem).__name__}); "
        "one is tcp:localhost:8080, tls:example.com:8443 or unix:/run/app.sock"
    )


def host_endpoint(reactor: Any, host: str, port: int) -> IStreamClientEndpoint:
    """Make the endpoint of a name or an address, and a port.

    Raises:
        ValueError, TypeError: it is no port, or no host.
    """
    if isinstance(port, str) and port.isdecimal():
        # As it stands in sys.argv, and as kn-sock 0.3 took it.
        port = int(port)
    if type(port) is not int:
        raise TypeError(f"a port is a whole number, not {port!r}")
    if not 0 < port < 65536:
        raise ValueError(f"a port is between 1 and 65535, not {port}")
    if not isinstance(host, str) or not host:
        raise TypeError(f"a host is a name or an address, not {host!r}")
    host = host.strip()
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    try:
        host.encode("idna")
    except UnicodeError as problem:
        raise ValueError(f"{host!r} can be no host: {problem}") from None
    kind: Any = NameEndpoint
    if isIPv6Address(host):
        kind = TCP6ClientEndpoint
    elif ":" in host:
        raise ValueError(
            f"a host is a name or an address, and the port is apart: not {host!r}; "
            "an endpoint is for RPCClient.from_endpoint and connect"
        )
    elif host.replace(".", "").isdigit():
        kind = TCP4ClientEndpoint
    return cast(IStreamClientEndpoint, kind(reactor, host, port))


@implementer(IStreamClientEndpoint)
class NameEndpoint:
    """Connects to a name: to the first of its addresses that answers.

    An address that fails is followed by the next one at once, where Twisted's own endpoint waits
    300 ms first; that would be paid for every ``localhost`` that is ``::1`` before ``127.0.0.1``.
    Nor does this import the global reactor, which is not ours to install.
    """

    def __init__(self, reactor: Any, host: str, port: int) -> None:
        self._reactor = reactor
        self._host = host
        self._port = port
        #: Whether the name is being looked up.
        self.is_resolving = False

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Resolve the name and connect."""
        race = _Race(self._reactor, protocolFactory)
        self.is_resolving = True

        def resolved(found: list[IAddress]) -> None:
            self.is_resolving = False
            race.begin(found, self._host, self._port)

        def failed(failure: Failure) -> None:
            self.is_resolving = False
            race.fail(_unresolved(self._host, failure.value))

        resolver = cast(IReactorPluggableNameResolver, self._reactor).nameResolver
        if type(resolver).__module__ == _RESOLVER:
            looking = maybeDeferred(self._look_up)
            looking.addCallback(resolved).addErrback(failed)
        else:
            resolver.resolveHostName(_Addresses(resolved), self._host, self._port)
        return race.winner

    def _look_up(self) -> Deferred[list[IAddress]]:
        """Do what Twisted's own resolver does, which never tells of a thread that cannot start."""
        pool = self._reactor.getThreadPool()
        looking = deferToThreadPool(
            self._reactor, pool, socket.getaddrinfo, self._host, self._port, 0, socket.SOCK_STREAM
        )
        return looking.addCallback(_addresses)


# Where Twisted's own resolver is.
_RESOLVER = "twisted.internet._resolver"

_ADDRESSES: dict[int, Any] = {socket.AF_INET: IPv4Address, socket.AF_INET6: IPv6Address}


def _addresses(found: list[Any]) -> list[IAddress]:
    """Return what ``getaddrinfo`` has found, as addresses of Twisted's."""
    return [
        _ADDRESSES[family]("TCP", *address[:2])
        for family, _, _, _, address in found
        if family in _ADDRESSES
    ]


def _unresolved(host: str, problem: BaseException | None) -> Exception:
    """Return the error for a name that could not be looked up."""
    if isinstance(problem, socket.gaierror):
        return twisted_error.DNSLookupError(f"there is no host {host!r}")
    return twisted_error.DNSLookupError(f"{host!r} could not be looked up: {problem}")


@implementer(IResolutionReceiver)
class _Addresses:
    """Collects what a name resolves to."""

    def __init__(self, done: Callable[[list[IAddress]], object]) -> None:
        self._done = done
        self._found: list[IAddress] = []

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        """Nothing: a resolution cannot be stopped, only ignored."""

    def addressResolved(self, address: IAddress) -> None:
        """Take one address."""
        self._found.append(address)

    def resolutionComplete(self) -> None:
        """Hand on all of them."""
        self._done(self._found)


class _Race:
    """Attempts at several addresses; the first connection wins, and the others are cancelled."""

    def __init__(self, reactor: Any, factory: IProtocolFactory) -> None:
        self.winner: Deferred[IProtocol] = Deferred(lambda _: self._stop())
        self._reactor = reactor
        self._factory = factory
        self._to_try: list[Any] = []
        self._under_way: list[Deferred[Any]] = []
        self._timer: IDelayedCall | None = None
        self._is_over = False

    def begin(self, addresses: list[Any], host: str, port: int) -> None:
        """Try the addresses in their order."""
        if self._is_over:
            return
        for address in addresses:
            kind = TCP6ClientEndpoint if ":" in address.host else TCP4ClientEndpoint
            self._to_try.append(kind(self._reactor, address.host, port))
        if self._to_try:
            self._try_next()
        else:
            self.fail(twisted_error.DNSLookupError(f"there is no host {host!r}"))

    def fail(self, error: Exception) -> None:
        """Fail, as there is nothing to try."""
        if not self._is_over:
            self._is_over = True
            self.winner.errback(error)

    def _try_next(self) -> None:
        attempt: Deferred[Any] = self._to_try.pop(0).connect(self._factory)
        self._under_way.append(attempt)
        if self._to_try:
            self._timer = self._reactor.callLater(_ATTEMPT_DELAY, self._try_next)
        attempt.addCallbacks(self._won, self._lost, (attempt,), {}, (attempt,))

    def _won(self, protocol: Any, attempt: Deferred[Any]) -> None:
        self._under_way.remove(attempt)
        self._stop()
        self.winner.callback(protocol)

    def _lost(self, failure: Failure, attempt: Deferred[Any]) -> None:
        self._under_way.remove(attempt)
        if self._is_over:
            return
        if self._to_try:
            self._stop_timer()
            self._try_next()
        elif not self._under_way:
            self._is_over = True
            self.winner.errback(failure)

    def _stop(self) -> None:
        self._is_over = True
        self._stop_timer()
        for attempt in list(self._under_way):
            attempt.cancel()

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
