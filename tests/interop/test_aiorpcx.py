from __future__ import annotations

import queue
import threading
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import gatherResults

from kn_sock import (
    CallTimeout,
    InternalError,
    InvalidParams,
    MethodNotFound,
    RPCClient,
    RPCError,
    connect,
    current_call,
)
from tests.interop.peers import CLIENT, PATIENCE, PROGRAMS, PYTHON, SERVER, Serve, Start
from tests.interop.steps import outcomes

PEER = "aiorpcX"
PROTOCOLS = ["JSONRPCv2", "JSONRPCAutoDetect"]
BIG = "x" * 500_000

# What a call may take that is to time out, over a connection that is there.
SHORT = 0.2


# --- its client -----------------------------------------------------------------------------------


def add(a: Any, b: Any) -> Any:
    return a + b


def echo(value: Any) -> Any:
    return value


def refuse() -> None:
    raise RPCError(7, "not today", {"try": "tomorrow"})


def divide(a: float, b: float) -> float:
    if b == 0:
        raise ValueError("Division by zero is not allowed")
    return a / b


async def ask_back(number: int) -> Any:
    """Ask the caller, over the same connection."""
    return await current_call().connection.call("double", number)


async def tell_back(text: str) -> None:
    await current_call().connection.notify("take", text)


FUNCS = {
    "add": add,
    "echo": echo,
    "refuse": refuse,
    "divide": divide,
    "ask_back": ask_back,
    "tell_back": tell_back,
}


def run_client(start: Start, protocol: str, port: int, *steps: Any) -> list[Any]:
    """Have its client take steps; see its program."""
    return outcomes(start(PYTHON, PROGRAMS / "aiorpcx_client.py", str(port), protocol), *steps)


@pytest.mark.interop(PEER, CLIENT, "results")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_its_client_gets_results(start: Start, serve: Serve, protocol: str) -> None:
    # Its ids begin with 0.
    assert run_client(
        start,
        protocol,
        serve(FUNCS),
        ["request", "add", [1, 2]],
        ["request", "echo", [None]],
        ["request", "rpc.ping", []],
    ) == [{"result": 3}, {"result": None}, {"result": "pong"}]


@pytest.mark.interop(PEER, CLIENT, "named arguments")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_its_client_names_arguments(start: Start, serve: Serve, protocol: str) -> None:
    steps = [["request", "add", {"a": 1, "b": 2}], ["request", "rpc.ping", {}]]
    outcome = run_client(start, protocol, serve(FUNCS), *steps)
    assert outcome == [{"result": 3}, {"result": "pong"}]


@pytest.mark.interop(PEER, CLIENT, "errors (without their data)")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_its_client_gets_errors(start: Start, serve: Serve, protocol: str) -> None:
    refused, raised, unknown, unfit, after = run_client(
        start,
        protocol,
        serve(FUNCS),
        ["request", "refuse", []],
        ["request", "divide", [1, 0]],
        ["request", "nope", []],
        ["request", "add", [1]],
        ["request", "add", [1, 2]],
    )
    assert refused == {"code": 7, "message": "not today"}
    assert raised == {"code": -32000, "message": "Division by zero is not allowed"}
    assert unknown == {"code": -32601, "message": "Method 'nope' not found"}
    assert unfit["code"] == -32602
    assert after == {"result": 3}


@pytest.mark.interop(PEER, CLIENT, "notifications")
def test_its_client_sends_notifications(start: Start, serve: Serve) -> None:
    heard: queue.Queue[Any] = queue.Queue()
    port = serve({**FUNCS, "note": heard.put})
    assert run_client(
        start, "JSONRPCv2", port, ["notification", "note", ["x"]], ["request", "echo", [1]]
    ) == [None, {"result": 1}]
    assert heard.get(timeout=PATIENCE) == "x"


