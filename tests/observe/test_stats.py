"""The figures: what is counted, and that it is what was done."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from kn_sock import MethodNotFound, RPCServerFactory, ServerOptions, Stats, connect, in_reactor
from kn_sock._observe.stats import BUCKETS, UNKNOWN, cumulated, outcome_of
from kn_sock.testing import ManualExecutor, MemoryNetwork, Pair, connected_pair


def add(a: int, b: int) -> int:
    return a + b


def fails() -> None:
    raise ValueError("no luck")


FUNCS = {"add": add, "fails": fails}


def outcome_of_call(deferred: Deferred[Any]) -> Any:
    outcome: list[Any] = []
    deferred.addBoth(lambda result: outcome.append(getattr(result, "value", result)))
    return outcome[0] if outcome else None


def called(pair: Pair, method: str, *args: Any) -> Any:
    deferred = pair.client.call(method, *args)
    pair.pump()
    return outcome_of_call(deferred)


def counted(stats: Stats) -> dict[str, dict[str, int]]:
    return {name: figures.outcomes for name, figures in stats.methods.items()}


@pytest.fixture
def stats() -> Stats:
    return Stats()


# --- counting -------------------------------------------------------------------------------------


def test_calls_are_counted_by_method_and_outcome(network: MemoryNetwork, stats: Stats) -> None:
    pair = connected_pair(FUNCS, network=network, stats=stats)
    for _ in range(3):
        called(pair, "add", 1, 2)
    called(pair, "add", 1)
    called(pair, "fails")
    pair.client.notify("add", 1, 2)
    pair.pump()
    assert counted(stats) == {
        "add": {"ok": 4, "invalid_params": 1},
        "fails": {"function_raised": 1},
    }


def test_names_that_no_method_has_are_counted_as_one(network: MemoryNetwork, stats: Stats) -> None:
    pair = connected_pair(FUNCS, network=network, stats=stats)
    for number in range(50):
        called(pair, f"nope{number}")
    assert counted(stats) == {UNKNOWN: {"method_not_found": 50}}


def test_a_method_that_says_not_found_itself_keeps_its_name(
    network: MemoryNetwork, stats: Stats
) -> None:
    def looks() -> None:
        raise MethodNotFound("what it looked for")

    pair = connected_pair({"looks": looks}, network=network, stats=stats)
    called(pair, "looks")
    assert counted(stats) == {"looks": {"method_not_found": 1}}


def test_codes_of_the_application_are_one_outcome(network: MemoryNetwork) -> None:
    assert outcome_of(-32601) == "method_not_found"
    assert outcome_of(-32800) == "cancelled"
    assert {outcome_of(code) for code in (*range(1000), None, "x", [])} == {"error"}


def test_seconds_fall_into_buckets(network: MemoryNetwork, stats: Stats) -> None:
    executor = ManualExecutor()
    pair = connected_pair(FUNCS, network=network, executor=executor, stats=stats)
    for seconds in (0.0, 0.05, 0.07, 1000.0):
        calling = pair.client.with_options(timeout=None).call("add", 1, 2)
        pair.pump()
        network.reactor.advance(seconds)
        executor.run()
        pair.pump()
        assert calling.called
    figures = stats.methods["add"]
    assert figures.count == 4
    assert figures.seconds == pytest.approx(1000.12)
    found = cumulated(figures.buckets)
    assert (found["0.001"], found["0.05"], found["0.1"], found["60.0"]) == (1, 2, 3, 3)
    assert (list(found)[-1], found["+Inf"]) == ("+Inf", 4)
    assert len(found) == len(BUCKETS) + 1


def test_what_is_under_way_and_what_waits_is_seen(network: MemoryNetwork, stats: Stats) -> None:
    executor = ManualExecutor()
    pair = connected_pair(FUNCS, network=network, executor=executor, stats=stats, max_pending=2)
    calls = [pair.client.call("add", each, 0) for each in range(4)]
    pair.pump()
    assert (stats.calls_in_flight, stats.calls_waiting) == (2, 2)
    while executor.run():
        pair.pump()
    assert (stats.calls_in_flight, stats.calls_waiting) == (0, 0)
    assert [outcome_of_call(each) for each in calls] == [0, 1, 2, 3]


def test_calls_without_ids_wait_for_their_turn(network: MemoryNetwork, stats: Stats) -> None:
    executor = ManualExecutor()
    pair = connected_pair(FUNCS, network=network, executor=executor, stats=stats)
    pair.wire.write(b'{"method": "add", "params": [1, 2]}\n' * 3)
    pair.pump()
    assert (stats.calls_in_flight, stats.calls_waiting) == (1, 2)


def test_connections_and_their_bytes_are_counted(network: MemoryNetwork, stats: Stats) -> None:
    first = connected_pair(FUNCS, network=network, stats=stats)
    assert called(first, "add", 1, 2) == 3
    request = len(b'{"jsonrpc":"2.0","id":1,"method":"add","params":[1,2]}\n')
    reply = len(b'{"jsonrpc":"2.0","id":1,"result":3}\n')
    connecting = connect(network, reactor=network.reactor, threads=0)
    assert (stats.open_connections, stats.connections) == (2, 2)
    second = outcome_of_call(connecting)
    calling = second.call("add", 1, 2)
    network.pump()
    assert outcome_of_call(calling) == 3
    assert (stats.received_bytes, stats.sent_bytes) == (2 * request, 2 * reply)
    first.close()
    assert (stats.open_connections, stats.connections) == (1, 2)
    assert (stats.received_bytes, stats.sent_bytes) == (2 * request, 2 * reply)


def test_connections_that_are_refused_are_counted_by_reason(
    network: MemoryNetwork, stats: Stats
) -> None:
    pair = connected_pair(FUNCS, network=network, stats=stats)
    pair.wire.write(b"GET / HTTP/1.1\r\n")
    pair.pump()
    network.factory.drain()
    connect(network, reactor=network.reactor, threads=0).addErrback(lambda _: None)
    assert stats.refused == {"http": 1, "draining": 1}


def test_lines_that_are_no_request_are_counted(network: MemoryNetwork, stats: Stats) -> None:
    pair = connected_pair(FUNCS, network=network, stats=stats)
    pair.wire.write(b"nonsense\n[]\n" + b"x" * 5_000_000 + b"\n")
    pair.pump()
    assert stats.unreadable == 3


def test_cancellations_are_counted_where_there_was_a_call(
    network: MemoryNetwork, stats: Stats
) -> None:
    executor = ManualExecutor()
    pair = connected_pair(FUNCS, network=network, executor=executor, stats=stats, max_pending=2)
    calls = [pair.client.call("add", 1, 2) for _ in range(3)]
    pair.pump()
    for calling in calls:
        calling.addErrback(lambda _: None)
        calling.cancel()
    pair.client.notify("$/cancelRequest", id=1000)
    pair.pump()
    assert stats.cancellations == 3
    assert counted(stats) == {"add": {"cancelled": 3}}


def test_calls_that_are_dropped_unrun_are_counted(network: MemoryNetwork, stats: Stats) -> None:
    @in_reactor
    def waits() -> Deferred[Any]:
        return Deferred()

    executor = ManualExecutor()
    funcs = {**FUNCS, "waits": waits}
    options: dict[str, Any] = {"executor": executor, "call_timeout": 3.0, "max_pending": 2}
    pair = connected_pair(funcs, network=network, stats=stats, **options)
    for name in ("waits", "fails", "fails"):
        pair.client.call(name).addErrback(lambda _: None)
    pair.pump()
    pair.advance(3)
    assert counted(stats) == {"waits": {"deadline_passed": 1}, "fails": {"deadline_passed": 2}}
    assert stats.deadline_drops == 2
    executor.run()


def test_late_replies_are_counted(network: MemoryNetwork, stats: Stats) -> None:
    pair = connected_pair(FUNCS, network=network, stats=stats, client={"funcs": FUNCS})
    calling = pair.server.call("add", 1, 2)
    calling.addErrback(lambda _: None)
    network.reactor.advance(0)
    calling.cancel()
    pair.pump()
    assert stats.late_replies == 1
    pair.close()
    assert stats.late_replies == 1


def test_calls_that_their_connection_did_not_outlive_are_lost(
    network: MemoryNetwork, stats: Stats
) -> None:
    executor = ManualExecutor()
    pair = connected_pair(FUNCS, network=network, executor=executor, stats=stats)
    called(pair, "add", 1, 2)
    pair.wire.lose(ConnectionError("cut"))
    executor.run()
    network.pump()
    assert counted(stats) == {"add": {"lost": 1}}


def test_what_interceptors_refuse_is_counted_too(network: MemoryNetwork, stats: Stats) -> None:
    async def refuses(call: Any, proceed: Any) -> Any:
        raise MethodNotFound("not for you")

    pair = connected_pair(FUNCS, network=network, stats=stats, interceptors=[refuses])
    called(pair, "add", 1, 2)
    called(pair, "nope")
    assert counted(stats) == {
        "add": {"method_not_found": 1},
        UNKNOWN: {"method_not_found": 1},
    }


def test_a_hook_counts_logins_that_fail(stats: Stats) -> None:
    stats.login_failed()
    assert stats.as_dict()["failed_logins"] == 1


def test_a_client_counts_what_it_serves(network: MemoryNetwork, stats: Stats) -> None:
    pair = connected_pair({}, network=network, client={"funcs": FUNCS, "stats": stats})
    pair.server.call("add", 1, 2)
    pair.pump()
    assert counted(stats) == {"add": {"ok": 1}}


# --- rpc.stats ------------------------------------------------------------------------------------


def test_there_is_no_rpc_stats_unless_asked(network: MemoryNetwork) -> None:
    pair = connected_pair(FUNCS, network=network)
    assert isinstance(called(pair, "rpc.stats"), MethodNotFound)
    assert network.factory.stats is None


@pytest.mark.parametrize("given", [True, Stats()])
def test_rpc_stats_gives_the_figures(network: MemoryNetwork, given: Any) -> None:
    pair = connected_pair(FUNCS, network=network, stats=given)
    called(pair, "add", 1, 2)
    called(pair, "fails")
    figures = called(pair, "rpc.stats")
    assert figures["connections"] == {"open": 1, "total": 1, "refused": {}}
    assert figures["calls"]["add"]["outcomes"] == {"ok": 1}
    assert figures["calls"]["fails"]["outcomes"] == {"function_raised": 1}
    assert figures["calls"]["add"]["buckets"]["+Inf"] == 1
    expected = network.factory.stats.as_dict()
    # The call itself had not ended, nor was its reply sent.
    del expected["calls"]["rpc.stats"]
    assert figures["calls"] == expected["calls"]
    assert figures["received_bytes"] == expected["received_bytes"]
    assert set(figures) == set(expected)


def test_servers_may_count_together(network: MemoryNetwork, stats: Stats) -> None:
    other = MemoryNetwork()
    pairs = [connected_pair(FUNCS, network=each, stats=stats) for each in (network, other)]
    for pair in pairs:
        called(pair, "add", 1, 2)
    assert counted(stats) == {"add": {"ok": 2}}
    pairs[1].close()


@pytest.mark.parametrize("wrong", ["yes", 3, None])
def test_what_is_no_stats_is_an_error(network: MemoryNetwork, wrong: Any) -> None:
    with pytest.raises(TypeError, match="stats"):
        RPCServerFactory(FUNCS, reactor=network.reactor, stats=wrong)


def test_the_figures_are_off_by_default() -> None:
    options = ServerOptions()
    assert (options.stats, options.metrics, options.access_log) == (False, None, None)
