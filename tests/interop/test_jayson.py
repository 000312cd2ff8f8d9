from __future__ import annotations

import queue
from typing import Any

import pytest

from tests.interop.peers import CLIENT, PATIENCE, PEERS, PROGRAMS, Program, Serve, Start

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
