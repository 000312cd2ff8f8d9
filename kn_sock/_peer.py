"""What a transport tells of its other end."""

from __future__ import annotations

from typing import Any


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
