"""What a server does with too many connections, silent ones, and peers that do not read."""

from __future__ import annotations

from typing import Any

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.error import ConnectionAborted
from twisted.internet.protocol import Factory

from kn_sock import ConnectionLost, RPCServerFactory, connect
from kn_sock._io.watchdogs import SendWatchdog
from kn_sock.testing import MemoryNetwork, MemoryReactor, MemoryTransport, connected_pair
from tests.serving.common import echo
from tests.serving.peers import RawClient, ask, call, join, listen


def advance(network: MemoryNetwork, seconds: float, times: int = 1) -> None:
    for _ in range(times):
        network.reactor.advance(seconds)
        network.pump()


# --- connections ----------------------------------------------------------------------------------

REFUSAL = {
    "jsonrpc": "2.0",
    "id": None,
    "error": {
        "code": -32009,
        "message": "the server has as many connections as it takes (2); try again later",
    },
}


def test_one_connection_too_many_is_told_so_and_closed(network: MemoryNetwork) -> None:
    factory = listen(network, {"echo": echo}, max_connections=2)
    taken = [join(network), join(network)]
    refused = join(network)
    refused.transport.write(call(1, "echo", 1))
    network.pump()
    assert refused.replies == [REFUSAL]
    assert len(factory.connections) == 2
    assert refused.lost is not None
    taken[0].transport.loseConnection()
    network.pump()
    taken.append(join(network))
    for client in taken[1:]:
        ask(network, client, "echo", 5)
    assert [client.replies[0]["result"] for client in taken[1:]] == [5, 5]


def test_a_refused_connection_does_not_linger(network: MemoryNetwork) -> None:
    listen(network, {"echo": echo}, max_connections=1)
    join(network)
    refused = join(network)
    refused.transport.pauseProducing()
    network.pump()
    assert refused.lost is None
    network.reactor.advance(2.0)
    assert isinstance(refused.lost, ConnectionAborted)


def test_those_past_a_hundred_refused_ones_are_just_closed(network: MemoryNetwork) -> None:
    factory = listen(network, {"echo": echo}, max_connections=1)
    join(network)
    for _ in range(100):
        join(network)
    before = len(network.wires)
    closed: list[Any] = []
    network.connect(Factory.forProtocol(RawClient)).addErrback(closed.append)
    assert len(network.wires) == before
    assert len(closed) == 1
    factory.abort()
    assert len(factory._refused) == 0


def test_a_client_that_is_refused_learns_why(network: MemoryNetwork) -> None:
    listen(network, {"echo": echo}, max_connections=1)
    join(network)
    pair_client: list[Any] = []
    connect(network, reactor=network.reactor).addCallback(pair_client.append)
    outcome: list[Any] = []
    pair_client[0].call("echo", 1).addErrback(lambda failure: outcome.append(failure.value))
    network.pump()
    (error,) = outcome
    assert "as many connections as it takes" in str(error)
    network.reactor.advance(2.0)


@pytest_twisted.ensureDeferred
async def test_a_refused_connection_over_a_socket_reads_the_reason() -> None:
    """Its own bytes are on their way already, which must not reset the connection."""
    factory = RPCServerFactory({"echo": echo}, reactor=reactor, max_connections=1)
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    first: Any = await endpoint.connect(Factory.forProtocol(RawClient))
    refused: Any = await endpoint.connect(Factory.forProtocol(RawClient))
    refused.transport.write(call(1, "echo", "x" * 100_000))
    await refused.when_lost
    assert [reply["error"]["code"] for reply in refused.replies] == [-32009]
    first.transport.loseConnection()
    await first.when_lost
    await port.stopListening()
    await factory.drain()


# --- silence --------------------------------------------------------------------------------------


def test_a_connection_on_which_nothing_happens_is_closed(network: MemoryNetwork) -> None:
    listen(network, {"echo": echo}, idle_timeout=10.0)
    client = join(network)
    network.reactor.advance(9.0)
    ask(network, client, "echo", 1)
    advance(network, 9.0)
    assert client.lost is None
    advance(network, 1.0)
    assert client.lost is not None
    assert client.replies == [{"jsonrpc": "2.0", "id": 1, "result": 1}]


def test_a_connection_whose_call_is_under_way_is_not_idle(
    network: MemoryNetwork, wait: Any, waiting: list[Deferred[Any]]
) -> None:
    listen(network, {"wait": wait}, idle_timeout=10.0)
    client = join(network)
    ask(network, client, "wait")
    advance(network, 10.0, times=5)
    assert client.lost is None
    waiting[0].callback("done")
    network.pump()
    assert client.replies[0]["result"] == "done"
    # Its silence is counted from the last look at it.
    network.reactor.advance(10.0)
    advance(network, 10.0)
    assert client.lost is not None


def test_a_connection_over_which_the_server_waits_for_a_reply_is_not_idle(
    network: MemoryNetwork,
) -> None:
    pair = connected_pair({}, network=network, idle_timeout=10.0, client={"timeout": None})
    calling = pair.server.with_options(timeout=None).call("never answered")
    pair.wire.peer.is_held = True
    for _ in range(5):
        pair.advance(10.0)
    assert not calling.called
    calling.addErrback(lambda failure: failure.trap(ConnectionLost))


