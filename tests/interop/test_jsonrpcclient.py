from __future__ import annotations

from typing import Any

import pytest

from kn_sock import RPCError
from tests.interop.peers import CLIENT, PROGRAMS, PYTHON, Serve, Start
from tests.interop.steps import outcomes

PEER = "jsonrpcclient"


def add(a: Any, b: Any) -> Any:
    return a + b


def refuse() -> None:
    raise RPCError(7, "not today", {"try": "tomorrow"})


FUNCS = {"add": add, "refuse": refuse}


def run_client(start: Start, port: int, *steps: Any) -> list[Any]:
    """Have the client take steps; see its program."""
    return outcomes(start(PYTHON, PROGRAMS / "jsonrpcclient_client.py", str(port)), *steps)


@pytest.mark.interop(PEER, CLIENT, "results, named arguments")
def test_it_gets_results(start: Start, serve: Serve) -> None:
    assert run_client(
        start,
        serve(FUNCS),
        ["request", "add", [1, 2]],
        ["request", "add", {"a": "æ", "b": "数"}],
        ["request", "rpc.ping", None],
    ) == [{"result": 3}, {"result": "æ数"}, {"result": "pong"}]


@pytest.mark.interop(PEER, CLIENT, "ids that are strings")
def test_it_gets_its_ids_back(start: Start, serve: Serve) -> None:
    kinds = ["decimal", "hexadecimal", "random", "uuid"]
    steps = [["request", "add", [1, 2], kind] for kind in kinds]
    assert run_client(start, serve(FUNCS), *steps) == [{"result": 3}] * len(kinds)


@pytest.mark.interop(PEER, CLIENT, "errors")
def test_it_gets_errors(start: Start, serve: Serve) -> None:
    refused, unknown, after = run_client(
        start,
        serve(FUNCS),
        ["request", "refuse", None],
        ["request", "nope", [1]],
        ["request", "add", [1, 2]],
    )
    assert refused == {"code": 7, "message": "not today", "data": {"try": "tomorrow"}}
    assert (unknown["code"], unknown["message"]) == (-32601, "Method 'nope' not found")
    assert after == {"result": 3}


@pytest.mark.interop(PEER, CLIENT, "batches")
def test_it_sends_batches(start: Start, serve: Serve) -> None:
    requests = [["add", [1, 2]], ["refuse", None], ["add", {"a": 3, "b": 4}]]
    (got,) = run_client(start, serve(FUNCS), ["batch", requests])
    assert [each.get("result", each.get("code")) for each in got] == [3, 7, 7]
