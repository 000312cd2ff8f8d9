"""Coming back: several endpoints, what prepares a connection, and what becomes of the calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer

from kn_sock import (
    CallTimeout,
    ConnectFailed,
    ConnectionLost,
    RPCClientService,
    RPCConnection,
    RPCServerFactory,
    connect,
    current_call,
    in_reactor,
)
from kn_sock.testing import MemoryNetwork


class Outcome:
    """What became of a Deferred."""

    def __init__(self, deferred: Deferred[Any]) -> None:
        self.value: Any = None
        self.is_there = False
        deferred.addBoth(self._take)

    def _take(self, outcome: Any) -> None:
        self.is_there = True
        self.value = outcome.value if isinstance(outcome, Failure) else outcome


class Server:
    """What a server was asked to do, and what it has not answered yet."""

    def __init__(self) -> None:
        self.ran: list[Any] = []
        self.answers: list[Deferred[Any]] = []
        self.funcs: dict[str, Any] = {"note": in_reactor(self.note), "wait": in_reactor(self.wait)}

    def note(self, what: Any) -> Any:
        self.ran.append(what)
        return what

    def wait(self, what: Any) -> Deferred[Any]:
        self.ran.append(what)
        answer: Deferred[Any] = Deferred()
        self.answers.append(answer)
        return answer

    def listen(self, network: MemoryNetwork) -> None:
        network.listen(RPCServerFactory(self.funcs, reactor=network.reactor, threads=0))


@pytest.fixture
def server(network: MemoryNetwork) -> Server:
    """A server that listens."""
    server = Server()
    server.listen(network)
    return server


@pytest.fixture
def other_network(network: MemoryNetwork) -> Iterator[MemoryNetwork]:
    """A second place, on the same clock, where nothing listens yet."""
    other = MemoryNetwork()
    other.reactor = network.reactor
    yield other
    for wire in other.wires:
        wire.lose(ConnectionError("the test is over"))


MakeService = Callable[..., RPCClientService]


@pytest.fixture
def make_service(network: MemoryNetwork) -> Iterator[MakeService]:
    services: list[RPCClientService] = []

    def make(endpoint: Any = network, **options: Any) -> RPCClientService:
        options.setdefault("retry_policy", lambda attempts: 1.0)
        service = RPCClientService(endpoint, reactor=network.reactor, threads=0, **options)
        services.append(service)
        service.startService()
        return service

    yield make
    for service in services:
        if service.running:
            service.stopService()
    network.pump()


def cut(network: MemoryNetwork) -> None:
    """Lose the connection that was made last."""
    network.wires[-1].lose(ConnectionResetError("cut"))


def wait_for_retry(network: MemoryNetwork) -> None:
    network.reactor.advance(1)
    network.pump()


@implementer(IStreamClientEndpoint)
class FakeSilence:
    """An endpoint that never answers."""

    def __init__(self) -> None:
        self.cancelled = 0

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        def cancel(_: object) -> None:
            self.cancelled += 1

        return Deferred(cancel)


# --- several endpoints ----------------------------------------------------------------------------


def test_the_first_endpoint_that_answers_wins(
    network: MemoryNetwork, other_network: MemoryNetwork, server: Server
) -> None:
    connected = Outcome(connect([other_network, network], reactor=network.reactor, threads=0))
    assert isinstance(connected.value, RPCConnection)
    assert (len(other_network.wires), len(network.wires)) == (0, 1)


def test_each_endpoint_has_the_whole_time_to_connect(
    network: MemoryNetwork, server: Server
) -> None:
    silent = [FakeSilence(), FakeSilence()]
    endpoints = [*silent, network]
    connected = Outcome(connect(endpoints, reactor=network.reactor, connect_timeout=5))
    network.reactor.advance(5)
    assert [each.cancelled for each in silent] == [1, 0]
    network.reactor.advance(4.9)
    assert not connected.is_there
    network.reactor.advance(0.2)
    assert [each.cancelled for each in silent] == [1, 1]
    assert isinstance(connected.value, RPCConnection)


def test_when_none_answers_the_error_names_each_and_why(
    network: MemoryNetwork, other_network: MemoryNetwork
) -> None:
    endpoints: list[Any] = [network, FakeSilence()]
    connected = Outcome(connect(endpoints, reactor=network.reactor, connect_timeout=5))
    network.reactor.advance(5)
    assert isinstance(connected.value, ConnectFailed)
    assert not isinstance(connected.value, ConnectionRefusedError)
    assert str(connected.value) == (
        "cannot connect to any of 2 endpoints: "
        "(1) MemoryNetwork: connection refused; is the server running? "
        "(2) FakeSilence: no answer within 5 s"
    )
    refused = Outcome(connect([network, other_network], reactor=network.reactor))
    assert isinstance(refused.value, ConnectionRefusedError)
    assert refused.value.errno is not None


def test_the_next_attempt_begins_with_the_first_again(
    network: MemoryNetwork, other_network: MemoryNetwork, make_service: MakeService, server: Server
) -> None:
    make_service([other_network, network])
    assert (len(other_network.wires), len(network.wires)) == (0, 1)
    Server().listen(other_network)
    cut(network)
    wait_for_retry(network)
    assert (len(other_network.wires), len(network.wires)) == (1, 1)


def test_giving_up_ends_the_attempt_and_those_to_come(
    network: MemoryNetwork, server: Server
) -> None:
    silent = FakeSilence()
    connecting = connect([silent, network], reactor=network.reactor)
    outcome = Outcome(connecting)
    connecting.cancel()
    assert isinstance(outcome.value, CancelledError)
    assert silent.cancelled == 1
    assert network.wires == []


@pytest.mark.parametrize(
    ("endpoint", "kind"), [([], ValueError), ([3], TypeError), (3, TypeError), (["x:"], ValueError)]
)
def test_endpoints_that_are_none_are_refused(
    network: MemoryNetwork, endpoint: Any, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match="endpoint"):
        connect(endpoint, reactor=network.reactor)
    with pytest.raises(kind, match="endpoint"):
        RPCClientService(endpoint, reactor=network.reactor)


def test_options_that_are_none_are_refused(network: MemoryNetwork) -> None:
    with pytest.raises(TypeError, match="on_connected must be a function"):
        connect(network, reactor=network.reactor, on_connected=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="does not come back"):
        connect(network, reactor=network.reactor, queue_while_disconnected=True)
    with pytest.raises(TypeError, match="queue_while_disconnected must be True or False"):
        RPCClientService(network, reactor=network.reactor, queue_while_disconnected="yes")  # type: ignore[arg-type]
    service = RPCClientService(network, reactor=network.reactor)
    with pytest.raises(TypeError, match="idempotent must be True or False"):
        service.with_options(idempotent=1)


# --- the back-off ---------------------------------------------------------------------------------


class Policy:
    """Says how long to wait, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, attempts: int) -> float:
        self.asked.append(attempts)
        return 1.0