def test_a_reply_that_is_read_slowly_is_not_cut_off(network: MemoryNetwork) -> None:
    listen(network, {"echo": echo}, idle_timeout=10.0, send_timeout=60.0)
    client = join(network)
    server: MemoryTransport = client.transport.peer
    client.transport.write(call(1, "echo", "x" * 1_000_000))
    client.transport.deliver()
    network.reactor.advance(0)
    server.chunk_bytes = 100_000
    while server.unsent_bytes:
        assert server.deliver()
        advance(network, 9.0)
    assert len(client.replies[0]["result"]) == 1_000_000
    assert client.lost is None
    advance(network, 10.0)
    assert client.lost is not None


def test_a_peer_that_takes_nothing_of_a_short_reply_is_silent(network: MemoryNetwork) -> None:
    listen(network, {"echo": echo}, idle_timeout=10.0)
    client = join(network)
    client.transport.peer.is_held = True
    ask(network, client, "echo", "x")
    advance(network, 10.0, times=3)
    assert isinstance(client.lost, ConnectionAborted)


def test_no_idle_timer_runs_unless_asked(network: MemoryNetwork) -> None:
    listen(network, {"echo": echo})
    join(network)
    network.pump()
    assert network.reactor.getDelayedCalls() == []


# --- peers that do not read -----------------------------------------------------------------------


def stop_reading(client: RawClient) -> MemoryTransport:
    """Have the client read nothing, and give the server's end."""
    server: MemoryTransport = client.transport.peer
    client.transport.pauseProducing()
    return server


def test_a_peer_that_does_not_read_is_disconnected(network: MemoryNetwork) -> None:
    factory = listen(network, {"echo": echo}, send_timeout=60.0)
    client = join(network)
    server = stop_reading(client)
    ask(network, client, "echo", "x" * 100_000)
    assert server.unsent_bytes > 100_000
    advance(network, 59.9)
    assert client.lost is None
    network.reactor.advance(0.1)
    assert isinstance(client.lost, ConnectionAborted)
    assert len(factory.connections) == 0


def test_a_peer_that_reads_slowly_is_not(network: MemoryNetwork) -> None:
    listen(network, {"echo": echo}, send_timeout=60.0)
    client = join(network)
    server = stop_reading(client)
    ask(network, client, "echo", "x" * 500_000)
    server.chunk_bytes = 100_000
    for _ in range(4):
        network.reactor.advance(59.0)
        client.transport.resumeProducing()
        server.deliver()
        client.transport.pauseProducing()
    assert client.lost is None
    client.transport.resumeProducing()
    network.pump()
    assert len(client.replies[0]["result"]) == 500_000
    network.reactor.advance(600.0)
    assert client.lost is None


def test_without_a_limit_nobody_is_disconnected(network: MemoryNetwork) -> None:
    listen(network, {"echo": echo}, send_timeout=None)
    client = join(network)
    stop_reading(client)
    ask(network, client, "echo", "x" * 100_000)
    network.reactor.advance(1e6)
    assert client.lost is None


def test_a_peer_that_reads_again_is_watched_anew() -> None:
    clock, taken, given_up = MemoryReactor(), [0], []
    watch = SendWatchdog(clock, 10.0, lambda: taken[0], lambda: given_up.append(clock.seconds()))
    watch.begin()
    clock.advance(9.0)
    watch.end()
    clock.advance(50.0)
    watch.begin()
    watch.begin()
    clock.advance(9.0)
    assert given_up == []
    clock.advance(1.0)
    assert given_up == [69.0]
    assert clock.getDelayedCalls() == []


def test_no_result_is_dropped_although_much_waits_to_be_read(
    network: MemoryNetwork, wait: Any, waiting: list[Deferred[Any]]
) -> None:
    """The calls were in flight when the peer stopped to read."""
    most = 200_000
    funcs = {"wait": wait, "echo": echo}
    listen(network, funcs, max_line_bytes=100_000, max_pending=500, max_buffered_bytes=most)
    client = join(network)
    for number in range(400):
        client.transport.write(call(number, "wait"))
    network.pump()
    server = stop_reading(client)
    for one in waiting:
        one.callback("x" * 90_000)
    network.pump()
    assert server.protocol._serving.replies.account.total > most
    client.transport.resumeProducing()
    network.pump()
    replies = client.replies
    assert sorted(reply["id"] for reply in replies) == list(range(400))
    assert {len(reply["result"]) for reply in replies} == {90_000}
    client.transport.write(call(1000, "echo", "x" * 90_000))
    network.pump()
    assert len(client.replies[-1]["result"]) == 90_000


@pytest_twisted.ensureDeferred
async def test_a_socket_that_is_not_read_is_disconnected() -> None:
    """With Twisted's own transport, which has to tell what it has not sent."""
    factory = RPCServerFactory({"echo": echo}, reactor=reactor, threads=0, send_timeout=0.2)
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    client: Any = await endpoint.connect(Factory.forProtocol(RawClient))
    client.transport.pauseProducing()
    while not factory.connections:
        await tick()
    (server,) = factory.connections
    closing = server.when_closed()
    for number in range(10):
        client.transport.write(call(number, "echo", "x" * 2_000_000))
    await closing
    assert "took nothing" in str(server._closing.reason)
    client.transport.abortConnection()
    await client.when_lost
    await port.stopListening()
    await factory.drain()


def tick() -> Deferred[None]:
    done: Deferred[None] = Deferred()
    reactor.callLater(0, done.callback, None)
    return done
