"""The public test kit keeps what it promises."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol

import kn_sock
import kn_sock.methods
from kn_sock import ConnectionLost, RPCServerService, connect, testing
from kn_sock.testing import (
    ManualExecutor,
    MemoryNetwork,
    MemoryReactor,
    MemoryTransport,
    connected_pair,
)


def results_of(deferred: Deferred[Any]) -> list[Any]:
    results: list[Any] = []
    deferred.addBoth(results.append)
    return results


def test_the_example_of_the_module_works() -> None:
    pair = connected_pair({"add": lambda a, b: a + b})
    calling = pair.client.call("add", 1, 2)
    pair.pump()
    assert calling.result == 3
    pair.close()


def test_nothing_moves_before_it_is_pumped(network: MemoryNetwork) -> None:
    pair = connected_pair({"add": lambda a, b: a + b}, network=network)
    results = results_of(pair.client.call("add", 1, 2))
    assert results == []
    pair.pump()
    assert results == [3]


def test_the_server_calls_what_the_client_serves(network: MemoryNetwork) -> None:
    pair = connected_pair({}, network=network, client={"funcs": {"name": lambda: "Ada"}})
    results = results_of(pair.server.call("name"))
    pair.pump()
    assert results == ["Ada"]


def test_a_manual_executor_runs_jobs_when_told(network: MemoryNetwork) -> None:
    executor = ManualExecutor()
    pair = connected_pair({"one": lambda: 1}, network=network, executor=executor)
    results = [results_of(pair.client.call("one")) for _ in range(3)]
    pair.pump()
    assert len(executor) == 3
    assert executor.run(1) == 1
    pair.pump()
    assert results == [[1], [], []]
    assert executor.run() == 2
    pair.pump()
    assert results == [[1], [1], [1]]


class FakeReceiver(Protocol):
    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.lost: list[Any] = []

    def dataReceived(self, data: bytes) -> None:
        self.pieces.append(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.lost.append(reason.value)


@pytest.fixture
def wire(network: MemoryNetwork) -> MemoryTransport:
    network.listen(Factory.forProtocol(FakeReceiver))
    network.connect(Factory.forProtocol(FakeReceiver))
    return network.wires[0]


def test_the_wire_splits_holds_and_honours_a_pause(
    network: MemoryNetwork, wire: MemoryTransport
) -> None:
    far = wire.peer
    wire.chunk_bytes = 2
    wire.write(b"abcde")
    wire.is_held = True
    network.pump()
    assert far.protocol.pieces == []
    wire.is_held = False
    far.pauseProducing()
    network.pump()
    assert far.protocol.pieces == []
    far.resumeProducing()
    network.pump()
    assert far.protocol.pieces == [b"ab", b"cd", b"e"]


def test_the_wire_delivers_what_was_written_before_a_close(
    network: MemoryNetwork, wire: MemoryTransport
) -> None:
    wire.write(b"last words")
    wire.loseConnection()
    network.pump()
    assert wire.peer.protocol.pieces == [b"last words"]
    assert len(wire.protocol.lost) == len(wire.peer.protocol.lost) == 1


def test_an_abort_loses_what_was_written(network: MemoryNetwork, wire: MemoryTransport) -> None:
    wire.write(b"lost words")
    wire.abortConnection()
    network.pump()
    assert wire.peer.protocol.pieces == []
    assert len(wire.peer.protocol.lost) == 1


class FakeEcho(Protocol):
    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)


def test_what_never_comes_to_rest_is_reported(network: MemoryNetwork) -> None:
    network.listen(Factory.forProtocol(FakeEcho))
    network.connect(Factory.forProtocol(FakeEcho))
    network.wires[0].write(b"for ever")
    with pytest.raises(AssertionError, match="rest"):
        network.pump()


def test_the_network_takes_services_and_refuses_when_nobody_listens(
    network: MemoryNetwork,
) -> None:
    service = RPCServerService(network, {"add": lambda a, b: a + b}, reactor=network.reactor)
    service.startService()
    made = results_of(connect(network, reactor=network.reactor))
    waiting = results_of(made[0].call("add", 1, 2))
    service.stopService()
    network.pump()
    assert isinstance(waiting[0].value, ConnectionLost)
    refused = results_of(connect(network, reactor=network.reactor))
    assert isinstance(refused[0].value, ConnectionRefusedError)


def test_the_reactor_takes_calls_from_threads_and_remembers_a_stop() -> None:
    reactor = MemoryReactor()
    ran: list[int] = []
    reactor.callFromThread(ran.append, 1)
    assert ran == []
    reactor.advance(0)
    assert ran == [1]
    reactor.stop()
    assert reactor.is_stopped


def test_every_public_name_is_there_and_documented() -> None:
    for module in (kn_sock, testing, kn_sock.errors, kn_sock.methods):
        for name in module.__all__:
            thing = getattr(module, name)
            assert name == "__version__" or thing.__doc__, name
