"""Interceptors at the end that calls, on connections, on services and on blocking clients."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from kn_sock import (
    CallCancelled,
    CallTimeout,
    ConnectionLost,
    OutgoingCall,
    RPCClient,
    RPCClientService,
    RPCError,
    RPCServerFactory,
    current_call,
    in_reactor,
    start_rpc_server,
)
from kn_sock.testing import MemoryNetwork, Pair, connected_pair
from tests.intercept.interceptors import catching, fails, passes, refusing, waiting, watching
from tests.serving.common import add, batched, called, outcome_of, sent_by


@in_reactor
def trace_of() -> Any:
    return current_call().traceparent


FUNCS = {"add": add, "fails": fails, "trace_of": trace_of}


def connected(network: MemoryNetwork, *interceptors: Any, **options: Any) -> Pair:
    client = {"interceptors": list(interceptors), **options}
    return connected_pair(FUNCS, network=network, client=client)


SECOND = (2, 0)


async def insists(call: OutgoingCall, proceed: Any) -> Any:
    try:
        return await proceed()
    except ValueError:
        call.method, call.args = "add", (20, 3)
        return await proceed()


def timed_out(calling: Deferred[Any]) -> bool:
    """Tell whether a call may have been run that ended because its time had passed."""
    outcome = outcome_of(calling)
    assert isinstance(outcome, CallTimeout)
    return outcome.maybe_executed


def delivered(pair: Pair, calling: Deferred[Any]) -> Any:
    """Let the client's bytes pass that were held back, and take the outcome of a call."""
    pair.wire.is_held = False
    pair.pump()
    return outcome_of(calling)


# --- one call -------------------------------------------------------------------------------------


def test_it_sees_the_call_and_may_change_all_of_it(network: MemoryNetwork) -> None:
    seen: list[Any] = []

    async def changes(call: OutgoingCall, proceed: Any) -> Any:
        seen.append((call.method, call.args, call.kwargs, call.timeout, call.traceparent))
        call.method, call.args, call.kwargs = "add", (1,), {"b": 2}
        call.timeout, call.traceparent = 5.0, "00-1-2-01"
        return await proceed()

    pair = connected(network, changes, propagate_deadline=True)
    calling = pair.client.call("other", 7, c=8)
    (sent,) = sent_by(pair)
    assert seen == [("other", (7,), {"c": 8}, 30.0, None)]
    assert (sent["method"], sent["params"], sent["kwargs"]) == ("add", [1], {"b": 2})
    assert (sent["timeout"], sent["traceparent"]) == (5.0, "00-1-2-01")
    assert delivered(pair, calling) == 3


def test_the_trace_reaches_the_method(network: MemoryNetwork) -> None:
    def traces(call: OutgoingCall, proceed: Any) -> Any:
        call.traceparent = "00-abc-def-01"
        return proceed()

    assert called(connected(network, traces), "trace_of") == "00-abc-def-01"


def test_a_trace_may_be_given_without_an_interceptor(network: MemoryNetwork) -> None:
    pair = connected_pair(FUNCS, network=network)
    calling = pair.client.with_options(traceparent="00-abc-def-01").call("trace_of")
    assert delivered(pair, calling) == "00-abc-def-01"
    with pytest.raises(TypeError, match="traceparent"):
        pair.client.with_options(traceparent=3)


def test_it_may_answer_refuse_and_replace_an_error(network: MemoryNetwork) -> None:
    async def minds(call: OutgoingCall, proceed: Any) -> Any:
        if call.method == "cached":
            return "from here"
        if call.method == "forbidden":
            raise RPCError(403, "not from here")
        try:
            return await proceed()
        except ValueError as problem:
            return f"it said {problem}"

    pair = connected(network, minds)
    assert called(pair, "cached") == "from here"
    assert called(pair, "forbidden").code == 403
    assert called(pair, "fails") == "it said no luck"
    pair.wire.is_held = True
    assert pair.wire.written == b""


def test_it_may_call_again(network: MemoryNetwork) -> None:
    assert called(connected(network, insists), "fails") == 23


def test_notifications_pass_through_it(network: MemoryNetwork) -> None:
    seen: list[Any] = []

    async def watches(call: OutgoingCall, proceed: Any) -> Any:
        call.traceparent = "00-1-2-01"
        seen.append((call.method, call.is_notification, await proceed()))

    pair = connected(network, watches)
    assert outcome_of(pair.client.notify("add", 1, 2)) is None
    (sent,) = sent_by(pair)
    assert "id" not in sent
    assert sent["traceparent"] == "00-1-2-01"
    assert seen == [("add", True, None)]


