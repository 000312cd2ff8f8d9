from __future__ import annotations

import json
import queue
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.threads import blockingCallFromThread

from kn_sock import Call, RPCError, current_call
from tests.interop.peers import (
    CLIENT,
    ELECTRUM_CLIENT,
    PATIENCE,
    PROGRAMS,
    PYTHON,
    Program,
    Serve,
    Start,
)

SUBSCRIBE = "blockchain.headers.subscribe"


def broadcast(transaction: str) -> str:
    raise RPCError(1, "the transaction was rejected by network rules")


class Electrum:
    """What an Electrum server serves, as far as its clients ask for it here."""

    def __init__(self) -> None:
        self.subscribed: queue.Queue[Call] = queue.Queue()
        self.funcs: dict[str, Callable[..., Any]] = {
            "server.version": lambda client, version: ["ours 1", "1.4"],
            "server.banner": lambda: "welcome",
            "server.ping": lambda: None,
            SUBSCRIBE: self.subscribe,
            "blockchain.scripthash.get_history": lambda scripthash: [
                {"tx_hash": "00", "height": int(scripthash, 16)}
            ],
            "blockchain.transaction.broadcast": broadcast,
        }

    def subscribe(self) -> Any:
        self.subscribed.put(current_call())
        return {"height": 1, "hex": "00"}

    def announce(self, height: int) -> None:
        """Tell who subscribed, once somebody did, of a new block."""
        call = self.subscribed.get(timeout=PATIENCE)
        header = {"height": height, "hex": "00"}
        notify: Any = call.connection.notify
        blockingCallFromThread(call.reactor, notify, SUBSCRIBE, header)


def lines(program: Program) -> list[Any]:
    return [json.loads(line) for line in program.rest()]


@pytest.mark.interop(
    "electrum-client", CLIENT, "results, errors, 200 requests in flight, subscriptions"
)
def test_electrum_client_is_served(start: Start, serve: Serve) -> None:
    electrum = Electrum()
    program = PROGRAMS / "electrum_client_client.py"
    port = str(serve(electrum.funcs))
    client = start(PYTHON, program, port, PYTHONPATH=str(ELECTRUM_CLIENT))
    electrum.announce(2)
    version, protocol, banner, ping, tip, tips, heights, error = lines(client)
    assert (version, protocol, banner, ping, tip) == ("ours 1", "1.4", "welcome", None, 1)
    assert tips == [{"height": 2, "hex": "00"}]
    assert heights == list(range(200))
    assert error == {"code": 1, "message": "the transaction was rejected by network rules"}


@pytest.mark.interop("connectrum", CLIENT, "results, batches, subscriptions")
def test_connectrum_is_served(start: Start, serve: Serve) -> None:
    electrum = Electrum()
    # Its requests have no version, but it takes a reply with a member error for a failure, null or
    # not; by JSON-RPC 1.0 every reply has one.
    port = serve(electrum.funcs, unversioned="2.0")
    client = start(PYTHON, PROGRAMS / "connectrum_client.py", str(port))
    version = json.loads(client.line())
    assert version == ["ours 1", "1.4"]
    electrum.announce(2)
    banner, tip, tips, batch = lines(client)
    assert banner == "welcome"
    assert tip == {"height": 1, "hex": "00"}
    assert tips == [{"height": 2, "hex": "00"}]
    assert batch == ["welcome", None]
