"""What a transport tells of its other end."""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import Any, Final, NamedTuple

# struct ucred of Linux: a process, its user and its group.
_UCRED: Final = struct.Struct("iII")


class PeerProcess(NamedTuple):
    """The process at the other end of a Unix socket, or nothing."""

    pid: int | None = None
    uid: int | None = None
    gid: int | None = None


NO_PROCESS: Final = PeerProcess()


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


def certificate_of(transport: Any) -> Any:
    """Give the certificate that the other end showed over TLS, or ``None``."""
    get = getattr(transport, "getPeerCertificate", None)
    return get() if get is not None else None


def process_of(transport: Any) -> PeerProcess:
    """Ask the kernel who is at the other end, where it tells: over a Unix socket, on Linux."""
    connection = getattr(transport, "socket", None)
    wanted = getattr(socket, "SO_PEERCRED", None)
    if wanted is None or getattr(connection, "family", None) != socket.AF_UNIX:
        return NO_PROCESS
    assert connection is not None
    try:
        told = connection.getsockopt(socket.SOL_SOCKET, wanted, _UCRED.size)
    except OSError:
        return NO_PROCESS
    return PeerProcess(*_UCRED.unpack(told))


def is_public(address: Any) -> bool:
    """Tell whether an address that is listened on can be reached from other machines."""
    host = getattr(address, "host", None)
    if host is None:
        return False
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return True
    inner = getattr(found, "ipv4_mapped", None)
    return not (inner or found).is_loopback
