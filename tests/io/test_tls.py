"""TLS at both ends, by endpoint strings, over real sockets on loopback."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
import ssl as stdlib_ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet import reactor, ssl
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.task import deferLater
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from kn_sock import (
    ConnectFailed,
    ConnectionLost,
    RPCClient,
    RPCClientService,
    RPCServerFactory,
    RPCServerService,
    connect,
    current_call,
    in_reactor,
)
from kn_sock.client import ClientFactory
from kn_sock.protocol import RPCProtocol
from kn_sock.testing import MemoryNetwork

# Nothing here takes this long; a test that does has hung.
PATIENCE = 20.0


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
async def test_a_certificate_for_another_name_is_a_connection_that_failed(
    client_endpoint: str,
) -> None:
    port = client_endpoint.split(":")[2]
    elsewhere = client_endpoint.replace("localhost", "elsewhere.example", 1)
    with pytest.raises(ConnectFailed, match=r"^cannot connect to .*for another name$"):
        await connect(f"{elsewhere}:endpoint=tcp\\:127.0.0.1\\:{port}")


@pytest_twisted.ensureDeferred
async def test_an_untrusted_certificate_at_a_blocking_client(client_endpoint: str) -> None:
    def use() -> None:
        with pytest.raises(ConnectFailed, match="certificate verify failed"):
            RPCClient.from_endpoint(client_endpoint.partition(":trustRoots")[0])

    await deferToThread(use)


@pytest_twisted.ensureDeferred
async def test_a_service_backs_off_from_a_server_that_it_cannot_trust(
    client_endpoint: str, service: RPCServerService
) -> None:
    asked: list[int] = []
    third: Deferred[None] = Deferred()

    def policy(attempts: int) -> float:
        asked.append(attempts)
        if attempts == 3:
            third.callback(None)
        return 0.0

    untrusted = client_endpoint.partition(":trustRoots")[0]
    client = RPCClientService(untrusted, retry_policy=policy)
    client.startService()
    queued = client.call("add", 1, 2)
    await third
    await client.stopService()
    assert asked == [1, 2, 3]
    with pytest.raises(ConnectionLost) as caught:
        await queued
    assert caught.value.maybe_executed is False


@pytest_twisted.ensureDeferred
async def test_a_server_that_speaks_no_tls_is_named(certificate: Path) -> None:
    plain = RPCServerService("tcp:0:interface=127.0.0.1", {"add": add})
    plain.startService()
    assert plain.port is not None
    port = plain.port.getHost().port  # type: ignore[attr-defined]  # a TCP address has one
    with pytest.raises(ConnectFailed, match=r"the TLS handshake failed: .*speak TLS at this port"):
        await connect(f"tls:localhost:{port}:trustRoots={certificate}")
    await plain.stopService()


class SilentServer:
    """Accepts connections, and says nothing."""

    def __init__(self, certificate: Path) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.endpoint = f"tls:localhost:{self.port}:trustRoots={certificate}"

    def accept(self) -> socket.socket:
        self.listener.settimeout(PATIENCE)
        peer, _ = self.listener.accept()
        peer.settimeout(PATIENCE)
        return peer


@pytest.fixture
def silent(certificate: Path) -> Iterator[SilentServer]:
    server = SilentServer(certificate)
    yield server
    server.listener.close()


@pytest_twisted.ensureDeferred
async def test_a_peer_that_is_silent_at_the_handshake_is_given_up(silent: SilentServer) -> None:
    with pytest.raises(ConnectFailed, match=r"the TLS handshake was not done within 0\.1 s"):
        await connect(silent.endpoint, connect_timeout=0.1)
    # The transport is gone in the next turn.
    await deferLater(reactor, 0)


@pytest_twisted.ensureDeferred
async def test_stopping_before_the_handshake_does_not_wait_for_the_peer(
    silent: SilentServer,
) -> None:
    client = RPCClientService(silent.endpoint)
    client.startService()
    queued = client.call("add", 1, 2)
    peer = await deferToThread(silent.accept)
    assert await deferToThread(peer.recv, 1)
    # Far below the time that a goodbye has.
    await client.stopService().addTimeout(2, reactor)
    with pytest.raises(ConnectionLost) as caught:
        await queued
    assert caught.value.maybe_executed is False
    peer.close()


def test_a_handshake_that_never_ends_is_ended_by_the_server(
    certificate: Path, network: MemoryNetwork
) -> None:
    pem = (certificate / "server.key").read_bytes() + (certificate / "cert.pem").read_bytes()
    options = ssl.PrivateCertificate.loadPEM(pem).options()
    clock = network.reactor
    factory = RPCServerFactory({"add": add}, reactor=clock)
    tls = TLSMemoryBIOFactory(options, False, factory, clock=clock)
    transports = []
    for _ in range(2):
        protocol = tls.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        assert protocol is not None
        transport = StringTransport()
        transports.append(transport)
        protocol.makeConnection(transport)
    assert not factory.connections
    clock.advance(9.9)
    assert not any(transport.disconnected for transport in transports)
    clock.advance(0.2)
    assert all(transport.disconnected for transport in transports)


def test_a_call_before_the_handshake_is_not_written(
    certificate: Path, network: MemoryNetwork
) -> None:
    clock = network.reactor
    factory = ClientFactory(clock)
    tls = TLSMemoryBIOFactory(ssl.optionsForClientTLS("localhost"), True, factory, clock=clock)
    protocol = tls.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
    assert protocol is not None
    protocol.makeConnection(StringTransport())
    inner = protocol.wrappedProtocol
    assert isinstance(inner, RPCProtocol)
    assert not inner.is_open
    failed: list[Any] = []
    for size in (1, 100_000):
        inner.connection.call("add", "x" * size, "y").addErrback(failed.append)
    clock.advance(0)
    protocol.connectionLost(Failure(ConnectionDone()))
    assert [failure.value.maybe_executed for failure in failed] == [False, False]


@pytest_twisted.ensureDeferred
async def test_a_call_before_the_handshake_goes_out_after_it(client_endpoint: str) -> None:
    endpoint = clientFromString(reactor, client_endpoint)
    protocol = await endpoint.connect(ClientFactory(reactor))
    assert isinstance(protocol, RPCProtocol)
    assert not protocol.is_open
    assert await protocol.connection.call("add", 1, 2) == 3
    await protocol.close()


def test_a_server_that_drains_does_not_wait_for_a_handshake(
    certificate: Path, network: MemoryNetwork
) -> None:
    pem = (certificate / "server.key").read_bytes() + (certificate / "cert.pem").read_bytes()
    options = ssl.PrivateCertificate.loadPEM(pem).options()
    clock = network.reactor
    factory = RPCServerFactory({"add": add}, reactor=clock)
    tls = TLSMemoryBIOFactory(options, False, factory, clock=clock)
    protocol = tls.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
    assert protocol is not None
    transport = StringTransport()
    protocol.makeConnection(transport)
    drained = factory.drain()
    assert transport.disconnected
    protocol.connectionLost(Failure(ConnectionAborted()))
    assert drained.called
    assert clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_calls_under_way_are_drained_over_tls(
    service: RPCServerService, client_endpoint: str
) -> None:
    connection = await connect(client_endpoint)
    calling = connection.call("add", "x" * 500_000, "y")
    await connection.call("rpc.ping")
    await service.stopService()
    assert len(await calling) == 500_001


def ask_and_say_goodbye(port: int, count: int) -> int:
    """Call over so many connections, each request and goodbye in one piece; count the replies."""
    context = stdlib_ssl.SSLContext(stdlib_ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = stdlib_ssl.CERT_NONE
    peers = []
    for _ in range(count):
        connected = socket.create_connection(("127.0.0.1", port), timeout=20)
        incoming, outgoing = stdlib_ssl.MemoryBIO(), stdlib_ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing)
        is_secured = False
        while not is_secured:
            try:
                tls.do_handshake()
                is_secured = True
            except stdlib_ssl.SSLWantReadError:
                connected.sendall(outgoing.read())
                incoming.write(connected.recv(65536))
        connected.sendall(outgoing.read())
        peers.append((connected, tls, incoming, outgoing))
    for _, tls, _, _ in peers:
        tls.write(b'{"jsonrpc":"2.0","id":1,"method":"add","params":[1,2]}\n')
        # It waits for the other's goodbye.
        with contextlib.suppress(stdlib_ssl.SSLWantReadError):
            tls.unwrap()
    for connected, _, _, outgoing in peers:
        connected.sendall(outgoing.read())
    replies = 0
    for connected, tls, incoming, _ in peers:
        with connected:
            while data := connected.recv(65536):
                incoming.write(data)
        replies += tls.read(1000) == b'{"jsonrpc":"2.0","id":1,"result":3}\n'
    return replies


@pytest_twisted.ensureDeferred
async def test_many_peers_that_say_goodbye_with_their_request_are_answered(
    certificate: Path,
) -> None:
    files = [certificate / name for name in ("server.key", "cert.pem")]
    pem = b"".join(file.read_bytes() for file in files)
    options = ssl.PrivateCertificate.loadPEM(pem).options()
    any_reactor: Any = reactor
    factory = RPCServerFactory({"add": add}, reactor=reactor, threads=0)
    port = any_reactor.listenSSL(0, factory, options, interface="127.0.0.1")
    try:
        replies = await deferToThread(ask_and_say_goodbye, port.getHost().port, 30)
    finally:
        await port.stopListening()
    assert replies == 30
