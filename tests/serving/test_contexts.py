"""Each call runs in a context of its own: what one sets, no other sees."""

from __future__ import annotations

import decimal
import json
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed

from kn_sock import current_call, in_reactor
from kn_sock.testing import ManualExecutor, MemoryNetwork
from tests.serving.peers import RawClient, call, join, listen

seen: ContextVar[str] = ContextVar("seen", default="nothing")


def set_and_get(value: str) -> list[Any]:
    """Return what was set before, and what is now."""
    before = seen.get()
    seen.set(value)
    precision = decimal.getcontext().prec
    decimal.getcontext().prec = 5
    return [before, seen.get(), precision, current_call().method]


async def set_and_get_later(value: str) -> list[Any]:
    await succeed(None)
    found = set_and_get(value)
    await succeed(None)
    return [*found[:1], seen.get(), *found[2:]]


def set_and_return_a_deferred(value: str) -> Deferred[list[Any]]:
    return succeed(set_and_get(value))


async def pass_on(call: Any, proceed: Callable[[], Any]) -> Any:
    return await proceed()


FUNCS = {
    "reactor": in_reactor(set_and_get),
    "thread": set_and_get,
    "coroutine": set_and_get_later,
    "deferred": in_reactor(set_and_return_a_deferred),
}

SHAPES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "lines": lambda calls: calls,
    "batch": lambda calls: [b"[" + b",".join(map(bytes.strip, calls)) + b"]\n"],
    "traced": lambda calls: [
        json.dumps(
            {**json.loads(line), "traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"}
        ).encode()
        + b"\n"
        for line in calls
    ],
}


def results_of(client: RawClient) -> list[Any]:
    replies = client.replies
    if replies and isinstance(replies[0], list):
        (replies,) = replies
    return [reply["result"] for reply in replies]


@pytest.mark.parametrize("has_interceptors", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", FUNCS)
def test_what_a_call_sets_no_other_sees(
    network: MemoryNetwork, method: str, shape: str, has_interceptors: bool
) -> None:
    executor = ManualExecutor()
    interceptors = [pass_on] if has_interceptors else []
    options: dict[str, Any] = {"threads": 1, "executor": executor}
    listen(network, FUNCS, **options, serve_interceptors=interceptors)
    clients = [join(network), join(network)]
    for client in clients:
        calls = [call(number, method, f"value {number}") for number in range(3)]
        for line in SHAPES[shape](calls):
            client.transport.write(line)
        network.pump()
        while executor.run():
            network.pump()
    precision = decimal.DefaultContext.prec
    for client in clients:
        assert results_of(client) == [
            ["nothing", f"value {number}", precision, method] for number in range(3)
        ]
    assert seen.get() == "nothing"
    assert decimal.getcontext().prec == precision


def test_what_was_set_before_the_server_began_is_seen(network: MemoryNetwork) -> None:
    token = seen.set("of the application")
    try:
        listen(network, FUNCS)
        client = join(network)
        client.transport.write(call(1, "reactor", "value"))
        network.pump()
    finally:
        seen.reset(token)
    assert client.replies[0]["result"][0] == "of the application"