def test_one_attempt_is_one_pass_over_the_endpoints(
    network: MemoryNetwork, other_network: MemoryNetwork, make_service: MakeService
) -> None:
    policy = Policy()
    make_service([network, other_network], retry_policy=policy)
    wait_for_retry(network)
    wait_for_retry(network)
    assert policy.asked == [1, 2, 3]


def test_only_a_connection_that_is_prepared_resets_the_back_off(
    network: MemoryNetwork, make_service: MakeService, server: Server
) -> None:
    policy = Policy()
    fails = [True]

    def prepare(connection: RPCConnection) -> None:
        if fails:
            raise LookupError("not this one")

    make_service(on_connected=prepare, retry_policy=policy)
    network.pump()
    for _ in range(3):
        wait_for_retry(network)
    assert policy.asked == [1, 2, 3, 4]
    fails.clear()
    wait_for_retry(network)
    cut(network)
    assert policy.asked == [1, 2, 3, 4, 1]


@pytest.mark.parametrize("pause", [-1.0, float("nan"), None, "1", ZeroDivisionError()])
def test_a_policy_that_fails_does_not_end_the_attempts(
    network: MemoryNetwork, make_service: MakeService, pause: Any, logged_errors: Any
) -> None:
    def policy(attempts: int) -> Any:
        if isinstance(pause, Exception):
            raise pause
        return pause

    called = Outcome(make_service(retry_policy=policy).call("note", 1))
    Server().listen(network)
    for _ in range(2):
        wait_for_retry(network)
    assert called.value == 1
    assert logged_errors.claim() == ["retry_policy failed; the pause is that without one"]


