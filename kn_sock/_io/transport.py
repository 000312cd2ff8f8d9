"""Transports and endpoints: writing at once, counting what is on its way, and the other end.

The only module but `_blocking.reactor_thread` that uses private names of Twisted, as of version
26.10: ``_tempDataLen``, ``dataBuffer`` and ``offset`` of ``abstract.FileDescriptor``,
``_WrappingProtocol`` and attributes of the endpoints in ``endpoints``.
"""

from __future__ import annotations

import ipaddress
import os
import select
import socket
import struct
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import connectionDone
from twisted.internet.tcp import Connection
from zope.interface import alsoProvides

if sys.platform == "win32":
    fcntl = termios = None
else:
    import fcntl
    import termios

# Longer data is left to the transport: what the socket does not accept would be copied.
_SMALL_BYTES: Final = 64 * 1024


def write_of(transport: Any) -> Callable[[bytes], object]:
    """Return a function that writes to a transport at once."""
    unbuffered = _tls_kind(type(transport))
    if unbuffered is not None:
        # Twisted's TLS collects small writes itself, on the clock of the global reactor. Ours are
        # collected already, and for a private reactor that clock may not run.
        return partial(unbuffered.write, transport)
    if isinstance(transport, Connection) and not transport.TLS:
        return SendAtOnce(transport)
    write: Callable[[bytes], object] = transport.write
    return write


class SendAtOnce:
    """Writes to a TCP or Unix socket without waiting until it is ready.

    A transport of Twisted buffers what is written, registers for the write event and removes that
    when all is sent: two system calls per reply beside the one that sends. A socket without
    buffered data is nearly always ready. What the socket does not accept, and any error, is left to
    the transport.
    """

    __slots__ = ("_transport",)

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def __call__(self, data: bytes) -> None:
        """Write."""
        transport = self._transport
        if (
            len(data) > _SMALL_BYTES
            # What was written before has to be sent first.
            or transport._tempDataLen
            or transport.dataBuffer
            or not transport.connected
            or transport.disconnecting
        ):
            transport.write(data)
            return
        try:
            sent = transport.socket.send(data)
        except OSError:
            # Not ready after all, or lost: the transport finds out which.
            sent = 0
        if sent < len(data):
            transport.write(data[sent:])


def unsent_bytes(transport: Any) -> int:
    """Return how many written bytes have not been sent; 0 if the transport does not know."""
    while transport is not None:
        if hasattr(transport, "unsent_bytes"):
            return int(transport.unsent_bytes)
        if hasattr(transport, "_tempDataLen"):
            # twisted.internet.abstract.FileDescriptor, on which all of its sockets are built.
            return len(transport.dataBuffer) - int(transport.offset) + int(transport._tempDataLen)
        transport = getattr(transport, "transport", None)
    return 0


def is_reset(transport: Any) -> bool:
    """Whether the peer has reset the connection, although nothing is read; ``False`` if unknown."""
    while transport is not None and not isinstance(transport, Connection):
        # Below TLS.
        transport = getattr(transport, "transport", None)
    if transport is None or not transport.connected or not hasattr(select, "poll"):
        return False
    poll = select.poll()
    # Without any flag errors are reported, and nothing else.
    poll.register(transport.fileno(), 0)
    return bool(poll.poll(0))


def is_connected_to_itself(transport: Any) -> bool:
    """Whether both ends are one socket.

    TCP makes such a connection when a port is tried where nothing listens, and the system happens
    to choose the same one for this end (RFC 9293, section 3.5).
    """
    return isinstance(transport.getHost(), (IPv4Address, IPv6Address)) and (
        transport.getHost() == transport.getPeer()
    )


def can_half_close(transport: Any) -> bool:
    """Whether the protocol is notified of half-closes; arranged for, if possible.

    The client endpoints of Twisted wrap a protocol in one that provides only the last of the
    interfaces that it forwards: IHandshakeListener.
    """
    if is_tls(transport):
        # It has close_notify instead, and the protocol is not the transport's own.
        return False
    wrapper = getattr(transport, "protocol", None)
    if type(wrapper).__name__ == "_WrappingProtocol":
        alsoProvides(wrapper, IHalfCloseableProtocol)
    return IHalfCloseableProtocol.providedBy(wrapper)


def counts_undelivered(transport: Any) -> bool:
    """Whether `undelivered_bytes` knows the number."""
    return fcntl is not None and hasattr(transport, "getHandle") and not is_tls(transport)


def undelivered_bytes(transport: Any) -> int | None:
    """Return how many bytes the kernel has sent, or will, that the peer has not acknowledged.

    Returns:
        The number, without the FIN; ``None`` if it is not known, as with TLS.
    """
    if fcntl is None or not counts_undelivered(transport):
        return None
    try:
        counted = fcntl.ioctl(transport.getHandle(), termios.TIOCOUTQ, bytes(4))
    except OSError:
        return None
    # The FIN counts as a byte.
    return max(0, int.from_bytes(counted, sys.byteorder) - 1)


def end_now(transport: Any) -> bool:
    """End a connection whose peer has sent EOF, if all has been sent; return whether it ended.

    The reactor does the same for protocols without half-close. ``loseConnection`` would need
    another turn of the reactor.
    """
    if not isinstance(transport, Connection) or transport.TLS or unsent_bytes(transport):
        return False
    transport.connectionLost(connectionDone)
    return True


