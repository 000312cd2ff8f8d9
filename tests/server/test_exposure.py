"""Whom a port is open to: the warning for a public one, and who is at the end of a Unix socket."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.cred.portal import Portal
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.logger import ILogObserver, LogLevel, formatEvent, globalLogPublisher
from zope.interface import implementer

from kn_sock import RPCServerService, connect, current_call, in_reactor
from kn_sock._io.tls import tls_problem
from kn_sock._io.transport import NO_PROCESS, is_public, process_of
from kn_sock.auth import MethodsRealm, TokenChecker
from kn_sock.testing import MemoryNetwork, connected_pair

PATIENCE = 60.0


def add(a: Any, b: Any) -> Any:
    return a + b


@implementer(ILogObserver)
class Warnings:
    """What is logged as a warning, as lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, event: Any) -> None:
        if event["log_level"] is LogLevel.warn:
            self.lines.append(formatEvent(event))


@pytest.fixture
def warned() -> Iterator[list[str]]:
    observer = Warnings()
    globalLogPublisher.addObserver(observer)
    yield observer.lines
    globalLogPublisher.removeObserver(observer)


# --- public ports ---------------------------------------------------------------------------------


def tcp(host: str) -> Any:
    return IPv6Address("TCP", host, 80) if ":" in host else IPv4Address("TCP", host, 80)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (tcp("0.0.0.0"), True),
        (tcp("192.168.1.5"), True),
        (tcp("8.8.8.8"), True),
        (tcp("::"), True),
        (tcp("2001:db8::1"), True),
        (tcp("fe80::1%eth0"), True),
        (tcp("::ffff:10.0.0.1"), True),
        (tcp("127.0.0.1"), False),
        (tcp("127.8.0.1"), False),
        (tcp("::1"), False),
        (tcp("::ffff:127.0.0.1"), False),
        (UNIXAddress("/run/app.sock"), False),
        (object(), False),
    ],
)
def test_what_other_machines_can_reach_is_public(address: Any, expected: bool) -> None:
    assert is_public(address) is expected


def listen(network: MemoryNetwork, host: str, **options: Any) -> RPCServerService:
    network.address = tcp(host)
    service = RPCServerService(network, {"add": add}, reactor=network.reactor, **options)
    service.startService()
    return service


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5"])
def test_a_public_port_without_a_login_is_warned_of(
    network: MemoryNetwork, warned: list[str], host: str
) -> None:
    listen(network, host)
    (line,) = warned
    assert host in line
    for advice in ("127.0.0.1", "Unix socket", "--auth", "--tls-client-ca", "portal="):
        assert advice in line


def test_the_warning_comes_once_however_often_it_listens(
    network: MemoryNetwork, warned: list[str]
) -> None:
    service = listen(network, "0.0.0.0")
    service.stopService()
    service.startService()
    second = RPCServerService(network, {"add": add}, reactor=network.reactor)
    second.exposure = service.exposure
    second.startService()
    assert len(warned) == 1


def test_a_port_of_this_machine_is_not_warned_of(network: MemoryNetwork, warned: list[str]) -> None:
    listen(network, "127.0.0.1")
    assert warned == []


def test_a_public_port_with_a_login_is_not_warned_of(
    network: MemoryNetwork, warned: list[str]
) -> None:
    portal = Portal(MethodsRealm(), [TokenChecker({"sesame": "ada"})])
    listen(network, "0.0.0.0", portal=portal)
    assert warned == []


def test_a_server_that_knows_its_callers_by_certificate_is_not_warned_of(
    network: MemoryNetwork, warned: list[str]
) -> None:
    service = listen(network, "127.0.0.1")
    service.stopService()
    # As tls_client_ca= sets it; there is no TLS in memory.
    service.factory.knows_callers = True
    network.address = tcp("0.0.0.0")
    service.startService()
    assert warned == []


SERVING = """
import threading, kn_sock, kn_sock._server.listening
# As if it were public; nothing here opens such a port.
kn_sock._server.listening.is_public = lambda address: True
ends = threading.Event()
kn_sock.start_rpc_server(0, {"add": max}, shutdown_event=ends, on_ready=lambda *_: ends.set())
"""


