"""A server that refuses to run anything: the call goes to the next endpoint."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kn_sock import CallTimeout, RPCClient, RPCError
from tests.faults.peers import HOST, PATIENCE, ServedService, wait_until


class Funcs:
    def __init__(self, name: str) -> None:
        self._name = name
        self.entered = threading.Semaphore(0)
        self.may_end = threading.Event()
        self.ran: list[Any] = []

    def who(self, number: int = 0) -> str:
        self.ran.append(number)
        return self._name

    def hold(self) -> str:
        self.entered.release()
        assert self.may_end.wait(PATIENCE)
        return self._name


@pytest.fixture
def funcs() -> list[Funcs]:
    return [Funcs("first"), Funcs("second")]


@pytest.fixture
def servers(funcs: list[Funcs]) -> Iterator[list[ServedService]]:
    servers = [ServedService(each, drain_timeout=PATIENCE) for each in funcs]
    yield servers
    for each in funcs:
        each.may_end.set()
    for server in servers:
        server.stop()


@pytest.fixture
def make_client(servers: list[ServedService]) -> Iterator[Callable[..., RPCClient]]:
    made: list[RPCClient] = []

    def make(*ports: int, **options: Any) -> RPCClient:
        endpoints = [f"tcp:{HOST}:{port}" for port in ports or [each.port for each in servers]]
        made.append(RPCClient.from_endpoint(endpoints, timeout=PATIENCE, **options))
        return made[-1]

    yield make
    for client in made:
        client.close()


def begin_to_drain(server: ServedService) -> None:
    server.begin_to_stop()
    wait_until(lambda: not server._service.running)


def test_calls_that_a_draining_server_refuses_are_run_by_the_next(
    make_client: Callable[..., RPCClient], servers: list[ServedService], funcs: list[Funcs]
) -> None:
    client = make_client()
    held = client.submit("hold")
    assert funcs[0].entered.acquire(timeout=PATIENCE)
    begin_to_drain(servers[0])
    futures = [client.submit("who", number) for number in range(30)]
    assert {future.result(PATIENCE) for future in futures} == {"second"}
    assert client.call("who", 30) == "second"
    assert funcs[0].ran == []
    assert sorted(funcs[1].ran) == list(range(31))
    # What the first had begun, it ends.
    funcs[0].may_end.set()
    assert held.result(PATIENCE) == "first"


def test_where_every_server_refuses_the_call_fails_and_was_not_run(
    make_client: Callable[..., RPCClient], servers: list[ServedService], funcs: list[Funcs]
) -> None:
    client = make_client()
    held = client.submit("hold")
    assert funcs[0].entered.acquire(timeout=PATIENCE)
    begin_to_drain(servers[0])
    servers[1].stop()
    with pytest.raises((RPCError, OSError)) as caught:
        client.call("who")
    assert getattr(caught.value, "maybe_executed", None) is False
    funcs[0].may_end.set()
    assert held.result(PATIENCE) == "first"


def test_with_one_endpoint_a_refusal_is_told(
    make_client: Callable[..., RPCClient], servers: list[ServedService], funcs: list[Funcs]
) -> None:
    client = make_client(servers[0].port)
    held = client.submit("hold")
    assert funcs[0].entered.acquire(timeout=PATIENCE)
    begin_to_drain(servers[0])
    with pytest.raises(RPCError, match="nothing was run") as caught:
        client.call("who")
    assert caught.value.maybe_executed is False
    funcs[0].may_end.set()
    assert held.result(PATIENCE) == "first"


def test_a_call_that_waited_in_vain_names_the_last_reason() -> None:
    client = RPCClient(HOST, 1, queue_while_disconnected=True)
    with pytest.raises(CallTimeout, match=r"the last attempt: .*connection refused") as caught:
        client.with_options(timeout=0.3).call("who")
    assert caught.value.maybe_executed is False
    client.close()
