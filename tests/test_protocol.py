"""The protocol against a peer that speaks bytes: what comes in, what goes out, how it ends."""

from __future__ import annotations

import json
import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import (
    FileLogObserver,
    ILogObserver,
    LogLevel,
    formatEvent,
    globalLogPublisher,
)
from zope.interface import implementer

from kn_sock import (
    ConnectionLost,
    ErrorCode,
    RPCError,
    RPCServerFactory,
    connect,
    current_call,
    in_reactor,
)
from kn_sock.testing import ManualExecutor, MemoryNetwork, connected_pair


@implementer(IHalfCloseableProtocol)
class FakePeer(Protocol):
    """A peer that writes what the test says, and keeps what it gets."""

    def __init__(self) -> None:
        self.received = b""
        self.is_closed = False

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Any = None) -> None:
        self.is_closed = True

    def readConnectionLost(self) -> None:
        pass

    def writeConnectionLost(self) -> None:
        pass


class Server:
    """A server in memory, and one peer of it that speaks bytes."""

    def __init__(self, network: MemoryNetwork, funcs: Any, **options: Any) -> None:
        if "executor" not in options:
            options.setdefault("threads", 0)
        self.network = network
        self.factory = RPCServerFactory(funcs, reactor=network.reactor, **options)
        network.listen(self.factory)
        self.peer = self.connect()
        self.wire = network.wires[-1]

    def connect(self) -> FakePeer:
        peers: list[Any] = []
        self.network.connect(Factory.forProtocol(FakePeer)).addCallback(peers.append)
        return peers[0]  # type: ignore[no-any-return]  # a FakePeer, as the factory makes them

    def send(self, data: bytes) -> list[Any]:
        """Send bytes, let everything settle, and give the replies that came since, decoded."""
        self.send_all(data)
        return self.replies()

    def send_all(self, data: bytes) -> None:
        """Send bytes, and let everything settle."""
        self.wire.write(data)
        self.network.pump()

    def replies(self) -> list[Any]:
        received, self.peer.received = self.peer.received, b""
        assert not received or received.endswith(b"\n")
        return [json.loads(line) for line in received.splitlines()]


MakeServer = Callable[..., Server]


@pytest.fixture
def logged_lines() -> Iterator[list[str]]:
    """What is logged as a warning."""
    lines: list[str] = []

    @implementer(ILogObserver)
    class Observer:
        def __call__(self, event: Any) -> None:
            if event["log_level"] is LogLevel.warn:
                lines.append(formatEvent(event))

    observer = Observer()
    globalLogPublisher.addObserver(observer)
    yield lines
    globalLogPublisher.removeObserver(observer)


@pytest.fixture
def make_server(network: MemoryNetwork) -> MakeServer:
    def make(funcs: Any, **options: Any) -> Server:
        return Server(network, funcs, **options)

    return make


def add(a: Any, b: Any) -> Any:
    return a + b


def request(request_id: Any, method: str = "add", params: Any = (1, 2)) -> bytes:
    message = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
    return json.dumps(message).encode() + b"\n"


# --- what comes in --------------------------------------------------------------------------------


def test_replies_to_one_read_leave_in_one_write(make_server: MakeServer) -> None:
    server = make_server({"add": add})
    pieces: list[int] = []
    received = server.peer.dataReceived

    def count(data: bytes) -> None:
        pieces.append(len(data))
        received(data)

    server.peer.dataReceived = count  # type: ignore[method-assign]
    replies = server.send(b"".join(request(n) for n in range(100)))
    assert [reply["id"] for reply in replies] == list(range(100))
    assert len(pieces) == 1


def test_carriage_returns_and_blank_lines_are_ignored(make_server: MakeServer) -> None:
    server = make_server({"add": add})
    data = b"\r\n\n" + request(1)[:-1] + b"\r\n\r\n" + request(2) + b"\n"
    assert [reply["id"] for reply in server.send(data)] == [1, 2]


def test_garbage_is_answered_and_the_connection_lives(make_server: MakeServer) -> None:
    server = make_server({"add": add})
    replies = server.send(b"garbage\n" + request(1))
    assert replies[0]["error"]["code"] == ErrorCode.PARSE_ERROR
    assert replies[0]["id"] is None
    assert replies[1]["result"] == 3


def test_an_over_long_line_is_answered_at_once_and_skipped(make_server: MakeServer) -> None:
    server = make_server({"add": add}, max_line_bytes=1024)
    (reply,) = server.send(b"x" * 5000)
    assert reply["error"]["code"] == ErrorCode.REQUEST_TOO_LONG
    assert server.send(b"y" * 5000) == []
    (reply,) = server.send(b"end of it\n" + request(7))
    assert (reply["id"], reply["result"]) == (7, 3)


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "PUT", "get", "PROPFIND", "Brew"])
def test_a_peer_that_speaks_http_is_closed_before_anything_is_run(
    make_server: MakeServer, method: str
) -> None:
    ran: list[int] = []
    server = make_server({"run": lambda: ran.append(1)})
    body = request(1, "run", [])
    head = f"{method} / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    server.send_all(head.encode() + body)
    assert bytes(server.peer.received).startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert bytes(server.peer.received).endswith(b"JSON-RPC over TCP (kn_sock), and no HTTP.\n")
    assert server.peer.is_closed
    assert ran == []


def test_an_http_request_with_an_over_long_first_line_is_closed_too(
    make_server: MakeServer,
) -> None:
    ran: list[int] = []
    server = make_server({"run": lambda: ran.append(1)}, max_line_bytes=1024)
    server.send_all(b"POST /" + b"a" * 5000 + b" HTTP/1.1\r\n\r\n" + request(1, "run", []))
    assert server.peer.is_closed
    assert ran == []


