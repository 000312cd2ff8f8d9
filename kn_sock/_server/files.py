"""Warnings about files: secrets that others can read, and certificates that have expired."""

from __future__ import annotations

import os
import stat
from typing import Any

from twisted.logger import Logger

log = Logger(namespace="kn_sock.server")


def warn_of_readable(path: str | os.PathLike[str], what: str) -> None:
    """Warn if every user of this machine can read a file with secrets."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        # Whoever opens it says why not.
        return
    if mode & stat.S_IROTH:
        log.warn(
            "every user of this machine can read {what} {path}: chmod o-rwx {path}",
            what=what,
            path=os.fspath(path),
        )


def warn_of_expired(certificate: Any, path: str | os.PathLike[str]) -> None:
    """Warn if a certificate has expired: clients refuse it.

    Args:
        certificate: an ``X509`` of pyOpenSSL.
        path: the file that it is in.
    """
    if certificate.has_expired():
        until = certificate.get_notAfter().decode("ascii")
        log.warn(
            "the certificate in {path} has expired ({year}-{month}-{day}): clients refuse it",
            path=os.fspath(path),
            year=until[:4],
            month=until[4:6],
            day=until[6:8],
        )
