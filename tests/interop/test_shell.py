"""Calls from a shell: nc and socat send what they are given, and print what comes back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.task import deferLater

from kn_sock import ConnectionLost, current_call
from tests.interop.peers import CLIENT, PATIENCE, Program, Serve, Start

ADD = '{"jsonrpc": "2.0", "id": 1, "method": "add", "params": [10, 20]}'
SUM = '{"jsonrpc":"2.0","id":1,"result":30}'


def add(a: int, b: int) -> int:
    return a + b


async def after_the_caller_has_sent_all() -> str:
    call = current_call()
    try:
        # Calls to the caller end when it has shut down its writing side.
        await call.connection.call("are_you_there")
    except ConnectionLost:
        await deferLater(call.reactor, 0)
        return "late"
    raise AssertionError("nc answers no calls")


FUNCS = {"add": add, "slow": after_the_caller_has_sent_all}


@pytest.fixture
def nc(start: Start, serve: Serve) -> Program:
    """``nc -N``, which shuts down its writing side once its input has ended."""
    return start("nc", "-N", "127.0.0.1", str(serve(FUNCS)))


@pytest.fixture
def socat(start: Start, serve: Serve) -> Program:
    """A socat that ends its lines with CRLF, and waits for replies when its input has ended."""
    target = f"TCP:127.0.0.1:{serve(FUNCS)},crlf"
    return start("socat", "-t", str(PATIENCE), "STDIO", target)


def replies(program: Program) -> list[Any]:
    return [json.loads(line) for line in program.rest()]


# --- nc -------------------------------------------------------------------------------------------


@pytest.mark.interop("nc", CLIENT, "each dialect")
def test_nc_gets_each_reply_in_the_dialect_of_its_request(nc: Program) -> None:
    nc.send(ADD, '{"id": 2, "method": "add", "params": [1, 2]}')
    nc.send('{"method": "add", "params": [1], "kwargs": {"b": 3}}')
    assert sorted(nc.rest()) == sorted([SUM, '{"id":2,"result":3,"error":null}', '{"result":4}'])


@pytest.mark.interop("nc", CLIENT, "errors")
def test_nc_gets_errors_and_further_replies(nc: Program) -> None:
    nc.send("this is no JSON", '{"method": "nope"}', ADD)
    outcomes = replies(nc)
    assert outcomes[0]["error"]["code"] == -32700
    assert {"error": "Method 'nope' not found"} in outcomes
    assert json.loads(SUM) in outcomes


@pytest.mark.interop("nc", CLIENT, "batches")
def test_nc_gets_the_reply_to_a_batch_in_one_line(nc: Program) -> None:
    nc.send(f'[{ADD}, {{"jsonrpc": "2.0", "method": "add", "params": [1, 2]}}, 3]')
    (batch,) = replies(nc)
    assert [reply["id"] for reply in batch] == [None, 1]


@pytest.mark.interop("nc", CLIENT, "replies after its end of input")
def test_nc_gets_a_reply_that_comes_after_its_input_has_ended(nc: Program) -> None:
    nc.send('{"jsonrpc": "2.0", "id": 1, "method": "slow"}')
    question, reply = replies(nc)
    assert question["method"] == "are_you_there"
    assert reply == {"jsonrpc": "2.0", "id": 1, "result": "late"}


@pytest.mark.interop("nc", CLIENT, "a last line without an end is refused")
def test_nc_is_told_that_its_last_line_has_no_end(nc: Program) -> None:
    nc.send(ADD)
    assert nc.line() == SUM
    assert nc.process.stdin is not None
    nc.process.stdin.write(ADD)
    (refusal,) = replies(nc)
    assert refusal["error"]["code"] == -32700
    assert "no newline" in refusal["error"]["message"]


# --- socat ----------------------------------------------------------------------------------------


@pytest.mark.interop("socat", CLIENT, "lines that end with CRLF")
def test_socat_gets_replies_to_lines_that_end_with_crlf(socat: Program) -> None:
    socat.send(ADD, "", ADD)
    assert socat.rest() == [SUM, SUM]


@pytest.mark.interop("socat", CLIENT, "replies after its end of input")
def test_socat_gets_a_reply_that_comes_after_its_input_has_ended(socat: Program) -> None:
    socat.send('{"jsonrpc": "2.0", "id": 1, "method": "slow"}')
    assert replies(socat)[-1] == {"jsonrpc": "2.0", "id": 1, "result": "late"}