# A ClientHello as OpenSSL begins it, without a newline in it.
CLIENT_HELLO = bytes.fromhex("16030100f1010000ed0303") + bytes(range(32, 64))


@pytest.mark.parametrize("chunk_bytes", [None, 1])
@pytest.mark.parametrize(
    ("sent", "name"),
    [
        (CLIENT_HELLO, "TLS"),
        (CLIENT_HELLO + b"\n" + request(1, "run", []), "TLS"),
        (bytes.fromhex("15030100020228"), "TLS"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + request(1, "run", []), "HTTP"),
        (b"OPTIONS /", "HTTP"),
        (b"propfind http://" + b"a" * 64, "HTTP"),
        (b"connect localhost:80 HTTP/1.1\r\n", "HTTP"),
        (b"\r\n\n\r\n" * 5 + b"POST /", "HTTP"),
    ],
)
def test_another_protocol_is_known_by_its_first_bytes(
    make_server: MakeServer, logged_lines: list[str], sent: bytes, name: str, chunk_bytes: int
) -> None:
    ran: list[int] = []
    server = make_server({"run": lambda: ran.append(1)})
    server.wire.chunk_bytes = chunk_bytes
    server.send_all(sent)
    assert bytes(server.peer.received).startswith(b"HTTP/1.1 400") is (name == "HTTP")
    assert server.peer.is_closed
    assert ran == []
    assert logged_lines == [f"127.0.0.1:50000 speaks {name}: closed, nothing was run"]


@pytest.mark.parametrize(
    "sent",
    [b"\x16\n", b"\x03\x16\n", b"GET\n", b"GETTING /\n", b"[]\nGET /\n", b"get /\n", b"\x15 \n"],
)
def test_garbage_is_not_taken_for_another_protocol(make_server: MakeServer, sent: bytes) -> None:
    server = make_server({"add": add})
    *errors, reply = server.send(sent + request(1))
    assert errors
    assert reply["result"] == 3


def test_tls_in_the_middle_of_a_connection_is_garbage_like_any_other(
    make_server: MakeServer,
) -> None:
    server = make_server({"add": add})
    assert server.send(request(1))[0]["result"] == 3
    (error, reply) = server.send(CLIENT_HELLO + b"\n" + request(2))
    assert error["error"]["code"] == ErrorCode.PARSE_ERROR
    assert reply["result"] == 3


def test_a_client_at_a_port_that_speaks_tls_is_told(network: MemoryNetwork) -> None:
    class Alerts(Protocol):
        def dataReceived(self, data: bytes) -> None:
            assert self.transport is not None
            self.transport.write(bytes.fromhex("15030100020228"))

    network.listen(Factory.forProtocol(Alerts))
    made: list[Any] = []
    connect(network, reactor=network.reactor, threads=0).addCallback(made.append)
    network.pump()
    errors: list[Any] = []
    made[0].call("add", 1, 2).addErrback(lambda failure: errors.append(failure.value))
    network.pump()
    assert isinstance(errors[0], ConnectionLost)
    assert "the peer speaks TLS" in str(errors[0])


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc": "2.0", "id": 5, "result": 1}\n',
        b'{"jsonrpc": "2.0", "id": true, "result": 1}\n',
        b'[{"jsonrpc": "2.0", "id": 5, "error": {}}]\n',
        b'{"result": 1}\n',
    ],
)
def test_a_reply_that_nobody_asked_for_is_ignored_by_a_server(
    make_server: MakeServer, line: bytes, log_events: Any
) -> None:
    server = make_server({"add": add})
    assert [reply["id"] for reply in server.send(line + request(1))] == [1]
    assert not server.peer.is_closed
    (logged,) = log_events.take_lines()
    assert logged.startswith("info: 127.0.0.1:50000: a reply came")
    assert logged.endswith("; ignored")


def test_white_space_alone_is_a_blank_line(make_server: MakeServer) -> None:
    server = make_server({"add": add})
    assert [reply["id"] for reply in server.send(b" \t\r\n\r\n" + request(1))] == [1]


def test_more_than_a_turns_worth_is_handled_in_turns(
    make_server: MakeServer, network: MemoryNetwork
) -> None:
    turns: list[int] = []

    @in_reactor
    def turn() -> None:
        turns.append(1)
        network.reactor.advance(0.001)

    server = make_server({"turn": turn})
    other = server.connect()
    other_wire = server.network.wires[-1]
    server.wire.write(b"".join(request(n, "turn", []) for n in range(2000)))
    server.wire.deliver()
    assert len(turns) == 10
    other_wire.write(request(1, "rpc.ping", []))
    other_wire.deliver()
    other_wire.peer.deliver()
    assert json.loads(other.received)["result"] == "pong"
    server.network.pump()
    assert len(turns) == 2000
    assert [reply["id"] for reply in server.replies()] == list(range(2000))


# --- documents without newlines -------------------------------------------------------------------


def test_documents_need_no_newline_where_the_framing_says_so(make_server: MakeServer) -> None:
    server = make_server({"add": add}, framing="documents")
    documents = [request(n)[:-1] for n in range(3)]
    pretty = json.dumps(json.loads(request(3)), indent=2).encode()
    replies = server.send(b"".join(documents) + pretty + b"\r\n\0" + request(4))
    assert [(reply["id"], reply["result"]) for reply in replies] == [(n, 3) for n in range(5)]


