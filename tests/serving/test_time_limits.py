"""How long a call may take, when the caller says so and when the server does."""

from __future__ import annotations

import queue
import threading
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import deferLater

from kn_sock import (
    CallTimeout,
    ErrorCode,
    RPCClient,
    RPCError,
    current_call,
    in_reactor,
    start_rpc_server,
)
from kn_sock.testing import ManualExecutor, MemoryNetwork, connected_pair
from tests.serving.common import (
    CANCEL,
    RawClient,
    batched,
    echo,
    outcome_of,
    request,
    sent_by,
)

PROPAGATES = {"propagate_deadline": True}


def too_late(request_id: Any, *, maybe_executed: bool) -> dict[str, Any]:
    fate = "it had been begun" if maybe_executed else "it was not run"
    return {
        "jsonrpc": "2.0",
        "id": request_id,
        "error": {
            "code": -32001,
            "message": f"the time for the call has passed; {fate}",
            "data": {"maybe_executed": maybe_executed},
        },
    }


# --- what the caller says -------------------------------------------------------------------------


SENT = {"jsonrpc": "2.0", "id": 1, "method": "echo", "params": [1]}


@pytest.mark.parametrize(
    ("client", "timeout", "told"),
    [
        ({}, 30.0, {}),
        *((PROPAGATES, timeout, {"timeout": timeout}) for timeout in (30.0, 0.25, 5)),
        (PROPAGATES, None, {}),
    ],
)
def test_a_call_tells_its_time_if_asked_and_limited(
    network: MemoryNetwork, client: Any, timeout: float | None, told: dict[str, Any]
) -> None:
    pair = connected_pair({"echo": echo}, network=network, client=client)
    calling = pair.client.with_options(timeout=timeout).call("echo", 1)
    assert sent_by(pair) == [{**SENT, **told}]
    calling.addErrback(lambda _: None)


def test_each_call_of_a_batch_tells_its_time(network: MemoryNetwork) -> None:
    pair = connected_pair({"echo": echo}, network=network, client={**PROPAGATES, "timeout": 2.0})
    sending = batched(pair.client, ("call", "echo", 1), ("notify", "echo", 2))
    (sent,) = sent_by(pair)
    assert [member.get("timeout") for member in sent] == [2.0, None]
    sending.addErrback(lambda _: None)


@pytest.mark.parametrize("dialect", ["1.0", "kn-sock"])
def test_the_older_dialects_tell_none(network: MemoryNetwork, dialect: str) -> None:
    options = {**PROPAGATES, "dialect": dialect}
    pair = connected_pair({"echo": echo}, network=network, client=options)
    calling = pair.client.call("echo", 1)
    (sent,) = sent_by(pair)
    assert "timeout" not in sent
    calling.addErrback(lambda _: None)


# --- what the server makes of it ------------------------------------------------------------------


def test_a_call_that_ends_in_time_is_answered(network: MemoryNetwork) -> None:
    wire = RawClient(network, {"echo": echo})
    assert wire.ask(request(1, "echo", 5, timeout=0.001)) == [
        {"jsonrpc": "2.0", "id": 1, "result": 5}
    ]
    assert network.reactor.getDelayedCalls() == [], "a call that ends at once needs no timer"


@pytest.mark.parametrize("timeout", [0, 0.0, -1, -0.5])
def test_a_call_whose_time_has_passed_is_not_run(network: MemoryNetwork, timeout: float) -> None:
    ran: list[int] = []
    wire = RawClient(network, {"run": lambda: ran.append(1)})
    assert wire.ask(request(1, "run", timeout=timeout)) == [too_late(1, maybe_executed=False)]
    assert ran == []


@pytest.mark.parametrize(
    "timeout", ["soon", None, True, [1], {"s": 1}, pytest.param(10**400, id="beyond a double")]
)
def test_a_time_that_is_no_number_is_not_ours(network: MemoryNetwork, timeout: Any) -> None:
    wire = RawClient(network, {"deadline": lambda: current_call().deadline})
    assert wire.ask(request(1, "deadline", timeout=timeout)) == [
        {"jsonrpc": "2.0", "id": 1, "result": None}
    ]


def test_a_call_that_takes_too_long_is_answered_when_its_time_has_passed(
    network: MemoryNetwork, wait: Any, waiting: list[Deferred[Any]]
) -> None:
    wire = RawClient(network, {"wait": wait})
    wire.send(request(1, "wait", timeout=2))
    assert wire.after(1.9) == []
    assert wire.after(0.1) == [too_late(1, maybe_executed=True)]
    assert waiting[0].called
    assert wire.after(10) == []


