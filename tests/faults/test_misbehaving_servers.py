"""Our clients, of servers that keep to no rules.

Whatever the server does, the call ends with the error that the documentation names, and the next
one, over the same connection or a new one, has its result.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kn_sock import (
    CallTimeout,
    ConnectFailed,
    ConnectionLost,
    InternalError,
    KnSockError,
    MethodNotFound,
    RPCClient,
    RPCConnection,
    RPCError,
    connect,
)
from kn_sock._blocking.reactor_thread import reactor_thread
from tests.faults.peers import (
    CALLERS,
    HOST,
    PATIENCE,
    Caller,
    Peer,
    Process,
    ScriptedServer,
    call,
    reply,
    tls_server_context,
)
from tests.io.test_tls import certificate  # noqa: F401  # a fixture

# What a call that is never answered waits.
SHORT = 0.1


@dataclasses.dataclass
class Case:
    """A script, and how the first call ends that meets it."""

    script: Callable[[Peer], None]
    outcome: Any
    maybe_executed: bool | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


CASES: dict[str, Case] = {}


def case(
    outcome: Any, *, maybe_executed: bool | None = None, **options: Any
) -> Callable[[Callable[[Peer], None]], Callable[[Peer], None]]:
    def add(script: Callable[[Peer], None]) -> Callable[[Peer], None]:
        CASES[script.__name__] = Case(script, outcome, maybe_executed, options)
        return script

    return add


RESULT = "the argument"


# --- slow and late --------------------------------------------------------------------------------


@case(RESULT)
def one_byte_at_a_time(peer: Peer) -> None:
    for byte in reply(peer.message()):
        peer.send(bytes([byte]))
    peer.behave()


@case(CallTimeout, maybe_executed=True)
def accepts_and_says_nothing(peer: Peer) -> None:
    peer.line()
    peer.behave()


@case(CallTimeout, maybe_executed=True)
def half_a_reply_and_the_rest_after_the_timeout(peer: Peer) -> None:
    line = reply(peer.message())
    peer.send(line[:20])
    assert peer.message()["method"] == "$/cancelRequest"
    peer.send(line[20:])
    peer.behave()


@case(CallTimeout, maybe_executed=True)
def a_late_reply(peer: Peer) -> None:
    request = peer.message()
    assert peer.message()["method"] == "$/cancelRequest"
    peer.send(reply(request))
    peer.behave()


# --- the end --------------------------------------------------------------------------------------


@case(ConnectionLost, maybe_executed=True)
def half_a_reply_and_the_end(peer: Peer) -> None:
    peer.send(reply(peer.message())[:20])


@case(ConnectionLost, maybe_executed=True)
def a_reply_without_its_newline_and_the_end(peer: Peer) -> None:
    peer.send(reply(peer.message())[:-1])


@case(ConnectionLost, maybe_executed=True)
def the_end_after_the_call_was_read(peer: Peer) -> None:
    peer.line()


@case(ConnectionLost, maybe_executed=True)
def the_end_before_the_call_was_read(peer: Peer) -> None:
    """It is there, unread: such an end is a reset."""
    peer.socket.recv(1, socket.MSG_PEEK)


@case(ConnectionLost, maybe_executed=True)
def a_reset(peer: Peer) -> None:
    peer.line()
    peer.reset()


@case(ConnectionLost, maybe_executed=True)
def a_reset_in_the_middle_of_a_reply(peer: Peer) -> None:
    peer.send(reply(peer.message())[:20])
    peer.reset()


@case(ConnectionLost, maybe_executed=True)
def no_more_is_sent_and_all_is_read(peer: Peer) -> None:
    peer.line()
    peer.stop_sending()
    peer.wait_for_end()


@case(RESULT)
def the_reply_and_the_end(peer: Peer) -> None:
    peer.send(reply(peer.message()))


@case(RESULT)
def the_reply_and_a_reset(peer: Peer) -> None:
    peer.send(reply(peer.message()))
    # Reset before it has been read, it might be lost: the next call tells that it was.
    peer.socket.recv(1)
    peer.reset()


# --- replies that do not fit ----------------------------------------------------------------------


@case(ConnectionLost, maybe_executed=True)
def an_id_that_was_never_given(peer: Peer) -> None:
    peer.send(reply(peer.message(), id=10**6))
    peer.wait_for_end()


@case(ConnectionLost, maybe_executed=True)
def an_id_of_another_type(peer: Peer) -> None:
    request = peer.message()
    peer.send(reply(request, id=str(request["id"])))
    peer.wait_for_end()


@case(ConnectionLost, maybe_executed=True)
def no_id(peer: Peer) -> None:
    peer.line()
    peer.send(b'{"result":1}\n')
    peer.wait_for_end()


@case(RESULT)
def the_reply_twice(peer: Peer) -> None:
    peer.send(2 * reply(peer.message()))
    peer.behave()


@case(RESULT)
def the_reply_and_then_an_error_for_the_same_id(peer: Peer) -> None:
    request = peer.message()
    wrong = {"jsonrpc": "2.0", "id": request["id"], "error": {"code": -32603, "message": "no"}}
    peer.send(reply(request) + json.dumps(wrong).encode() + b"\n")
    peer.behave()


@case(InternalError, maybe_executed=True)
def neither_a_result_nor_an_error(peer: Peer) -> None:
    peer.send(b'{"jsonrpc":"2.0","id":%d}\n' % peer.message()["id"])
    peer.behave()


@case(RPCError, maybe_executed=True)
def an_error_that_is_none(peer: Peer) -> None:
    peer.send(b'{"jsonrpc":"2.0","id":%d,"error":[[1],{}]}\n' % peer.message()["id"])
    peer.behave()


@case(RPCError, maybe_executed=False)
def an_error_of_no_call(peer: Peer) -> None:
    """There is but one that it can be meant for."""
    peer.line()
    peer.send(b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"what?"}}\n')
    peer.behave()


# --- what is no reply at all ----------------------------------------------------------------------


@case(ConnectionLost, maybe_executed=True)
def garbage(peer: Peer) -> None:
    peer.line()
    peer.send(b"\x00\xff\xfe garbage }{][ \r\r\n\n\n%\n")
    peer.wait_for_end()


@case(ConnectionLost, maybe_executed=True)
def an_answer_of_another_protocol(peer: Peer) -> None:
    peer.line()
    peer.send(b"-ERR unknown command\r\n")
    peer.wait_for_end()


@case(ConnectionLost, maybe_executed=True)
def endless_nesting(peer: Peer) -> None:
    peer.line()
    peer.send(b"[" * 500_000 + b"\n")
    peer.wait_for_end()


@case(InternalError, maybe_executed=True)
def an_endlessly_nested_result(peer: Peer) -> None:
    start = b'{"jsonrpc":"2.0","id":%d,"result":' % peer.message()["id"]
    peer.send(start + b"[" * 500_000 + b"\n")
    peer.behave()


@case(ConnectionLost, maybe_executed=True, max_line_bytes=10_000)
def an_endless_line(peer: Peer) -> None:
    peer.line()
    with contextlib.suppress(OSError):
        for _ in range(100):
            peer.send(b"x" * 10_000)
    peer.wait_for_end()


@case(RPCError, maybe_executed=True, max_line_bytes=10_000)
def an_endless_result(peer: Peer) -> None:
    peer.send(b'{"jsonrpc":"2.0","id":%d,"result":"' % peer.message()["id"])
    for _ in range(100):
        peer.send(b"x" * 10_000)
    peer.send(b'"}\n')
    peer.behave()


@case(MethodNotFound, maybe_executed=False)
def all_that_it_reads(peer: Peer) -> None:
    """An echo server: our call comes back as one to us, and our refusal as the reply."""
    peer.send(peer.line())
    peer.send(peer.line())
    peer.behave()


@pytest.fixture(params=CALLERS)
def make_caller(
    request: Any, scripted: Callable[..., ScriptedServer]
) -> Iterator[Callable[..., Caller]]:
    # Made before the scripted server is stopped.
    made: list[Caller] = []

    def make(port: int, **options: Any) -> Caller:
        made.append(request.param(port, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize("name", CASES)
def test_a_server_that_answers_with(
    name: str,
    scripted: Callable[..., ScriptedServer],
    make_caller: Callable[..., Caller],
) -> None:
    case = CASES[name]
    server = scripted(case.script, Peer.behave)
    caller = make_caller(server.port, **case.options)
    timeout = SHORT if case.outcome is CallTimeout else PATIENCE
    if case.outcome == RESULT:
        assert caller.call(timeout, "echo", RESULT) == RESULT
        # The end that follows may cross with the next call.
        with contextlib.suppress(ConnectionLost):
            caller.call(PATIENCE, "echo", "other")
    else:
        with pytest.raises(case.outcome) as caught:
            caller.call(timeout, "echo", RESULT)
        assert getattr(caught.value, "maybe_executed", None) is case.maybe_executed
    assert caller.call(PATIENCE, "echo", "more") == "more"


@pytest.mark.parametrize("funcs", [None, {"ours": int}])
def test_a_server_that_answers_every_line_is_no_json_rpc_server(
    scripted: Callable[..., ScriptedServer],
    make_caller: Callable[..., Caller],
    funcs: Any,
) -> None:
    """As Redis and SMTP do; what we cannot read is not answered for ever."""
    lines: list[bytes] = []

    def answers_every_line(peer: Peer) -> None:
        with contextlib.suppress(OSError):
            while line := peer.line():
                lines.append(line)
                peer.send(b"-ERR unknown command\r\n")

    caller = make_caller(scripted(answers_every_line, Peer.behave).port, funcs=funcs)
    text = "the peer answered '-ERR unknown command': is this a JSON-RPC server"
    with pytest.raises(ConnectionLost, match=text):
        caller.call(PATIENCE, "echo", RESULT)
    assert len(lines) <= 20
    assert caller.call(PATIENCE, "echo", "more") == "more"


def test_a_server_that_replies_to_nothing(
    scripted: Callable[..., ScriptedServer], make_caller: Callable[..., Caller]
) -> None:
    """It may come before or after the first call was written; that fails, or finds a new one."""

    def replies_to_nothing(peer: Peer) -> None:
        peer.send(b'{"jsonrpc":"2.0","id":1000000,"result":1}\n')
        peer.wait_for_end()

    caller = make_caller(scripted(replies_to_nothing, Peer.behave).port)
    with contextlib.suppress(ConnectionLost):
        assert caller.call(PATIENCE, "echo", 1) == 1
    assert caller.call(PATIENCE, "echo", 2) == 2


def test_a_reply_with_the_id_of_another_connection_answers_nothing(
    scripted: Callable[..., ScriptedServer], make_caller: Callable[..., Caller]
) -> None:
    """It was given, but not over this connection."""
    earlier: list[Any] = []

    def first(peer: Peer) -> None:
        peer.send(reply(peer.message()))
        earlier.append(peer.message())

    def second(peer: Peer) -> None:
        peer.line()
        peer.send(reply(earlier[0]))
        peer.wait_for_end()

    caller = make_caller(scripted(first, second, Peer.behave).port)
    assert caller.call(PATIENCE, "echo", 1) == 1
    for _ in range(2):
        with pytest.raises(ConnectionLost) as caught:
            caller.call(PATIENCE, "echo", "not this")
        assert caught.value.maybe_executed
    assert caller.call(PATIENCE, "echo", 3) == 3


def test_a_server_that_closes_each_connection_at_once(
    scripted: Callable[..., ScriptedServer], make_caller: Callable[..., Caller]
) -> None:
    caller = make_caller(scripted(lambda _: None).port)
    for _ in range(5):
        with pytest.raises((ConnectionLost, ConnectFailed, CallTimeout)):
            caller.call(SHORT, "echo", 1)


def test_a_server_that_never_reads_is_given_up(
    scripted: Callable[..., ScriptedServer], make_caller: Callable[..., Caller]
) -> None:
    is_over = threading.Event()

    def never_reads(_: Peer) -> None:
        is_over.wait(PATIENCE)

    caller = make_caller(scripted(never_reads, Peer.behave).port, send_timeout=SHORT)
    with pytest.raises(ConnectionLost, match="took nothing") as caught:
        caller.call(PATIENCE, "echo", "x" * 20_000_000)
    assert caught.value.maybe_executed
    is_over.set()
    assert caller.call(PATIENCE, "echo", 2) == 2


def test_a_call_to_a_server_that_never_reads_ends_in_its_time(
    scripted: Callable[..., ScriptedServer], make_caller: Callable[..., Caller]
) -> None:
    is_over = threading.Event()

    def never_reads(peer: Peer) -> None:
        is_over.wait(PATIENCE)
        peer.behave()

    caller = make_caller(scripted(never_reads).port)
    with pytest.raises(CallTimeout) as caught:
        caller.call(SHORT, "echo", "x" * 20_000_000)
    assert caught.value.maybe_executed
    is_over.set()
    assert caller.call(PATIENCE, "echo", 2) == 2


def test_many_calls_over_a_connection_that_is_cut_each_end_once(
    scripted: Callable[..., ScriptedServer],
) -> None:
    """Some have their replies, in no order; the others fail, and are not sent again."""
    count, answered = 200, 80
    seen: list[Any] = []

    def answers_some(peer: Peer) -> None:
        requests = [peer.message() for _ in range(count)]
        seen.extend(requests)
        peer.send(b"".join(reply(request) for request in reversed(requests[:answered])))
        peer.stop_sending()
        peer.wait_for_end()

    server = scripted(answers_some, Peer.behave)
    ends: list[int] = []
    with RPCClient(HOST, server.port, timeout=PATIENCE) as client:
        futures = [client.submit("echo", number) for number in range(count)]
        for number, future in enumerate(futures):
            future.add_done_callback(lambda _, number=number: ends.append(number))  # type: ignore[misc]  # a default
        for number, future in enumerate(futures[:answered]):
            assert future.result(PATIENCE) == number
        for future in futures[answered:]:
            problem = future.exception(PATIENCE)
            assert isinstance(problem, ConnectionLost)
            assert problem.maybe_executed
        assert client.call("echo", "more") == "more"
    assert sorted(ends) == list(range(count))
    assert len(seen) == count


# --- TLS ------------------------------------------------------------------------------------------


Echo = Callable[[str], Any]


def echo_blocking(endpoint: str) -> Any:
    """Call once, and close."""
    with RPCClient.from_endpoint(endpoint, timeout=PATIENCE) as client:
        return client.call("echo", 1)


def echo_deferred(endpoint: str) -> Any:
    thread = reactor_thread()
    connection: RPCConnection = thread.call(
        lambda: connect(endpoint, reactor=thread.reactor, timeout=PATIENCE)
    )
    try:
        return thread.call(connection.call, "echo", 1)
    finally:
        thread.call(connection.close)


@pytest.fixture
def tls_behave(certificate: Path) -> Callable[[Peer], None]:  # noqa: F811  # a fixture
    context = tls_server_context(certificate)

    def behave(peer: Peer) -> None:
        secured = Peer(context.wrap_socket(peer.socket, server_side=True))
        secured.behave()
        secured.close()

    return behave


@pytest.mark.parametrize("echo", [echo_blocking, echo_deferred])
@pytest.mark.parametrize("leave", [Peer.close, Peer.reset])
@pytest.mark.parametrize("is_answered", [False, True])
def test_a_server_that_cuts_tls_in_the_middle_of_the_handshake(
    scripted: Callable[..., ScriptedServer],
    certificate: Path,  # noqa: F811  # a fixture
    tls_behave: Callable[[Peer], None],
    echo: Echo,
    leave: Callable[[Peer], None],
    is_answered: bool,
) -> None:
    def cuts(peer: Peer) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = tls_server_context(certificate).wrap_bio(incoming, outgoing, server_side=True)
        incoming.write(peer.socket.recv(65536))
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        if is_answered:
            peer.send(outgoing.read()[:-20])
        leave(peer)

    server = scripted(cuts, tls_behave)
    endpoint = f"tls:localhost:{server.port}:trustRoots={certificate}"
    with pytest.raises(ConnectFailed, match="handshake") as caught:
        echo(endpoint)
    assert not caught.value.maybe_executed
    assert echo(endpoint) == 1


@pytest.mark.parametrize("echo", [echo_blocking, echo_deferred])
@pytest.mark.parametrize("leave", [Peer.close, Peer.reset])
def test_a_server_that_cuts_tls_without_close_notify(
    scripted: Callable[..., ScriptedServer],
    certificate: Path,  # noqa: F811  # a fixture
    tls_behave: Callable[[Peer], None],
    echo: Echo,
    leave: Callable[[Peer], None],
) -> None:
    def cuts(peer: Peer) -> None:
        context = tls_server_context(certificate)
        secured = Peer(context.wrap_socket(peer.socket, server_side=True))
        secured.line()
        leave(secured)

    server = scripted(cuts, tls_behave)
    endpoint = f"tls:localhost:{server.port}:trustRoots={certificate}"
    with pytest.raises(ConnectionLost) as caught:
        echo(endpoint)
    assert caught.value.maybe_executed
    assert echo(endpoint) == 1


# --- a server that is stopped in its tracks -------------------------------------------------------

SERVER = """
from kn_sock import start_rpc_server
start_rpc_server(0, {"echo": lambda value: value}, on_ready=lambda host, port: print("on", port))
"""


@pytest.fixture(scope="module")
def server_process() -> Iterator[tuple[Process, int]]:
    """A server that serves again when a test is over, and its port."""
    server = Process("-c", SERVER)
    yield server, int(server.line_with(r"on (\d+)")[1])
    server.kill()


def test_a_server_whose_process_stands_still(
    server_process: tuple[Process, int], make_caller: Callable[..., Caller]
) -> None:
    """Its kernel still accepts: only time tells."""
    server, port = server_process
    caller = make_caller(port)
    assert caller.call(PATIENCE, "echo", 1) == 1
    server.send(signal.SIGSTOP)
    try:
        os.waitid(os.P_PID, server.process.pid, os.WSTOPPED | os.WNOWAIT)
        with pytest.raises(CallTimeout) as caught:
            caller.call(SHORT, "echo", 2)
        assert caught.value.maybe_executed
        # A new connection is accepted, too.
        fresh = make_caller(port)
        with pytest.raises(CallTimeout):
            fresh.call(SHORT, "echo", 3)
    finally:
        server.send(signal.SIGCONT)
    assert caller.call(PATIENCE, "echo", 4) == 4
    assert fresh.call(PATIENCE, "echo", 5) == 5


def test_every_error_of_a_call_is_ours(scripted: Callable[..., ScriptedServer]) -> None:
    """Whatever a server sends instead of a reply, a call raises nothing else."""
    lines = [
        b"[]\n",
        b"{}\n",
        b"[{}]\n",
        b"null\n",
        b'{"jsonrpc":"2.0","id":true,"result":1}\n',
        b'{"jsonrpc":"2.0","id":[1],"error":null}\n',
        b'{"jsonrpc":"2.0","id":1e400,"result":1}\n',
        b'{"jsonrpc":"2.0","id":"\\ud800","result":1}\n',
        b'[{"jsonrpc":"2.0","id":1,"result":1},{"jsonrpc":"2.0","id":1,"result":2}]\n',
        call(1, "rpc.ping"),
        call(1, "no.such"),
        b"GET / HTTP/1.1\r\n\r\n",
    ]

    def sends(line: bytes) -> Callable[[Peer], None]:
        def script(peer: Peer) -> None:
            peer.line()
            peer.send(line)

        return script

    server = scripted(*map(sends, lines), Peer.behave)
    with RPCClient(HOST, server.port, timeout=PATIENCE) as client:
        for _ in lines:
            with contextlib.suppress(KnSockError):
                assert client.call("echo", 1) in (1, 2)
        while server.accepted <= len(lines):
            assert client.call("echo", 1) == 1