def test_documents_are_found_however_they_are_split(make_server: MakeServer) -> None:
    server = make_server({"echo": lambda text: text}, framing="documents")
    server.wire.chunk_bytes = 1
    text = 'a "{[" \\ é'
    assert [reply["result"] for reply in server.send(request(1, "echo", [text])[:-1] * 2)] == [
        text,
        text,
    ]


def test_lines_still_need_their_newline(make_server: MakeServer) -> None:
    server = make_server({"add": add})
    assert server.send(request(1)[:-1]) == []
    (reply,) = server.send(request(2))
    assert reply["error"]["code"] == ErrorCode.PARSE_ERROR


@pytest.mark.parametrize("bad", [b"garbage\n", b"]", b'{"id": 1, "method": "add\n', b"{]", b"[}"])
def test_what_is_no_document_is_answered_and_the_connection_lives(
    make_server: MakeServer, bad: bytes
) -> None:
    server = make_server({"add": add}, framing="documents")
    first, bad_one, second = server.send(request(1)[:-1] + bad + request(2)[:-1])
    assert (first["result"], second["result"]) == (3, 3)
    assert (bad_one["id"], bad_one["error"]["code"]) == (None, ErrorCode.PARSE_ERROR)


def test_a_last_document_without_its_end_is_not_run(make_server: MakeServer) -> None:
    ran: list[int] = []
    server = make_server({"run": lambda: ran.append(1)}, framing="documents")
    server.wire.write(request(1, "run", [])[:-2])
    server.wire.loseWriteConnection()
    server.network.pump()
    (reply,) = server.replies()
    assert reply["error"]["code"] == ErrorCode.PARSE_ERROR
    assert "the last document has no end" in reply["error"]["message"]
    assert ran == []
    assert server.peer.is_closed


def test_a_last_document_without_a_newline_is_run(make_server: MakeServer) -> None:
    server = make_server({"add": add}, framing="documents")
    server.wire.write(request(1)[:-1])
    server.wire.loseWriteConnection()
    server.network.pump()
    assert [reply["result"] for reply in server.replies()] == [3]
    assert server.peer.is_closed


def test_an_over_long_document_is_answered_by_its_id_and_skipped(make_server: MakeServer) -> None:
    server = make_server({"add": add}, framing="documents", max_line_bytes=1024)
    long = json.dumps({"id": 6, "method": "add", "params": ["}" * 2000, {}]}, indent=2).encode()
    (reply,) = server.send(long[:1500])
    assert reply["id"] == 6
    assert "max_line_bytes" in reply["error"]
    (reply,) = server.send(long[1500:] + request(7)[:-1])
    assert (reply["id"], reply["result"]) == (7, 3)
    (reply,) = server.send(b"[" + b"1," * 1000)
    assert reply["error"]["code"] == ErrorCode.REQUEST_TOO_LONG


@pytest.mark.parametrize("line", [b"POST / HTTP/1.1\r\n", b"PUT /{%7B} HTTP/1.1\n"])
@pytest.mark.parametrize("chunk_bytes", [1, None])
def test_a_peer_that_speaks_http_is_closed_whatever_the_framing(
    make_server: MakeServer, line: bytes, chunk_bytes: int | None
) -> None:
    ran: list[int] = []
    server = make_server({"run": lambda: ran.append(1)}, framing="documents")
    server.wire.chunk_bytes = chunk_bytes
    server.send_all(line + b"Host: localhost\r\n\r\n" + request(1, "run", []))
    assert server.peer.is_closed
    assert ran == []


# --- half-closed connections ----------------------------------------------------------------------


def test_a_peer_that_sends_no_more_still_gets_its_replies(make_server: MakeServer) -> None:
    waiting: Deferred[str] = Deferred()
    server = make_server({"wait": in_reactor(lambda: waiting)})
    server.wire.write(request(1, "wait", []))
    server.wire.loseWriteConnection()
    server.network.pump()
    assert not server.peer.is_closed
    waiting.callback("done")
    server.network.pump()
    assert [reply["result"] for reply in server.replies()] == ["done"]
    assert server.peer.is_closed


def test_a_last_line_without_its_newline_is_not_run(make_server: MakeServer) -> None:
    ran: list[int] = []
    server = make_server({"run": lambda: ran.append(1)})
    server.wire.write(request(1, "run", [])[:-1])
    server.wire.loseWriteConnection()
    server.network.pump()
    (reply,) = server.replies()
    assert reply["error"]["code"] == ErrorCode.PARSE_ERROR
    assert "newline" in reply["error"]["message"]
    assert ran == []
    assert server.peer.is_closed


def test_a_half_close_right_after_many_lines_loses_none(make_server: MakeServer) -> None:
    server = make_server({"add": add})
    server.wire.write(b"".join(request(n) for n in range(3000)))
    server.wire.loseWriteConnection()
    server.network.pump()
    assert len(server.replies()) == 3000
    assert server.peer.is_closed


# --- backpressure ---------------------------------------------------------------------------------


def test_reading_pauses_at_max_pending_and_goes_on(make_server: MakeServer) -> None:
    executor = ManualExecutor()
    server = make_server({"add": add}, executor=executor, max_pending=3)
    far = server.wire.peer
    assert server.send(b"".join(request(n) for n in range(10))) == []
    assert len(executor) == 3
    assert far.is_paused
    while executor.run(1):
        server.network.pump()
        assert len(executor) <= 3
    assert not far.is_paused
    assert sorted(reply["id"] for reply in server.replies()) == list(range(10))