def test_a_policy_that_is_no_function_is_refused(network: MemoryNetwork) -> None:
    policy: Any = 5
    with pytest.raises(TypeError, match="retry_policy must be a function, not 5"):
        RPCClientService(network, reactor=network.reactor, retry_policy=policy)


# --- what prepares a connection -------------------------------------------------------------------


def test_what_prepares_a_connection_is_done_before_queued_calls_go_out(
    network: MemoryNetwork, make_service: MakeService
) -> None:
    server = Server()
    prepared: list[Any] = []

    async def prepare(connection: RPCConnection) -> None:
        prepared.append(await connection.call("wait", "login"))
        prepared.append(await connection.call("note", "subscribe"))

    service = make_service(on_connected=prepare)
    queued = [Outcome(service.call("note", n)) for n in range(3)]
    server.listen(network)
    wait_for_retry(network)
    queued.append(Outcome(service.call("note", 3)))
    network.pump()
    assert server.ran == ["login"]
    server.answers[0].callback("welcome")
    network.pump()
    assert prepared == ["welcome", "subscribe"]
    assert server.ran == ["login", "subscribe", 0, 1, 2, 3]
    assert [outcome.value for outcome in queued] == [0, 1, 2, 3]


def test_each_connection_is_prepared(
    network: MemoryNetwork, make_service: MakeService, server: Server
) -> None:
    make_service(on_connected=lambda connection: connection.notify("note", "hello"))
    network.pump()
    cut(network)
    wait_for_retry(network)
    assert server.ran == ["hello", "hello"]


def test_connect_waits_for_what_prepares_the_connection(
    network: MemoryNetwork, server: Server
) -> None:
    connecting = connect(
        network,
        reactor=network.reactor,
        on_connected=lambda connection: connection.call("wait", "login"),
    )
    connected = Outcome(connecting)
    network.pump()
    assert not connected.is_there
    server.answers[0].callback("welcome")
    network.pump()
    assert isinstance(connected.value, RPCConnection)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_connection_that_cannot_be_prepared_is_one_that_failed(
    network: MemoryNetwork, server: Server, is_async: bool
) -> None:
    problem = PermissionError("wrong password")

    async def prepare(connection: RPCConnection) -> None:
        await connection.call("note", "login")
        raise problem

    def refuse(connection: RPCConnection) -> None:
        raise problem

    hook = prepare if is_async else refuse
    connected = Outcome(connect(network, reactor=network.reactor, on_connected=hook))
    network.pump()
    assert isinstance(connected.value, ConnectFailed)
    assert connected.value.__cause__ is problem
    assert "on_connected failed: PermissionError: wrong password" in str(connected.value)
    assert network.wires[-1].disconnecting


def test_the_next_endpoint_is_tried_when_the_first_cannot_be_prepared(
    network: MemoryNetwork, other_network: MemoryNetwork, server: Server
) -> None:
    other = Server()
    other.listen(other_network)

    async def prepare(connection: RPCConnection) -> None:
        if await connection.call("wait", "primary?") != "yes":
            raise LookupError("a standby")

    endpoints = [other_network, network]
    connected = Outcome(connect(endpoints, reactor=network.reactor, on_connected=prepare))
    both = [other, server]
    for asked, answer in zip(both, ["no", "yes"], strict=True):
        other_network.pump()
        network.pump()
        asked.answers[0].callback(answer)
    other_network.pump()
    network.pump()
    assert isinstance(connected.value, RPCConnection)
    assert [each.ran for each in both] == [["primary?"], ["primary?"]]


def test_what_never_ends_is_given_up_with_its_connection(
    network: MemoryNetwork, make_service: MakeService, server: Server
) -> None:
    preparing: list[Deferred[None]] = []
    cancelled: list[Any] = []

    def prepare(connection: RPCConnection) -> Deferred[None]:
        preparing.append(Deferred(cancelled.append))
        return preparing[-1]

    service = make_service(on_connected=prepare, connect_timeout=5, timeout=20)
    queued = Outcome(service.call("note", 1))
    network.pump()
    network.reactor.advance(5)
    network.pump()
    assert len(cancelled) == 1
    assert network.wires[-1].disconnecting
    assert not queued.is_there
    wait_for_retry(network)
    assert len(network.wires) == 2
    preparing[-1].callback(None)
    network.pump()
    assert queued.value == 1