@pytest.mark.interop(PEER, CLIENT, "batches")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_its_client_sends_batches(start: Start, serve: Serve, protocol: str) -> None:
    heard: queue.Queue[Any] = queue.Queue()
    port = serve({**FUNCS, "note": heard.put})
    members = [
        [True, "add", [1, 2]],
        [False, "note", ["in a batch"]],
        [True, "refuse", []],
        [True, "add", {"a": 3, "b": 4}],
    ]
    (replies,) = run_client(start, protocol, port, ["batch", members])
    assert replies == [{"result": 3}, {"code": 7, "message": "not today"}, {"result": 7}]
    assert heard.get(timeout=PATIENCE) == "in a batch"


@pytest.mark.interop(PEER, CLIENT, "calls and notifications back")
def test_its_client_is_called_over_the_same_connection(start: Start, serve: Serve) -> None:
    assert run_client(
        start,
        "JSONRPCv2",
        serve(FUNCS),
        ["request", "ask_back", [21]],
        ["together", [["ask_back", [number]] for number in range(50)]],
        ["request", "tell_back", ["hello"]],
        ["heard"],
    ) == [
        {"result": 42},
        [{"result": 2 * number} for number in range(50)],
        {"result": None},
        "hello",
    ]


@pytest.mark.interop(PEER, CLIENT, "many in flight")
def test_its_client_has_many_requests_in_flight(start: Start, serve: Serve) -> None:
    requests = [["echo", [number]] for number in range(1000)]
    (results,) = run_client(start, "JSONRPCv2", serve(FUNCS), ["together", requests])
    assert results == [{"result": number} for number in range(1000)]


@pytest.mark.interop(PEER, CLIENT, "500 KB")
def test_its_client_sends_and_gets_long_lines(start: Start, serve: Serve) -> None:
    steps = [["request", "echo", [BIG]], ["request", "echo", [1]]]
    big, small = run_client(start, "JSONRPCv2", serve(FUNCS), *steps)
    assert big == {"result": BIG}
    assert small == {"result": 1}


@pytest.mark.interop(PEER, CLIENT, "a request that it gave up")
def test_its_client_ignores_the_reply_to_what_it_gave_up(start: Start, serve: Serve) -> None:
    released = threading.Event()

    def wait() -> str:
        assert released.wait(PATIENCE)
        return "late"

    port = serve({**FUNCS, "wait": wait, "release": released.set})
    assert run_client(
        start,
        "JSONRPCv2",
        port,
        ["give up", "wait", []],
        ["request", "release", []],
        ["request", "echo", [1]],
    ) == [True, {"result": None}, {"result": 1}]


@pytest.mark.interop(PEER, CLIENT, "JSON-RPC 1.0")
def test_its_client_speaks_the_older_version(start: Start, serve: Serve) -> None:
    assert run_client(
        start,
        "JSONRPCv1",
        serve(FUNCS),
        ["request", "add", [1, 2]],
        ["request", "echo", [None]],
        ["request", "divide", [1, 0]],
    ) == [
        {"result": 3},
        {"result": None},
        # The code that it gives to an error which is a string.
        {"code": -100, "message": "Division by zero is not allowed"},
    ]


# --- its server -----------------------------------------------------------------------------------


@pytest.fixture(params=PROTOCOLS)
def port(start: Start, request: pytest.FixtureRequest) -> int:
    """The port of its server."""
    return start(PYTHON, PROGRAMS / "aiorpcx_server.py", request.param).port()


@pytest.fixture
def port_of_2(start: Start) -> int:
    """The port of its server, where the way in which it finds out the protocol does not matter."""
    return start(PYTHON, PROGRAMS / "aiorpcx_server.py", "JSONRPCv2").port()


@pytest.mark.interop(PEER, SERVER, "results, named arguments")
def test_its_server_gives_results(port: int) -> None:
    with RPCClient("127.0.0.1", port) as client:
        assert client.call("add", 1, 2) == 3
        assert client.call("add", a=3, b=4) == 7
        assert client.call("notes") == []
        assert client.call("echo", None) is None