def test_nothing_new_is_begun_for_a_peer_that_does_not_read(make_server: MakeServer) -> None:
    ran: list[int] = []

    @in_reactor
    def big(n: int) -> str:
        ran.append(n)
        return "x" * 50_000

    server = make_server({"big": big})
    far = server.wire.peer
    far.is_held = True
    server.send(b"".join(request(n, "big", [n]) for n in range(5)))
    server.send(b"".join(request(n, "big", [n]) for n in range(5, 10)))
    assert far.is_paused
    assert len(ran) < 10
    far.is_held = False
    server.network.pump()
    assert not far.is_paused
    assert [reply["id"] for reply in server.replies()] == list(range(10))


def test_a_slow_reader_holds_up_nobody_else(make_server: MakeServer) -> None:
    server = make_server({"big": in_reactor(lambda: "x" * 200_000), "add": add})
    server.wire.peer.is_held = True
    server.send(request(1, "big", []) * 3)
    other = server.connect()
    server.network.wires[-1].write(request(2))
    server.network.pump()
    assert json.loads(other.received)["result"] == 3


def test_requests_past_the_limit_are_refused_while_our_own_calls_wait(
    make_server: MakeServer,
) -> None:
    @in_reactor
    async def ask() -> Any:
        return await current_call().connection.call("name")

    server = make_server({"ask": ask}, max_pending=2)
    replies = server.send(b"".join(request(n, "ask", []) for n in range(6)))
    asked = [reply for reply in replies if "method" in reply]
    refused = [reply for reply in replies if "error" in reply]
    assert len(asked) == 2
    assert {reply["error"]["code"] for reply in refused} == {ErrorCode.SERVER_BUSY}
    assert [reply["id"] for reply in refused] == [4, 5]
    answers = [{"jsonrpc": "2.0", "id": one["id"], "result": "Ada"} for one in asked]
    replies = server.send(b"".join(json.dumps(one).encode() + b"\n" for one in answers))
    assert [reply["id"] for reply in replies if "result" in reply] == [0, 1]
    assert len([reply for reply in replies if "method" in reply]) == 2


def test_pipelined_calls_in_the_kn_sock_dialect_count_as_pending(make_server: MakeServer) -> None:
    executor = ManualExecutor()
    server = make_server({"add": add}, executor=executor, max_pending=3)
    line = b'{"method": "add", "params": [1, 2], "kwargs": {}}\n'
    server.send(line * 10)
    assert len(executor) == 1
    assert server.wire.peer.is_paused
    while executor.run():
        server.network.pump()
    assert server.replies() == [{"result": 3}] * 10


def test_inline_calls_in_the_kn_sock_dialect_do_not_recurse(make_server: MakeServer) -> None:
    waiting: Deferred[int] = Deferred()
    server = make_server({"wait": in_reactor(lambda: waiting), "add": add}, max_pending=5000)
    line = b'{"method": "add", "params": [1, 2], "kwargs": {}}\n'
    server.send(b'{"method": "wait", "params": [], "kwargs": {}}\n' + line * 3000)
    waiting.callback(0)
    server.network.pump()
    assert server.replies() == [{"result": 0}] + [{"result": 3}] * 3000


@pytest.mark.parametrize("dialect", ["kn-sock", "2.0"])
def test_coroutines_that_waited_and_end_at_once_do_not_recurse(
    make_server: MakeServer, dialect: str
) -> None:
    waiting: Deferred[int] = Deferred()

    async def add_soon(a: int, b: int) -> int:
        return a + b

    funcs = {"wait": in_reactor(lambda: waiting), "add": add_soon}
    if dialect == "kn-sock":
        server = make_server(funcs, max_pending=5000)
        wait = b'{"method": "wait", "params": [], "kwargs": {}}\n'
        line = b'{"method": "add", "params": [1, 2], "kwargs": {}}\n'
    else:
        server = make_server(funcs, max_pending=1)
        wait, line = request(0, "wait", []), request(1)
    server.send(wait + line * 3000)
    waiting.callback(0)
    server.network.pump()
    assert [reply["result"] for reply in server.replies()] == [0] + [3] * 3000


def test_a_drain_does_not_cut_off_a_call_that_ends_the_last_one_under_way(
    make_server: MakeServer,
) -> None:
    waiting: list[Deferred[str]] = []

    @in_reactor
    def wait() -> Deferred[str]:
        waiting.append(Deferred())
        return waiting[-1]

    @in_reactor
    def release() -> str:
        waiting[1].callback("second")
        return "released"

    server = make_server({"wait": wait, "release": release}, max_pending=2)
    server.send(request(1, "wait", []) + request(2, "wait", []) + request(3, "release", []))
    server.factory.drain()
    waiting[0].callback("first")
    server.network.pump()
    assert [reply["result"] for reply in server.replies()] == ["first", "second", "released"]


def test_cancellations_are_heard_when_the_most_calls_are_under_way(
    make_server: MakeServer,
) -> None:
    server = make_server({"wait": in_reactor(Deferred), "add": add}, max_pending=5)
    server.send(b"".join(request(n, "wait", []) for n in range(5)))
    cancel = b'{"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": 3}}\n'
    (cancelled,) = server.send(cancel)
    assert cancelled["error"]["code"] == ErrorCode.CANCELLED
    (reply,) = server.send(request(9))
    assert reply["result"] == 3


def test_a_peer_that_goes_away_with_the_most_calls_under_way_is_noticed(
    make_server: MakeServer,
) -> None:
    cancelled: list[int] = []
    server = make_server(
        {"wait": in_reactor(lambda: Deferred(lambda _: cancelled.append(1)))}, max_pending=5
    )
    server.send(b"".join(request(n, "wait", []) for n in range(5)))
    server.wire.loseConnection()
    server.network.pump()
    assert len(cancelled) == 5
    assert not server.factory.connections


