"""How many bytes calls may take: what waits is packed, what is too much stops, nothing is lost."""

from __future__ import annotations

import json
import threading
from queue import SimpleQueue
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from kn_sock import RPCClient, in_reactor, in_thread, start_rpc_server
from kn_sock._blocking.reactor_thread import reactor_thread
from kn_sock._serving.budget import Account, Budget, Use
from kn_sock._wire.weight import pack, unpack
from kn_sock.testing import ManualExecutor, MemoryNetwork, MemoryReactor
from tests.serving.common import add, echo
from tests.serving.peers import RawClient, call, join, listen

# The least that may be set.
LEAST = 64 * 1024

PATIENCE = 60.0


@pytest.fixture
def waiting() -> list[Deferred[Any]]:
    return []


@pytest.fixture
def wait(waiting: list[Deferred[Any]]) -> Any:
    """A function whose calls end when the test says so; it ignores what it gets."""

    @in_reactor
    def wait(*_: Any) -> Deferred[Any]:
        waiting.append(Deferred())
        return waiting[-1]

    return wait


def account_of(network: MemoryNetwork, number: int = 0) -> Account:
    account: Account = network.wires[number].peer.protocol._serving.replies.account
    return account


def old_call(method: str, *params: Any) -> bytes:
    return json.dumps({"method": method, "params": params, "kwargs": {}}).encode() + b"\n"


def ids_of(client: RawClient) -> list[int]:
    return [reply["id"] for reply in client.replies]


# --- accounts -------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> MemoryReactor:
    return MemoryReactor()


@pytest.fixture
def budget(clock: MemoryReactor) -> Budget:
    return Budget(1_000_000, 600_000, clock.callLater)


def test_an_account_has_room_up_to_its_own_limit(budget: Budget) -> None:
    account = Account(budget, lambda: None)
    account.add(Use.WAITING, 599_999)
    assert account.may_read
    account.add(Use.WAITING, 1)
    assert not account.may_read
    assert account.may_begin
    account.add(Use.CALLS, 600_000)
    assert not account.may_begin
    assert account.may_finish
    account.add(Use.RESULTS, 600_000)
    assert not account.may_finish
    assert budget.used == 1_800_000


def test_what_all_take_together_stops_those_that_take_much(budget: Budget) -> None:
    large, small = Account(budget, lambda: None), Account(budget, lambda: None)
    large.add(Use.CALLS, 500_000)
    other = Account(budget, lambda: None)
    other.add(Use.CALLS, 499_999)
    assert large.may_begin
    small.add(Use.CALLS, 1000)
    assert not large.may_begin
    assert not large.may_read
    assert small.may_begin
    assert small.may_read


def test_those_that_wait_for_others_go_on_when_there_is_room(
    budget: Budget, clock: MemoryReactor
) -> None:
    woken: list[str] = []
    large = Account(budget, lambda: woken.append("large"))
    other = Account(budget, lambda: woken.append("other"))
    large.add(Use.CALLS, 500_000)
    other.add(Use.CALLS, 500_000)
    other.add(Use.CALLS, -300_000)
    assert woken == []
    clock.advance(0)
    assert woken == ["large"]


def test_the_end_of_a_connection_gives_everything_back(
    budget: Budget, clock: MemoryReactor
) -> None:
    account = Account(budget, lambda: None)
    account.add(Use.CALLS, 500_000)
    account.add(Use.RESULTS, 700_000)
    account.close()
    assert budget.used == account.total == 0
    account.add(Use.RESULTS, 5000)
    account.close()
    assert budget.used == 0
    clock.advance(0)


# --- requests that wait ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        [1, -1, 2**70, 1.5, -0.0, 1e308, True, None, "é", "\ud800", "", {"a": [{}]}, []],
        {"deep": [[[[[[[1]]]]]]]},
    ],
)
def test_arguments_that_are_packed_come_back_as_they_were(value: Any) -> None:
    assert repr(unpack(pack(value, {"a": value}))) == repr((value, {"a": value}))


def deep(depth: int) -> Any:
    value: Any = "x" * 3000
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("argument", ["x" * 5000, [1.5] * 1000, deep(300)])
@pytest.mark.parametrize("dialect", ["2.0", "kn-sock"])
def test_a_request_that_waits_gets_its_arguments(
    network: MemoryNetwork,
    wait: Any,
    waiting: list[Deferred[Any]],
    argument: Any,
    dialect: str,
) -> None:
    listen(network, {"wait": wait, "echo": echo}, max_pending=1)
    client = join(network)
    if dialect == "2.0":
        data = call(1, "wait") + call(2, "echo", argument)
    else:
        data = old_call("wait") + old_call("echo", argument)
    client.transport.write(data)
    network.pump()
    account = account_of(network)
    assert account.used(Use.WAITING) > 0
    waiting[0].callback("done")
    network.pump()
    assert client.replies[1]["result"] == argument
    assert account.total == 0


