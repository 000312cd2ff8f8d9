"""What a client is told to connect to, and what it says when it cannot."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint

from kn_sock import (
    ConnectFailed,
    ConnectRefused,
    RPCClient,
    RPCServerService,
    SocketNotFound,
    connect,
    in_reactor,
)
from kn_sock._blocking.reactor_thread import ReactorThread
from kn_sock._client.endpoints import endpoint_for
from kn_sock._io.transport import place_of


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a server, run by the tests' reactor."""
    service = RPCServerService(
        "tcp:0:interface=127.0.0.1", {"ping": in_reactor(lambda: "pong")}, reactor=reactor
    )
    service.startService()
    yield pytest_twisted.blockon(service.listen()).getHost().port
    pytest_twisted.blockon(service.stopService())


@pytest.mark.parametrize(
    ("written", "place"),
    [
        ("tcp:localhost:8080", "localhost:8080"),
        ("localhost:8080", "localhost:8080"),
        ("tcp://localhost:8080", "localhost:8080"),
        (" localhost:8080\n", "localhost:8080"),
        ("tcp:127.0.0.1:8080", "127.0.0.1:8080"),
        ("127.0.0.1:8080", "127.0.0.1:8080"),
        ("tcp:[::1]:8080", "[::1]:8080"),
        ("[::1]:8080", "[::1]:8080"),
        ("tcp://[::1]:8080", "[::1]:8080"),
        ("tcp:\\:\\:1:8080", "[::1]:8080"),
        ("tls://example.com:8443", "example.com:8443"),
        ("unix:/run/app.sock", "/run/app.sock"),
        ("unix:///run/app.sock", "/run/app.sock"),
    ],
)
def test_an_endpoint_may_be_written_as_others_write_it(written: str, place: str) -> None:
    assert place_of(endpoint_for(written, reactor)) == place


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("tcp:8080", "one is tcp:localhost:8080"),
        ("http://localhost:8080", "one is tcp:localhost:8080"),
        ("", "one is tcp:localhost:8080"),
        ("tcp:a..b:80", "'a..b' can be no host"),
        ("unix:/tmp/" + "x" * 200, "at most 10[37] bytes, not 205"),
        ("tls:localhost:1:trustRoots=/etc/hostname", "has to be a directory with certificates"),
    ],
)
def test_what_is_no_endpoint_is_refused_with_what_to_write(written: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        endpoint_for(written, reactor)


def test_the_path_of_an_endpoint_that_was_made_is_checked_too() -> None:
    with pytest.raises(ValueError, match="the path of a Unix socket has at most"):
        endpoint_for(UNIXClientEndpoint(reactor, "/tmp/" + "x" * 200), reactor)


@pytest.mark.parametrize("host", [" localhost\n", "127.0.0.1 "])
def test_white_space_around_a_host_is_ignored(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        RPCClient(host, listener.getsockname()[1]).close()


@pytest_twisted.ensureDeferred
async def test_connect_takes_a_host_and_a_port_as_well(port: int) -> None:
    connection = await connect("127.0.0.1", port)
    assert await connection.call("ping") == "pong"
    await connection.close()


def test_a_unix_socket_that_is_not_there_is_a_file_not_found(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with pytest.raises(FileNotFoundError) as caught:
        RPCClient.from_endpoint(f"unix:{path}")
    assert isinstance(caught.value, SocketNotFound)
    assert f"cannot connect to {path}: there is no such socket" in str(caught.value)


def test_a_name_that_takes_too_long_is_not_said_to_give_no_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    is_over = threading.Event()
    plain = socket.getaddrinfo

    def hangs(host: Any, *arguments: Any) -> Any:
        if host == "hangs.example":
            is_over.wait(30)
        return plain("localhost" if "example" in host else host, *arguments)

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    thread = ReactorThread()
    try:
        monkeypatch.setattr("kn_sock.blocking.reactor_thread", lambda: thread)
        for _ in range(15):
            with pytest.raises(ConnectFailed, match=r"the name was not resolved within 0\.0\d* s"):
                RPCClient("hangs.example", 1, connect_timeout=0.01)
        # Another name has a thread all the same.
        with pytest.raises(ConnectRefused):
            RPCClient("other.example", 1, connect_timeout=20)
    finally:
        is_over.set()
        thread.stop()


@pytest_twisted.ensureDeferred
async def test_a_connection_to_itself_is_a_refused_one() -> None:
    """A port in the range that the system takes for clients, tried again and again."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port, bindAddress=("127.0.0.1", port))
    with pytest.raises(ConnectRefused, match="is the server running"):
        await connect(endpoint)
    with socket.create_server(("127.0.0.1", port)):
        pass


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts in /proc")
def test_a_thread_that_cannot_start_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Any) -> None:
        raise RuntimeError("can't start new thread")

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fails)
        for _ in range(3):
            with pytest.raises(RuntimeError, match="can't start new thread"):
                ReactorThread()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def own_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[ReactorThread]:
    """A background reactor for one test."""
    thread = ReactorThread()
    monkeypatch.setattr("kn_sock.blocking.reactor_thread", lambda: thread)
    yield thread
    thread.stop()


def test_a_lookup_that_raises_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, own_thread: ReactorThread
) -> None:
    def raises(*_: Any) -> None:
        raise RuntimeError("the resolver is broken")

    monkeypatch.setattr(socket, "getaddrinfo", raises)
    with pytest.raises(ConnectFailed, match="could not be looked up: the resolver is broken"):
        RPCClient("somewhere.example", 1, connect_timeout=None)


def test_a_lookup_without_a_thread_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, own_thread: ReactorThread, logged_errors: Any
) -> None:
    def fails(_: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fails)
        with pytest.raises(ConnectFailed, match=r"could not be looked up: can't start new thread"):
            RPCClient("somewhere.example", 1, connect_timeout=None)
    with pytest.raises(ConnectFailed, match=r"there is no host 'somewhere\.invalid'"):
        RPCClient("somewhere.invalid", 1, connect_timeout=20)
    # Twisted's pool joins the thread that did not start, too.
    own_thread.stop()
    logged_errors.claim()