def test_a_notification_that_is_refused_fails(network: MemoryNetwork) -> None:
    pair = connected(network, refusing())
    assert outcome_of(pair.client.notify("add", 1, 2)).code == 403
    assert sent_by(pair) == []


def test_attributes_and_other_options_keep_it(network: MemoryNetwork) -> None:
    seen: list[Any] = []
    pair = connected(network, watching(seen, lambda call: (call.method, call.timeout)))
    calling = pair.client.with_options(timeout=5.0).remote.add(1, 2)
    assert delivered(pair, calling) == 3
    assert seen == [("add", 5.0)]


@pytest.mark.parametrize("dialect", ["1.0", "kn-sock"])
def test_the_order_of_calls_is_kept_in_every_dialect(network: MemoryNetwork, dialect: str) -> None:
    pair = connected(network, passes, dialect=dialect)
    calls = [pair.client.call("add", each, 0) for each in range(5)]
    pair.pump()
    assert [outcome_of(each) for each in calls] == list(range(5))


def test_what_cannot_be_sent_fails_inside_it(network: MemoryNetwork) -> None:
    seen: list[Any] = []
    pair = connected(network, catching(seen, TypeError))
    assert isinstance(called(pair, "add", object()), TypeError)
    assert seen == [TypeError]


@pytest.mark.parametrize("wrong", [3, None, b"add"])
def test_a_name_that_it_makes_none_is_an_error(network: MemoryNetwork, wrong: Any) -> None:
    def changes(call: OutgoingCall, proceed: Any) -> Any:
        call.method = wrong
        return proceed()

    assert isinstance(called(connected(network, changes), "add"), TypeError)


def test_the_loss_of_the_connection_reaches_it(network: MemoryNetwork) -> None:
    seen: list[Any] = []

    watches = catching(seen, ConnectionLost, lambda problem: problem.maybe_executed)
    pair = connected(network, watches)
    calling = pair.client.call("add", 1, 2)
    sent_by(pair)
    pair.wire.lose(ConnectionError("cut"))
    assert isinstance(outcome_of(calling), ConnectionLost)
    assert seen == [True]
    assert isinstance(called(pair, "add", 1, 2), ConnectionLost)
    assert seen == [True, False]


# --- cancelling, and time -------------------------------------------------------------------------


def test_a_cancellation_reaches_the_peer_through_it(network: MemoryNetwork) -> None:
    ended: list[Any] = []
    pair = connected(network, catching(ended, CallCancelled, lambda _: "cancelled"))
    calling = pair.client.call("add", 1, 2)
    sent_by(pair)
    calling.cancel()
    outcome = outcome_of(calling)
    assert isinstance(outcome, CallCancelled)
    assert isinstance(outcome, CancelledError)
    assert ended == ["cancelled"]
    assert [each["method"] for each in sent_by(pair)] == ["add", "$/cancelRequest"]


def test_a_cancellation_ends_what_it_waits_for(network: MemoryNetwork) -> None:
    waited: Deferred[Any] = Deferred()
    pair = connected(network, waiting(waited))
    calling = pair.client.call("add", 1, 2)
    calling.cancel()
    assert isinstance(outcome_of(calling), CallCancelled)
    assert waited.called
    assert sent_by(pair) == []


@pytest.mark.parametrize("is_stubborn", [False, True])
def test_its_time_is_the_call_s(network: MemoryNetwork, is_stubborn: bool) -> None:
    ended: list[str] = []

    async def waits(call: OutgoingCall, proceed: Any) -> Any:
        try:
            await Deferred()
        except CancelledError:
            ended.append("cancelled")
            if not is_stubborn:
                raise
        return await proceed()

    pair = connected(network, waits, timeout=5.0)
    calling = pair.client.call("add", 1, 2)
    pair.advance(5)
    assert timed_out(calling) is False
    assert ended == ["cancelled"]
    assert sent_by(pair) == []


def test_what_it_took_is_taken_off_the_call_s_time(network: MemoryNetwork) -> None:
    gate: Deferred[Any] = Deferred()
    pair = connected(network, waiting(gate), timeout=5.0, propagate_deadline=True)
    calling = pair.client.call("add", 1, 2)
    pair.advance(2)
    gate.callback(None)
    (sent,) = sent_by(pair)
    assert sent["timeout"] == 3.0
    pair.network.reactor.advance(3)
    assert timed_out(calling) is True


