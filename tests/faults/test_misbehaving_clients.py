"""Our server, with clients that keep to no rules.

Whatever a client does, nothing is run that was not asked for, others are served meanwhile, and the
next connection is served as if nothing had been.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from kn_sock import ConnectionLost, RPCClient, current_call, in_reactor
from kn_sock._blocking.reactor_thread import reactor_thread
from tests.faults.peers import (
    CALLERS,
    HOST,
    PATIENCE,
    Caller,
    Peer,
    Served,
    ServedService,
    call,
    join,
    tls_client_context,
    wait_until,
)
from tests.io.test_tls import certificate  # noqa: F401  # a fixture

Serve = Callable[..., Served]

# As long a line as the server of these tests takes.
MOST = 10_000
SEND_TIMEOUT = 0.3


class Methods:
    """What the misbehaving call, and what became of it."""

    def __init__(self) -> None:
        self.ran: list[Any] = []
        self.entered = threading.Semaphore(0)
        self.cancelled = threading.Semaphore(0)

    def echo(self, value: Any) -> Any:
        self.ran.append(value)
        return value

    @in_reactor
    def wait(self) -> Deferred[None]:
        """Wait for the cancellation."""
        self.entered.release()
        return Deferred(lambda _: self.cancelled.release())

    def work(self) -> None:
        """Wait for the cancellation, in a thread."""
        self.entered.release()
        call = current_call()
        never = threading.Event()
        while not call.cancelled:
            never.wait(0.01)
        self.cancelled.release()


@pytest.fixture
def methods() -> Methods:
    return Methods()


@pytest.fixture
def server(serve: Serve, methods: Methods) -> Served:
    return serve(methods, max_line_bytes=MOST, send_timeout=SEND_TIMEOUT)


@pytest.fixture
def peer(server: Served) -> Iterator[Peer]:
    peer = join(server.port)
    yield peer
    peer.close()


@pytest.fixture(autouse=True)
def others_are_served(request: Any) -> Iterator[None]:
    """A client that behaves has its results before and after; so has a new one."""
    if "server" not in request.fixturenames:
        yield
        return
    server: Served = request.getfixturevalue("server")
    with RPCClient(HOST, server.port, timeout=PATIENCE) as before:
        assert before.call("rpc.ping") == "pong"
        yield
        assert before.call("rpc.ping") == "pong"
        with RPCClient(HOST, server.port, timeout=PATIENCE) as after:
            assert after.call("rpc.ping") == "pong"


def codes(peer: Peer, count: int) -> list[int]:
    return [peer.message()["error"]["code"] for _ in range(count)]


# --- half, slow, and at the end -------------------------------------------------------------------


def test_half_a_line_and_the_end_runs_nothing(peer: Peer, methods: Methods) -> None:
    peer.send(call(1, "echo", 1) + call(2, "echo", 2)[:-1])
    peer.stop_sending()
    answers = [peer.message() for _ in range(2)]
    assert {answer["id"] for answer in answers} == {1, None}
    assert peer.line() == b""
    assert methods.ran == [1]


def test_half_a_line_and_a_close_runs_nothing(peer: Peer, methods: Methods) -> None:
    peer.send(call(2, "echo", 2)[:-1])
    peer.close()
    assert methods.ran == []


def test_half_a_line_and_a_reset_runs_nothing(peer: Peer, methods: Methods) -> None:
    peer.send(call(2, "echo", 2)[:-1])
    peer.reset()
    assert methods.ran == []


def test_one_byte_at_a_time_is_a_call_like_any_other(peer: Peer) -> None:
    for byte in call(1, "echo", "slow") + call(2, "echo", "slower"):
        peer.send(bytes([byte]))
    assert [peer.message()["result"] for _ in range(2)] == ["slow", "slower"]


@pytest.mark.parametrize("method", ["wait", "work"])
def test_a_reset_cancels_what_was_called(peer: Peer, methods: Methods, method: str) -> None:
    peer.send(call(1, method))
    assert methods.entered.acquire(timeout=PATIENCE)
    peer.reset()
    assert methods.cancelled.acquire(timeout=PATIENCE)


def test_a_reset_is_noticed_although_nothing_more_is_read(serve: Serve, methods: Methods) -> None:
    peer = join(serve(methods, max_pending=2).port)
    # Past twice as many nothing is read; the reset comes behind what waits to be read.
    peer.send(b"".join(call(number, "wait") for number in range(200)))
    for _ in range(2):
        assert methods.entered.acquire(timeout=PATIENCE)
    peer.reset()
    for _ in range(2):
        assert methods.cancelled.acquire(timeout=PATIENCE)
    assert not methods.entered.acquire(blocking=False)


@pytest.mark.parametrize("method", ["wait", "work"])
@pytest.mark.parametrize("caller", CALLERS)
def test_a_client_of_ours_that_is_closed_has_its_calls_cancelled(
    server: Served, methods: Methods, method: str, caller: type[Caller]
) -> None:
    """To the server a close looks like the end of the requests, so the client says more."""
    client = caller(server.port)
    with ThreadPoolExecutor(1) as pool:
        calling = pool.submit(client.call, PATIENCE, method)
        assert methods.entered.acquire(timeout=PATIENCE)
        client.close()
        problem = calling.exception(PATIENCE)
    assert isinstance(problem, ConnectionLost)
    assert problem.maybe_executed
    assert methods.cancelled.acquire(timeout=PATIENCE)


@pytest.mark.parametrize("leave", [Peer.close, Peer.reset])
def test_a_client_that_leaves_at_once_harms_nobody(
    server: Served, leave: Callable[[Peer], None]
) -> None:
    for number in range(50):
        peer = join(server.port)
        if number % 2:
            peer.send(call(1, "echo", number))
        leave(peer)


def test_a_client_that_leaves_its_replies_unread_harms_nobody(
    server: Served, methods: Methods
) -> None:
    peer = join(server.port)
    peer.send(b"".join(call(number, "echo", "x" * 5000) for number in range(200)))
    peer.line()
    peer.close()
    assert len(methods.ran) > 0


def test_a_client_that_never_reads_is_given_up(server: Served) -> None:
    """It sends for as long as it can: nothing of that is kept without bound either."""
    peer = join(server.port)
    lines = b"".join(call(number, "echo", "x" * 5000) for number in range(200))
    with pytest.raises(ConnectionError):
        send_for_ever(peer, lines)
    peer.close()


def send_for_ever(peer: Peer, data: bytes) -> None:
    while True:
        peer.send(data)


# --- lines that are none --------------------------------------------------------------------------


def test_garbage_is_answered_line_by_line(peer: Peer, methods: Methods) -> None:
    peer.send(b"\x00\xff\xfe garbage }{][ \r\r\n\n\n%\n" + call(1, "echo", 1))
    assert sorted(codes(peer, 2)) == [-32700, -32700]
    assert peer.message()["result"] == 1


def test_an_endless_line_is_answered_once_and_skipped(peer: Peer, methods: Methods) -> None:
    thread = reactor_thread()
    for _ in range(500):
        peer.send(b"x" * MOST)
    assert codes(peer, 1) == [-32007]
    ours = [
        reader.protocol._reader._framer
        for reader in thread.call(thread.reactor.getReaders)
        if getattr(reader, "server", None) is not None
    ]
    assert ours
    assert all(len(framer._tail) <= MOST + 1 for framer in ours)
    peer.send(b"\n" + call(1, "echo", 1))
    assert peer.message()["result"] == 1


@pytest.mark.parametrize("byte", [b"[", b'{"a":'])
def test_endless_nesting_is_answered(peer: Peer, byte: bytes) -> None:
    peer.send(byte * (MOST // len(byte)) + b"\n" + call(1, "echo", 1))
    assert codes(peer, 1) == [-32700]
    assert peer.message()["result"] == 1


def test_a_result_that_is_nested_as_deeply_as_can_be_read_is_answered(peer: Peer) -> None:
    nested = b"[" * 900 + b"]" * 900
    peer.send(b'{"jsonrpc":"2.0","id":1,"method":"echo","params":[%b]}\n' % nested)
    answer = peer.message()
    assert "result" in answer or answer["error"]["code"] in (-32700, -32603)


def test_a_reply_to_nothing_is_ignored_and_the_calls_in_flight_are_answered(
    peer: Peer, methods: Methods
) -> None:
    peer.send(b'{"jsonrpc":"2.0","id":1,"result":1}\n' + call(1, "echo", 1))
    assert peer.message()["result"] == 1


@pytest.mark.parametrize(
    "line", [b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n"]
)
def test_http_ends_the_connection(peer: Peer, methods: Methods, line: bytes) -> None:
    peer.send(line + call(1, "echo", 1))
    peer.wait_for_end()
    assert methods.ran == []


def test_tls_at_a_port_without_runs_nothing(server: Served, methods: Methods) -> None:
    with socket.create_connection((HOST, server.port), timeout=PATIENCE) as plain:
        plain.settimeout(1.0)
        with pytest.raises(OSError):
            ssl.create_default_context().wrap_socket(plain, server_hostname="localhost")
    assert methods.ran == []


# --- ids ------------------------------------------------------------------------------------------


def test_the_same_id_twice_at_once_is_answered_twice(peer: Peer) -> None:
    peer.send(call(7, "echo", "a") + call(7, "echo", "b"))
    answers = [peer.message() for _ in range(2)]
    assert sorted(answer["result"] for answer in answers) == ["a", "b"]
    assert [answer["id"] for answer in answers] == [7, 7]


def test_a_cancellation_of_what_never_was_is_ignored(peer: Peer) -> None:
    for value in (1, "x", None, True, [1], {"id": 1}, 1.5, 10**400):
        cancel = {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": value}}
        peer.send(json.dumps(cancel).encode() + b"\n")
    peer.send(call(1, "echo", 1))
    assert peer.message()["result"] == 1


def test_the_id_of_a_call_of_another_connection_cancels_nothing(
    server: Served, peer: Peer, methods: Methods
) -> None:
    other = join(server.port)
    other.send(call(1, "wait"))
    assert methods.entered.acquire(timeout=PATIENCE)
    peer.send(b'{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}\n')
    peer.send(call(2, "rpc.ping"))
    assert peer.message()["result"] == "pong"
    assert not methods.cancelled.acquire(blocking=False)
    other.reset()
    assert methods.cancelled.acquire(timeout=PATIENCE)


# --- TLS ------------------------------------------------------------------------------------------


@pytest.fixture
def tls_server(
    certificate: Path,  # noqa: F811  # a fixture
    methods: Methods,
    nothing_is_left: None,
) -> Iterator[ServedService]:
    files = f"privateKey={certificate}/server.key:certKey={certificate}/cert.pem"
    endpoint = f"ssl:0:interface={HOST}:{files}"
    server = ServedService(methods, endpoint=endpoint, max_pending=2)
    yield server
    with RPCClient.from_endpoint(
        f"tls:localhost:{server.port}:trustRoots={certificate}", timeout=PATIENCE
    ) as after:
        assert after.call("rpc.ping") == "pong"
    server.stop()


def client_hello() -> bytes:
    outgoing = ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(
        ssl.MemoryBIO(), outgoing, server_hostname="localhost"
    )
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def send_tls(peer: Peer, certificate: Path, data: bytes) -> None:  # noqa: F811  # no fixture here
    """Do the handshake, and send this."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = tls_client_context(certificate).wrap_bio(incoming, outgoing, server_hostname="localhost")
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            peer.send(outgoing.read())
            incoming.write(peer.socket.recv(65536))
        else:
            break
    tls.write(data)
    peer.send(outgoing.read())


