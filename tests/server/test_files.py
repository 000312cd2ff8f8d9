from __future__ import annotations

import datetime
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.address import UNIXAddress

from kn_sock import RPCServerFactory
from kn_sock._server.files import warn_of_readable
from kn_sock._server.listening import ExposureWarning
from kn_sock._server.signals import Signals
from kn_sock.testing import MemoryReactor


def pem(days: int) -> bytes:
    """Make a certificate, which expires in so many days, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=10))
        .not_valid_after(now + datetime.timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    path = tmp_path / "server.pem"
    path.write_bytes(pem(30))
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(("mode", "count"), [(0o600, 0), (0o640, 0), (0o644, 1), (0o604, 1)])
def test_a_secret_that_others_can_read_is_warned_of(
    tmp_path: Path, log_events: Any, mode: int, count: int
) -> None:
    path = tmp_path / "tokens"
    path.write_text("t0ken ada\n")
    path.chmod(mode)
    warn_of_readable(path, "the tokens in")
    warn_of_readable(tmp_path / "absent", "the tokens in")
    lines = log_events.take_lines()
    assert len(lines) == count
    assert all("every user of this machine can read the tokens in" in line for line in lines)


def test_a_key_that_others_can_read_is_warned_of(certificate: Path, log_events: Any) -> None:
    RPCServerFactory({}, reactor=MemoryReactor(), tls_cert=certificate)
    assert log_events.take_lines() == []
    certificate.chmod(0o644)
    RPCServerFactory({}, reactor=MemoryReactor(), tls_cert=certificate)
    (line,) = log_events.take_lines()
    assert "can read the private key in" in line


def test_an_expired_certificate_is_warned_of(certificate: Path, log_events: Any) -> None:
    certificate.write_bytes(pem(-1))
    RPCServerFactory({}, reactor=MemoryReactor(), tls_cert=certificate)
    (line,) = log_events.take_lines()
    assert "has expired" in line


@pytest.mark.parametrize(("mode", "count"), [(0o600, 0), (0o660, 0), (0o666, 1)])
def test_a_unix_socket_that_is_open_to_all_is_warned_of(
    tmp_path: Path, log_events: Any, mode: int, count: int
) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(mode)
        ExposureWarning().consider(UNIXAddress(os.fsencode(path)))
    lines = log_events.take_lines()
    assert len(lines) == count
    assert all(":mode=660" in line for line in lines)
    ExposureWarning().consider(UNIXAddress(None))


def test_certificates_are_read_again_and_stay_if_they_cannot_be(
    certificate: Path, log_events: Any
) -> None:
    factory = RPCServerFactory({}, reactor=MemoryReactor(), tls_cert=certificate)
    signals = Signals([factory], MemoryReactor(), drains_endlessly=False)
    first = factory._around
    certificate.write_bytes(pem(60))
    signals.reload()
    second = factory._around
    assert second is not first
    certificate.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="there is no certificate in PEM form"):
        factory.reload()
    assert factory._around is second
    assert log_events.take_lines() == ["info: reloaded at SIGHUP"]