def test_its_time_goes_on_after_the_reply(network: MemoryNetwork) -> None:
    async def waits(call: OutgoingCall, proceed: Any) -> Any:
        await proceed()
        await Deferred()

    pair = connected(network, waits, timeout=5.0)
    calling = pair.client.call("add", 1, 2)
    pair.pump()
    assert not calling.called
    pair.advance(5)
    assert timed_out(calling) is True


def test_a_call_whose_time_it_used_up_is_not_sent(network: MemoryNetwork) -> None:
    async def shortens(call: OutgoingCall, proceed: Any) -> Any:
        call.timeout = 0.0
        return await proceed()

    pair = connected(network, shortens)
    calling = pair.client.call("add", 1, 2)
    assert timed_out(calling) is False
    assert sent_by(pair) == []


def test_no_limit_is_none_for_it_either(network: MemoryNetwork) -> None:
    gate: Deferred[Any] = Deferred()
    pair = connected(network, waiting(gate), timeout=None)
    calling = pair.client.call("add", 1, 2)
    pair.advance(1_000_000)
    gate.callback(None)
    assert delivered(pair, calling) == 3


# --- batches --------------------------------------------------------------------------------------


def test_each_member_of_a_batch_passes_through_it_and_they_go_out_as_one(
    network: MemoryNetwork,
) -> None:
    seen: list[str] = []

    def traces(call: OutgoingCall, proceed: Any) -> Any:
        seen.append(call.method)
        call.traceparent = f"00-{len(seen)}"
        return proceed()

    pair = connected(network, traces, passes, propagate_deadline=True)
    sending = batched(
        pair.client, ("call", "add", 1, 2), ("notify", "add", 3, 4), ("call", "fails")
    )
    (sent,) = sent_by(pair)
    assert [each["traceparent"] for each in sent] == ["00-1", "00-2", "00-3"]
    assert [each.get("timeout") for each in sent] == [30.0, None, 30.0]
    three, problem = delivered(pair, sending)
    assert three == 3
    assert isinstance(problem, ValueError)


def test_a_member_that_is_refused_is_not_sent_and_the_others_are(network: MemoryNetwork) -> None:
    pair = connected(network, refusing(lambda call: call.args == (0, 0)))
    sending = batched(
        pair.client, ("call", "add", 0, 0), ("call", "add", 1, 2), ("call", "add", 0, 0)
    )
    (sent,) = sent_by(pair)
    assert len(sent) == 1
    first, second, third = delivered(pair, sending)
    assert (first.code, second, third.code) == (403, 3, 403)


def test_a_batch_of_which_nothing_is_let_go_sends_nothing(network: MemoryNetwork) -> None:
    pair = connected(network, lambda call, proceed: call.method.upper())
    sending = batched(pair.client, ("call", "one"), ("notify", "two"), ("call", "three"))
    assert sent_by(pair) == []
    assert outcome_of(sending) == ["ONE", "THREE"]


def test_a_batch_waits_for_the_slowest_member(network: MemoryNetwork) -> None:
    gate: Deferred[Any] = Deferred()
    pair = connected(network, waiting(gate, SECOND))
    sending = batched(pair.client, ("call", "add", 1, 0), ("call", "add", 2, 0))
    pair.pump()
    assert not sending.called
    gate.callback(None)
    assert delivered(pair, sending) == [1, 2]


def test_a_batch_that_is_held_too_long_is_not_sent(network: MemoryNetwork) -> None:
    pair = connected(network, waiting(Deferred(), SECOND), timeout=5.0)
    sending = batched(pair.client, ("call", "add", 1, 0), ("call", "add", 2, 0))
    pair.wire.is_held = True
    pair.network.reactor.advance(5)
    problems = outcome_of(sending)
    assert [type(each) for each in problems] == [CallTimeout, CallTimeout]
    assert [each.maybe_executed for each in problems] == [False, False]
    assert sent_by(pair) == []


def test_what_a_member_waited_for_the_others_is_taken_off_its_time(
    network: MemoryNetwork,
) -> None:
    gate: Deferred[Any] = Deferred()
    pair = connected(network, waiting(gate, SECOND), timeout=5.0, propagate_deadline=True)
    sending = batched(pair.client, ("call", "add", 1, 0), ("call", "add", 2, 0))
    network.reactor.advance(2)
    gate.callback(None)
    (sent,) = sent_by(pair)
    assert [each["timeout"] for each in sent] == [3.0, 3.0]
    pair.network.reactor.advance(3)
    assert [each.maybe_executed for each in outcome_of(sending)] == [True, True]


