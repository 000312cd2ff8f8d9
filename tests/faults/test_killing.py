"""SIGKILL to a server with fifty clients, and the server that takes its place at the same port."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from kn_sock import (
    ConnectFailed,
    ConnectionLost,
    RPCClient,
    RPCClientService,
    RPCConnection,
    connect,
)
from kn_sock._blocking.reactor_thread import reactor_thread
from tests.faults.peers import HOST, PATIENCE, Process

SERVER = """
import sys, threading
from twisted.internet.defer import Deferred
from kn_sock import in_reactor, start_rpc_server

never = threading.Event()

@in_reactor
def hold(name):
    sys.stdout.write(f"held {name}\\n")
    return Deferred()

def hold_in_thread(name):
    sys.stdout.write(f"held {name}\\n")
    never.wait()

start_rpc_server(
    int(sys.argv[1]),
    {"echo": in_reactor(lambda value: value), "hold": hold, "hold_in_thread": hold_in_thread},
    threads=50,
    on_ready=lambda host, port: print("on", port),
)
"""

# Of each kind; there are fifty clients in all.
BLOCKING, SERVICES, CONNECTIONS = 20, 15, 15


class Server:
    """The server's process; one after the other at the same port."""

    def __init__(self, start: Callable[..., Process]) -> None:
        self._start = start
        self.port = 0
        self.begin()

    def begin(self) -> None:
        self._process = self._start("-c", SERVER, str(self.port))
        self.port = int(self._process.line_with(r"on (\d+)")[1])

    def wait_until_held(self, count: int) -> None:
        for _ in range(count):
            self._process.line_with("held")

    def kill(self) -> None:
        self._process.kill()


@pytest.fixture
def server(start: Callable[..., Process]) -> Server:
    return Server(start)


class Clients:
    """Fifty clients, of every kind."""

    def __init__(self, port: int) -> None:
        self._thread = reactor_thread()
        self.blocking = [RPCClient(HOST, port, timeout=PATIENCE) for _ in range(BLOCKING)]
        place = f"tcp:{HOST}:{port}"
        self.services: list[RPCClientService] = self._thread.call(
            lambda: [
                RPCClientService(
                    place,
                    reactor=self._thread.reactor,
                    timeout=PATIENCE,
                    retry_policy=lambda _: 0.05,
                )
                for _ in range(SERVICES)
            ]
        )
        for service in self.services:
            self._thread.call(service.startService)
        self.connections: list[RPCConnection] = [
            self._thread.call(
                lambda: connect(place, reactor=self._thread.reactor, timeout=PATIENCE)
            )
            for _ in range(CONNECTIONS)
        ]

    def on_reactor(self, function: Callable[..., Any], *args: Any) -> Any:
        return self._thread.call(function, *args)

    def close(self) -> None:
        for client in self.blocking:
            client.close()
        for service in self.services:
            self._thread.call(service.stopService)
        for connection in self.connections:
            self._thread.call(connection.close)


@pytest.fixture
def clients(server: Server) -> Iterator[Clients]:
    clients = Clients(server.port)
    yield clients
    clients.close()


def test_kill_9_ends_every_call_in_flight_and_the_next_server_is_called(
    server: Server, clients: Clients
) -> None:
    held = BLOCKING + SERVICES + CONNECTIONS
    verbs: list[Any] = [*clients.blocking, *clients.services, *clients.connections]
    ends: list[Any] = []
    with ThreadPoolExecutor(held) as pool:
        calling = []
        for number, one in enumerate(verbs):
            method = "hold" if number % 2 else "hold_in_thread"
            if isinstance(one, RPCClient):
                calling.append(pool.submit(one.call, method, number))
            else:
                calling.append(pool.submit(clients.on_reactor, one.call, method, number))
        for each in calling:
            each.add_done_callback(ends.append)
        server.wait_until_held(held)
        server.kill()
        problems: list[Any] = [each.exception(PATIENCE) for each in calling]
    # Each was begun, and each has ended, once.
    assert len(ends) == held
    assert {type(problem) for problem in problems} == {ConnectionLost}
    assert all(problem.maybe_executed for problem in problems)

    # Nothing listens: what is called now was not sent, or waits.
    for client in clients.blocking:
        with pytest.raises(ConnectFailed) as failed:
            client.call("echo", 1)
        assert not failed.value.maybe_executed
    for connection in clients.connections:
        with pytest.raises(ConnectionLost) as lost:
            clients.on_reactor(connection.call, "echo", 1)
        assert not lost.value.maybe_executed
    with ThreadPoolExecutor(SERVICES) as pool:
        waiting = [
            pool.submit(clients.on_reactor, service.call, "echo", number)
            for number, service in enumerate(clients.services)
        ]
        server.begin()
        # By themselves; and those of scripts at their next call.
        assert [each.result(PATIENCE) for each in waiting] == [*range(SERVICES)]
    assert [client.call("echo", n) for n, client in enumerate(clients.blocking)] == [
        *range(BLOCKING)
    ]


def test_what_many_threads_call_over_one_client_is_lost_once_each(server: Server) -> None:
    """Three kinds of calls over each connection, and the threads go on after the restart."""
    threads = 25
    ready = threading.Barrier(threads + 1)
    back = threading.Event()

    with RPCClient(HOST, server.port, timeout=PATIENCE) as client:

        def work(number: int) -> tuple[list[Any], Any]:
            batch = client.batch()
            batch.call("hold", number)
            batch.call("echo", number)
            futures = [client.submit("hold", number), client.submit("hold_in_thread", number)]
            ready.wait(PATIENCE)
            sent: list[Any] = batch.send()
            problems = [*sent, *(future.exception(PATIENCE) for future in futures)]
            assert back.wait(PATIENCE)
            return problems, client.call("echo", number)

        with ThreadPoolExecutor(threads) as pool:
            working = [pool.submit(work, number) for number in range(threads)]
            ready.wait(PATIENCE)
            server.wait_until_held(3 * threads)
            server.kill()
            server.begin()
            back.set()
            for number, each in enumerate(working):
                problems, answer = each.result(PATIENCE)
                assert answer == number
                assert [type(problem) for problem in problems] == [ConnectionLost] * 4
                assert all(problem.maybe_executed for problem in problems)