@pytest.mark.interop(PEER, SERVER, "errors")
def test_its_server_gives_errors(port: int) -> None:
    with RPCClient("127.0.0.1", port) as client:
        with pytest.raises(RPCError, match=r"^not today$") as caught:
            client.call("refuse")
        assert (caught.value.code, caught.value.data) == (7, None)
        with pytest.raises(InternalError, match="internal server error"):
            client.call("fail")
        with pytest.raises(MethodNotFound, match='unknown method "nope"'):
            client.call("nope")
        with pytest.raises(InvalidParams, match="requires 2"):
            client.call("add", 1)
        with pytest.raises(InvalidParams, match="1 argument"):
            client.call("add", 1, b=2)  # what is named beside those by position is ignored
        assert client.call("add", 1, 2) == 3


@pytest.mark.interop(PEER, SERVER, "notifications, batches")
def test_its_server_takes_notifications_and_batches(port: int) -> None:
    with RPCClient("127.0.0.1", port) as client:
        client.notify("note", 1)
        batch = client.batch()
        batch.call("add", 1, 2)
        batch.notify("note", 2)
        batch.call("refuse")
        batch.call("add", a=3, b=4)
        first, refused, last = batch.send()
        assert (first, last) == (3, 7)
        assert isinstance(refused, RPCError)
        assert refused.code == 7
        assert client.call("notes") == [1, 2]


@pytest.mark.interop(PEER, SERVER, "calls and notifications back")
def test_its_server_calls_over_the_same_connection(port_of_2: int) -> None:
    heard: queue.Queue[Any] = queue.Queue()
    funcs = {"double": lambda number: 2 * number, "take": heard.put}
    with RPCClient("127.0.0.1", port_of_2, funcs=funcs) as client:
        assert client.call("ask_back", 21) == 42
        assert list(client.map("ask_back", range(50))) == [2 * number for number in range(50)]
        assert client.call("tell_back", "hello") is None
        assert heard.get(timeout=PATIENCE) == "hello"


@pytest.mark.interop(PEER, SERVER, "many in flight")
def test_its_server_answers_many_calls_in_flight(port_of_2: int) -> None:
    with RPCClient("127.0.0.1", port_of_2) as client:
        assert list(client.map("echo", range(1000), window=1000)) == list(range(1000))


@pytest.mark.interop(PEER, SERVER, "500 KB")
def test_its_server_takes_and_gives_long_lines(port_of_2: int) -> None:
    with RPCClient("127.0.0.1", port_of_2) as client:
        assert client.call("echo", BIG) == BIG


@pytest.mark.interop(PEER, SERVER, "no answer to a line of 2 MB")
def test_its_server_drops_a_line_of_2_mb_without_a_word(port_of_2: int) -> None:
    with RPCClient("127.0.0.1", port_of_2) as client:
        with pytest.raises(CallTimeout):
            client.with_options(timeout=SHORT).call("echo", "x" * 2_000_000)
        assert client.call("echo", 1) == 1


@pytest.mark.interop(PEER, SERVER, "calls that are given up")
def test_a_call_of_its_server_that_was_given_up_leaves_the_others_theirs(port_of_2: int) -> None:
    with RPCClient("127.0.0.1", port_of_2) as client:
        with pytest.raises(CallTimeout):
            client.with_options(timeout=SHORT).call("wait", "late")
        waiting = client.submit("wait", "late too")
        assert client.call("echo", 1) == 1
        assert waiting.cancel()
        assert client.call("release") is None
        assert client.call("wait", "now") == "now"


@pytest.mark.interop(PEER, SERVER, "Deferreds")
@pytest_twisted.ensureDeferred
async def test_its_server_answers_deferreds(port_of_2: int) -> None:
    connection = await connect(f"tcp:127.0.0.1:{port_of_2}", funcs={"double": lambda n: 2 * n})
    asked = [connection.call("ask_back", number) for number in range(100)]
    assert await gatherResults(asked) == [2 * number for number in range(100)]
    with pytest.raises(RPCError, match=r"^not today$"):
        await connection.call("refuse")
    await connection.close()