def test_a_member_that_is_given_up_while_it_waits_is_not_sent(network: MemoryNetwork) -> None:
    gate: Deferred[Any] = Deferred()

    async def waits(call: OutgoingCall, proceed: Any) -> Any:
        if call.args == (2, 0):
            await gate
            return await proceed()
        return await proceed().addTimeout(1, network.reactor)

    pair = connected(network, waits)
    sending = batched(pair.client, ("call", "add", 1, 0), ("call", "add", 2, 0))
    network.reactor.advance(1)
    gate.callback(None)
    (sent,) = sent_by(pair)
    assert [each["params"] for each in sent] == [[2, 0]]
    assert delivered(pair, sending)[1] == 2


def test_a_member_may_be_called_again_by_itself(network: MemoryNetwork) -> None:
    pair = connected(network, insists)
    sending = batched(pair.client, ("call", "fails"), ("call", "add", 1, 2))
    assert delivered(pair, sending) == [23, 3]


def test_an_interceptor_may_give_up_a_member(network: MemoryNetwork) -> None:
    def bounded(call: OutgoingCall, proceed: Any) -> Any:
        deferred = proceed()
        if call.args == (1, 0):
            return deferred.addTimeout(2, network.reactor)
        return deferred

    pair = connected(network, bounded)
    sending = batched(pair.client, ("call", "add", 1, 0), ("call", "add", 2, 0))
    sent_by(pair)
    network.reactor.advance(2)
    first, second = delivered(pair, sending)
    assert type(first).__name__ == "TimeoutError"
    assert second == 2


def test_a_batch_is_cancelled_as_a_whole(network: MemoryNetwork) -> None:
    pair = connected(network, passes)
    sending = batched(pair.client, ("call", "add", 1, 0), ("call", "add", 2, 0))
    sent_by(pair)
    sending.cancel()
    assert isinstance(outcome_of(sending), CallCancelled)
    assert [each["method"] for each in sent_by(pair)[1:]] == ["$/cancelRequest"] * 2


def test_a_batch_is_cancelled_while_it_is_held(network: MemoryNetwork) -> None:
    pair = connected(network, waiting(Deferred(), SECOND))
    sending = batched(pair.client, ("call", "add", 1, 0), ("call", "add", 2, 0))
    sending.cancel()
    assert isinstance(outcome_of(sending), CallCancelled)
    assert sent_by(pair) == []


def test_a_batch_that_cannot_be_sent_fails_as_a_whole(network: MemoryNetwork) -> None:
    pair = connected(network, passes)
    sending = batched(pair.client, ("call", "add", object()), ("call", "add", 1, 2))
    assert isinstance(outcome_of(sending), TypeError)
    assert outcome_of(batched(pair.client)) == []


def test_a_notification_of_a_batch_that_is_refused_is_logged(
    network: MemoryNetwork, log_events: Any
) -> None:
    pair = connected(network, refusing(lambda call: call.is_notification))
    sending = batched(pair.client, ("notify", "add", 1, 2), ("call", "add", 1, 2))
    assert delivered(pair, sending) == [3]
    assert log_events.take_lines() == [
        "warn: the notification add of a batch was not sent: not from here"
    ]


# --- the other way round, and other faces ---------------------------------------------------------


def test_a_server_has_them_around_the_calls_that_it_makes_back(network: MemoryNetwork) -> None:
    seen: list[str] = []

    def named(name: str) -> Any:
        def watches(call: Any, proceed: Any) -> Any:
            seen.append(f"{name}: {type(call).__name__} of {call.method}")
            return proceed()

        return watches

    @in_reactor
    async def ask() -> Any:
        return await current_call().connection.call("name")

    pair = connected_pair(
        {"ask": ask},
        network=network,
        interceptors=[named("server")],
        callback_interceptors=[named("server, back")],
        client={
            "funcs": {"name": lambda: "Ada"},
            "interceptors": [named("client")],
            "callback_interceptors": [named("client, back")],
        },
    )
    assert called(pair, "ask") == "Ada"
    assert seen == [
        "client: OutgoingCall of ask",
        "server: ServedCall of ask",
        "server, back: OutgoingCall of name",
        "client, back: ServedCall of name",
    ]