@pytest.mark.parametrize("dialect", ["2.0", "kn-sock"])
@pytest.mark.parametrize("where", ["reactor", "thread"])
def test_big_replies_to_one_read_are_made_no_faster_than_the_peer_reads(
    make_server: MakeServer, dialect: str, where: str
) -> None:
    ran: list[int] = []

    def big() -> str:
        ran.append(1)
        return "x" * 100_000

    executor = ManualExecutor()
    function = in_reactor(big) if where == "reactor" else big
    server = make_server({"big": function}, executor=executor, max_pending=5)
    server.wire.peer.is_held = True
    plain = b'{"method": "big", "params": [], "kwargs": {}}\n'
    line = plain if dialect == "kn-sock" else request(1, "big", [])
    server.send(line * 100)
    while executor.run():
        server.network.pump()
    assert len(ran) <= 5
    server.wire.peer.is_held = False
    server.network.pump()
    while executor.run():
        server.network.pump()
    assert len(server.replies()) == 100


def test_refusals_in_the_kn_sock_dialect_keep_their_turn_and_count(
    make_server: MakeServer,
) -> None:
    executor = ManualExecutor()
    server = make_server({"echo": lambda n: n}, executor=executor, max_pending=2)
    good = [b'{"method": "echo", "params": [%d], "kwargs": {}}\n' % n for n in range(5)]
    bad = b'{"method": 5}\n'
    server.send(b"".join(good[:4]) + bad * 10 + good[4])
    assert server.wire.peer.is_paused
    while executor.run():
        server.network.pump()
    replies = server.replies()
    assert [reply.get("result") for reply in replies] == [0, 1, 2, 3, *[None] * 10, 4]
    assert all("method must be a string" in reply["error"] for reply in replies[4:14])


def test_garbage_of_a_peer_that_does_not_read_is_not_answered_without_end(
    make_server: MakeServer,
) -> None:
    @in_reactor
    async def ask() -> Any:
        return await current_call().connection.with_options(timeout=None).call("never")

    server = make_server({"ask": ask}, max_pending=50)
    server.send(request(1, "ask", []))
    far = server.wire.peer
    far.is_held = True
    for _ in range(50):
        server.send(b"x\n" * 400)
    assert far.is_paused
    assert len(far.written) < 200_000


def test_reading_goes_on_when_a_held_call_was_cancelled(make_server: MakeServer) -> None:
    server = make_server({"wait": in_reactor(Deferred)}, max_pending=1)
    cancel = b'{"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": %d}}\n'
    (held,) = server.send(request(1, "wait", []) + request(2, "wait", []) + cancel % 2)
    assert held["id"] == 2
    replies = server.send(cancel % 1 + request(3, "rpc.ping", []))
    assert [reply["id"] for reply in replies] == [1, 3]


