from __future__ import annotations

from typing import Any

import pytest

from kn_sock import RPCClient, RPCConnection, current_call, in_reactor
from tests.interop.peers import CLIENT, PEERS, PROGRAMS, Program, Serve, Start

PEER = "@mempool/electrum-client"

HEADERS = "blockchain.headers.subscribe"


class Headers:
    """The newest header, told to whom it may concern over the connection that it came by."""

    def __init__(self) -> None:
        self._newest = {"height": 1, "hex": "00"}
        self._subscribers: list[RPCConnection] = []

    @in_reactor
    def subscribe(self, raw: bool = False) -> dict[str, Any]:
        self._subscribers.append(current_call().connection)
        return self._newest

    @in_reactor
    def found(self, height: int) -> int:
        """Take a new one; give the number of those who are told."""
        self._newest = {"height": height, "hex": "ff"}
        for each in self._subscribers:
            each.notify(HEADERS, self._newest)
        return len(self._subscribers)


def version(client: str, protocol: str) -> list[str]:
    return ["kn_sock", protocol]


def ping() -> None: ...


def balance(scripthash: str) -> dict[str, int]:
    return {"confirmed": 2 * int(scripthash, 16), "unconfirmed": -1}


def fee(blocks: int) -> float:
    raise ValueError("nobody knows")


@pytest.fixture
def port(serve: Serve) -> int:
    """A server of what the client calls, and of what makes it tell its subscribers."""
    headers = Headers()
    return serve(
        {
            "server.version": version,
            "server.ping": ping,
            "blockchain.scripthash.get_balance": balance,
            "blockchain.estimatefee": fee,
            HEADERS: headers.subscribe,
            "found": headers.found,
        }
    )


@pytest.fixture
def client(start: Start, port: int) -> Program:
    return start(
        *("node", PROGRAMS / "mempool_electrum_client.js", str(port)),
        NODE_PATH=str(PEERS / "node_modules"),
    )


@pytest.mark.interop(PEER, CLIENT, "the version and pings")
def test_it_agrees_on_a_version_and_pings(client: Program) -> None:
    assert client.line() == '["kn_sock","1.4"]'
    # It gives the whole reply where the result is null.
    assert client.ask(["server_ping"])["result"]["result"] is None


@pytest.mark.interop(PEER, CLIENT, "results")
def test_its_calls_get_results(client: Program) -> None:
    client.line()
    assert client.ask(["blockchainScripthash_getBalance", "10"]) == {
        "result": {"confirmed": 32, "unconfirmed": -1}
    }


@pytest.mark.interop(PEER, CLIENT, "errors")
def test_its_calls_get_errors(client: Program) -> None:
    client.line()
    assert client.ask(["blockchainEstimatefee", 6]) == {
        "error": {"code": -32000, "message": "nobody knows", "data": {"type": "ValueError"}}
    }
    assert client.ask(["server_banner"])["error"]["code"] == -32601


@pytest.mark.interop(PEER, CLIENT, "batches")
def test_its_batches_get_results(client: Program) -> None:
    client.line()
    replies = client.ask(["blockchainScripthash_getBalanceBatch", ["10", "a", "b"]])["result"]
    confirmed = {reply["param"]: reply["result"]["confirmed"] for reply in replies}
    assert confirmed == {"10": 32, "a": 20, "b": 22}


@pytest.mark.interop(PEER, CLIENT, "subscriptions")
def test_its_subscription_is_told_over_its_own_connection(client: Program, port: int) -> None:
    client.line()
    assert client.ask(["blockchainHeaders_subscribe"]) == {"result": {"height": 1, "hex": "00"}}
    with RPCClient("127.0.0.1", port) as other:
        assert other.call("found", 2) == 1
    assert client.line() == '{"notified":[{"height":2,"hex":"ff"}]}'
