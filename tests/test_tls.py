"""TLS at both ends, by endpoint strings, over real sockets on loopback."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.threads import deferToThread

from kn_sock import (
    ConnectFailed,
    RPCClient,
    RPCServerService,
    connect,
    current_call,
    in_reactor,
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a key and a certificate for localhost, that signs itself."""
    directory = tmp_path_factory.mktemp("certificate")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    day = datetime.timedelta(days=1)
    now = datetime.datetime.now(datetime.timezone.utc)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (directory / "server.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    (directory / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    return directory


def add(a: Any, b: Any) -> Any:
    return a + b


@in_reactor
def certified() -> bool:
    return current_call().peer_certificate is not None


@pytest_twisted.async_yield_fixture
async def service(certificate: Path) -> AsyncIterator[RPCServerService]:
    files = f"privateKey={certificate}/server.key:certKey={certificate}/cert.pem"
    description = f"ssl:0:interface=127.0.0.1:{files}"
    service = RPCServerService(description, {"add": add, "certified": certified})
    service.startService()
    yield service
    await service.stopService()


@pytest.fixture
def client_endpoint(service: RPCServerService, certificate: Path) -> str:
    assert service.port is not None
    port = service.port.getHost().port  # type: ignore[attr-defined]  # a TCP address has one
    return f"tls:localhost:{port}:trustRoots={certificate}"


@pytest_twisted.ensureDeferred
async def test_a_twisted_client_calls_over_tls(client_endpoint: str) -> None:
    connection = await connect(client_endpoint)
    assert await connection.call("add", 1, 2) == 3
    assert await connection.call("certified") is False
    big = "x" * 2_000_000
    assert await connection.call("add", big, "y") == big + "y"
    await connection.close()


@pytest_twisted.ensureDeferred
async def test_a_blocking_client_calls_over_tls(client_endpoint: str) -> None:
    def use() -> None:
        with RPCClient.from_endpoint(client_endpoint) as client:
            assert client.call("add", 1, 2) == 3
            big = "x" * 2_000_000
            assert client.call("add", big, "y") == big + "y"
            assert list(client.map("add", range(500), range(500))) == [2 * n for n in range(500)]

    await deferToThread(use)


@pytest_twisted.ensureDeferred
async def test_a_certificate_that_is_not_trusted_is_a_connection_that_failed(
    client_endpoint: str,
) -> None:
    untrusted = client_endpoint.partition(":trustRoots")[0]
    with pytest.raises(ConnectFailed, match=r"certificate verify failed; .* trustRoots=") as caught:
        await connect(untrusted)
    assert type(caught.value.__cause__).__name__ == "Error"
    assert caught.value.maybe_executed is False


@pytest_twisted.ensureDeferred
async def test_calls_under_way_are_drained_over_tls(
    service: RPCServerService, client_endpoint: str
) -> None:
    connection = await connect(client_endpoint)
    calling = connection.call("add", "x" * 500_000, "y")
    await connection.call("rpc.ping")
    await service.stopService()
    assert len(await calling) == 500_001