def is_tls(transport: Any) -> bool:
    """Whether a transport is TLS, and will notify its protocol of the handshake."""
    return _tls_kind(type(transport)) is not None


# For each class of transport, the class that makes it TLS, if any.
_tls_kinds: dict[type, Any] = {}


def _tls_kind(of_transport: type) -> Any:
    if of_transport not in _tls_kinds:
        # By name: importing the class needs pyOpenSSL, which only TLS needs.
        named = [kind for kind in of_transport.__mro__ if kind.__name__ == "TLSMemoryBIOProtocol"]
        _tls_kinds[of_transport] = named[0] if named else None
    return _tls_kinds[of_transport]


# --- the peer ---------------------------------------------------------------------------------

# struct ucred of Linux: a process, its user and its group.
_UCRED: Final = struct.Struct("iII")


class PeerProcess(NamedTuple):
    """The process at the other end of a Unix socket, or nothing."""

    pid: int | None = None
    uid: int | None = None
    gid: int | None = None


NO_PROCESS: Final = PeerProcess()


def address_text(address: Any) -> str:
    """Return an address as text, such as ``127.0.0.1:8080``."""
    host = getattr(address, "host", None)
    if host is not None:
        return f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"
    if not hasattr(address, "name"):
        return str(address)
    # The connecting end of a Unix socket has no name.
    name = address.name or "a Unix socket"
    return name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else str(name)


def certificate_of(transport: Any) -> Any:
    """Return the certificate that the peer presented over TLS, or ``None``."""
    get = getattr(transport, "getPeerCertificate", None)
    return get() if get is not None else None


def set_tcp_options(transport: Any, keepalive: float | None) -> None:
    """Switch Nagle's algorithm off and keepalive on, if the transport is TCP.

    Nagle's algorithm and delayed acknowledgements make small replies wait for each other.

    Args:
        transport: the transport.
        keepalive: seconds of silence after which the system asks the other end for a sign of life;
            the connection is lost when there is none, or what was written is not acknowledged, for
            as long again. ``None`` for the system's own times.
    """
    for option in ("setTcpNoDelay", "setTcpKeepAlive"):
        getattr(transport, option, lambda _: None)(True)
    connection = getattr(transport, "socket", None)
    family = getattr(connection, "family", None)
    if keepalive is None or connection is None or family not in _INTERNET:
        return
    times = {
        # Darwin has a name of its own for the first.
        "TCP_KEEPIDLE": keepalive,
        "TCP_KEEPALIVE": keepalive,
        "TCP_KEEPINTVL": keepalive / _PROBES,
        "TCP_KEEPCNT": _PROBES,
        "TCP_USER_TIMEOUT": 2000 * keepalive,
    }
    for name, value in times.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), max(1, int(value)))


_INTERNET: Final = (socket.AF_INET, socket.AF_INET6)
_PROBES: Final = 4


def process_of(transport: Any) -> PeerProcess:
    """Return the process at the other end of a Unix socket, as the kernel reports it on Linux."""
    connection = getattr(transport, "socket", None)
    wanted = getattr(socket, "SO_PEERCRED", None)
    if wanted is None or getattr(connection, "family", None) != socket.AF_UNIX:
        return NO_PROCESS
    assert connection is not None
    try:
        credentials = connection.getsockopt(socket.SOL_SOCKET, wanted, _UCRED.size)
    except OSError:
        return NO_PROCESS
    return PeerProcess(*_UCRED.unpack(credentials))


def is_public(address: Any) -> bool:
    """Whether an address to listen on can be reached from other machines."""
    host = getattr(address, "host", None)
    if host is None:
        return False
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return True
    inner = getattr(found, "ipv4_mapped", None)
    return not (inner or found).is_loopback


def place_of(endpoint: Any) -> str:
    """Return what an endpoint connects to, as text."""
    host, port = getattr(endpoint, "_host", None), getattr(endpoint, "_port", None)
    if isinstance(host, str) and port is not None:
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    path = getattr(endpoint, "_path", None)
    if path is not None:
        return path.decode("utf-8", "replace") if isinstance(path, bytes) else str(path)
    inner = getattr(endpoint, "_wrappedEndpoint", None)
    if inner is not None:
        return place_of(inner)
    text = getattr(endpoint, "_hostText", None)
    return f"{text}:{port}" if text is not None else type(endpoint).__name__


# Of a Unix socket's path, in bytes: sun_path of unix(7), less its NUL.
_LONGEST_PATH: Final = 103 if sys.platform == "darwin" else 107


def check_path(endpoint: Any) -> None:
    """Check that the path of a Unix endpoint is not too long: Twisted's attempt would not end.

    Raises:
        ValueError: it is.
    """
    path = getattr(endpoint, "_path", b"")
    size = len(os.fsencode(path))
    if size > _LONGEST_PATH:
        raise ValueError(
            f"the path of a Unix socket has at most {_LONGEST_PATH} bytes, not {size}: {path!r}"
        )


def asks_for_certificates(endpoint: Any) -> bool:
    """Whether a TLS server endpoint verifies the certificates of its clients."""
    context = getattr(endpoint, "_sslContextFactory", None)
    return bool(getattr(context, "verify", False))
