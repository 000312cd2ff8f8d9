"""Where a server listens: sockets that a service manager gives it, and behind a proxy's header."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    AdoptedStreamServerEndpoint,
    connectProtocol,
    serverFromString,
)
from twisted.internet.endpoints import TCP4ClientEndpoint as ClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactor
from twisted.protocols.basic import LineOnlyReceiver
from typing_extensions import override

from kn_sock import RPCServerService, current_call, in_reactor
from kn_sock._server.listening import LISTEN_BACKLOG, endpoint_for

PATIENCE = 60.0

# What a service manager does before it starts a server.
GIVEN = """
import os, sys
os.dup2(int(sys.argv.pop(1)), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="rpc", LISTEN_PID=str(os.getpid()))
from twisted.scripts.twistd import run
run()
"""

PING = b'{"jsonrpc":"2.0","id":1,"method":"rpc.ping"}\n'
PONG = b'{"jsonrpc":"2.0","id":1,"result":"pong"}\n'


def start(given: socket.socket, port: str) -> subprocess.Popen[str]:
    top = str(Path(__file__).resolve().parents[2])
    options = ["-n", "--pidfile=", "knsock", "--port", port, "--funcs", "posixpath"]
    return subprocess.Popen(
        [sys.executable, "-c", GIVEN, str(given.fileno()), *options],
        env={**os.environ, "PYTHONPATH": top},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        pass_fds=[given.fileno()],
    )


def ask(given: socket.socket) -> socket.socket:
    asking = socket.create_connection(given.getsockname(), PATIENCE)
    asking.sendall(PING)
    return asking


def answer(asking: socket.socket) -> bytes:
    with asking, asking.makefile("rb") as replies:
        return replies.readline()


@pytest.mark.parametrize("place", ["index=0", "name=rpc"])
def test_nobody_is_refused_while_servers_follow_each_other_on_a_given_socket(place: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        for _ in range(2):
            # There is no server now: the kernel keeps who comes.
            early = ask(given)
            server = start(given, f"systemd:domain=INET:{place}")
            try:
                assert answer(early) == PONG
                assert answer(ask(given)) == PONG
                server.send_signal(signal.SIGTERM)
                output, _ = server.communicate(timeout=PATIENCE)
            finally:
                server.kill()
                server.communicate()
            assert "Traceback" not in output


@pytest.mark.parametrize("place", ["index=0", "name=rpc"])
def test_a_socket_that_was_not_given_is_told(place: str) -> None:
    with pytest.raises(ValueError, match=r"no such socket was given .* its \.socket unit"):
        endpoint_for(f"systemd:domain=INET:{place}", MemoryReactor())


@pytest_twisted.ensureDeferred
async def test_a_given_unix_socket_is_neither_opened_to_everybody_nor_removed(
    tmp_path: Path,
) -> None:
    from twisted.internet import reactor

    path = tmp_path / "app.sock"
    with socket.socket(socket.AF_UNIX) as given:
        given.bind(str(path))
        path.chmod(0o600)
        given.listen()
        endpoint = AdoptedStreamServerEndpoint(reactor, given.fileno(), socket.AF_UNIX)
        with pytest.raises(ValueError, match=f"{path} .* unix:PATH:mode=600"):
            RPCServerService(endpoint, {"add": max})
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has Unix sockets without a path")
def test_a_given_unix_socket_without_a_path_is_taken() -> None:
    with socket.socket(socket.AF_UNIX) as given:
        given.bind("")
        endpoint = AdoptedStreamServerEndpoint(MemoryReactor(), given.fileno(), socket.AF_UNIX)
        assert endpoint_for(endpoint, MemoryReactor()) is endpoint


# --- behind a proxy -------------------------------------------------------------------------------


def caller() -> list[Any]:
    call = current_call()
    return [call.peer.host, call.peer.port, call.peer_text]


class Lines(LineOnlyReceiver):
    """The other end: asks once, and waits for a line."""

    delimiter = b"\n"

    def __init__(self) -> None:
        self.line: Deferred[bytes] = Deferred()

    @override
    def lineReceived(self, line: bytes) -> None:
        self.line.callback(line)


@pytest_twisted.ensureDeferred
async def test_behind_a_proxy_the_peer_is_whom_its_header_names() -> None:
    from twisted.internet import reactor

    service = RPCServerService(
        "haproxy:tcp:0:interface=127.0.0.1", {"caller": in_reactor(caller), "in_thread": caller}
    )
    service.startService()
    assert service.port is not None
    port = service.port.getHost().port  # type: ignore[attr-defined]  # a TCP address has one
    for method in ("caller", "in_thread"):
        endpoint = ClientEndpoint(reactor, "127.0.0.1", port)
        client = await connectProtocol(endpoint, Lines())
        client.transport.write(
            b"PROXY TCP4 203.0.113.7 127.0.0.1 5555 8080\r\n"
            b'{"jsonrpc":"2.0","id":1,"method":"%s"}\n' % method.encode()
        )
        reply = json.loads(await client.line)
        assert reply["result"] == ["203.0.113.7", 5555, "203.0.113.7:5555"]
        client.transport.loseConnection()
    await service.stopService()


@pytest.mark.parametrize("port", ["tcp:80", "haproxy:tcp:80"])
def test_the_kernel_keeps_many_that_come_at_once(port: str) -> None:
    reactor = MemoryReactor()
    endpoint_for(port, reactor).listen(Factory())
    ((_, _, backlog, _),) = reactor.tcpServers
    assert backlog == LISTEN_BACKLOG
    # Left to itself, Twisted has another idea.
    serverFromString(reactor, "tcp:81").listen(Factory())
    assert reactor.tcpServers[1][2] != LISTEN_BACKLOG


@pytest.mark.parametrize("port", ["tcp:65536", "haproxy:tcp:65536"])
def test_a_port_that_cannot_be_is_told(port: str) -> None:
    with pytest.raises(ValueError, match="a port is at most 65535"):
        endpoint_for(port, MemoryReactor())