def test_what_a_method_makes_of_its_cancellation_is_not_sent(network: MemoryNetwork) -> None:
    async def stubborn() -> int:
        try:
            await Deferred()
        except CancelledError:
            return 5
        return 0

    wire = RawClient(network, {"stubborn": stubborn, "echo": echo})
    wire.send(request(1, "stubborn", timeout=1))
    wire.advance(1)
    assert wire.ask(request(2, "echo", 2)) == [
        too_late(1, maybe_executed=True),
        {"jsonrpc": "2.0", "id": 2, "result": 2},
    ]


def test_a_call_whose_time_passed_in_the_queue_of_the_threads_is_not_run(
    network: MemoryNetwork, executor: ManualExecutor
) -> None:
    ran: list[int] = []
    wire = RawClient(network, {"run": ran.append}, executor=executor)
    wire.send(request(1, "run", 1, timeout=1), request(2, "run", 2))
    assert wire.after(1) == [too_late(1, maybe_executed=False)]
    executor.run()
    assert wire.after(0) == [{"jsonrpc": "2.0", "id": 2, "result": None}]
    assert ran == [2]


def test_a_function_in_a_thread_is_told_and_what_it_returns_is_not_sent(
    network: MemoryNetwork, executor: ManualExecutor
) -> None:
    seen: list[Any] = []

    def slow() -> str:
        call = current_call()
        seen.append(call.cancelled)
        # While this thread is busy, the reactor finds the time to be over.
        network.reactor.advance(1)
        seen.append(call.cancelled)
        return "too late"

    wire = RawClient(network, {"slow": slow}, executor=executor)
    wire.send(request(1, "slow", timeout=1))
    executor.run()
    wire.advance(0)
    assert seen == [False, True]
    assert wire.take() == [too_late(1, maybe_executed=True)]


def test_a_call_that_a_thread_takes_at_its_deadline_is_answered_then(
    network: MemoryNetwork, executor: ManualExecutor
) -> None:
    wire = RawClient(network, {"slow": lambda: 1}, executor=executor)
    wire.send(request(1, "slow", timeout=1))
    (call,) = wire.server._serving.calls.running.values()
    # A thread takes it now.
    wire.server._serving.calls.lane.waiting.popleft()
    assert wire.after(1) == [too_late(1, maybe_executed=True)]
    assert call.cancelled


def test_a_thread_that_keeps_a_call_past_its_time_does_not_keep_those_behind_it(
    network: MemoryNetwork, executor: ManualExecutor
) -> None:
    replies: list[Any] = []

    def slow() -> str:
        # While this thread is busy, the reactor finds the time to be over.
        replies.extend(wire.after(1) + wire.after(4))
        return "too late"

    wire = RawClient(network, {"slow": slow, "echo": echo}, executor=executor)
    wire.send({"method": "slow", "params": [], "timeout": 1})
    wire.send({"method": "echo", "params": [1], "timeout": 1})
    wire.send({"method": "echo", "params": [2], "timeout": 5})
    executor.run(1)
    text = "the time for the call has passed; "
    assert replies == [
        {"error": text + "it had been begun"},
        {"error": text + "it was not run"},
        {"error": text + "it was not run"},
    ]
    assert wire.after(0) == []
    wire.send({"method": "echo", "params": [3]})
    executor.run()
    assert wire.after(0) == [{"result": 3}]


def test_a_call_that_was_held_back_too_long_is_not_run(
    network: MemoryNetwork, wait: Any, waiting: list[Deferred[Any]]
) -> None:
    wire = RawClient(network, {"wait": wait}, max_pending=1)
    wire.send(request(1, "wait"), request(2, "wait", timeout=1), request(3, "wait"))
    assert wire.after(1) == [too_late(2, maybe_executed=False)]
    waiting[0].callback("one")
    wire.advance(0)
    waiting[1].callback("three")
    wire.advance(0)
    assert [(reply["id"], reply["result"]) for reply in wire.take()] == [(1, "one"), (3, "three")]


def test_a_member_of_a_batch_that_takes_too_long_holds_up_nothing(
    network: MemoryNetwork, wait: Any
) -> None:
    wire = RawClient(network, {"wait": wait, "echo": echo})
    assert wire.ask([request(1, "wait", timeout=1), request(2, "echo", 2)]) == []
    (replies,) = wire.after(1)
    assert sorted(replies, key=lambda reply: reply["id"]) == [
        too_late(1, maybe_executed=True),
        {"jsonrpc": "2.0", "id": 2, "result": 2},
    ]