# --- cancelling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("request_id", [0, "", "a", 1.5, 18446744073709551616])
def test_a_call_is_cancelled_by_its_id_whatever_that_is(
    make_server: MakeServer, request_id: Any
) -> None:
    server = make_server({"wait": in_reactor(Deferred)})
    server.send(request(request_id, "wait", []))
    cancel = {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": request_id}}
    (reply,) = server.send(json.dumps(cancel).encode() + b"\n")
    assert reply["id"] == request_id
    assert reply["error"]["code"] == ErrorCode.CANCELLED


@pytest.mark.parametrize(
    "params", ["{}", "[]", "null", '{"id": null}', '{"id": []}', '{"id": true}']
)
def test_a_cancel_that_names_no_call_is_ignored(make_server: MakeServer, params: str) -> None:
    server = make_server({"wait": in_reactor(Deferred)})
    server.send(request(1, "wait", []))
    line = f'{{"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {params}}}\n'
    assert server.send(line.encode()) == []


def test_a_cancelled_member_still_completes_its_batch(make_server: MakeServer) -> None:
    server = make_server({"wait": in_reactor(Deferred), "add": add})
    server.send(b"[" + request(1, "wait", [])[:-1] + b"," + request(2)[:-1] + b"]\n")
    cancel = b'{"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": 1}}\n'
    ((one, other),) = server.send(cancel)
    assert {one["id"], other["id"]} == {1, 2}


@pytest.mark.parametrize(("length", "fitting"), [(100, 22), (900, 21)])
def test_the_short_replies_of_a_batch_stay_within_the_longest_line(
    make_server: MakeServer, length: int, fitting: int
) -> None:
    """As many as there is room for; what is too long alone is an error of its own."""
    server = make_server({"text": lambda: "x" * length, "add": add}, max_line_bytes=20_000)
    calls = [request(number, "text", [])[:-1] for number in range(22)]
    (replies,) = server.send(b"[%b,%b]\n" % (b",".join(calls), request(22)[:-1]))
    assert [reply["id"] for reply in replies] == list(range(23))
    assert ["result" in reply for reply in replies[:22]] == [n < fitting for n in range(22)]
    assert all(reply["error"]["code"] == -32008 for reply in replies[fitting:22])
    assert "result" in replies[22]


class FullExecutor(ManualExecutor):
    """An executor that takes so many jobs, and raises at the next."""

    def __init__(self, room: int, problem: Exception) -> None:
        super().__init__()
        self._room = room
        self._problem = problem

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if self._room:
            self._room -= 1
            return super().submit(fn, *args, **kwargs)
        # One of its threads is as quick as that.
        self.run()
        raise self._problem


@pytest.mark.parametrize("problem", [queue.Full(), RuntimeError("it is shut down")])
@pytest.mark.parametrize("number", [2, "two"])
def test_a_call_that_its_executor_does_not_take_is_refused(
    make_server: MakeServer, problem: Exception, number: Any, logged_errors: Any
) -> None:
    server = make_server({"add": add}, executor=FullExecutor(1, problem))
    text = f"no thread can be had: {str(problem) or 'Full'}"
    replies = server.send(request(1) + request(number))
    replies.sort(key=lambda reply: "error" in reply)
    assert replies[0]["id"] == 1
    assert "result" in replies[0]
    assert replies[1]["id"] == number
    assert replies[1]["error"] == {"code": -32603, "message": text}
    assert not server.peer.is_closed
    (logged,) = logged_errors.claim()
    assert text in logged


def test_a_call_that_is_run_in_place_of_another_is_answered_once(make_server: MakeServer) -> None:
    """Its executor refuses it after a thread has taken it in the turn of one that was given up."""
    server = make_server({"add": add}, executor=FullExecutor(1, RuntimeError("it is shut down")))
    cancel = b'{"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": 1}}\n'
    (given_up,) = server.send(request(1) + cancel)
    assert given_up["error"]["code"] == -32800
    (reply,) = server.send(request(2))
    assert (reply["id"], "result" in reply) == (2, True)
    assert server.replies() == []


def test_calls_with_the_same_id_are_both_answered(make_server: MakeServer) -> None:
    waits: list[Deferred[int]] = []

    @in_reactor
    def wait() -> Deferred[int]:
        waits.append(Deferred())
        return waits[-1]

    server = make_server({"wait": wait})
    server.send(request(1, "wait", []) * 2)
    waits[1].callback(2)
    waits[0].callback(1)
    server.network.pump()
    assert [(reply["id"], reply["result"]) for reply in server.replies()] == [(1, 2), (1, 1)]


# --- draining and exiting -------------------------------------------------------------------------


def test_draining_refuses_new_calls_and_finishes_those_under_way(make_server: MakeServer) -> None:
    waiting: Deferred[str] = Deferred()
    server = make_server({"wait": in_reactor(lambda: waiting), "add": add})
    server.send(request(1, "wait", []))
    drained = server.factory.drain()
    (refused,) = server.send(request(2))
    assert refused["error"]["code"] == ErrorCode.SERVER_BUSY
    assert not drained.called
    waiting.callback("done")
    server.network.pump()
    assert [reply["result"] for reply in server.replies()] == ["done"]
    assert server.peer.is_closed
    assert drained.called


def test_draining_closes_idle_connections_at_once(make_server: MakeServer) -> None:
    server = make_server({"add": add})
    drained = server.factory.drain()
    server.network.pump()
    assert server.peer.is_closed
    assert drained.called


def test_what_was_read_before_the_drain_is_run(make_server: MakeServer) -> None:
    executor = ManualExecutor()
    server = make_server({"add": add}, executor=executor, max_pending=1)
    server.send(b"".join(request(n) for n in range(4)))
    drained = server.factory.drain()
    while executor.run():
        server.network.pump()
    assert [reply["id"] for reply in server.replies()] == [0, 1, 2, 3]
    assert drained.called


def test_what_is_left_after_the_drain_timeout_is_aborted(make_server: MakeServer) -> None:
    server = make_server({"wait": in_reactor(Deferred)}, drain_timeout=5)
    server.send(request(1, "wait", []))
    drained = server.factory.drain()
    server.network.reactor.advance(4.9)
    assert not server.peer.is_closed
    server.network.reactor.advance(0.2)
    server.network.pump()
    assert server.peer.is_closed
    assert drained.called


def test_a_peer_that_never_reads_does_not_hold_up_the_drain(make_server: MakeServer) -> None:
    server = make_server({"big": in_reactor(lambda: "x" * 500_000)}, drain_timeout=5)
    server.wire.peer.is_held = True
    server.send(request(1, "big", []))
    drained = server.factory.drain()
    server.network.reactor.advance(6)
    assert drained.called


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["reactor", "thread"])
def test_a_method_that_exits_stops_the_process_and_is_answered(
    make_server: MakeServer, logged_errors: Any, kind: type[BaseException], where: str
) -> None:
    def leave() -> None:
        raise kind

    executor = ManualExecutor()
    server = make_server(
        {"leave": in_reactor(leave) if where == "reactor" else leave}, executor=executor
    )
    replies = server.send(request(1, "leave", []))
    executor.run()
    server.network.pump()
    assert server.network.reactor.is_stopped
    (reply,) = replies + server.replies()
    assert reply["error"]["message"] == f"leave raised {kind.__name__}: the server is stopping"
    assert len(logged_errors.claim()) == 1


def test_a_drain_ends_although_lines_were_left_over_for_later_turns(
    make_server: MakeServer, network: MemoryNetwork
) -> None:
    @in_reactor
    def add_slowly(a: int, b: int) -> int:
        network.reactor.advance(0.0001)
        return a + b

    server = make_server({"add": add_slowly})
    server.wire.write(b"".join(request(n) for n in range(1200)))
    server.wire.deliver()
    drained = server.factory.drain()
    server.network.pump()
    assert drained.called
    replies = server.replies()
    assert [reply["id"] for reply in replies] == list(range(1200))
    assert replies[-1]["error"]["code"] == ErrorCode.SERVER_BUSY


