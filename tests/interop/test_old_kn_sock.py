from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from tests.interop.peers import CLIENT, OLD_KN_SOCK, PROGRAMS, Serve, Start

PEER = "kn-sock 0.3"


def add(a: Any, b: Any) -> Any:
    return a + b


def divide(a: float, b: float) -> float:
    if b == 0:
        raise ValueError("Division by zero is not allowed")
    return a / b


FUNCS = {"add": add, "divide": divide}


def call(start: Start, port: int, method: str, *params: Any, **kwargs: Any) -> Any:
    """Call our server with the old client."""
    program = start(
        sys.executable,
        PROGRAMS / "old_kn_sock_client.py",
        OLD_KN_SOCK,
        str(port),
        method,
        json.dumps(params),
        json.dumps(kwargs),
    )
    (line,) = program.rest()
    return json.loads(line)


@pytest.mark.interop(PEER, CLIENT, "results")
def test_its_client_gets_results(start: Start, serve: Serve) -> None:
    assert call(start, serve(FUNCS), "add", 1, b=2) == {"result": 3}


@pytest.mark.interop(PEER, CLIENT, "errors")
def test_its_client_gets_the_text_of_errors(start: Start, serve: Serve) -> None:
    outcome = call(start, serve(FUNCS), "divide", 1, 0)
    assert outcome["text"].endswith("Division by zero is not allowed")