def test_what_waits_takes_little_more_than_its_lines(
    network: MemoryNetwork, wait: Any, waiting: list[Deferred[Any]]
) -> None:
    listen(network, {"wait": wait})
    client = join(network)
    client.transport.write(old_call("wait"))
    line = old_call("wait", [[]] * 10_000)
    for _ in range(10):
        client.transport.write(line)
    network.pump()
    assert len(waiting) == 1
    assert account_of(network).total < 2 * 10 * len(line)


def test_reading_pauses_while_too_much_waits_and_goes_on(
    network: MemoryNetwork, wait: Any, waiting: list[Deferred[Any]]
) -> None:
    listen(network, {"wait": wait}, max_buffered_bytes=LEAST)
    client = join(network)
    client.transport.write(old_call("wait"))
    for _ in range(100):
        client.transport.write(old_call("wait", "x" * 5000))
        network.pump()
    account = account_of(network)
    assert LEAST <= account.total < LEAST + 6000
    for number in range(101):
        waiting[number].callback(number)
        network.pump()
    assert [reply["result"] for reply in client.replies] == list(range(101))
    assert account.total == 0


def test_calls_do_not_begin_while_those_in_flight_take_too_much(
    network: MemoryNetwork, wait: Any, waiting: list[Deferred[Any]]
) -> None:
    listen(network, {"wait": wait}, max_buffered_bytes=LEAST)
    client = join(network)
    client.transport.write(b"".join(call(n, "wait", [[]] * 1000) for n in range(20)))
    network.pump()
    begun = len(waiting)
    assert begun < 6
    waiting[0].callback(0)
    network.pump()
    assert begun < len(waiting) < 20
    for one in range(1, 20):
        waiting[one].callback(one)
        network.pump()
    assert sorted(ids_of(client)) == list(range(20))
    assert account_of(network).total == 0


def test_a_call_larger_than_the_budget_runs_alone(network: MemoryNetwork) -> None:
    listen(network, {"echo": echo}, max_buffered_bytes=LEAST)
    client = join(network)
    client.transport.write(b"".join(call(n, "echo", "x" * 200_000) for n in range(5)))
    network.pump()
    assert ids_of(client) == list(range(5))


