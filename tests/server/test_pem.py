"""TLS out of PEM files, with certificates of clients and without, over real sockets on loopback."""

from __future__ import annotations

import datetime
import errno
import ipaddress
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.cred.portal import Portal
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.ssl import CertificateOptions
from twisted.internet.threads import deferToThread
from twisted.logger import ILogObserver, formatEvent, globalLogPublisher
from zope.interface import implementer

from kn_sock import (
    ConnectFailed,
    ConnectionLost,
    RPCClient,
    RPCError,
    RPCServerFactory,
    RPCServerService,
    connect,
    current_call,
    in_reactor,
    in_thread,
    start_rpc_server,
)
from kn_sock.auth import MethodsRealm, TokenChecker

PATIENCE = 20.0

Key = ec.EllipticCurvePrivateKey


def signed(name: str, key: Key, issuer: str, issuer_key: Key, *, is_ca: bool = False) -> bytes:
    """Make a certificate for localhost, in PEM form."""

    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    day = datetime.timedelta(days=1)
    now = datetime.datetime.now(datetime.timezone.utc)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .sign(issuer_key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def pem_of(key: Key, password: bytes | None = None) -> bytes:
    hidden: Any = serialization.NoEncryption()
    if password is not None:
        hidden = serialization.BestAvailableEncryption(password)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a CA, and what it and another one have signed."""
    directory = tmp_path_factory.mktemp("files")
    keys = {
        name: ec.generate_private_key(ec.SECP256R1())
        for name in ("ca", "between", "server", "ada", "eve-ca", "eve")
    }
    certificates = {
        "ca": signed("Our CA", keys["ca"], "Our CA", keys["ca"], is_ca=True),
        "eve-ca": signed("Eve's CA", keys["eve-ca"], "Eve's CA", keys["eve-ca"], is_ca=True),
        "between": signed("Between", keys["between"], "Our CA", keys["ca"], is_ca=True),
        "server": signed("localhost", keys["server"], "Our CA", keys["ca"]),
        "ada": signed("ada", keys["ada"], "Our CA", keys["ca"]),
        "eve": signed("eve", keys["eve"], "Eve's CA", keys["eve-ca"]),
    }
    for name, certificate in certificates.items():
        (directory / f"{name}.crt").write_bytes(certificate)
        (directory / f"{name}.key").write_bytes(pem_of(keys[name]))
    chained = signed("localhost", keys["server"], "Between", keys["between"])
    both = chained + certificates["between"]
    (directory / "chain.crt").write_bytes(both)
    (directory / "both.pem").write_bytes(b"Some text before.\n" + pem_of(keys["server"]) + both)
    (directory / "hidden.key").write_bytes(pem_of(keys["server"], b"sesame"))
    (directory / "cas.crt").write_bytes(certificates["ca"] + certificates["eve-ca"])
    (directory / "text.crt").write_text("Nothing of the kind.\n")
    (directory / "torn.crt").write_bytes(
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    )
    (directory / "torn.key").write_bytes(
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    )
    # Where Twisted's client endpoint looks for those that it trusts.
    (directory / "trusted").mkdir()
    (directory / "trusted" / "ca.pem").write_bytes(certificates["ca"])
    return directory


ran: list[str] = []


@in_reactor
def subject() -> str | None:
    ran.append("subject")
    certificate = current_call().peer_certificate
    if certificate is None:
        return None
    names = certificate.to_cryptography().subject
    return str(names.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)


@in_thread
def subject_in_thread() -> str | None:
    return subject()


def who() -> str | None:
    return current_call().identity


FUNCS = {"subject": subject, "subject_in_thread": subject_in_thread, "who": who}


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    ran.clear()


@implementer(ILogObserver)
class Lines:
    """What is logged, as lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, event: Any) -> None:
        self.lines.append(formatEvent(event))


@pytest.fixture
def logged() -> Iterator[list[str]]:
    observer = Lines()
    globalLogPublisher.addObserver(observer)
    yield observer.lines
    globalLogPublisher.removeObserver(observer)


MakeService = Callable[..., RPCServerService]


@pytest_twisted.async_yield_fixture
async def make_service(files: Path) -> Any:
    services: list[RPCServerService] = []

    def make(endpoint: str = "tcp:0:interface=127.0.0.1", **options: Any) -> RPCServerService:
        given = {name: files / value for name, value in options.items() if name.startswith("tls_")}
        service = RPCServerService(endpoint, FUNCS, **{**options, **given})
        services.append(service)
        service.startService()
        return service

    yield make
    for service in services:
        await service.stopService()


def client_endpoint(service: RPCServerService, files: Path, name: str | None = None) -> str:
    assert service.port is not None
    port = service.port.getHost().port  # type: ignore[attr-defined]  # a TCP address has one
    endpoint = f"tls:localhost:{port}:trustRoots={files}/trusted"
    if name is None:
        return endpoint
    return f"{endpoint}:certificate={files}/{name}.crt:privateKey={files}/{name}.key"


