from __future__ import annotations

import queue
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import gatherResults

from kn_sock import CallTimeout, MethodNotFound, RPCClient, RPCError, connect
from tests.interop.peers import CLIENT, PATIENCE, PEERS, PROGRAMS, SERVER, Program, Serve, Start

PEER = "jayson"


def add(a: int, b: int) -> int:
    return a + b


def subtract(minuend: int, subtrahend: int) -> int:
    return minuend - subtrahend


def divide(a: float, b: float) -> float:
    if b == 0:
        raise ValueError("Division by zero is not allowed")
    return a / b


def nothing() -> None: ...


# --- its client, our server -----------------------------------------------------------------------


@pytest.fixture
def told() -> queue.Queue[Any]:
    """What the method ``tell`` was called with."""
    return queue.Queue()


@pytest.fixture
def jayson_client(start: Start, serve: Serve, told: queue.Queue[Any]) -> Program:
    """jayson's client, which makes a connection to our server for each call."""
    funcs = {
        "add": add,
        "subtract": subtract,
        "divide": divide,
        "nothing": nothing,
        "tell": told.put,
    }
    return start_node(start, "jayson_client.js", str(serve(funcs)))


def start_node(start: Start, program: str, *arguments: str) -> Program:
    return start("node", PROGRAMS / program, *arguments, NODE_PATH=str(PEERS / "node_modules"))


def call(method: str, params: Any = None, *, notify: bool = False) -> dict[str, Any]:
    return {"method": method, "params": params if params is not None else [], "notify": notify}


def without_ids(responses: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put the replies of a batch into an order: jayson's ids are random."""
    return sorted(({**each, "id": ""} for each in responses), key=str)


@pytest.mark.interop(PEER, CLIENT, "results")
def test_its_calls_get_results(jayson_client: Program) -> None:
    assert jayson_client.ask(call("add", [1, 2]))["response"]["result"] == 3
    params = {"minuend": 5, "subtrahend": 3}
    assert jayson_client.ask(call("subtract", params))["response"]["result"] == 2
    assert jayson_client.ask(call("nothing"))["response"]["result"] is None


@pytest.mark.interop(PEER, CLIENT, "errors")
def test_its_calls_get_errors(jayson_client: Program) -> None:
    assert jayson_client.ask(call("divide", [1, 0]))["response"]["error"] == {
        "code": -32000,
        "message": "Division by zero is not allowed",
        "data": {"type": "ValueError"},
    }
    assert jayson_client.ask(call("no_such_method"))["response"]["error"]["code"] == -32601
    assert jayson_client.ask(call("add", [1]))["response"]["error"]["code"] == -32602


@pytest.mark.interop(PEER, CLIENT, "notifications")
def test_its_notifications_are_run(jayson_client: Program, told: queue.Queue[Any]) -> None:
    assert jayson_client.ask(call("tell", ["news"], notify=True)) == {}
    assert told.get(timeout=PATIENCE) == "news"


@pytest.mark.interop(PEER, CLIENT, "batches")
def test_its_batches_get_results_and_errors(jayson_client: Program, told: queue.Queue[Any]) -> None:
    batch = [
        call("add", [1, 2]),
        call("tell", ["news"], notify=True),
        call("no_such_method"),
    ]
    assert without_ids(jayson_client.ask(batch)["response"]) == [
        {
            "jsonrpc": "2.0",
            "id": "",
            "error": {"code": -32601, "message": "Method 'no_such_method' not found"},
        },
        {"jsonrpc": "2.0", "id": "", "result": 3},
    ]
    assert told.get(timeout=PATIENCE) == "news"


# --- its server, our clients ----------------------------------------------------------------------


@pytest.fixture
def jayson_port(start: Start) -> int:
    """Its server, which puts no newline after a reply."""
    return start_node(start, "jayson_server.js").port()


def client_of(port: int) -> RPCClient:
    return RPCClient("127.0.0.1", port, framing="documents")


@pytest.mark.interop(PEER, SERVER, "results")
def test_its_server_gives_results(jayson_port: int) -> None:
    with client_of(jayson_port) as client:
        assert client.call("add", 1, 2) == 3
        assert client.call("subtract", minuend=5, subtrahend=3) == 2
        assert client.call("add", "[{", '"\n\\') == '[{"\n\\'
        assert client.call("nothing") is None


@pytest.mark.interop(PEER, SERVER, "errors")
def test_its_server_gives_errors(jayson_port: int) -> None:
    with client_of(jayson_port) as client:
        with pytest.raises(RPCError, match="Division by zero is not allowed") as caught:
            client.call("divide", 1, 0)
        assert (caught.value.code, caught.value.data) == (-32050, [1, 0])
        with pytest.raises(MethodNotFound):
            client.call("no_such_method")
        assert client.call("add", 1, 2) == 3


@pytest.mark.interop(PEER, SERVER, "notifications")
def test_its_server_takes_notifications(jayson_port: int) -> None:
    with client_of(jayson_port) as client:
        client.notify("tell", "news")
        assert client.call("lastTold") == "news"


@pytest.mark.interop(PEER, SERVER, "batches")
def test_its_server_answers_a_batch(jayson_port: int) -> None:
    with client_of(jayson_port) as client:
        batch = client.batch()
        batch.call("add", 1, 2)
        batch.call("no_such_method")
        batch.notify("tell", "news")
        batch.call("add", 3, 4)
        first, problem, last = batch.send()
        assert (first, last) == (3, 7)
        assert isinstance(problem, MethodNotFound)


@pytest.mark.interop(PEER, SERVER, "many calls in flight")
def test_calls_in_flight_are_answered_in_any_order(jayson_port: int) -> None:
    with client_of(jayson_port) as client:
        # Few, as it leaves Nagle's algorithm on: two replies at a time take 40 ms.
        passing = [client.submit("pass", number) for number in range(10)]
        for number in reversed(range(10)):
            assert client.call("open", number) == number
        assert [each.result() for each in passing] == list(range(10))


@pytest.mark.interop(PEER, SERVER, "calls after a timeout")
def test_a_call_that_timed_out_leaves_the_connection_usable(jayson_port: int) -> None:
    with client_of(jayson_port) as client:
        with pytest.raises(CallTimeout):
            client.with_options(timeout=0.01).call("pass", 1)
        # It is answered now: late.
        assert client.call("open", 1) == 1
        assert client.call("add", 1, 2) == 3


@pytest.mark.interop(PEER, SERVER, "Deferreds")
@pytest_twisted.ensureDeferred
async def test_deferreds_get_its_results_and_errors(jayson_port: int) -> None:
    connection = await connect(f"tcp:127.0.0.1:{jayson_port}", framing="documents")
    sums = await gatherResults([connection.call("add", number, 1) for number in range(100)])
    assert sums == list(range(1, 101))
    with pytest.raises(RPCError, match="Division by zero is not allowed"):
        await connection.call("divide", 1, 0)
    await connection.close()