def test_what_ignores_that_it_is_given_up_holds_up_nothing(
    network: MemoryNetwork, server: Server
) -> None:
    async def prepare(connection: RPCConnection) -> None:
        while True:
            try:
                await Deferred()
            except CancelledError:
                await Deferred()

    connecting = connect(network, reactor=network.reactor, on_connected=prepare, connect_timeout=5)
    connected = Outcome(connecting)
    network.pump()
    network.reactor.advance(5)
    network.pump()
    assert isinstance(connected.value, ConnectFailed)
    assert "on_connected was not done within 5 s" in str(connected.value)


@pytest.mark.parametrize("waits_for", ["a call", "something else"])
def test_a_connection_that_is_lost_while_it_is_prepared_failed(
    network: MemoryNetwork, make_service: MakeService, server: Server, waits_for: str
) -> None:
    later: list[Deferred[None]] = []

    def prepare(connection: RPCConnection) -> Any:
        if waits_for == "a call":
            return connection.call("wait", "login")
        later.append(Deferred())
        return later[-1]

    service = make_service(on_connected=prepare)
    queued = Outcome(service.call("note", 1))
    network.pump()
    cut(network)
    network.pump()
    assert not queued.is_there
    wait_for_retry(network)
    assert len(network.wires) == 2
    # What comes of the first one now is of no account.
    for each in later:
        each.callback(None)
    for answer in server.answers[-1:]:
        answer.callback(None)
    network.pump()
    assert queued.value == 1
    assert server.ran.count(1) == 1


def test_a_connection_that_is_lost_as_soon_as_it_is_prepared_takes_no_queued_call(
    network: MemoryNetwork, make_service: MakeService, server: Server
) -> None:
    prepared: list[Deferred[None]] = []

    async def prepare(connection: RPCConnection) -> None:
        prepared.append(Deferred())
        await prepared[-1]
        if len(prepared) == 1:
            cut(network)

    service = make_service(on_connected=prepare)
    queued = [Outcome(service.call("note", n)) for n in range(3)]
    network.pump()
    prepared[0].callback(None)
    network.pump()
    assert not any(outcome.is_there for outcome in queued)
    wait_for_retry(network)
    prepared[1].callback(None)
    network.pump()
    assert [outcome.value for outcome in queued] == [0, 1, 2]
    assert server.ran == [0, 1, 2]


def test_a_call_of_the_preparation_is_not_sent_over_the_next_connection(
    network: MemoryNetwork, make_service: MakeService, server: Server
) -> None:
    kept: list[RPCConnection] = []
    service = make_service(on_connected=kept.append)
    network.pump()
    lost = [Outcome(kept[0].call("note", "direct")), Outcome(service.call("note", "any"))]
    cut(network)
    assert isinstance(lost[0].value, ConnectionLost)
    assert lost[0].value.maybe_executed is False
    wait_for_retry(network)
    assert lost[1].value == "any"
    assert server.ran == ["any"]


# --- stopping, in each state ----------------------------------------------------------------------


def check_stopped(network: MemoryNetwork, service: RPCClientService, stopping: Any) -> None:
    network.pump()
    assert stopping.is_there
    assert network.reactor.getDelayedCalls() == []
    assert isinstance(Outcome(service.call("note", 1)).value, ConnectionLost)


def test_stopping_while_an_endpoint_is_tried(
    network: MemoryNetwork, make_service: MakeService
) -> None:
    silent = FakeSilence()
    service = make_service(silent)
    queued = Outcome(service.call("note", 1))
    stopping = Outcome(service.stopService())
    assert silent.cancelled == 1
    assert isinstance(queued.value, ConnectionLost)
    assert queued.value.maybe_executed is False
    check_stopped(network, service, stopping)


def test_stopping_in_the_pause_before_an_attempt(
    network: MemoryNetwork, make_service: MakeService
) -> None:
    service = make_service()
    check_stopped(network, service, Outcome(service.stopService()))


def test_stopping_while_a_connection_is_prepared(
    network: MemoryNetwork, make_service: MakeService, server: Server
) -> None:
    cancelled: list[Any] = []
    service = make_service(on_connected=lambda connection: Deferred(cancelled.append))
    network.pump()
    stopping = Outcome(service.stopService())
    check_stopped(network, service, stopping)
    assert len(cancelled) == 1
    assert network.wires[-1].disconnecting