def test_a_service_has_them_while_it_waits_for_a_connection(network: MemoryNetwork) -> None:
    seen: list[str] = []
    service = RPCClientService(
        network, reactor=network.reactor, threads=0, interceptors=[watching(seen)], timeout=20.0
    )
    service.startService()
    calling = service.call("add", 1, 2)
    notifying = service.notify("add", 1, 2)
    sending = batched(service, ("call", "add", 3, 4))
    assert seen == ["add"] * 3
    network.listen(RPCServerFactory(FUNCS, reactor=network.reactor, threads=0))
    network.reactor.advance(5)
    network.pump()
    assert (outcome_of(calling), outcome_of(sending)) == (3, [7])
    assert notifying.called
    service.stopService()
    network.pump()


def test_what_may_be_run_twice_is_sent_again_through_it(network: MemoryNetwork) -> None:
    seen: list[str] = []
    network.listen(RPCServerFactory(FUNCS, reactor=network.reactor, threads=0))
    service = RPCClientService(network, reactor=network.reactor, interceptors=[watching(seen)])
    service.startService()
    network.pump()
    twice = service.with_options(idempotent=True)
    calling = twice.call("add", 1, 2)
    entries = [("call", "add", 3, 4), ("notify", "add", 0, 0), ("call", "add", 5, 6)]
    sending = batched(twice, *entries)
    once = service.call("add", 1, 2)
    (wire,) = network.wires
    wire.is_held = True
    network.reactor.advance(0)
    wire.lose(ConnectionError("cut"))
    network.reactor.advance(5)
    network.pump()
    assert (outcome_of(calling), outcome_of(sending)) == (3, [7, 11])
    assert isinstance(outcome_of(once), ConnectionLost)
    assert len(seen) == 5, "an interceptor sees one call"
    service.stopService()
    network.pump()


@pytest.fixture
def port() -> Iterator[int]:
    """A server of blocking functions, with one that calls on."""
    ports: list[int] = []
    ready = threading.Event()
    stop = threading.Event()
    onward: list[RPCClient] = []

    def forward() -> Any:
        """Call another server, in a thread: as a server between two does."""
        return onward[0].call("trace_of")

    def on_ready(_: str, port: int) -> None:
        ports.append(port)
        ready.set()

    thread = threading.Thread(
        target=start_rpc_server,
        args=(0, {**FUNCS, "forward": forward}),
        kwargs={"on_ready": on_ready, "shutdown_event": stop},
    )
    thread.start()
    assert ready.wait(20)
    with RPCClient("127.0.0.1", ports[0], interceptors=[passes_on_the_trace]) as client:
        onward.append(client)
        yield ports[0]
    stop.set()
    thread.join(20)


def passes_on_the_trace(call: OutgoingCall, proceed: Any) -> Any:
    call.traceparent = current_call().traceparent
    return proceed()


def test_a_blocking_client_has_them_on_the_reactor_s_thread(port: int) -> None:
    seen: list[Any] = []

    async def watches(call: OutgoingCall, proceed: Any) -> Any:
        seen.append((call.method, call.is_notification, threading.current_thread()))
        return await proceed()

    with RPCClient("127.0.0.1", port, interceptors=[watches]) as client:
        assert client.call("add", 1, 2) == 3
        assert client.submit("add", 3, 4).result(20) == 7
        assert list(client.map("add", [1, 2], [3, 4])) == [4, 6]
        assert client.with_options(timeout=5.0).remote.add(5, 6) == 11
        client.notify("add", 1, 2)
        batch = client.batch()
        batch.call("add", 7, 8)
        batch.notify("add", 1, 2)
        assert batch.send() == [15]
        with pytest.raises(ValueError, match="no luck"):
            client.call("fails")
        with pytest.raises(TypeError):
            client.call("add", object())
    assert [each[1] for each in seen].count(True) == 2
    assert len(seen) == 10
    assert len({each[2] for each in seen}) == 1
    assert threading.current_thread() not in {each[2] for each in seen}


def test_cancelling_a_future_reaches_them(port: int) -> None:
    waits: list[Deferred[Any]] = []
    entered = threading.Event()
    ended = threading.Event()

    async def holds(call: OutgoingCall, proceed: Any) -> Any:
        waits.append(Deferred())
        entered.set()
        try:
            await waits[-1]
        finally:
            ended.set()

    with RPCClient("127.0.0.1", port, interceptors=[holds]) as client:
        future = client.submit("add", 1, 2)
        assert entered.wait(20)
        assert future.cancel()
        assert ended.wait(20)


def test_a_trace_passes_from_client_to_server_to_server(port: int) -> None:
    with RPCClient("127.0.0.1", port) as client:
        traced = client.with_options(traceparent="00-abc-def-01")
        assert traced.call("trace_of") == "00-abc-def-01"
        assert traced.call("forward") == "00-abc-def-01"