def test_nothing_runs_after_the_connection_was_closed(make_server: MakeServer) -> None:
    ran: list[int] = []

    @in_reactor
    def run(n: int) -> None:
        ran.append(n)
        if n == 9:
            current_call().connection.close()

    server = make_server({"run": run})
    server.send(b"".join(request(n, "run", [n]) for n in range(1600)))
    assert ran == list(range(10))


def test_a_drain_keeps_the_order_of_the_kn_sock_dialect(make_server: MakeServer) -> None:
    waiting: Deferred[str] = Deferred()
    server = make_server({"wait": in_reactor(lambda: waiting), "add": add})
    server.send(b'{"method": "wait", "params": [], "kwargs": {}}\n')
    server.factory.drain()
    server.send(b'{"method": "add", "params": [1, 2], "kwargs": {}}\n')
    waiting.callback("A")
    server.network.pump()
    first, second = server.replies()
    assert first == {"result": "A"}
    assert "stopping" in second["error"]


def test_what_is_no_request_is_answered_after_the_kn_sock_calls_before_it(
    make_server: MakeServer,
) -> None:
    waiting: Deferred[str] = Deferred()
    server = make_server({"wait": in_reactor(lambda: waiting), "add": add}, max_pending=2)
    sent = (
        b'{"method": "wait", "params": [], "kwargs": {}}\n'
        b'{"method": "add", "params": [NaN, 2], "kwargs": {}}\n'
        b"[]\n"
        b'{"method": "add", "params": [1, 2], "kwargs": {}}\n'
        b"{}\n"
    )
    assert server.send(sent) == []
    waiting.callback("A")
    server.network.pump()
    replies = server.replies()
    assert [reply.get("result", "refused") for reply in replies] == [
        "A",
        "refused",
        "refused",
        3,
        "refused",
    ]


def test_a_full_buffer_during_a_drain_does_not_cut_off_the_answer(
    make_server: MakeServer,
) -> None:
    waiting: Deferred[str] = Deferred()

    @in_reactor
    def talk() -> str:
        current_call().connection.notify("news", "x" * 300_000)
        return "done"

    server = make_server({"wait": in_reactor(lambda: waiting), "talk": talk}, max_pending=1)
    server.send(request(1, "wait", []) + request(2, "talk", []))
    drained = server.factory.drain()
    waiting.callback("first")
    server.network.pump()
    assert [reply.get("result") for reply in server.replies() if "id" in reply] == ["first", "done"]
    assert drained.called


def test_a_canceller_that_raises_strands_nothing(
    make_server: MakeServer, logged_errors: Any
) -> None:
    def boom(_: Any) -> None:
        raise ZeroDivisionError

    server = make_server({"wait": in_reactor(lambda: Deferred(boom))})
    server.send(request(1, "wait", []))
    server.wire.loseConnection()
    server.network.pump()
    assert not server.factory.connections
    assert server.factory.drain().called
    assert len(logged_errors.claim()) == 1


class Careless(RPCError):
    def __init__(self) -> None:
        pass


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


@pytest.mark.parametrize("kind", [Careless, Unprintable])
@pytest.mark.parametrize("where", ["reactor", "thread"])
def test_a_strange_exception_is_answered_too(
    make_server: MakeServer, kind: type[Exception], where: str
) -> None:
    def strange() -> None:
        raise kind()

    executor = ManualExecutor()
    function = in_reactor(strange) if where == "reactor" else strange
    server = make_server({"strange": function, "add": in_reactor(add)}, executor=executor)
    server.wire.write(request(1, "strange", []) + request(2))
    server.network.pump()
    executor.run()
    server.network.pump()
    replies = {reply["id"]: reply for reply in server.replies()}
    assert "error" in replies[1]
    assert replies[2]["result"] == 3


def test_a_notification_whose_error_has_no_text_does_no_harm(make_server: MakeServer) -> None:
    def strange() -> None:
        raise RPCError(-5, 7)  # type: ignore[arg-type]  # as a method might

    server = make_server({"strange": strange, "add": add})
    (reply,) = server.send(b'{"jsonrpc": "2.0", "method": "strange"}\n' + request(1))
    assert reply["result"] == 3


# --- the calling end against a peer that speaks bytes ---------------------------------------------


@pytest.mark.parametrize("text", [r"\ud800 there", r"\u001b[2J\r\nthere"])
def test_what_a_peer_sends_does_the_log_no_harm(
    make_server: MakeServer, tmp_path: Path, logged_errors: Any, text: str
) -> None:
    """Half a surrogate pair has no form in UTF-8: an observer that raises loses the line."""

    def fail(text: str) -> None:
        raise ValueError(text)

    def notification(method: str, params: str) -> bytes:
        return f'{{"jsonrpc": "2.0", "method": "{method}", "params": {params}}}\n'.encode()

    path = tmp_path / "log"
    with path.open("w", encoding="utf-8", newline="") as file:
        observer = FileLogObserver(file, lambda event: formatEvent(event) + "\n")
        globalLogPublisher.addObserver(observer)
        server = make_server({"fail": fail})
        server.send(notification(text, "[]"))
        server.send(notification("fail", f'{{"text": "", "{text}": 1}}'))
        hiding = make_server({"fail": fail}, expose_errors=False)
        for each in (server, hiding):
            each.send(request(1, "fail", [json.loads(f'"{text}"')]))
        globalLogPublisher.removeObserver(observer)
    (hidden,) = logged_errors.claim()
    assert "ValueError" in hidden
    logged = path.read_text("utf-8")
    assert "not found" in logged.splitlines()[0]
    assert "unexpected" in logged
    assert logged.count("raised ValueError") == 2
    assert "reference" in logged