# --- serving --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"tls_cert": "server.crt", "tls_key": "server.key"},
        {"tls_cert": "chain.crt", "tls_key": "server.key"},
        {"tls_cert": "both.pem"},
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_port_speaks_tls(
    make_service: MakeService, files: Path, options: dict[str, str]
) -> None:
    service = make_service(**options)
    connection = await connect(client_endpoint(service, files))
    assert await connection.call("subject") is None
    await connection.close()


@pytest_twisted.ensureDeferred
async def test_a_method_sees_the_certificate_of_its_caller(
    make_service: MakeService, files: Path
) -> None:
    service = make_service(tls_cert="server.crt", tls_key="server.key", tls_client_ca="ca.crt")
    connection = await connect(client_endpoint(service, files, "ada"))
    assert await connection.call("subject") == "ada"
    assert await connection.call("subject_in_thread") == "ada"
    await connection.close()


@pytest_twisted.ensureDeferred
async def test_several_cas_may_sign_for_clients(make_service: MakeService, files: Path) -> None:
    service = make_service(tls_cert="server.crt", tls_key="server.key", tls_client_ca="cas.crt")
    for name in ("ada", "eve"):
        connection = await connect(client_endpoint(service, files, name))
        assert await connection.call("subject") == name
        await connection.close()


async def closed(connecting: Any) -> None:
    """Expect that no call gets through: TLS 1.3 tells a client of it after its own handshake."""
    try:
        connection = await connecting
    except ConnectFailed:
        return
    with pytest.raises(ConnectionLost):
        await connection.call("subject")
    await connection.close()


@pytest.mark.parametrize("name", [None, "eve"])
@pytest_twisted.ensureDeferred
async def test_a_client_without_a_good_certificate_runs_nothing(
    make_service: MakeService, files: Path, logged: list[str], name: str | None
) -> None:
    service = make_service(tls_cert="server.crt", tls_key="server.key", tls_client_ca="ca.crt")
    await closed(connect(client_endpoint(service, files, name)))
    assert ran == []
    assert service.port is not None
    port = service.port.getHost().port  # type: ignore[attr-defined]  # a TCP address has one
    # The client, in the same process, may log that the server broke it off.
    (line,) = [line for line in logged if "TLS failed" in line and f":{port}:" not in line]
    assert "certificate" in line
    assert not service.factory.connections


@pytest_twisted.ensureDeferred
async def test_a_plain_client_at_a_port_that_speaks_tls_runs_nothing(
    make_service: MakeService, files: Path, logged: list[str]
) -> None:
    service = make_service(tls_cert="server.crt", tls_key="server.key")
    assert service.port is not None
    port = service.port.getHost().port  # type: ignore[attr-defined]  # a TCP address has one
    await closed(connect(f"tcp:localhost:{port}"))
    assert ran == []
    assert [line for line in logged if "TLS failed" in line]


@pytest_twisted.ensureDeferred
async def test_a_tls_client_at_a_plain_port_is_closed_at_once(
    make_service: MakeService, files: Path, logged: list[str]
) -> None:
    service = make_service()
    with pytest.raises(ConnectFailed):
        await connect(client_endpoint(service, files))
    (line,) = [line for line in logged if "speaks" in line]
    assert line.endswith("speaks TLS: closed, nothing was run")


@pytest_twisted.ensureDeferred
async def test_a_factory_speaks_tls_wherever_it_listens(files: Path) -> None:
    from twisted.internet import reactor

    factory = RPCServerFactory(
        FUNCS, tls_cert=str(files / "server.crt"), tls_key=str(files / "server.key")
    )
    endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
    port = await endpoint.listen(factory)
    connection = await connect(f"tls:localhost:{port.getHost().port}:trustRoots={files}/trusted")
    assert await connection.call("subject") is None
    await port.stopListening()
    await factory.drain()
    with pytest.raises(ConnectionLost):
        await connection.call("subject")


@pytest_twisted.ensureDeferred
async def test_a_connection_too_many_is_refused_over_tls(
    make_service: MakeService, files: Path
) -> None:
    service = make_service(tls_cert="server.crt", tls_key="server.key", max_connections=1)
    connection = await connect(client_endpoint(service, files))
    with pytest.raises((ConnectFailed, ConnectionLost, RPCError)):
        await (await connect(client_endpoint(service, files))).call("subject")
    assert ran == []
    assert await connection.call("subject") is None
    await connection.close()


@pytest_twisted.ensureDeferred
async def test_a_login_goes_over_tls(make_service: MakeService, files: Path) -> None:
    portal = Portal(MethodsRealm(), [TokenChecker({"sesame": "ada"})])
    service = make_service(portal=portal, tls_cert="server.crt", tls_key="server.key")
    connection = await connect(client_endpoint(service, files), credentials="sesame")
    assert await connection.call("who") == "ada"
    await connection.close()


