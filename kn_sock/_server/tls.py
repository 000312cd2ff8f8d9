"""TLS for a server from PEM files: the certificate, its key, and the CAs of clients.

pyOpenSSL is imported when it is needed: it comes with the ``tls`` extra.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.protocol import Factory, Protocol

from kn_sock._server.files import warn_of_expired, warn_of_readable

_CERTIFICATE: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL
)
_KEY: Final = re.compile(
    rb"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----.+?-----END (?:[A-Z]+ )?PRIVATE KEY-----", re.DOTALL
)

Path = str | os.PathLike[str]


def server_options(cert: Path | None, key: Path | None, client_ca: Path | None) -> Any:
    """Read the files that a server with TLS needs.

    Args:
        cert: the certificate, and after it those that lead to its CA.
        key: its private key; ``None`` if it is in the same file.
        client_ca: the CAs that sign the certificates of clients; ``None`` to ask for none.

    Returns:
        Twisted's ``CertificateOptions``, or ``None`` for no TLS.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file is not what it should be, the key does not fit, or pyOpenSSL is missing.
    """
    if cert is None:
        for name, path in (("tls_key", key), ("tls_client_ca", client_ca)):
            if path is not None:
                raise ValueError(f"{name} requires tls_cert")
        return None
    try:
        from OpenSSL.SSL import Error
        from twisted.internet import ssl
    except ImportError as problem:
        raise ValueError("tls_cert needs TLS: pip install 'twisted[tls]'") from problem
    certificate, *chain = _certificates(ssl, "tls_cert", cert)
    trusted = None
    if client_ca is not None:
        trusted = ssl.trustRootFromCertificates(_certificates(ssl, "tls_client_ca", client_ca))
    key_path = cert if key is None else key
    warn_of_readable(key_path, "the private key in")
    warn_of_expired(certificate.original, cert)
    options = ssl.CertificateOptions(
        privateKey=_key(ssl, "tls_cert" if key is None else "tls_key", key_path),
        certificate=certificate.original,
        extraCertChain=[one.original for one in chain],
        trustRoot=trusted,
    )
    try:
        options.getContext()
    except Error as problem:
        raise ValueError(
            f"the key in {os.fspath(key_path)} does not fit the certificate in {os.fspath(cert)}"
        ) from problem
    except Exception as problem:
        # For instance, the system forbids writable executable memory, which cffi needs.
        kind = type(problem).__name__
        raise ValueError(f"tls_cert: TLS cannot be set up: {kind}: {problem}") from problem
    return options


def tls_around(options: Any, reactor: Any) -> Callable[[Protocol], Protocol]:
    """Return a function that wraps a protocol in TLS."""
    from twisted.protocols.tls import TLSMemoryBIOFactory

    # Without a clock it would take the global reactor's, which may not be this one.
    factory = TLSMemoryBIOFactory(options, False, Factory(), reactor)
    return lambda protocol: factory.protocol(factory, protocol)


def _certificates(ssl: Any, option: str, path: Path) -> list[Any]:
    blocks = _CERTIFICATE.findall(_content(option, path))
    if not blocks:
        raise ValueError(f"{option}: there is no certificate in PEM form in {os.fspath(path)}")
    try:
        return [ssl.Certificate.loadPEM(block) for block in blocks]
    except Exception as problem:
        raise ValueError(
            f"{option}: a certificate in {os.fspath(path)} cannot be read"
        ) from problem


def _key(ssl: Any, option: str, path: Path) -> Any:
    found = _KEY.search(_content(option, path))
    if found is None:
        raise ValueError(f"{option}: there is no private key in PEM form in {os.fspath(path)}")
    if b"ENCRYPTED" in found[0]:
        # OpenSSL would ask for the password at the terminal, if there is one.
        raise ValueError(f"{option}: the key in {os.fspath(path)} is encrypted; decrypt it first")
    try:
        return ssl.KeyPair.load(found[0], ssl.SSL.FILETYPE_PEM).original
    except Exception as problem:
        raise ValueError(
            f"{option}: the private key in {os.fspath(path)} cannot be read"
        ) from problem


def _content(option: str, path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as problem:
        # Of the same kind, with the option's name: it is one of three.
        text = f"{option}: {problem.strerror}"
        raise OSError(problem.errno, text, os.fspath(path)) from problem
