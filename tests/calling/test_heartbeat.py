"""A peer that says nothing any more: it is asked, and given up if it does not answer."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint

from kn_sock import CallTimeout, ConnectionLost, RPCClient, RPCServerFactory, connect, in_reactor
from kn_sock._calling import heartbeat
from kn_sock.testing import MemoryNetwork, Outcome, Pair, connected_pair
from tests.faults.peers import Peer, ScriptedServer
from tests.serving.peers import join, listen

LEAST = heartbeat._LEAST_SECONDS


def never() -> Deferred[None]:
    return Deferred()


@pytest.fixture
def pair(network: MemoryNetwork) -> Pair:
    funcs = {"echo": in_reactor(lambda value: value), "never": in_reactor(never)}
    return connected_pair(funcs, network=network, client={"timeout": 1.0})


def go_silent(pair: Pair) -> None:
    """Deliver nothing more in either direction."""
    pair.wire.is_held = pair.wire.peer.is_held = True


def test_a_peer_that_says_nothing_after_a_call_timed_out_is_given_up(
    pair: Pair, log_events: Any
) -> None:
    go_silent(pair)
    first = Outcome(pair.client.call("echo", 1))
    pair.advance(1.0)
    assert isinstance(first.value, CallTimeout)
    later = Outcome(pair.client.with_options(timeout=60.0).call("echo", 2))
    pair.advance(LEAST - 0.1)
    assert not later.is_there
    pair.advance(0.2)
    assert isinstance(later.value, ConnectionLost)
    text = "nothing was heard from it for 6.1 s, although it was asked"
    assert text in str(later.value)
    assert any(text in line for line in log_events.take_lines())


def test_a_peer_that_is_slow_and_answers_the_ping_stays(pair: Pair) -> None:
    calls = [Outcome(pair.client.call("never")) for _ in range(3)]
    pair.advance(1.0)
    assert all(isinstance(call.value, CallTimeout) for call in calls)
    for _ in range(10):
        pair.advance(1.0)
    calling = Outcome(pair.client.call("echo", "there"))
    pair.pump()
    assert calling.value == "there"


def test_a_peer_that_said_something_meanwhile_is_not_asked(pair: Pair) -> None:
    slow = Outcome(pair.client.call("never"))
    pair.advance(0.9)
    quick = Outcome(pair.client.call("echo", 1))
    pair.advance(0.05)
    assert quick.value == 1
    pair.advance(0.05)
    assert isinstance(slow.value, CallTimeout)
    assert b"rpc.ping" not in pair.wire.written


def test_a_peer_that_answers_in_order_is_not_asked(network: MemoryNetwork) -> None:
    """It may have a call to end first."""
    options: dict[str, Any] = {"timeout": 1.0, "dialect": "kn-sock"}
    pair = connected_pair({"never": in_reactor(never)}, network=network, client=options)
    calling = Outcome(pair.client.call("never"))
    pair.advance(1.0)
    assert isinstance(calling.value, CallTimeout)
    assert b"rpc.ping" not in pair.wire.written


# --- ping_interval --------------------------------------------------------------------------------


def test_a_client_that_vanished_is_noticed_by_a_server(network: MemoryNetwork) -> None:
    factory = listen(network, {}, ping_interval=10.0)
    client = join(network)
    client.transport.peer.is_held = True
    for _ in range(3):
        network.reactor.advance(10.0)
        network.pump()
    assert not factory.connections


def test_a_client_that_answers_pings_stays(network: MemoryNetwork) -> None:
    pair = connected_pair({}, network=network, ping_interval=10.0, client={"timeout": None})
    for _ in range(20):
        pair.advance(5.0)
    calling = Outcome(pair.client.call("rpc.ping"))
    pair.pump()
    assert calling.value == "pong"


def test_a_client_asks_its_server_as_often_as_it_is_told_to(network: MemoryNetwork) -> None:
    pair = connected_pair({}, network=network, client={"timeout": None, "ping_interval": 10.0})
    calling = Outcome(pair.client.call("rpc.ping"))
    pair.pump()
    assert calling.value == "pong"
    go_silent(pair)
    waiting = Outcome(pair.client.call("rpc.ping"))
    pair.advance(10.0)
    assert not waiting.is_there
    pair.advance(10.1)
    assert isinstance(waiting.value, ConnectionLost)


# --- sockets --------------------------------------------------------------------------------------


def test_calls_after_those_that_a_dead_connection_timed_out_have_a_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The peer's machine is gone without a word: nothing is acknowledged, nothing refused."""
    monkeypatch.setattr(heartbeat, "_LEAST_SECONDS", 0.2)

    def vanishes(peer: Peer) -> None:
        assert peer.line()
        peer.send(b'{"jsonrpc":"2.0","id":1,"result":"before"}\n')
        peer.socket.settimeout(None)
        peer.wait_for_end()

    server = ScriptedServer(vanishes, Peer.behave)
    with RPCClient("127.0.0.1", server.port, timeout=0.2) as client:
        assert client.call("echo", 1) == "before"
        failures = 0
        while True:
            try:
                assert client.with_options(timeout=0.2).call("echo", "after") == "after"
            except (CallTimeout, ConnectionLost):
                failures += 1
                assert failures < 12
            else:
                break
    assert server.accepted == 2
    server.stop()


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="options of Linux")
@pytest_twisted.ensureDeferred
async def test_both_ends_set_the_times_of_keepalive() -> None:
    factory = RPCServerFactory({}, reactor=reactor, threads=0, keepalive=20.0)
    port: Any = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
    where = port.getHost().port
    connection = await connect(f"tcp:127.0.0.1:{where}", keepalive=None)
    default = await connect(f"tcp:127.0.0.1:{where}")
    await default.call("rpc.ping")

    def times(transport: Any) -> list[int]:
        names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
        read = transport.socket.getsockopt
        return [read(socket.IPPROTO_TCP, getattr(socket, name)) for name in names]

    assert {tuple(times(one.transport)) for one in factory.connections} == {(20, 5, 4, 40_000)}
    channels: list[Any] = [connection._channel, default._channel]
    clients = [channel._connection.transport for channel in channels]
    assert times(clients[0])[3] == 0
    assert times(clients[1]) == [60, 15, 4, 120_000]
    await connection.close()
    await default.close()
    await port.stopListening()
    await factory.drain()