def test_a_request_that_is_withdrawn_takes_nothing(
    network: MemoryNetwork, wait: Any, waiting: list[Deferred[Any]]
) -> None:
    listen(network, {"wait": wait}, max_pending=3, call_timeout=5.0)
    client = join(network)
    client.transport.write(b"".join(call(n, "wait") for n in range(3)))
    client.transport.write(call(3, "wait", "x" * 5000) + call(4, "wait", "x" * 5000))
    cancel = {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": 3}}
    network.pump()
    before = account_of(network).total
    client.transport.write(json.dumps(cancel).encode() + b"\n")
    network.pump()
    assert 0 < account_of(network).total < before
    network.reactor.advance(6.0)
    network.pump()
    assert account_of(network).total == 0
    assert len(waiting) == 3


def test_the_members_of_a_batch_are_weighed_one_by_one(
    network: MemoryNetwork, wait: Any, waiting: list[Deferred[Any]]
) -> None:
    listen(network, {"wait": wait, "add": add}, max_buffered_bytes=LEAST)
    client = join(network)
    members = [call(1, "wait", [[]] * 3000), *(call(n, "add", 1, 2) for n in range(2, 20))]
    for _ in range(5):
        client.transport.write(b"[%b]\n" % b",".join(line[:-1] for line in members))
    network.pump()
    assert len(waiting) == 1
    assert account_of(network).used(Use.CALLS) > 3000 * 64
    for number in range(5):
        waiting[number].callback(number)
        network.pump()
    assert [len(batch) for batch in client.replies] == [19] * 5
    assert account_of(network).total == 0


def test_the_end_of_a_connection_frees_what_waited(
    network: MemoryNetwork, wait: Any, waiting: list[Deferred[Any]]
) -> None:
    factory = listen(network, {"wait": wait}, max_pending=2)
    client = join(network)
    client.transport.write(b"".join(call(n, "wait", "x" * 9000) for n in range(4)))
    network.pump()
    budget = factory._context.runner.budget
    assert budget.used > 0
    client.transport.abortConnection()
    network.pump()
    assert budget.used == 0
    for one in waiting:
        if not one.called:
            one.callback("x" * 9000)
    assert budget.used == 0


# --- results --------------------------------------------------------------------------------------


@in_thread
def text(length: int) -> str:
    return "x" * length


def test_threads_stop_while_too_many_results_wait_and_go_on(network: MemoryNetwork) -> None:
    executor = ManualExecutor()
    listen(network, {"text": text}, executor=executor, max_buffered_bytes=LEAST)
    client = join(network)
    client.transport.write(b"".join(call(n, "text", 30_000) for n in range(20)))
    network.wires[0].peer.deliver()
    network.wires[0].deliver()
    executor.run()
    # No result has been delivered meanwhile.
    assert LEAST <= account_of(network).used(Use.RESULTS) < LEAST + 31_000
    for _ in range(20):
        network.pump()
        executor.run()
    assert ids_of(client) == list(range(20))
    assert account_of(network).total == 0


def test_results_that_wait_for_the_rest_of_their_batches_hold_up_nothing_for_ever(
    network: MemoryNetwork,
) -> None:
    """The last member of each batch waits for a thread, and the others' results take all room."""
    executor = ManualExecutor()
    listen(network, {"text": text}, executor=executor, max_buffered_bytes=LEAST)
    client = join(network)
    batch = b"[%b,%b]\n"
    for number in range(10):
        members = [call(number, "text", 40_000)[:-1], call(100 + number, "text", 4000)[:-1]]
        client.transport.write(batch % tuple(members))
    network.wires[0].peer.deliver()
    network.wires[0].deliver()
    for _ in range(40):
        network.pump()
        executor.run(1)
    assert len(client.replies) == 10
    assert account_of(network).total == 0


def test_an_executor_that_takes_no_more_answers_what_it_did_not_run(
    network: MemoryNetwork, logged_errors: Any
) -> None:
    executor = ManualExecutor()
    listen(network, {"text": text}, executor=executor, max_buffered_bytes=LEAST)
    client = join(network)
    client.transport.write(b"".join(call(n, "text", 40_000) for n in range(4)))
    network.wires[0].peer.deliver()
    network.wires[0].deliver()
    executor.run()

    def submit(*_: Any) -> Any:
        raise RuntimeError("shut down")

    executor.submit = submit  # type: ignore[method-assign]
    network.pump()
    assert sorted(ids_of(client)) == list(range(4))
    messages = {one["error"]["message"] for one in client.replies if "error" in one}
    assert messages == {"no thread can be had: shut down"}
    assert len(logged_errors.claim()) == 2


@pytest.mark.parametrize(
    "result",
    [
        "x" * 200_000,
        [1] * 200_000,
        {"rows": ["xxxx"] * 50_000},
        {str(n): n for n in range(20_000)},
        [{"name": "a" * 100}] * 2000,
    ],
)
@pytest.mark.parametrize("is_in_thread", [False, True])
def test_a_result_that_can_never_fit_is_refused(
    network: MemoryNetwork, result: Any, is_in_thread: bool
) -> None:
    executor = ManualExecutor() if is_in_thread else None
    listen(network, {"much": lambda: result}, executor=executor, max_line_bytes=100_000)
    client = join(network)
    client.transport.write(call(1, "much"))
    network.pump()
    if executor is not None:
        executor.run()
        network.pump()
    (reply,) = client.replies
    assert reply["error"]["code"] == -32008
    assert reply["error"]["data"] == {"maybe_executed": True}
    assert "max_line_bytes (100,000)" in reply["error"]["message"]


def test_not_all_of_a_result_that_cannot_fit_is_encoded(network: MemoryNetwork) -> None:
    encoded: list[int] = []

    class Listed(list[int]):
        def __iter__(self) -> Any:
            encoded.append(len(self))
            return super().__iter__()

    listen(network, {"much": lambda: [Listed([1] * 1000)] * 5000}, max_line_bytes=100_000)
    client = join(network)
    client.transport.write(call(1, "much"))
    network.pump()
    assert client.replies[0]["error"]["code"] == -32008
    assert len(encoded) <= 1000


# --- everything at once ---------------------------------------------------------------------------


def _use(client: RPCClient, number: int) -> list[Any]:
    calls: list[Any] = []
    for step in range(60):
        size = (step * 7919 + number * 104729) % 60_000
        method = ("text", "quick", "later")[step % 3]
        calls.append((size, client.submit(method, size, "y" * (size // 2))))
        if step % 20 == 19:
            batch = client.batch()
            for member in range(4):
                batch.call(("text", "quick")[member % 2], 9000, "y" * 3000)
            assert [len(one) for one in batch.send()] == [9000] * 4
    return [(size, len(call.result(PATIENCE))) for size, call in calls]


@in_reactor
def quick(length: int, _: str) -> str:
    return "x" * length


@in_reactor
def later(length: int, _: str) -> Deferred[str]:
    return deferLater(reactor_thread().reactor, 0.001, lambda: "x" * length)


@in_thread
def slow(length: int, _: str) -> str:
    return "x" * length


def test_every_call_ends_although_there_is_room_for_few() -> None:
    stopping, ports, found = threading.Event(), SimpleQueue[int](), list[Any]()
    options: dict[str, Any] = {
        "max_buffered_bytes": LEAST,
        "max_total_buffered_bytes": LEAST,
        "threads": 3,
    }
    funcs = {"text": slow, "quick": quick, "later": later}

    def serve() -> None:
        start_rpc_server(
            0, funcs, shutdown_event=stopping, on_ready=lambda _, port: ports.put(port), **options
        )

    def use(number: int) -> None:
        with RPCClient("127.0.0.1", port, timeout=PATIENCE) as client:
            found.append(_use(client, number))

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    port = ports.get(timeout=PATIENCE)
    users = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for user in users:
        user.start()
    for user in users:
        user.join(PATIENCE)
    stopping.set()
    server.join(PATIENCE)
    assert len(found) == 4
    assert all(size == length for each in found for size, length in each)
