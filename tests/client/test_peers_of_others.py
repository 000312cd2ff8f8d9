"""What is done for peers that take JSON-RPC a little otherwise."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from kn_sock import ConnectionLost, RPCError, in_reactor
from kn_sock.testing import MemoryNetwork, Pair, connected_pair


def echo(value: Any) -> Any:
    return value


def exchange(pair: Pair, *lines: str) -> list[Any]:
    """Send lines to the server as a client of another kind would; give what comes back."""
    received: list[bytes] = []
    pair.wire.protocol.dataReceived = received.append
    for line in lines:
        pair.wire.write(line.encode() + b"\n")
    pair.pump()
    return [json.loads(line) for line in b"".join(received).splitlines()]


# --- requests without a version -------------------------------------------------------------------


def test_requests_without_a_version_may_be_taken_for_those_of_2_0(network: MemoryNetwork) -> None:
    pair = connected_pair({"echo": echo}, network=network, unversioned="2.0")
    assert exchange(
        pair,
        '{"id": 1, "method": "echo", "params": [5]}',
        '{"id": 2, "method": "nope"}',
        '{"id": 3, "method": 5}',
        '[{"id": 4, "method": "echo", "params": [6]}, {"id": 5, "method": "nope"}]',
        '{"method": "echo", "params": [7]}',
    ) == [
        {"jsonrpc": "2.0", "id": 1, "result": 5},
        {
            "jsonrpc": "2.0",
            "id": 2,
            "error": {"code": -32601, "message": "Method 'nope' not found"},
        },
        {
            "jsonrpc": "2.0",
            "id": 3,
            "error": {"code": -32600, "message": "method must be a string, not 5"},
        },
        [
            {"jsonrpc": "2.0", "id": 4, "result": 6},
            {
                "jsonrpc": "2.0",
                "id": 5,
                "error": {"code": -32601, "message": "Method 'nope' not found"},
            },
        ],
        {"result": 7},
    ]


def test_a_notification_without_a_version_is_not_answered(network: MemoryNetwork) -> None:
    heard: list[Any] = []
    pair = connected_pair({"hear": heard.append}, network=network, unversioned="2.0")
    assert exchange(pair, '{"id": null, "method": "hear", "params": [5]}') == []
    assert heard == [5]


def test_an_overlong_request_without_a_version_is_answered_as_one_of_2_0(
    network: MemoryNetwork,
) -> None:
    pair = connected_pair({"echo": echo}, network=network, unversioned="2.0", max_line_bytes=1024)
    line = '{"id": 7, "method": "echo", "params": ["' + "x" * 1024 + '"]}'
    (reply,) = exchange(pair, line)
    assert (reply["jsonrpc"], reply["id"], reply["error"]["code"]) == ("2.0", 7, -32007)


# --- cancellations --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cancellation", "line"),
    [
        ("lsp", {"method": "$/cancelRequest", "params": {"id": 1}}),
        ("mcp", {"method": "notifications/cancelled", "params": {"requestId": 1}}),
    ],
)
def test_a_call_is_given_up_as_the_peer_knows_it(
    network: MemoryNetwork, cancellation: str, line: dict[str, Any]
) -> None:
    stopped: list[str] = []

    @in_reactor
    def wait() -> Deferred[Any]:
        return Deferred(lambda _: stopped.append("wait"))

    options = {"cancellation": cancellation}
    pair = connected_pair({"wait": wait}, network=network, client=options, **options)
    calling = pair.client.call("wait")
    pair.pump()
    calling.cancel()
    calling.addErrback(lambda failure: failure.trap(CancelledError))
    pair.wire.is_held = True
    network.reactor.advance(0)
    assert json.loads(pair.wire.written) == {"jsonrpc": "2.0", **line}
    pair.wire.is_held = False
    pair.pump()
    assert stopped == ["wait"]


def test_a_call_is_given_up_in_silence_where_the_peer_takes_exception(
    network: MemoryNetwork,
) -> None:
    pair = connected_pair(
        {"wait": in_reactor(Deferred)}, network=network, client={"cancellation": "none"}
    )
    calling = pair.client.call("wait")
    pair.pump()
    calling.cancel()
    calling.addErrback(lambda failure: failure.trap(CancelledError))
    pair.wire.is_held = True
    network.reactor.advance(0)
    assert pair.wire.written == b""


# --- answers to what has none ---------------------------------------------------------------------


class Peer:
    """The other end of a client's connection, in raw lines."""

    def __init__(self, network: MemoryNetwork, **client: Any) -> None:
        pair = connected_pair({}, network=network, client=client)
        self.connection = pair.client
        self._pair = pair
        pair.wire.peer.protocol.dataReceived = lambda _: None

    def call(self) -> list[Any]:
        outcome: list[Any] = []
        calling = self.connection.call("echo", 1)
        calling.addBoth(lambda result: outcome.append(getattr(result, "value", result)))
        self._pair.pump()
        return outcome

    def say(self, line: str) -> None:
        self._pair.wire.peer.write(line.encode() + b"\n")
        self._pair.pump()


@pytest.mark.parametrize(
    "answer",
    [
        '{"id": null, "result": 56, "error": null}',
        '{"id": null, "result": null, "error": "no such method"}',
    ],
)
def test_an_answer_to_a_notification_of_1_0_is_ignored(network: MemoryNetwork, answer: str) -> None:
    peer = Peer(network, dialect="1.0")
    peer.connection.notify("hello")
    outcome = peer.call()
    peer.say(answer)
    assert outcome == []
    peer.say('{"id": 1, "result": 5, "error": null}')
    assert outcome == [5]


def test_an_answer_to_a_cancellation_fails_no_other_call(network: MemoryNetwork) -> None:
    peer = Peer(network)
    given_up = peer.connection.call("echo", 0)
    given_up.addErrback(lambda failure: failure.trap(CancelledError))
    outcome = peer.call()
    given_up.cancel()
    answer = (
        '{"jsonrpc": "2.0", "id": null, "error": {"code": -32601, "message": "no such method"}}'
    )
    peer.say(answer)
    assert outcome == []
    # There was one cancellation, and it is answered: the next error is for the only call.
    peer.say(answer)
    assert isinstance(outcome[0], RPCError)


def test_a_line_that_the_peer_cannot_read_fails_its_call_even_after_a_cancellation(
    network: MemoryNetwork,
) -> None:
    peer = Peer(network)
    given_up = peer.connection.call("echo", 0)
    given_up.addErrback(lambda failure: failure.trap(CancelledError))
    outcome = peer.call()
    given_up.cancel()
    peer.say('{"jsonrpc": "2.0", "id": null, "error": {"code": -32700, "message": "no JSON"}}')
    assert not isinstance(outcome[0], ConnectionLost)
    assert str(outcome[0]) == "no JSON"