@pytest.mark.parametrize("after_a_call", [False, True])
def test_stopping_from_what_prepares_a_connection(
    network: MemoryNetwork, make_service: MakeService, server: Server, after_a_call: bool
) -> None:
    stopping: list[Outcome] = []
    cancelled: list[Any] = []

    async def prepare(connection: RPCConnection) -> None:
        if after_a_call:
            await connection.call("note", "login")
        stopping.append(Outcome(service.stopService()))
        await Deferred(cancelled.append)

    service = make_service(on_connected=prepare)
    network.pump()
    check_stopped(network, service, stopping[0])
    assert len(cancelled) == 1


def test_an_endpoint_that_connects_although_it_was_given_up_changes_nothing(
    network: MemoryNetwork, make_service: MakeService, server: Server
) -> None:
    @implementer(IStreamClientEndpoint)
    class FakeStubborn:
        def connect(self, protocolFactory: Any) -> Deferred[Any]:
            def connect_now(connecting: Deferred[Any]) -> None:
                network.connect(protocolFactory).chainDeferred(connecting)

            return Deferred(connect_now)

    service = make_service(FakeStubborn())
    check_stopped(network, service, Outcome(service.stopService()))
    assert network.wires[-1].disconnecting


def test_stopping_when_the_connection_is_there_and_starting_again(
    network: MemoryNetwork, make_service: MakeService, server: Server
) -> None:
    service = make_service()
    network.pump()
    stopping = Outcome(service.stopService())
    check_stopped(network, service, stopping)
    service.startService()
    service.startService()
    called = Outcome(service.call("note", 1))
    network.pump()
    assert called.value == 1
    assert len(network.wires) == 2


# --- calls that wait ------------------------------------------------------------------------------


def test_a_service_that_does_not_queue_fails_calls_at_once(
    network: MemoryNetwork, make_service: MakeService
) -> None:
    server = Server()
    service = make_service(queue_while_disconnected=False)
    refused = Outcome(service.call("note", 1))
    assert isinstance(refused.value, ConnectionLost)
    assert refused.value.maybe_executed is False
    assert isinstance(Outcome(service.notify("note", 1)).value, ConnectionLost)
    server.listen(network)
    wait_for_retry(network)
    called = Outcome(service.call("note", 2))
    network.pump()
    unwritten = Outcome(service.call("note", 3))
    cut(network)
    assert called.value == 2
    assert isinstance(unwritten.value, ConnectionLost)
    assert unwritten.value.maybe_executed is False


def test_a_deadline_passes_while_an_endpoint_is_tried(
    network: MemoryNetwork, make_service: MakeService
) -> None:
    service = make_service(FakeSilence(), timeout=3, connect_timeout=10)
    queued = Outcome(service.call("note", 1))
    network.reactor.advance(3)
    assert isinstance(queued.value, CallTimeout)
    assert queued.value.maybe_executed is False


def test_calls_that_are_made_while_queued_ones_go_out_stand_behind_them(
    network: MemoryNetwork, make_service: MakeService
) -> None:
    server = Server()
    service = make_service()
    later: list[Outcome] = []
    queued = [service.call("note", n) for n in range(2)]
    batch = service.batch()
    batch.call("note", 10)
    Outcome(batch.send())
    # Its caller is told as it goes out, and calls again then.
    service.notify("note", 2).addCallback(lambda _: later.append(Outcome(service.call("note", 20))))
    queued.append(service.call("note", 3))
    server.listen(network)
    wait_for_retry(network)
    assert [Outcome(each).value for each in queued] == [0, 1, 3]
    assert server.ran == [0, 1, 10, 2, 3, 20]


def test_a_loss_while_queued_calls_go_out_keeps_their_order(
    network: MemoryNetwork, make_service: MakeService
) -> None:
    server = Server()
    service = make_service()
    queued = [Outcome(service.call("note", n)) for n in range(2)]
    service.notify("note", "lost").addCallback(lambda _: cut(network))
    queued += [Outcome(service.call("note", n)) for n in (2, 3)]
    server.listen(network)
    wait_for_retry(network)
    assert not any(outcome.is_there for outcome in queued)
    wait_for_retry(network)
    assert [outcome.value for outcome in queued] == [0, 1, 2, 3]
    assert server.ran == [0, 1, 2, 3]