def test_a_cancelled_call_is_not_answered_again_at_its_deadline(
    network: MemoryNetwork, wait: Any
) -> None:
    wire = RawClient(network, {"wait": wait})
    wire.send(request(1, "wait", timeout=1))
    (reply,) = wire.ask(CANCEL)
    assert reply["error"]["code"] == ErrorCode.CANCELLED
    assert wire.after(5) == []


def test_no_timer_is_left_when_the_connection_ends(network: MemoryNetwork, wait: Any) -> None:
    pair = connected_pair({"wait": wait}, network=network, client=PROPAGATES)
    calling = pair.client.call("wait")
    pair.pump()
    pair.close()
    assert outcome_of(calling) is not None
    assert network.reactor.getDelayedCalls() == []


def test_nothing_is_kept_of_a_call_that_was_refused(network: MemoryNetwork, wait: Any) -> None:
    wire = RawClient(network, {"wait": wait})
    wire.send(request(1, "wait"))
    network.factory.drain()
    assert {
        reply["error"]["code"]
        for reply in wire.ask(*(request(number, "wait", timeout=1000) for number in range(2, 9)))
    } == {ErrorCode.SERVER_BUSY}
    assert not wire.server._serving._time_limits


# --- what the server says -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("timeout", "passes"), [({}, 3.0), ({"timeout": 1}, 1.0), ({"timeout": 60}, 3.0)]
)
def test_call_timeout_bounds_what_the_caller_does_not(
    network: MemoryNetwork, wait: Any, timeout: dict[str, Any], passes: float
) -> None:
    wire = RawClient(network, {"wait": wait}, call_timeout=3.0)
    wire.send(request(1, "wait", **timeout))
    assert wire.after(passes - 0.1) == []
    assert wire.after(0.1) == [too_late(1, maybe_executed=True)]


def test_call_timeout_holds_in_every_dialect(network: MemoryNetwork, wait: Any) -> None:
    wire = RawClient(network, {"wait": wait, "echo": echo}, call_timeout=1)
    wire.send({"method": "wait", "params": [], "id": 1}, {"method": "wait", "params": []})
    wire.send({"method": "wait", "params": []}, {"method": "echo", "params": [1]})
    wire.advance(1)
    text = "the time for the call has passed; "
    # Those that waited for their turn had no time left when it came.
    assert wire.take() == [
        {"id": 1, "result": None, "error": text + "it had been begun"},
        {"error": text + "it had been begun"},
        {"error": text + "it was not run"},
        {"error": text + "it was not run"},
    ]


def test_call_timeout_ends_notifications_too(
    network: MemoryNetwork, wait: Any, waiting: list[Deferred[Any]]
) -> None:
    wire = RawClient(network, {"wait": wait}, call_timeout=1)
    wire.send({"jsonrpc": "2.0", "method": "wait"})
    assert wire.after(1) == []
    assert waiting[0].called


# --- what a method knows, and passes on -----------------------------------------------------------


def test_a_method_knows_its_deadline(network: MemoryNetwork) -> None:
    network.reactor.advance(100)
    wire = RawClient(
        network, {"times": lambda: [current_call().deadline, current_call().remaining]}
    )
    assert [
        reply["result"] for reply in wire.ask(request(1, "times", timeout=4), request(2, "times"))
    ] == [[104.0, 4.0], [None, None]]


def test_the_calls_of_a_method_inherit_its_deadline(network: MemoryNetwork, wait: Any) -> None:
    async def ask_back() -> Any:
        await in_a_second
        return await current_call().connection.call("wait")

    in_a_second: Deferred[None] = Deferred()
    network.reactor.callLater(1, in_a_second.callback, None)
    client = {**PROPAGATES, "timeout": 3.0, "funcs": {"wait": wait}}
    pair = connected_pair({"ask_back": ask_back}, network=network, client=client)
    calling = pair.client.call("ask_back")
    pair.pump()
    pair.advance(1)
    pair.wire.peer.is_held = True
    pair.advance(1.9)
    assert not calling.called
    pair.advance(0.1)
    # Both ends find it out at the same moment, each for itself.
    assert isinstance(outcome_of(calling), CallTimeout)
    assert not pair.server._channel.is_waiting  # type: ignore[attr-defined]  # PendingCalls


