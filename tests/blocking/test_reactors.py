"""The blocking client on a reactor's thread: what would stop it raises, the rest never waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from kn_sock import RPCClient, RPCServerService, connect, in_reactor, start_rpc_server
from kn_sock._blocking.reactor_thread import reactor_thread
from tests.faults.peers import HOST, PATIENCE, Served


class Funcs:
    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.has_heard = threading.Semaphore(0)

    def add(self, a: int, b: int) -> int:
        return a + b

    def hear(self, value: Any) -> None:
        self.heard.append(value)
        self.has_heard.release()


@pytest.fixture
def funcs() -> Funcs:
    return Funcs()


@pytest.fixture
def client(funcs: Funcs) -> Iterator[RPCClient]:
    server = Served({"add": funcs.add, "hear": funcs.hear})
    client = RPCClient(HOST, server.port, timeout=PATIENCE)
    yield client
    client.close()
    server.stop()


async def on_reactor(function: Callable[[], Any]) -> Any:
    """Call a function in a turn of the reactor that runs."""
    turn: Deferred[None] = Deferred()
    reactor.callLater(0, turn.callback, None)
    await turn
    return function()


@pytest.mark.parametrize(
    "blocks",
    [
        lambda client: client.call("add", 1, 2),
        lambda client: next(client.map("add", [1], [2])),
        lambda client: client.batch().send(),
        lambda client: RPCClient(HOST, 1),
        lambda client: start_rpc_server(0, {"add": int}, HOST),
    ],
    ids=["call", "map", "batch", "RPCClient", "start_rpc_server"],
)
@pytest_twisted.ensureDeferred
async def test_what_would_stop_the_reactor_that_runs_raises_at_once(
    client: RPCClient, blocks: Callable[[RPCClient], Any]
) -> None:
    with pytest.raises(RuntimeError, match="would stop the reactor that runs on this thread"):
        await on_reactor(lambda: blocks(client))
    assert await deferToThread(client.call, "add", 1, 2) == 3


@pytest_twisted.ensureDeferred
async def test_what_never_waits_works_on_the_reactor_that_runs(
    client: RPCClient, funcs: Funcs
) -> None:
    future: Future[Any] = await on_reactor(lambda: client.submit("add", 1, 2))
    await on_reactor(lambda: client.notify("hear", "from the reactor"))
    assert await deferToThread(future.result, PATIENCE) == 3
    assert await deferToThread(funcs.has_heard.acquire, timeout=PATIENCE)
    assert funcs.heard == ["from the reactor"]
    await on_reactor(client.close)
    await on_reactor(client.close)


@pytest_twisted.ensureDeferred
async def test_a_server_on_the_reactor_that_its_own_thread_calls_does_not_dead_lock() -> None:
    service = RPCServerService(
        f"tcp:0:interface={HOST}", {"add": in_reactor(lambda a, b: a + b)}, reactor=reactor
    )
    service.startService()
    listening: Any = await service.listen()
    port = listening.getHost().port
    with pytest.raises(RuntimeError, match=r"use kn_sock\.connect"):
        await on_reactor(lambda: RPCClient(HOST, port))
    connection = await connect(HOST, port)
    assert await connection.call("add", 1, 2) == 3
    await connection.close()
    await service.stopService()


def test_callbacks_of_futures_may_submit_notify_and_close(client: RPCClient, funcs: Funcs) -> None:
    """They run on the background reactor's thread."""
    nested: list[Any] = []
    is_done = threading.Event()

    def done(future: Future[Any]) -> None:
        try:
            assert threading.current_thread().name == "kn_sock-reactor"
            nested.append(client.submit("add", future.result(), 10))
            client.notify("hear", "from a callback")
            with pytest.raises(RuntimeError, match="would wait for itself"):
                client.call("add", 1, 2)
        finally:
            is_done.set()

    future = client.submit("add", 1, 2)
    reactor_thread().call(future.add_done_callback, done)
    assert is_done.wait(PATIENCE)
    assert nested[0].result(PATIENCE) == 13
    assert funcs.has_heard.acquire(timeout=PATIENCE)
    reactor_thread().call(client.close)
    with pytest.raises(ConnectionError):
        client.call("add", 1, 2)


def test_a_notification_that_cannot_be_sent_by_a_callback_is_logged(
    client: RPCClient, log_events: Any
) -> None:
    client.close()
    reactor_thread().call(client.notify, "hear", 1)
    reactor_thread().call(lambda: None)
    (line,) = [line for line in log_events.take_lines() if "notification" in line]
    assert line.startswith("warn: the notification hear was not sent: ")
