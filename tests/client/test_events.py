"""What a program is told of its connections: that they are there, and that they have ended."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from twisted.internet.defer import CancelledError

from kn_sock import (
    ConnectionLost,
    RPCClientService,
    RPCConnection,
    RPCServerFactory,
    current_call,
    in_reactor,
)
from kn_sock.testing import MemoryNetwork, Outcome, connected_pair


class Room:
    """Members, as the connections that have joined; who leaves is no member any more."""

    def __init__(self) -> None:
        self.members: list[RPCConnection] = []

    @in_reactor
    def join(self) -> int:
        member = current_call().connection
        if member not in self.members:
            self.members.append(member)
            member.when_closed().addCallback(lambda _: self.members.remove(member))
        return len(self.members)


@pytest.mark.parametrize("leave", ["close", "vanish"])
def test_a_room_learns_that_a_member_has_left(network: MemoryNetwork, leave: str) -> None:
    room = Room()
    pair = connected_pair(room, network=network)
    for _ in range(3):
        # The same caller each time, whatever the garbage collector does in between.
        calling = Outcome(pair.client.call("join"))
        pair.pump()
        assert calling.value == 1
        gc.collect()
    if leave == "close":
        pair.close()
    else:
        pair.wire.lose(ConnectionError("gone"))
        network.pump()
    assert room.members == []


def test_a_connection_that_has_ended_says_so_at_once(network: MemoryNetwork) -> None:
    pair = connected_pair({}, network=network)
    before = Outcome(pair.client.when_closed())
    assert not before.is_there
    pair.close()
    assert before.is_there
    assert before.value is None
    assert Outcome(pair.client.when_closed()).is_there
    assert Outcome(pair.server.when_closed()).is_there


def service_of(network: MemoryNetwork, **options: Any) -> RPCClientService:
    return RPCClientService(network, reactor=network.reactor, retry_policy=lambda _: 1.0, **options)


def test_a_service_says_when_it_is_connected_and_what_it_has_lost(network: MemoryNetwork) -> None:
    losses: list[ConnectionLost] = []
    service = service_of(network, on_lost=losses.append)
    service.startService()
    waiting = Outcome(service.when_connected())
    network.pump()
    assert not waiting.is_there
    assert not service.is_connected
    network.listen(RPCServerFactory({}, reactor=network.reactor, threads=0))
    network.reactor.advance(1.0)
    network.pump()
    assert waiting.is_there
    assert service.is_connected
    assert Outcome(service.when_connected()).is_there
    network.wires[-1].lose(ConnectionError("gone"))
    network.pump()
    assert not service.is_connected
    (loss,) = losses
    assert str(loss).endswith("is lost: gone")
    again = Outcome(service.when_connected())
    network.reactor.advance(1.0)
    network.pump()
    assert again.is_there
    service.stopService()
    network.pump()


def test_who_waits_for_a_connection_is_told_that_the_service_stops(network: MemoryNetwork) -> None:
    service = service_of(network)
    service.startService()
    waits = [Outcome(service.when_connected()) for _ in range(2)]
    cancelled = service.when_connected()
    outcome = Outcome(cancelled)
    cancelled.cancel()
    assert isinstance(outcome.value, CancelledError)
    service.stopService()
    network.pump()
    assert all(isinstance(one.value, ConnectionLost) for one in waits)
    assert waits[0].value is not waits[1].value


def test_an_on_lost_that_fails_is_logged_and_changes_nothing(
    network: MemoryNetwork, logged_errors: Any
) -> None:
    def fails(_: ConnectionLost) -> None:
        raise ValueError("no")

    network.listen(RPCServerFactory({}, reactor=network.reactor, threads=0))
    service = service_of(network, on_lost=fails)
    service.startService()
    network.pump()
    network.wires[-1].lose(ConnectionError("gone"))
    network.reactor.advance(1.0)
    network.pump()
    assert service.is_connected
    assert len(logged_errors.claim()) == 1
    service.stopService()
    network.pump()
