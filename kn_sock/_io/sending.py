"""Bytes to a transport: at once where nothing waits before them, and counted until they arrive."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import connectionDone
from twisted.internet.tcp import Connection
from zope.interface import alsoProvides

if sys.platform == "win32":
    fcntl = termios = None
else:
    import fcntl
    import termios

# More is left to the transport, which sends it as the peer takes it: what a socket does not take of
# it would be copied.
_SMALL_BYTES: Final = 64 * 1024


def write_of(transport: Any) -> Callable[[bytes], object]:
    """Give what writes to a transport at once."""
    unbuffered = _tls_kind(type(transport))
    if unbuffered is not None:
        # Twisted's TLS gathers small writes by itself, on the global reactor's clock. Ours are
        # gathered already, and on a private reactor's connection that clock may stand still.
        return partial(unbuffered.write, transport)
    if isinstance(transport, Connection) and not transport.TLS:
        return SendAtOnce(transport)
    write: Callable[[bytes], object] = transport.write
    return write


class SendAtOnce:
    """Writes to a TCP or Unix socket of Twisted's, without waiting for it to be ready.

    A transport puts what is written aside, asks the reactor to tell when the socket takes it, and
    asks it to tell no more once it is sent: two system calls for each reply beside the one that
    sends. A socket that nothing waits for is nearly always ready. What it does not take, or
    anything that is wrong with it, is the transport's, as ever.
    """

    __slots__ = ("_transport",)

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def __call__(self, data: bytes) -> None:
        """Write."""
        transport = self._transport
        if (
            len(data) > _SMALL_BYTES
            # Order: what was written before has to go first.
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
            # Not ready after all, or lost: the transport finds out which, and tells its protocol.
            sent = 0
        if sent < len(data):
            transport.write(data[sent:])


def unsent_bytes(transport: Any) -> int:
    """Count what was written to a transport and has not been sent; 0 where it does not tell."""
    while transport is not None:
        if hasattr(transport, "unsent_bytes"):
            return int(transport.unsent_bytes)
        if hasattr(transport, "_tempDataLen"):
            # twisted.internet.abstract.FileDescriptor, on which all of its sockets are built.
            return len(transport.dataBuffer) - int(transport.offset) + int(transport._tempDataLen)
        transport = getattr(transport, "transport", None)
    return 0


def can_half_close(transport: Any) -> bool:
    """Tell whether the end of one direction is told to the protocol, and see to it that it is.

    A protocol that is connected by one of Twisted's client endpoints is wrapped in another, which
    shows only the last of the interfaces that it passes on: IHandshakeListener.
    """
    if is_tls(transport):
        # It has its own goodbye, and the protocol is not the transport's.
        return False
    wrapper = getattr(transport, "protocol", None)
    if type(wrapper).__name__ == "_WrappingProtocol":
        alsoProvides(wrapper, IHalfCloseableProtocol)
    return IHalfCloseableProtocol.providedBy(wrapper)


def counts_undelivered(transport: Any) -> bool:
    """Tell whether `undelivered_bytes` is worth asking for."""
    return fcntl is not None and hasattr(transport, "getHandle") and not is_tls(transport)


def undelivered_bytes(transport: Any) -> int | None:
    """Count what the kernel was given, and has not heard of that it arrived.

    Returns:
        The number, the goodbye not counted; ``None`` where that is not known, or, as with TLS, not
        of interest.
    """
    if fcntl is None or not counts_undelivered(transport):
        return None
    try:
        counted = fcntl.ioctl(transport.getHandle(), termios.TIOCOUTQ, bytes(4))
    except OSError:
        return None
    # The goodbye is counted there as a byte.
    return max(0, int.from_bytes(counted, sys.byteorder) - 1)


def end_now(transport: Any) -> bool:
    """End a connection whose peer will send no more, where all has been sent; tell whether it is.

    It is what the reactor itself does where a protocol does not ask to be told of the peer's
    goodbye. `loseConnection` would do it too, after another turn of the reactor.
    """
    if not isinstance(transport, Connection) or transport.TLS or unsent_bytes(transport):
        return False
    transport.connectionLost(connectionDone)
    return True


def is_tls(transport: Any) -> bool:
    """Tell whether a transport is TLS, which says to its protocol when the handshake is done."""
    return _tls_kind(type(transport)) is not None


# Of each class of transport, the class that makes it TLS, if one does.
_tls_kinds: dict[type, Any] = {}


def _tls_kind(of_transport: type) -> Any:
    if of_transport not in _tls_kinds:
        # By its name: to import the class needs pyOpenSSL, which only TLS needs.
        named = [kind for kind in of_transport.__mro__ if kind.__name__ == "TLSMemoryBIOProtocol"]
        _tls_kinds[of_transport] = named[0] if named else None
    return _tls_kinds[of_transport]
