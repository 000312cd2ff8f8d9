"""What a client does beside its calls: it closes in time, is not copied, and stays connected."""

from __future__ import annotations

import copy
import pickle
import queue
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from kn_sock import ConnectionLost, RPCClient, current_call
from tests.blocking.test_blocking_reconnect import Served
from tests.faults.peers import HOST, PATIENCE, Peer, ScriptedServer


@pytest.fixture
def served() -> Iterator[Served]:
    server = Served(0, {"add": lambda a, b: a + b})
    yield server
    server.stop()


# --- close ----------------------------------------------------------------------------------------


@pytest.fixture
def unread() -> Iterator[ScriptedServer]:
    """A server that accepts and reads nothing."""
    is_over = threading.Event()

    def reads_nothing(peer: Peer) -> None:
        is_over.wait(PATIENCE)

    server = ScriptedServer(reads_nothing)
    yield server
    is_over.set()
    server.stop()


def test_a_close_with_a_timeout_waits_no_longer_for_a_peer_that_reads_nothing(
    unread: ScriptedServer,
) -> None:
    client = RPCClient(HOST, unread.port)
    future = client.submit("echo", "x" * 4_000_000)
    client.submit("echo", "x" * 4_000_000)
    began = time.monotonic()
    client.close(timeout=0.2)
    assert time.monotonic() - began < 5
    assert isinstance(future.exception(PATIENCE), ConnectionLost)


# --- copies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_copy_of_a_client_is_refused_with_what_to_do(served: Served, copied: Any) -> None:
    with RPCClient(HOST, served.port) as client:
        with pytest.raises(TypeError, match="cannot be pickled or copied: make a new one"):
            copied(client)
        assert client.call("add", 1, 2) == 3


# --- a client that listens ------------------------------------------------------------------------


def test_a_client_that_stays_connected_is_told_of_losses_and_comes_back(free_port: int) -> None:
    callers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    losses: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def join_in() -> str:
        callers.put(current_call().connection)
        return "welcome"

    async def introduce(connection: Any) -> None:
        assert await connection.call("join_in") == "welcome"

    server = Served(free_port, {"join_in": join_in})
    with RPCClient(
        HOST,
        free_port,
        funcs={"add": lambda a, b: a + b},
        on_connected=introduce,
        stay_connected=True,
        on_lost=losses.put,
    ):
        callers.get(timeout=PATIENCE)
        server.stop()
        lost = losses.get(timeout=PATIENCE)
        assert isinstance(lost, ConnectionLost)
        assert f"{HOST}:{free_port} is lost" in str(lost)
        # No call is made here: it connects by itself.
        server = Served(free_port, {"join_in": join_in})
        callers.get(timeout=PATIENCE)
    server.stop()
    assert losses.empty()


def test_a_closed_client_that_stays_connected_stays_closed(served: Served) -> None:
    losses: list[Any] = []
    client = RPCClient(HOST, served.port, stay_connected=True, on_lost=losses.append)
    client.close()
    with pytest.raises(ConnectionLost):
        client.call("add", 1, 2)
    assert losses == []


@pytest.mark.parametrize(
    "options", [{"stay_connected": "yes"}, {"on_lost": "print"}], ids=["stay_connected", "on_lost"]
)
def test_wrong_options_of_a_client_that_listens_are_refused(options: Any) -> None:
    with pytest.raises(TypeError, match=next(iter(options))), socket.socket():
        RPCClient(HOST, 1, **options)