# --- calls that a lost connection leaves open -----------------------------------------------------


def test_what_was_not_written_goes_out_over_the_next_connection_in_order(
    network: MemoryNetwork, make_service: MakeService, server: Server
) -> None:
    service = make_service()
    network.pump()
    written = Outcome(service.call("wait", "written"))
    network.pump()
    unwritten = [Outcome(service.call("note", n)) for n in range(3)]
    batch = service.batch()
    for n in (3, 4):
        batch.call("note", n)
    unwritten.append(Outcome(batch.send()))
    written_late: list[Outcome] = []
    cut(network)
    written_late.append(Outcome(service.call("note", 5)))
    assert isinstance(written.value, ConnectionLost)
    assert written.value.maybe_executed is True
    assert not any(outcome.is_there for outcome in unwritten)
    wait_for_retry(network)
    assert [outcome.value for outcome in unwritten] == [0, 1, 2, [3, 4]]
    assert written_late[0].value == 5
    assert server.ran == ["written", 0, 1, 2, 3, 4, 5]


def test_what_is_called_while_a_connection_is_given_up_goes_out_over_the_next(
    network: MemoryNetwork,
    client: RPCClientService,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wire = network.wires[-1]
    # As of a socket: the loss is told in the next turn.
    monkeypatch.setattr(
        wire, "abortConnection", lambda: network.reactor.callLater(0, wire.lose, ConnectionError())
    )
    later: list[Outcome] = []
    client.call("wait", 1).addCallback(lambda _: later.append(Outcome(client.call("note", 2))))
    network.pump()
    never_made = b'{"jsonrpc":"2.0","id":99,"result":0}'
    wire.protocol.dataReceived(b'{"jsonrpc":"2.0","id":1,"result":0}\n' + never_made + b"\n")
    network.pump()
    wait_for_retry(network)
    assert [outcome.value for outcome in later] == [2]


def test_the_callers_of_failed_calls_stand_behind_what_waits(
    network: MemoryNetwork, make_service: MakeService, server: Server
) -> None:
    service = make_service()
    network.pump()
    calling = service.call("wait", "written")
    calling.addErrback(lambda _: service.call("note", "after the failure"))
    again = Outcome(calling)
    network.pump()
    unwritten = Outcome(service.call("note", "unwritten"))
    cut(network)
    wait_for_retry(network)
    assert unwritten.is_there
    assert again.value == "after the failure"
    assert server.ran == ["written", "unwritten", "after the failure"]


def test_the_deadline_of_an_unwritten_call_runs_on(
    network: MemoryNetwork, make_service: MakeService, server: Server
) -> None:
    service = make_service(timeout=5, retry_policy=lambda attempts: 2.0)
    network.pump()
    network.reactor.advance(10)
    unwritten = [Outcome(service.call("wait", n)) for n in range(2)]
    cut(network)
    network.reactor.advance(2)
    network.pump()
    assert server.ran == [0, 1]
    network.reactor.advance(2.9)
    assert not unwritten[0].is_there
    network.reactor.advance(0.2)
    assert isinstance(unwritten[0].value, CallTimeout)
    assert unwritten[0].value.maybe_executed is True


def test_an_unwritten_call_that_finds_no_other_connection_in_time_was_not_run(
    network: MemoryNetwork, make_service: MakeService, server: Server
) -> None:
    service = make_service(timeout=5, retry_policy=lambda attempts: 10.0)
    network.pump()
    unwritten = Outcome(service.call("note", 1))
    cut(network)
    network.reactor.advance(5)
    assert isinstance(unwritten.value, CallTimeout)
    assert unwritten.value.maybe_executed is False


def test_an_unwritten_call_can_be_cancelled_while_it_waits(
    network: MemoryNetwork, make_service: MakeService, server: Server
) -> None:
    service = make_service()
    network.pump()
    calling = service.call("note", 1)
    kept = Outcome(service.call("note", 2))
    cut(network)
    calling.cancel()
    Outcome(calling)
    wait_for_retry(network)
    assert kept.value == 2
    assert server.ran == [2]


@pytest.mark.parametrize("given_up", [1, 2])
def test_an_unwritten_batch_of_which_a_call_was_given_up_is_not_sent_again(
    network: MemoryNetwork, make_service: MakeService, server: Server, given_up: int
) -> None:
    service = make_service()
    network.pump()
    batch = service.batch()
    for n in range(2):
        batch.call("note", n)
    sent = Outcome(batch.send())
    # Only the channel can do it: a caller cancels the whole.
    protocol = service._channel._protocol
    assert protocol is not None
    protocol.calls().cancel_call(protocol._session.pending[given_up])
    cut(network)
    wait_for_retry(network)
    assert not sent.is_there
    assert server.ran == []


def test_no_more_wait_than_may(
    network: MemoryNetwork, make_service: MakeService, server: Server
) -> None:
    service = make_service()
    network.pump()
    unwritten = [Outcome(service.call("note", n)) for n in range(1002)]
    cut(network)
    assert [outcome.is_there for outcome in unwritten] == [False] * 1000 + [True] * 2
    for outcome in unwritten[1000:]:
        assert isinstance(outcome.value, ConnectionLost)
        assert outcome.value.maybe_executed is False
    wait_for_retry(network)
    assert server.ran == list(range(1000))


def test_what_a_peer_that_sends_no_more_did_not_get_goes_to_the_next_connection(
    network: MemoryNetwork, make_service: MakeService, server: Server
) -> None:
    service = make_service()
    network.pump()
    unwritten = Outcome(service.call("note", 1))
    network.wires[-1].protocol.readConnectionLost()
    network.pump()
    assert server.ran == []
    wait_for_retry(network)
    assert unwritten.value == 1
    assert server.ran == [1]


def test_a_peer_that_sends_no_more_and_waits_for_us_does_not_hold_up_calls(
    network: MemoryNetwork, make_service: MakeService
) -> None:
    """The peer waits for an answer of ours, which takes long; calls need a connection before."""
    server = Server()

    @in_reactor
    def ask() -> None:
        current_call().connection.call("slow").addErrback(lambda _: None)

    server.funcs["ask"] = ask
    server.listen(network)
    service = make_service(funcs={"slow": in_reactor(Deferred)})
    Outcome(service.call("ask"))
    network.pump()
    network.wires[-1].protocol.readConnectionLost()
    called = Outcome(service.call("note", 1))
    wait_for_retry(network)
    assert called.value == 1
    assert len(network.wires) == 2


# --- calls that may be run twice ------------------------------------------------------------------


@pytest.fixture
def client(network: MemoryNetwork, make_service: MakeService, server: Server) -> RPCClientService:
    """A service that is connected."""
    service = make_service(timeout=10)
    network.pump()
    return service


def test_a_written_call_that_may_be_run_twice_is_sent_once_more(
    network: MemoryNetwork, client: RPCClientService, server: Server
) -> None:
    called = Outcome(client.with_options(idempotent=True).call("wait", 1))
    network.pump()
    cut(network)
    assert not called.is_there
    wait_for_retry(network)
    assert server.ran == [1, 1]
    server.answers[-1].callback("done")
    network.pump()
    assert called.value == "done"


def test_and_not_a_third_time(
    network: MemoryNetwork, client: RPCClientService, server: Server
) -> None:
    called = Outcome(client.with_options(idempotent=True).call("wait", 1))
    network.pump()
    cut(network)
    wait_for_retry(network)
    cut(network)
    assert isinstance(called.value, ConnectionLost)
    assert called.value.maybe_executed is True
    wait_for_retry(network)
    assert server.ran == [1, 1]


def test_a_second_try_that_was_not_written_waits_for_a_third_connection(
    network: MemoryNetwork, client: RPCClientService, server: Server
) -> None:
    called = Outcome(client.with_options(idempotent=True).call("wait", 1))
    network.pump()
    cut(network)
    network.reactor.advance(1)
    assert len(network.wires) == 2
    cut(network)
    wait_for_retry(network)
    assert server.ran == [1, 1]
    server.answers[-1].callback("done")
    network.pump()
    assert called.value == "done"


def test_the_deadline_of_a_second_try_is_that_of_the_first(
    network: MemoryNetwork, client: RPCClientService, server: Server
) -> None:
    called = Outcome(client.with_options(idempotent=True).call("wait", 1))
    network.pump()
    network.reactor.advance(8)
    cut(network)
    wait_for_retry(network)
    assert server.ran == [1, 1]
    network.reactor.advance(0.9)
    assert not called.is_there
    network.reactor.advance(0.2)
    assert isinstance(called.value, CallTimeout)
    assert called.value.maybe_executed is True


def test_a_call_that_waited_in_vain_may_cancel_those_that_waited_with_it(
    network: MemoryNetwork, make_service: MakeService
) -> None:
    service = make_service()
    calls = [service.call("note", number) for number in range(3)]
    calls[0].addErrback(lambda _: calls[1].cancel())
    outcomes = [Outcome(call) for call in calls]
    service.stopService()
    assert isinstance(outcomes[1].value, CancelledError)
    assert isinstance(outcomes[2].value, ConnectionLost)


@pytest.mark.parametrize("ends_by", ["its deadline", "stopping"])
def test_a_second_try_that_is_never_made_says_that_the_first_may_have_run(
    network: MemoryNetwork, client: RPCClientService, server: Server, ends_by: str
) -> None:
    network.factory = None
    called = Outcome(client.with_options(idempotent=True).call("wait", 1))
    network.pump()
    cut(network)
    if ends_by == "stopping":
        client.stopService()
    else:
        network.reactor.advance(10)
    assert isinstance(called.value, (CallTimeout, ConnectionLost))
    assert called.value.maybe_executed is True
    assert "cut" in str(called.value)


def test_a_call_that_timed_out_or_was_cancelled_is_not_sent_again(
    network: MemoryNetwork, client: RPCClientService, server: Server
) -> None:
    twice = client.with_options(idempotent=True, timeout=0.5)
    late = Outcome(twice.call("wait", 1))
    cancelled = client.with_options(idempotent=True).call("wait", 2)
    network.pump()
    cancelled.cancel()
    Outcome(cancelled)
    network.reactor.advance(0.5)
    assert isinstance(late.value, CallTimeout)
    cut(network)
    wait_for_retry(network)
    assert server.ran == [1, 2]


def test_a_batch_that_may_be_run_twice_is_sent_once_more_whole(
    network: MemoryNetwork, client: RPCClientService, server: Server
) -> None:
    batch = client.with_options(idempotent=True).batch()
    batch.call("note", 1)
    batch.notify("note", 2)
    batch.call("wait", 3)
    sent = Outcome(batch.send())
    network.pump()
    cut(network)
    wait_for_retry(network)
    server.answers[-1].callback("done")
    network.pump()
    assert sent.value == [1, "done"]
    assert server.ran == [1, 2, 3, 1, 2, 3]


@pytest.mark.parametrize("answered", [1, 2])
def test_a_batch_of_which_a_call_has_ended_is_not_sent_again(
    network: MemoryNetwork, client: RPCClientService, server: Server, answered: int
) -> None:
    batch = client.with_options(idempotent=True).batch()
    batch.call("wait", 1)
    batch.call("wait", 2)
    sent = Outcome(batch.send())
    network.pump()
    # A peer may answer the calls of a batch one by one.
    reply = b'{"jsonrpc":"2.0","id":%d,"result":"done"}\n' % answered
    network.wires[-1].protocol.dataReceived(reply)
    cut(network)
    wait_for_retry(network)
    lost = sent.value[2 - answered]
    assert sent.value[answered - 1] == "done"
    assert isinstance(lost, ConnectionLost)
    assert lost.maybe_executed is True
    assert server.ran == [1, 2]


def test_without_a_next_connection_it_changes_nothing(
    network: MemoryNetwork, server: Server
) -> None:
    connected = Outcome(connect(network, reactor=network.reactor))
    called = Outcome(connected.value.with_options(idempotent=True).call("wait", 1))
    network.pump()
    cut(network)
    assert isinstance(called.value, ConnectionLost)
    assert called.value.maybe_executed is True


def test_a_call_made_as_the_peer_sends_eof_waits_for_the_next_connection(
    network: MemoryNetwork, server: Server, make_service: MakeService
) -> None:
    service = make_service()
    network.pump()
    wire = network.wires[-1]
    wire.peer.is_held = True
    answers: list[Any] = []
    lost = service.call("note", 1)
    lost.addErrback(lambda _: service.call("note", 2)).addBoth(answers.append)
    network.pump()
    wire.protocol.readConnectionLost()
    assert answers == []
    wait_for_retry(network)
    wait_for_retry(network)
    assert answers == [2]
