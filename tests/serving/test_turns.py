"""How long one peer may hold up the others: turns, lines that are slow to decode, strangers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.cred.portal import Portal

from kn_sock import in_reactor
from kn_sock.auth import MethodsRealm, TokenChecker
from kn_sock.testing import MemoryNetwork, connected_pair, value_of
from tests.serving.common import echo
from tests.serving.peers import RawClient, ask, call, join, listen

LEAST_CONTAINERS = 1000


def lists(count: int) -> bytes:
    """A call with an array of so many empty arrays."""
    return call(1, "echo", [[]] * count)


def codes(client: RawClient) -> list[int | None]:
    return [reply.get("error", {}).get("code") for reply in client.replies]


def batch(calls: list[bytes]) -> bytes:
    return b"[" + b",".join(line.strip() for line in calls) + b"]\n"


def test_a_turn_ends_in_the_middle_of_a_batch(network: MemoryNetwork) -> None:
    ran: list[Any] = []

    @in_reactor
    def take_a_millisecond(name: str) -> None:
        ran.append(name)
        network.reactor.rightNow += 0.001

    listen(network, {"take": take_a_millisecond})
    greedy, other = join(network), join(network)
    greedy.transport.write(batch([call(number, "take", "greedy") for number in range(100)]))
    network.wires[0].deliver()
    assert len(ran) == 10
    other.transport.write(call(1, "take", "other"))
    network.wires[1].deliver()
    assert ran[-1] == "other"
    network.pump()
    (replies,) = greedy.replies
    assert [reply["id"] for reply in replies] == list(range(100))
    assert ran.count("greedy") == 100


# --- lines that are slow to decode ----------------------------------------------------------------


def test_a_line_of_too_many_containers_is_refused_and_names_the_option(
    network: MemoryNetwork,
) -> None:
    listen(network, {"echo": in_reactor(echo)}, max_containers=LEAST_CONTAINERS)
    client = join(network)
    client.transport.write(lists(5000) + call(2, "echo", 2))
    network.pump()
    refused, answered = client.replies
    assert refused["id"] == 1
    assert refused["error"]["code"] == -32007
    assert "has more containers than max_containers (1,000)" in refused["error"]["message"]
    assert answered["result"] == 2


@pytest.mark.parametrize(
    "line",
    [
        lists(700),
        # What stands in strings is text.
        call(1, "echo", "[]{},:" * 5000),
        call(1, "echo", '"[' * 5000),
        call(1, "echo", "[\\" * 5000),
    ],
    ids=["few", "in a string", "behind quotes", "behind backslashes"],
)
def test_a_line_of_few_containers_is_taken(network: MemoryNetwork, line: bytes) -> None:
    listen(network, {"echo": in_reactor(echo)}, max_containers=LEAST_CONTAINERS)
    client = join(network)
    client.transport.write(line)
    network.pump()
    assert client.replies[0]["result"] == json.loads(line)["params"][0]


@pytest.mark.parametrize(
    "line",
    [
        call(1, "echo", [{}] * 5000),
        call(1, "echo", {f"{number:x}": 1 for number in range(5000)}),
        call(1, "echo", [1.5] * 20_000),
        batch([call(number, "echo", [[]] * 50) for number in range(100)]),
        call(1, "echo", ["[" * 100] * 5000),
    ],
    ids=["objects", "members", "values", "a batch", "beside strings"],
)
def test_whatever_is_slow_to_decode_counts(network: MemoryNetwork, line: bytes) -> None:
    listen(network, {"echo": in_reactor(echo)}, max_containers=LEAST_CONTAINERS)
    client = join(network)
    client.transport.write(line + call(2, "echo", 2))
    network.pump()
    assert codes(client) == [-32007, None]


def test_a_client_takes_results_of_any_structure(network: MemoryNetwork) -> None:
    def many() -> list[Any]:
        return [[]] * 5000

    pair = connected_pair(
        {"many": in_reactor(many)}, network=network, max_containers=LEAST_CONTAINERS
    )
    calling = pair.client.call("many")
    pair.pump()
    assert value_of(calling) == [[]] * 5000


# --- strangers ------------------------------------------------------------------------------------


@pytest.fixture
def stranger(network: MemoryNetwork) -> RawClient:
    """A client that has not logged in."""
    portal = Portal(MethodsRealm(), [TokenChecker({"right": "ada"})])
    listen(network, {"echo": in_reactor(echo)}, portal=portal)
    return join(network)


def test_a_stranger_has_short_lines_until_it_has_logged_in(
    network: MemoryNetwork, stranger: RawClient
) -> None:
    long = call(1, "echo", "x" * 65_536)
    stranger.transport.write(long)
    network.pump()
    (refused,) = stranger.replies
    assert refused["error"]["code"] == -32007
    assert "before the login (65,536 bytes)" in refused["error"]["message"]
    ask(network, stranger, "rpc.login", "right")
    stranger.transport.write(long)
    network.pump()
    assert stranger.replies[-1]["result"] == "x" * 65_536


def test_of_a_stranger_few_requests_are_held_and_the_others_refused_in_their_turn(
    network: MemoryNetwork, stranger: RawClient
) -> None:
    # While a try is checked and its answer delayed, what comes waits for its end.
    stranger.transport.write(json.dumps({"method": "rpc.login", "params": ["wrong"]}).encode())
    stranger.transport.write(b"\n")
    for _ in range(100):
        stranger.transport.write(json.dumps({"method": "echo", "params": [1]}).encode() + b"\n")
    network.pump()
    protocol: Any = network.wires[0].peer.protocol
    assert len(protocol._serving.admission.waiting) == 16
    network.reactor.advance(1.0)
    network.pump()
    assert len(stranger.replies) == 101