def test_a_call_in_a_method_whose_time_has_passed_is_not_made(network: MemoryNetwork) -> None:
    failures: list[Any] = []

    async def ask_back() -> None:
        try:
            await Deferred()
        except CancelledError:
            asking = current_call().connection.call("echo", 1)
            asking.addErrback(lambda failure: failures.append(failure.value))
            batch = current_call().connection.batch()
            batch.call("echo", 1)
            batch.send().addErrback(lambda failure: failures.append(failure.value))
            raise

    pair = connected_pair({"ask_back": ask_back}, network=network, call_timeout=1)
    calling = pair.client.call("ask_back")
    pair.pump()
    pair.advance(1)
    error = outcome_of(calling)
    assert isinstance(error, RPCError)
    assert error.code == ErrorCode.DEADLINE_PASSED
    assert [type(failure) for failure in failures] == [CallTimeout, CallTimeout]
    assert [failure.maybe_executed for failure in failures] == [False, False]
    assert str(failures[0]) == ("the time for ask_back, in which this call is made, has passed")


@pytest.mark.parametrize("kind", ["coroutine", "deferred", "plain", "list", "raises", "thread"])
def test_what_outlives_a_method_is_not_bound_by_its_deadline(
    network: MemoryNetwork, executor: ManualExecutor, kind: str
) -> None:
    asked: list[Any] = []

    async def ask_later(call: Any) -> None:
        await deferLater(call.reactor, 5)
        asked.append(await call.connection.call("double", 2))

    def begin() -> None:
        Deferred.fromCoroutine(ask_later(current_call()))

    async def coroutine() -> None:
        begin()

    def other() -> Any:
        begin()
        if kind == "raises":
            raise LookupError("after all")
        return {"deferred": succeed(None), "list": [1]}.get(kind)

    pair = connected_pair(
        {"begin": {"coroutine": coroutine, "thread": other}.get(kind, in_reactor(other))},
        network=network,
        executor=executor,
        call_timeout=1,
        client={"funcs": {"double": in_reactor(lambda number: number * 2)}},
    )
    calling = pair.client.call("begin")
    pair.pump()
    executor.run()
    pair.pump()
    outcome_of(calling)
    pair.advance(5)
    assert asked == [4]


def test_a_blocking_client_in_a_method_inherits_the_deadline() -> None:
    """Over sockets: a function in a thread asks a second server, which sees what time is left."""
    done = threading.Event()
    ports: queue.Queue[int] = queue.Queue()
    threads = []

    def serve(funcs: Any) -> int:
        options = {"shutdown_event": done, "on_ready": lambda _, port: ports.put(port)}
        threads.append(threading.Thread(target=start_rpc_server, args=(0, funcs), kwargs=options))
        threads[-1].start()
        return ports.get(timeout=30)

    def remaining() -> Any:
        return current_call().remaining

    def ask() -> list[Any]:
        batch = behind.batch()
        batch.call("remaining")
        return [behind.call("remaining"), behind.submit("remaining").result(), *batch.send()]

    behind = RPCClient("127.0.0.1", serve({"remaining": remaining}), propagate_deadline=True)
    front = RPCClient("127.0.0.1", serve({"ask": ask}), timeout=20.0, propagate_deadline=True)
    try:
        times = front.call("ask")
        assert len(times) == 3
        assert all(0 < seconds < 20 for seconds in times), times
        assert behind.call("remaining") > 20
    finally:
        front.close()
        behind.close()
        done.set()
        for thread in threads:
            thread.join(30)


def test_a_traceparent_passes_through(network: MemoryNetwork) -> None:
    wire = RawClient(network, {"trace": lambda: current_call().traceparent})
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    wire.send(request(1, "trace", traceparent=trace))
    assert [
        reply["result"]
        for reply in wire.ask(request(2, "trace", traceparent=5), request(3, "trace"))
    ] == [trace, None, None]


def test_a_method_that_asks_for_the_end_after_its_time_is_heard(
    network: MemoryNetwork, executor: ManualExecutor, logged_errors: Any
) -> None:
    asked: list[BaseException] = []

    def late() -> None:
        network.reactor.advance(1)
        raise SystemExit(3)

    wire = RawClient(network, {"late": late}, executor=executor, on_exit=asked.append)
    wire.send(request(1, "late", timeout=1))
    executor.run()
    assert wire.after(0) == [too_late(1, maybe_executed=True)]
    assert [type(one) for one in asked] == [SystemExit]
    assert logged_errors.claim() == ["late raised SystemExit: stopping"]
