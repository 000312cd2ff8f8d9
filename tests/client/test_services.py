"""The factory and the services: listening, connecting, coming back, stopping."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.python.failure import Failure

from kn_sock import (
    CallTimeout,
    ConnectFailed,
    ConnectionLost,
    RPCClientService,
    RPCServerFactory,
    RPCServerService,
    connect,
    in_reactor,
)
from kn_sock.testing import MemoryNetwork


def add(a: Any, b: Any) -> Any:
    return a + b


class Outcome:
    """What became of a Deferred."""

    def __init__(self, deferred: Deferred[Any]) -> None:
        self.value: Any = None
        self.is_there = False
        deferred.addBoth(self._take)

    def _take(self, outcome: Any) -> None:
        self.is_there = True
        self.value = outcome.value if isinstance(outcome, Failure) else outcome


# --- the client service ---------------------------------------------------------------------------

MakeService = Callable[..., RPCClientService]


@pytest.fixture
def make_service(network: MemoryNetwork) -> Iterator[MakeService]:
    services: list[RPCClientService] = []

    def make(**options: Any) -> RPCClientService:
        options.setdefault("retry_policy", lambda attempts: 1.0)
        service = RPCClientService(network, reactor=network.reactor, threads=0, **options)
        services.append(service)
        service.startService()
        return service

    yield make
    for service in services:
        if service.running:
            service.stopService()
    network.pump()


def listen(network: MemoryNetwork, funcs: Any) -> None:
    network.listen(RPCServerFactory(funcs, reactor=network.reactor, threads=0))


def test_a_service_calls_when_it_is_connected(
    network: MemoryNetwork, make_service: MakeService
) -> None:
    listen(network, {"add": add})
    service = make_service()
    outcomes = [Outcome(service.call("add", 1, 2)), Outcome(service.remote.add(3, b=4))]
    batch = service.batch()
    batch.call("add", 5, 6)
    outcomes.append(Outcome(batch.send()))
    network.pump()
    assert [outcome.value for outcome in outcomes] == [3, 7, [11]]


def test_calls_wait_for_a_connection_that_comes(
    network: MemoryNetwork, make_service: MakeService
) -> None:
    told: list[int] = []
    service = make_service()
    batch = service.batch()
    batch.call("add", 5, 6)
    outcomes = [Outcome(service.call("add", 1, 2)), Outcome(batch.send())]
    notified = Outcome(service.notify("tell", 7))
    network.pump()
    assert not any(outcome.is_there for outcome in (*outcomes, notified))
    listen(network, {"add": add, "tell": told.append})
    network.reactor.advance(1)
    network.pump()
    assert [outcome.value for outcome in outcomes] == [3, [11]]
    assert notified.is_there
    assert told == [7]


def test_a_call_that_waits_too_long_says_that_it_was_not_sent(
    network: MemoryNetwork, make_service: MakeService
) -> None:
    service = make_service(timeout=5)
    outcome = Outcome(service.call("add", 1, 2))
    notified = Outcome(service.notify("add", 1, 2))
    network.reactor.advance(4.9)
    assert not outcome.is_there
    network.reactor.advance(0.2)
    assert isinstance(outcome.value, CallTimeout)
    assert outcome.value.maybe_executed is False
    assert isinstance(notified.value, CallTimeout)


def test_a_notification_waits_for_the_time_of_its_own(
    network: MemoryNetwork, make_service: MakeService
) -> None:
    service = make_service(timeout=None)
    quick = service.with_options(timeout=2)
    batch = quick.batch()
    batch.notify("tell", 1)
    outcomes = [Outcome(quick.notify("tell", 1)), Outcome(batch.send())]
    network.reactor.advance(1.9)
    assert not any(outcome.is_there for outcome in outcomes)
    network.reactor.advance(0.2)
    for outcome in outcomes:
        assert isinstance(outcome.value, CallTimeout)
        assert str(outcome.value).startswith("no connection within 2 s; the last attempt: ")


def test_a_notification_that_waits_can_be_cancelled(
    network: MemoryNetwork, make_service: MakeService
) -> None:
    told: list[int] = []
    service = make_service()
    notifying = [service.notify("tell", number) for number in range(2)]
    outcomes = [Outcome(each) for each in notifying]
    notifying[0].cancel()
    assert isinstance(outcomes[0].value, CancelledError)
    listen(network, {"tell": told.append})
    network.reactor.advance(1)
    network.pump()
    assert told == [1]


def test_a_lost_connection_comes_back_and_written_calls_are_not_sent_again(
    network: MemoryNetwork, make_service: MakeService
) -> None:
    ran: list[int] = []

    @in_reactor
    def slow(n: int) -> Deferred[None]:
        ran.append(n)
        return Deferred()

    listen(network, {"slow": slow, "add": add})
    service = make_service()
    written = Outcome(service.call("slow", 1))
    network.pump()
    network.wires[-1].lose(ConnectionResetError("cut"))
    assert isinstance(written.value, ConnectionLost)
    assert written.value.maybe_executed is True
    waits = Outcome(service.call("add", 1, 2))
    assert not waits.is_there
    network.reactor.advance(1)
    network.pump()
    assert waits.value == 3
    assert ran == [1]
    assert len(network.wires) == 2


def test_ids_go_on_counting_over_connections(
    network: MemoryNetwork, make_service: MakeService
) -> None:
    listen(network, {"add": add})
    service = make_service()
    Outcome(service.call("add", 1, 2))
    network.pump()
    network.wires[-1].lose(ConnectionResetError("cut"))
    network.reactor.advance(1)
    Outcome(service.call("add", 1, 2))
    network.reactor.advance(0)
    assert b'"id":2' in network.wires[-1].written
    network.pump()


def test_waiting_calls_are_bounded(make_service: MakeService) -> None:
    service = make_service()
    outcomes = [Outcome(service.call("add", 1, 2)) for _ in range(1001)]
    assert isinstance(outcomes[-1].value, ConnectionLost)
    assert not any(outcome.is_there for outcome in outcomes[:-1])


def test_cancelling_a_call_that_waits_drops_it(
    network: MemoryNetwork, make_service: MakeService
) -> None:
    ran: list[int] = []
    service = make_service()
    calling = service.call("run", 1)
    kept = Outcome(service.call("run", 2))
    calling.cancel()
    Outcome(calling)
    listen(network, {"run": ran.append})
    network.reactor.advance(1)
    network.pump()
    assert ran == [2]
    assert kept.is_there


def test_cancelling_a_batch_that_waits_drops_it_whole(
    network: MemoryNetwork, make_service: MakeService
) -> None:
    ran: list[int] = []
    service = make_service()
    batch = service.batch()
    batch.call("run", 1)
    batch.call("run", 2)
    sending = batch.send()
    sending.cancel()
    Outcome(sending)
    listen(network, {"run": ran.append})
    network.reactor.advance(1)
    network.pump()
    assert ran == []


def test_stopping_fails_what_waits_and_what_is_under_way(
    network: MemoryNetwork, make_service: MakeService
) -> None:
    listen(network, {"slow": in_reactor(Deferred)})
    service = make_service()
    under_way = Outcome(service.call("slow"))
    network.pump()
    stopped = Outcome(service.stopService())
    network.pump()
    assert isinstance(under_way.value, ConnectionLost)
    assert stopped.is_there
    after = Outcome(service.call("slow"))
    assert isinstance(after.value, ConnectionLost)


def test_closing_a_service_stops_it(network: MemoryNetwork, make_service: MakeService) -> None:
    listen(network, {"add": add})
    service = make_service()
    network.pump()
    closed = [Outcome(service.close()), Outcome(service.close())]
    network.pump()
    assert all(outcome.is_there for outcome in closed)
    assert not service.running
    assert isinstance(Outcome(service.call("add", 1, 2)).value, ConnectionLost)


def test_closing_what_has_other_options_stops_the_service(
    network: MemoryNetwork, make_service: MakeService
) -> None:
    listen(network, {"add": add})
    service = make_service()
    network.pump()
    closed = Outcome(service.with_options(timeout=3).close())
    network.pump()
    assert closed.is_there
    network.reactor.advance(1)
    network.pump()
    assert not service.running
    assert len(network.wires) == 1
    assert isinstance(Outcome(service.call("add", 1, 2)).value, ConnectionLost)


def test_a_service_can_be_started_again(network: MemoryNetwork, make_service: MakeService) -> None:
    listen(network, {"add": add})
    service = make_service()
    quick = service.with_options(timeout=3)
    network.pump()
    service.stopService()
    network.pump()
    service.startService()
    outcomes = [Outcome(service.call("add", 1, 2)), Outcome(quick.call("add", 3, 4))]
    network.pump()
    assert [outcome.value for outcome in outcomes] == [3, 7]


def test_a_refused_connection_is_reported_by_connect(network: MemoryNetwork) -> None:
    outcome = Outcome(connect(network, reactor=network.reactor))
    assert isinstance(outcome.value, ConnectFailed)
    assert isinstance(outcome.value, ConnectionRefusedError)
    assert outcome.value.errno == errno.ECONNREFUSED


@pytest.mark.parametrize(
    "description", ["", "nonsense", "tcp", "tcp:", "tcp:host:port", "gopher:x:1"]
)
def test_a_description_that_is_none_is_refused(network: MemoryNetwork, description: str) -> None:
    with pytest.raises(ValueError, match="endpoint"):
        connect(description, reactor=network.reactor)


# --- over real sockets ----------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_a_service_listens_serves_and_drains() -> None:
    service = RPCServerService("tcp:0:interface=127.0.0.1", {"add": add})
    service.privilegedStartService()
    service.startService()
    assert service.port is not None
    port = service.port.getHost().port  # type: ignore[attr-defined]
    connection = await connect(f"tcp:127.0.0.1:{port}")
    assert await connection.call("add", 1, 2) == 3
    assert await connection.remote.add("x" * 1_000_000, "y") == "x" * 1_000_000 + "y"
    await service.stopService()
    with pytest.raises(ConnectionLost):
        await connection.call("add", 1, 2)
    with pytest.raises(ConnectionRefusedError):
        await connect(f"tcp:localhost:{port}")


@pytest_twisted.ensureDeferred
async def test_an_address_in_use_raises_from_start_service() -> None:
    first = RPCServerService("tcp:0:interface=127.0.0.1", {"add": add})
    first.startService()
    assert first.port is not None
    port = first.port.getHost().port  # type: ignore[attr-defined]
    second = RPCServerService(f"tcp:{port}:interface=127.0.0.1", {"add": add})
    with pytest.raises(OSError, match=f"127.0.0.1:{port}") as caught:
        second.privilegedStartService()
    assert caught.value.errno == errno.EADDRINUSE
    assert isinstance(caught.value.__cause__, CannotListenError)
    await first.stopService()
    second.startService()
    await second.stopService()


@pytest_twisted.ensureDeferred
async def test_a_plain_endpoint_listens_with_the_factory(reactor: Any) -> None:
    factory = RPCServerFactory({"add": add})
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
    connection = await connect(f"tcp:127.0.0.1:{port.getHost().port}")
    assert await connection.call("add", 1, 2) == 3
    await connection.close()
    await port.stopListening()
    await factory.drain()


@pytest_twisted.ensureDeferred
async def test_a_unix_socket_serves(tmp_path: Any) -> None:
    service = RPCServerService(f"unix:{tmp_path}/knsock", {"add": add})
    service.startService()
    connection = await connect(f"unix:{tmp_path}/knsock")
    assert await connection.call("add", 1, 2) == 3
    await connection.close()
    await service.stopService()


@pytest.fixture
def reactor() -> Any:
    from twisted.internet import reactor

    return reactor


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"max_pending": 0}, ValueError),
        ({"max_line_bytes": 10}, ValueError),
        ({"threads": -1}, ValueError),
        ({"threads": "4"}, TypeError),
        ({"max_batch": True}, TypeError),
        ({"drain_timeout": -1}, ValueError),
        ({"drain_timeout": float("nan")}, ValueError),
        ({"max_conections": 3}, TypeError),
    ],
)
def test_an_option_that_cannot_be_used_is_named(
    network: MemoryNetwork, options: dict[str, Any], kind: type[Exception]
) -> None:
    (name,) = options
    with pytest.raises(kind, match=name):
        RPCServerFactory({"add": add}, reactor=network.reactor, **options)


@pytest.mark.parametrize("endpoint", ["", "nonsense", "tcp:port", "tcp:8080:color=red"])
def test_a_server_endpoint_that_is_none_is_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match="endpoint"):
        RPCServerService(endpoint, {"add": add})