@pytest.mark.parametrize("leave", [Peer.close, Peer.reset])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_tls_that_is_cut_in_the_middle_of_the_handshake(
    tls_server: ServedService, share: float, leave: Callable[[Peer], None]
) -> None:
    peer = join(tls_server.port)
    hello = client_hello()
    peer.send(hello[: int(len(hello) * share)])
    if share == 1.0:
        assert peer.socket.recv(5)[0] == 0x16
    leave(peer)
    wait_until(lambda: not tls_server.connections())


@pytest.mark.parametrize("leave", [Peer.close, Peer.reset])
def test_tls_that_is_cut_without_close_notify(
    tls_server: ServedService,
    certificate: Path,  # noqa: F811  # a fixture
    methods: Methods,
    leave: Callable[[Peer], None],
) -> None:
    plain = join(tls_server.port)
    send_tls(plain, certificate, call(1, "wait"))
    assert methods.entered.acquire(timeout=PATIENCE)
    leave(plain)
    assert methods.cancelled.acquire(timeout=PATIENCE)
    wait_until(lambda: not tls_server.connections())


def test_a_reset_of_tls_is_noticed_although_nothing_more_is_read(
    tls_server: ServedService,
    certificate: Path,  # noqa: F811  # a fixture
    methods: Methods,
) -> None:
    plain = join(tls_server.port)
    send_tls(plain, certificate, b"".join(call(number, "wait") for number in range(200)))
    for _ in range(2):
        assert methods.entered.acquire(timeout=PATIENCE)
    plain.reset()
    wait_until(lambda: not tls_server.connections())


def test_what_is_no_tls_at_a_port_with_it_runs_nothing(
    tls_server: ServedService, methods: Methods
) -> None:
    peer = join(tls_server.port)
    peer.send(call(1, "echo", 1))
    peer.wait_for_end()
    peer.close()
    assert methods.ran == []