def test_the_warning_is_for_the_log_and_not_for_a_scripts_output() -> None:
    top = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-c", SERVING],
        env={**os.environ, "PYTHONPATH": top},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# --- Unix sockets ---------------------------------------------------------------------------------


def peer_process() -> list[int | None]:
    call = current_call()
    return [call.peer_pid, call.peer_uid, call.peer_gid]


on_linux = hasattr(socket, "SO_PEERCRED")


@pytest_twisted.ensureDeferred
async def test_a_unix_socket_has_its_mode_and_tells_who_called(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    funcs = {"here": in_reactor(peer_process), "in_thread": peer_process}
    service = RPCServerService(f"unix:{path}:mode=600", funcs)
    service.startService()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    connection = await connect(f"unix:{path}")
    expected = [os.getpid(), os.getuid(), os.getgid()] if on_linux else [None] * 3
    assert await connection.call("here") == expected
    assert await connection.call("in_thread") == expected
    await connection.close()
    await service.stopService()
    assert not path.exists()


@pytest_twisted.ensureDeferred
async def test_a_unix_socket_that_cannot_be_had_is_an_os_error(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "app.sock"
    service = RPCServerService(f"unix:{path}", {"add": add})
    with pytest.raises(OSError, match=f"cannot listen on {path}: No such file") as caught:
        service.startService()
    assert caught.value.errno == errno.ENOENT


@pytest_twisted.ensureDeferred
async def test_a_unix_socket_that_is_in_use_is_an_os_error(tmp_path: Path) -> None:
    first = RPCServerService(f"unix:{tmp_path}/app.sock", {"add": add})
    first.startService()
    second = RPCServerService(f"unix:{tmp_path}/app.sock", {"add": add})
    with pytest.raises(OSError, match=f"cannot listen on {tmp_path}/app.sock: "):
        second.startService()
    await first.stopService()


@pytest_twisted.ensureDeferred
async def test_a_tcp_connection_tells_no_process() -> None:
    service = RPCServerService("tcp:0:interface=127.0.0.1", {"who": in_reactor(peer_process)})
    service.startService()
    assert service.port is not None
    port = service.port.getHost().port  # type: ignore[attr-defined]  # a TCP address has one
    connection = await connect(f"tcp:127.0.0.1:{port}")
    assert await connection.call("who") == [None, None, None]
    await connection.close()
    await service.stopService()


def test_a_connection_in_memory_tells_no_process(network: MemoryNetwork) -> None:
    pair = connected_pair({"who": peer_process}, network=network)
    outcome: list[Any] = []
    pair.client.call("who").addCallback(outcome.append)
    pair.pump()
    assert outcome == [[None, None, None]]


class FakeTransport:
    """A transport with a socket."""

    def __init__(self, own: socket.socket) -> None:
        self.socket = own


def test_a_socket_that_is_closed_tells_no_process() -> None:
    near, far = socket.socketpair()
    far.close()
    if on_linux:
        assert process_of(FakeTransport(near)).uid == os.getuid()
    near.close()
    assert process_of(FakeTransport(near)) == NO_PROCESS


def test_a_system_that_does_not_tell_tells_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_PEERCRED", raising=False)
    near, far = socket.socketpair()
    with near, far:
        assert process_of(FakeTransport(near)) == NO_PROCESS


class FakeTLSError(Exception):
    """An error as pyOpenSSL's are."""

    __module__ = "OpenSSL.SSL"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (FakeTLSError([("SSL routines", "", "certificate verify failed")]), "certificate verify"),
        (FakeTLSError([("", "", "one"), ("", "", "two")]), "one; two"),
        (FakeTLSError(), "FakeTLSError"),
        (FakeTLSError(-1, "Unexpected EOF"), "Unexpected EOF"),
        (FakeTLSError([]), "FakeTLSError"),
    ],
)
def test_a_problem_of_tls_is_put_in_words(error: Exception, text: str) -> None:
    assert text in str(tls_problem(error))


@pytest.mark.parametrize("error", [None, ConnectionResetError("cut"), ValueError()])
def test_another_problem_is_none_of_tls(error: Exception | None) -> None:
    assert tls_problem(error) is None
