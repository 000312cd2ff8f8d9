"""Server endpoints: their descriptions, their errors, and warnings about public ones."""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import Any, cast

from twisted.internet.address import UNIXAddress
from twisted.internet.endpoints import AdoptedStreamServerEndpoint, serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from kn_sock._io.transport import address_text, is_public

log = Logger()

# The kernel's queue of connections not accepted yet; fifty, Twisted's own, makes a burst wait.
LISTEN_BACKLOG = 1024

_UNIX = getattr(socket, "AF_UNIX", None)


def kind_of(description: str) -> str:
    """Return the kind of an endpoint; of the wrapped one, for ``haproxy:``."""
    return description.removeprefix("haproxy:").partition(":")[0]


def endpoint_for(endpoint: IStreamServerEndpoint | str, reactor: Any) -> IStreamServerEndpoint:
    """Return a server endpoint unchanged, or make one from its description.

    Raises:
        TypeError: it is neither.
        ValueError: the description cannot be understood, or the socket is not one to be given.
    """
    found = endpoint
    if isinstance(endpoint, str):
        found = _described(endpoint, reactor)
    elif not IStreamServerEndpoint.providedBy(endpoint):
        raise TypeError(f"a server endpoint or its description is wanted, not {endpoint!r}")
    if isinstance(found, AdoptedStreamServerEndpoint) and found.addressFamily == _UNIX:
        _refuse_a_path(found.fileno)
    return cast(IStreamServerEndpoint, found)


def _described(endpoint: str, reactor: Any) -> IStreamServerEndpoint:
    description = endpoint
    kind = kind_of(description)
    port = description.removeprefix("haproxy:").split(":", 2)[1:2]
    if kind.startswith("tcp") and port and port[0].isdigit() and int(port[0]) > 65535:
        raise ValueError(f"{endpoint!r} is no server endpoint: a port is at most 65535")
    if kind in ("tcp", "tcp6", "ssl", "tls", "unix") and ":backlog=" not in description:
        description = f"{description}:backlog={LISTEN_BACKLOG}"
    try:
        return cast(IStreamServerEndpoint, serverFromString(reactor, description))
    except Exception as problem:
        if kind == "ssl" and isinstance(problem, (NameError, ImportError)):
            raise ValueError(f"{endpoint!r} needs TLS: pip install 'twisted[tls]'") from problem
        if kind == "systemd" and isinstance(problem, LookupError):
            raise ValueError(
                f"{endpoint!r}: no such socket was given to this process; is its .socket unit "
                "started, and has it this FileDescriptorName=?"
            ) from problem
        raise ValueError(f"{endpoint!r} is no server endpoint: {problem}") from problem


def _refuse_a_path(fileno: int) -> None:
    """Raise for a Unix socket with a path: Twisted would not leave it as it was given."""
    with socket.socket(fileno=os.dup(fileno)) as given:
        name = given.getsockname()
    # One of the abstract namespace, which has no mode, is bytes.
    if isinstance(name, str) and name:
        raise ValueError(
            f"{name} is a Unix socket that was made elsewhere: Twisted would open it to every "
            "user, and remove it in the end; let it be made here, as unix:PATH:mode=600"
        )


def as_os_error(failure: Failure) -> Failure:
    """Turn Twisted's error into the builtin one, with the number that says what it was."""
    problem = failure.value
    if isinstance(problem, OSError) and problem.filename2:
        # The lock file beside a Unix socket could not be made.
        place = os.fsdecode(problem.filename2).removesuffix(".lock")
        error = OSError(problem.errno, f"cannot listen on {place}: {problem.strerror}")
        error.__cause__ = problem
        return Failure(error)
    if not isinstance(problem, CannotListenError):
        return failure
    number = getattr(problem.socketError, "errno", None) or errno.EADDRNOTAVAIL
    place = f"{problem.interface or '*'}:{problem.port}"
    if isinstance(problem.port, bytes):
        place = os.fsdecode(problem.port)
    reason = getattr(problem.socketError, "strerror", None) or str(problem.socketError)
    error = OSError(number, f"cannot listen on {place}: {reason}")
    error.__cause__ = problem
    return Failure(error)


class ExposureWarning:
    """Warns of an address where every peer can call; once, however many there are."""

    def __init__(self) -> None:
        self._is_given = False

    def consider(self, address: IAddress) -> None:
        """Check an address on which every peer may call."""
        if self._is_given:
            return
        if isinstance(address, UNIXAddress):
            self._consider_path(address.name)
            return
        if not is_public(address):
            return
        self._is_given = True
        log.warn(
            "whoever can reach {address} can call every function served there: listen on "
            "127.0.0.1 or a Unix socket, have callers log in (portal=, --auth), or ask for their "
            "certificates (tls_client_ca=, --tls-client-ca)",
            address=address_text(address),
        )

    def _consider_path(self, path: Any) -> None:
        """Check the mode of a Unix socket; Twisted opens it to all users by default."""
        try:
            mode = os.stat(path).st_mode
        except (OSError, TypeError, ValueError):
            # One of the abstract namespace has neither a path nor a mode.
            return
        if mode & stat.S_IWOTH:
            self._is_given = True
            log.warn(
                "every user of this machine can call every function served at {path}: add "
                ":mode=660 to its endpoint, or have callers log in (portal=, --auth)",
                path=os.fsdecode(path),
            )
