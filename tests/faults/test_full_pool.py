"""Every thread taken, every place taken, or the server stopping: what is answered then."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from kn_sock import RPCClient, RPCError, current_call, in_reactor
from tests.faults.peers import HOST, PATIENCE, Peer, Served, call, join

THREADS = 4


class Sleepers:
    """Methods that sleep until the test is over, or somebody wakes them."""

    def __init__(self) -> None:
        self.wakes = threading.Event()
        self.entered = threading.Semaphore(0)
        self.cancelled = threading.Semaphore(0)
        self.to_fire: list[Deferred[Any]] = []

    def sleep(self, number: int) -> int:
        self.entered.release()
        call = current_call()
        while not call.cancelled and not self.wakes.wait(0.01):
            pass
        if call.cancelled:
            self.cancelled.release()
        return number

    @in_reactor
    def add(self, a: int, b: int) -> int:
        return a + b

    @in_reactor
    def wait(self) -> Deferred[Any]:
        self.to_fire.append(Deferred(lambda _: self.cancelled.release()))
        self.entered.release()
        return self.to_fire[-1]


@pytest.fixture
def sleepers() -> Iterator[Sleepers]:
    sleepers = Sleepers()
    yield sleepers
    sleepers.wakes.set()


@pytest.fixture
def server(serve: Callable[..., Served], sleepers: Sleepers) -> Iterator[Served]:
    yield serve(sleepers, threads=THREADS, max_pending=10)
    sleepers.wakes.set()


@pytest.fixture
def peer(server: Served) -> Iterator[Peer]:
    peer = join(server.port)
    yield peer
    peer.close()


def test_a_pool_full_of_sleepers_answers_pings_and_reactor_methods(
    server: Served, sleepers: Sleepers, peer: Peer
) -> None:
    """Over the connection that fills it, over others, and over new ones."""
    other = join(server.port)
    # One more than there are threads; it waits for one.
    for number in range(THREADS + 1):
        peer.send(call(number, "sleep", number))
    for _ in range(THREADS):
        assert sleepers.entered.acquire(timeout=PATIENCE)
    for each in (peer, other, fresh := join(server.port)):
        each.send(call("ping", "rpc.ping") + call("add", "add", 1, 2))
        answers = [each.message() for _ in range(2)]
        assert {answer["id"]: answer["result"] for answer in answers} == {"ping": "pong", "add": 3}
    sleepers.wakes.set()
    assert sorted(peer.message()["result"] for _ in range(THREADS + 1)) == [*range(THREADS + 1)]
    other.close()
    fresh.close()


def test_calls_with_a_deadline_do_not_wait_for_a_thread_longer(
    server: Served, sleepers: Sleepers
) -> None:
    with RPCClient(HOST, server.port, timeout=PATIENCE) as client:
        sleeping = [client.submit("sleep", number) for number in range(THREADS)]
        for _ in range(THREADS):
            assert sleepers.entered.acquire(timeout=PATIENCE)
        hurried = client.with_options(timeout=0.2, propagate_deadline=True)
        with pytest.raises((TimeoutError, RPCError)):
            hurried.call("sleep", 100)
        sleepers.wakes.set()
        assert [each.result(PATIENCE) for each in sleeping] == [*range(THREADS)]
        # Not even afterwards was it run.
        assert not sleepers.entered.acquire(blocking=False)


def test_with_max_pending_reached_a_cancellation_is_heard(
    server: Served, sleepers: Sleepers, peer: Peer
) -> None:
    for number in range(15):
        peer.send(call(number, "wait"))
    for _ in range(10):
        assert sleepers.entered.acquire(timeout=PATIENCE)
    # One that is in flight, and one that waits for its turn.
    for number in (3, 12):
        peer.send(b'{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":%d}}\n' % number)
    assert sleepers.cancelled.acquire(timeout=PATIENCE)
    answers = [peer.message() for _ in range(2)]
    assert {answer["id"]: answer["error"]["code"] for answer in answers} == {3: -32800, 12: -32800}
    peer.reset()
    for _ in range(9):
        assert sleepers.cancelled.acquire(timeout=PATIENCE)


def test_a_server_that_stops_answers_what_it_had_accepted(
    server: Served, sleepers: Sleepers, peer: Peer
) -> None:
    """Under way, waiting for a thread, and waiting for their turn; what comes later is refused."""
    for number in range(15):
        peer.send(call(number, "sleep", number))
    plain = join(server.port)
    for number in range(3):
        plain.send(b'{"method":"sleep","params":[%d],"kwargs":{}}\n' % number)
    # What stands before it has been read when it is answered.
    plain.send(call("read", "rpc.ping"))
    assert plain.message()["id"] == "read"
    for _ in range(THREADS):
        assert sleepers.entered.acquire(timeout=PATIENCE)
    server.begin_to_stop()
    refused = join_until_refused(plain)
    assert refused["error"]["code"] == -32009
    sleepers.wakes.set()
    answers = [peer.message() for _ in range(15)]
    assert sorted(answer["result"] for answer in answers) == [*range(15)]
    rest = [plain.message() for _ in range(3)]
    assert [answer["result"] for answer in rest] == [0, 1, 2]
    assert peer.line() == b""
    assert plain.line() == b""
    plain.close()


def join_until_refused(peer: Peer) -> Any:
    """Call over a connection until the server says that it stops."""
    while True:
        peer.send(call("later", "rpc.ping"))
        answer = peer.message()
        if "error" in answer:
            return answer