class Caller:
    """A client in memory, and the server that it calls, which speaks bytes."""

    def __init__(self, network: MemoryNetwork, **options: Any) -> None:
        self.network = network
        peers: list[FakePeer] = []

        class Listener(Factory):
            def buildProtocol(self, addr: Any) -> FakePeer:
                peers.append(FakePeer())
                return peers[-1]

        network.listen(Listener())
        made: list[Any] = []
        connect(network, reactor=network.reactor, **options).addCallback(made.append)
        self.connection = made[0]
        self.peer = peers[0]
        self.outcomes: dict[str, Any] = {}

    def call(self, name: str, *args: Any) -> None:
        def keep(outcome: Any) -> None:
            self.outcomes[name] = getattr(outcome, "value", outcome)

        self.connection.call(name, *args).addBoth(keep)
        self.network.pump()

    def reply(self, data: bytes) -> None:
        assert self.peer.transport is not None
        self.peer.transport.write(data)
        self.network.pump()


@pytest.fixture
def caller(network: MemoryNetwork) -> Caller:
    return Caller(network)


def test_a_call_without_arguments_is_sent_without_params(caller: Caller) -> None:
    caller.call("ping")
    assert json.loads(caller.peer.received) == {"jsonrpc": "2.0", "id": 1, "method": "ping"}


@pytest.mark.parametrize("reply_id", ["true", "1.0", '"1"', "[1]", "2"])
def test_only_the_same_id_answers_a_call(caller: Caller, reply_id: str) -> None:
    caller.call("slow")
    caller.reply(f'{{"jsonrpc": "2.0", "id": {reply_id}, "result": "wrong"}}\n'.encode())
    assert caller.outcomes.get("slow") != "wrong"


def test_a_reply_with_neither_result_nor_error_fails_its_call(caller: Caller) -> None:
    caller.call("empty")
    caller.reply(b'{"jsonrpc": "2.0", "id": 1}\n')
    assert "neither" in str(caller.outcomes["empty"])


def test_an_error_without_an_id_is_for_the_only_call(caller: Caller) -> None:
    caller.call("only")
    caller.reply(b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"cannot read"}}\n')
    assert str(caller.outcomes["only"]) == "cannot read"


def test_an_error_without_an_id_is_told_when_the_peer_then_closes(caller: Caller) -> None:
    caller.call("first")
    caller.call("second")
    caller.reply(b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"cannot read"}}\n')
    assert caller.outcomes == {}
    caller.peer.transport.loseConnection()  # type: ignore[union-attr]
    caller.network.pump()
    assert "cannot read" in str(caller.outcomes["first"])
    assert isinstance(caller.outcomes["second"], ConnectionLost)


def test_a_server_of_kn_sock_03_is_recognised_and_named(caller: Caller) -> None:
    caller.call("add", 1, 2)
    caller.reply(b'{"result": 3}\n')
    error = caller.outcomes["add"]
    assert isinstance(error, ConnectionLost)
    assert 'dialect="kn-sock"' in str(error)


def test_a_server_that_closes_its_half_fails_what_waits(caller: Caller) -> None:
    caller.call("slow")
    caller.peer.transport.loseWriteConnection()  # type: ignore[union-attr]
    caller.network.pump()
    assert isinstance(caller.outcomes["slow"], ConnectionLost)
    assert caller.peer.is_closed


def test_a_client_reads_replies_without_newlines_where_it_is_told_to(
    network: MemoryNetwork,
) -> None:
    caller = Caller(network, framing="documents")
    caller.call("first")
    caller.call("second")
    assert caller.peer.received.count(b"\n") == 2
    caller.reply(b'{"jsonrpc":"2.0","id":2,"result":"}"}{"jsonrpc": "2.0",\n "id": 1, "res')
    assert caller.outcomes == {"second": "}"}
    caller.reply(b'ult": []}')
    assert caller.outcomes == {"second": "}", "first": []}


def test_an_over_long_reply_of_several_lines_fails_its_call_alone(network: MemoryNetwork) -> None:
    caller = Caller(network, framing="documents", max_line_bytes=1024)
    caller.call("long")
    caller.call("short")
    long = json.dumps({"jsonrpc": "2.0", "id": 1, "result": ["x" * 2000]}, indent=2).encode()
    caller.reply(long + b'{"jsonrpc":"2.0","id":2,"result":5}')
    assert isinstance(caller.outcomes["long"], RPCError)
    assert caller.outcomes["long"].code == ErrorCode.REPLY_TOO_LONG
    assert caller.outcomes["short"] == 5


def test_both_ends_may_read_documents(network: MemoryNetwork) -> None:
    pair = connected_pair(
        {"add": add}, network=network, framing="documents", client={"framing": "documents"}
    )
    pair.wire.chunk_bytes = pair.wire.peer.chunk_bytes = 3
    calling = [pair.client.call("add", n, 1) for n in range(5)]
    pair.pump()
    assert [each.result for each in calling] == [1, 2, 3, 4, 5]


def test_an_error_that_cannot_say_what_it_is_is_named_by_its_type(make_server: MakeServer) -> None:
    class OddError(RPCError):
        def __str__(self) -> str:
            raise ValueError("not to be said")

    def odd() -> None:
        raise OddError(7, "odd")

    server = make_server({"odd": odd, "add": add})
    first, second = server.send(request(1, "odd", []) + request(2))
    assert first["error"] == {"code": 7, "message": "OddError"}
    assert second["result"] == 3