@pytest_twisted.ensureDeferred
async def test_scripts_have_mutual_tls_too(files: Path) -> None:
    ends, ready = threading.Event(), threading.Event()
    ports: list[int] = []

    def on_ready(host: str, port: int) -> None:
        ports.append(port)
        ready.set()

    def serve() -> None:
        start_rpc_server(
            0,
            FUNCS,
            shutdown_event=ends,
            on_ready=on_ready,
            tls_cert=files / "server.crt",
            tls_key=files / "server.key",
            tls_client_ca=files / "ca.crt",
        )

    def use() -> None:
        assert ready.wait(PATIENCE)
        endpoint = f"tls:localhost:{ports[0]}:trustRoots={files}/trusted"
        shown = f":certificate={files}/ada.crt:privateKey={files}/ada.key"
        try:
            with RPCClient.from_endpoint(endpoint + shown) as client:
                assert client.call("subject") == "ada"
            with pytest.raises((ConnectFailed, ConnectionLost)):
                RPCClient.from_endpoint(endpoint).call("subject")
        finally:
            ends.set()

    serving = deferToThread(serve)
    await deferToThread(use)
    await serving
    assert ran == ["subject"]


# --- what is wrong with the files -----------------------------------------------------------------


def test_a_system_that_does_not_let_tls_be_set_up_is_not_the_keys_fault(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise MemoryError("cannot allocate write+execute memory")

    monkeypatch.setattr(CertificateOptions, "getContext", fail)
    with pytest.raises(ValueError, match=r"^tls_cert: TLS cannot be set up: MemoryError: .*write"):
        RPCServerFactory({}, tls_cert=files / "server.crt", tls_key=files / "server.key")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tls_key": "server.key"}, ["tls_key requires tls_cert"]),
        ({"tls_client_ca": "ca.crt"}, ["tls_client_ca requires tls_cert"]),
        ({"tls_cert": "server.crt"}, ["tls_cert: there is no private key", "server.crt"]),
        ({"tls_cert": "server.key"}, ["tls_cert: there is no certificate", "server.key"]),
        ({"tls_cert": "text.crt"}, ["tls_cert: there is no certificate", "text.crt"]),
        ({"tls_cert": "torn.crt"}, ["tls_cert: a certificate in", "torn.crt", "cannot be read"]),
        ({"tls_key": "text.crt"}, ["tls_key: there is no private key", "text.crt"]),
        ({"tls_key": "torn.key"}, ["tls_key: the private key in", "cannot be read"]),
        ({"tls_key": "hidden.key"}, ["tls_key: the key in", "is encrypted"]),
        ({"tls_key": "ada.key"}, ["ada.key does not fit the certificate in", "server.crt"]),
        ({"tls_client_ca": "text.crt"}, ["tls_client_ca: there is no certificate", "text.crt"]),
        ({"tls_client_ca": "server.key"}, ["tls_client_ca: there is no certificate"]),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_named(
    files: Path, options: dict[str, str], words: list[str]
) -> None:
    if "requires" not in words[0]:
        first = {"tls_cert": "server.crt"}
        others = {} if "tls_cert" in options else {"tls_key": "server.key"}
        options = {**first, **others, **options}
    given: Any = {name: files / value for name, value in options.items()}
    with pytest.raises(ValueError, match=words[0]) as caught:
        RPCServerFactory(FUNCS, **given)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("name", ["tls_cert", "tls_key", "tls_client_ca"])
def test_a_file_that_is_not_there_is_named(files: Path, name: str) -> None:
    given: Any = {"tls_cert": files / "server.crt", "tls_key": files / "server.key"}
    given[name] = files / "nowhere.pem"
    with pytest.raises(FileNotFoundError, match=name) as caught:
        RPCServerFactory(FUNCS, **given)
    assert caught.value.errno == errno.ENOENT
    assert caught.value.filename == str(files / "nowhere.pem")


def test_without_pyopenssl_it_is_said_what_to_install(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "twisted.internet.ssl", None)
    monkeypatch.delattr("twisted.internet.ssl", raising=False)
    with pytest.raises(ValueError, match=r"pip install 'twisted\[tls\]'"):
        RPCServerFactory(FUNCS, tls_cert=files / "server.crt", tls_key=files / "server.key")


@pytest.mark.parametrize(
    "description", ["ssl:0:privateKey={0}/both.pem:certKey={0}/both.pem", "tls:{0}:0"]
)
def test_tls_is_not_put_around_tls(files: Path, description: str) -> None:
    endpoint = description.format(files)
    with pytest.raises(ValueError, match="has TLS of its own"):
        RPCServerService(endpoint, FUNCS, tls_cert=files / "both.pem")
