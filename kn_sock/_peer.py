"""What a transport tells of its other end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol
from zope.interface import alsoProvides

if sys.platform == "win32":
    fcntl = termios = None
else:
    import fcntl
    import termios


def address_text(address: Any) -> str:
    """Write an address as a person would."""
    host = getattr(address, "host", None)
    if host is not None:
        return f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"
    if not hasattr(address, "name"):
        return str(address)
    # The connecting end of a Unix socket has no name.
    name = address.name or "a Unix socket"
    return name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else str(name)


def _tls_kind(transport: Any) -> Any:
    # By its name: to import the class needs pyOpenSSL, which only TLS needs.
    for kind in type(transport).__mro__:
        if kind.__name__ == "TLSMemoryBIOProtocol":
            return kind
    return None


def is_tls(transport: Any) -> bool:
    """Tell whether a transport is TLS, which says to its protocol when the handshake is done."""
    return _tls_kind(transport) is not None


def write_of(transport: Any) -> Callable[[bytes], object]:
    """Give what writes to a transport at once.

    Twisted's TLS gathers small writes by itself, on the global reactor's clock. Ours are gathered
    already, and on a private reactor's connection that clock may stand still for ever.
    """
    unbuffered = _tls_kind(transport)
    if unbuffered is not None:
        return partial(unbuffered.write, transport)
    write: Callable[[bytes], object] = transport.write
    return write


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
    wrapper = getattr(transport, "protocol", None)
    if type(wrapper).__name__ == "_WrappingProtocol":
        alsoProvides(wrapper, IHalfCloseableProtocol)
    return IHalfCloseableProtocol.providedBy(wrapper)


def undelivered_bytes(transport: Any) -> int | None:
    """Count what the kernel was given, and has not heard of that it arrived.

    Returns:
        The number, the goodbye not counted; ``None`` where that is not known, or, as with TLS, not
        of interest.
    """
    get_handle = getattr(transport, "getHandle", None)
    if fcntl is None or get_handle is None or is_tls(transport):
        return None
    try:
        counted = fcntl.ioctl(get_handle(), termios.TIOCOUTQ, bytes(4))
    except OSError:
        return None
    # The goodbye is counted there as a byte.
    return max(0, int.from_bytes(counted, sys.byteorder) - 1)


def certificate_of(transport: Any) -> Any:
    """Give the certificate that the other end showed over TLS, or ``None``."""
    get = getattr(transport, "getPeerCertificate", None)
    return get() if get is not None else None
