"""More calls than a connection has in flight: the others wait at the calling end."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from kn_sock import CallTimeout, ConnectionLost, ErrorCode, in_reactor
from kn_sock.testing import MemoryNetwork, Pair, connected_pair


def echo(value: Any) -> Any:
    return value


class Waits:
    """A method whose calls end when the test says so."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.stopped: list[Any] = []
        self._deferreds: dict[Any, Deferred[Any]] = {}

    def wait(self, number: Any) -> Deferred[Any]:
        self.begun.append(number)
        deferred: Deferred[Any] = Deferred(lambda _: self.stopped.append(number))
        self._deferreds[number] = deferred
        return deferred

    def end(self, number: Any) -> None:
        self._deferreds[number].callback(number)


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def pair(network: MemoryNetwork, waits: Waits) -> Pair:
    return connected_pair(
        {"wait": in_reactor(waits.wait), "hear": waits.begun.append},
        network=network,
        max_pending=5000,
        client={"timeout": 60.0},
    )


def begin(pair: Pair, numbers: range) -> tuple[list[Deferred[Any]], list[Any]]:
    """Begin calls; give them, and the list that their outcomes come into."""
    outcomes: list[Any] = []
    calls = [pair.client.call("wait", number) for number in numbers]
    for call in calls:
        call.addBoth(lambda result: outcomes.append(getattr(result, "value", result)))
    pair.pump()
    return calls, outcomes


def test_a_thousand_calls_are_in_flight_and_the_others_follow_in_order(
    pair: Pair, waits: Waits
) -> None:
    _, outcomes = begin(pair, range(1003))
    assert waits.begun == list(range(1000))
    waits.end(500)
    pair.pump()
    assert waits.begun == list(range(1001))
    for number in range(10):
        waits.end(number)
    pair.pump()
    assert waits.begun == list(range(1003))
    for number in range(10, 1003):
        if number != 500:
            waits.end(number)
    pair.pump()
    assert sorted(outcomes) == list(range(1003))


def test_a_notification_overtakes_no_call(pair: Pair, waits: Waits) -> None:
    begin(pair, range(1001))
    pair.client.notify("hear", "after")
    pair.pump()
    assert waits.begun[-1] == 999
    waits.end(0)
    pair.pump()
    assert waits.begun[-2:] == [1000, "after"]


def test_a_call_that_waits_is_cancelled_without_a_word(pair: Pair, waits: Waits) -> None:
    calls, outcomes = begin(pair, range(1002))
    calls[1000].cancel()
    assert isinstance(outcomes[0], CancelledError)
    waits.end(0)
    pair.pump()
    assert waits.begun[-1] == 1001
    assert 1000 not in waits.begun
    assert waits.stopped == []


def test_a_call_in_flight_that_is_cancelled_makes_room(pair: Pair, waits: Waits) -> None:
    calls, _ = begin(pair, range(1001))
    calls[7].cancel()
    pair.pump()
    assert waits.begun[-1] == 1000
    assert waits.stopped == [7]


def test_a_call_that_waited_too_long_was_not_run(pair: Pair, waits: Waits) -> None:
    begin(pair, range(1000))
    impatient: list[Any] = []
    pair.client.with_options(timeout=1.0).call("wait", "late").addErrback(
        lambda failure: impatient.append(failure.value)
    )
    pair.advance(1.0)
    (error,) = impatient
    assert isinstance(error, CallTimeout)
    assert error.maybe_executed is False
    waits.end(0)
    pair.pump()
    assert "late" not in waits.begun


def test_what_was_given_up_while_it_waited_is_not_kept(pair: Pair, waits: Waits) -> None:
    begin(pair, range(1000))
    calls, _ = begin(pair, range(1000, 1500))
    pair.client.notify("hear", "behind")
    kept = weakref.WeakSet(calls)
    for call in calls[1:]:
        call.cancel()
    del calls, call
    gc.collect()
    assert len(kept) < 200
    waits.end(0)
    waits.end(1)
    pair.pump()
    assert waits.begun[1000:] == [1000, "behind"]


def test_a_batch_waits_as_a_whole(pair: Pair, waits: Waits) -> None:
    begin(pair, range(1000))
    batch = pair.client.batch()
    for number in range(3):
        batch.call("wait", f"batch {number}")
    results: list[Any] = []
    batch.send().addCallback(results.append)
    pair.pump()
    assert len(waits.begun) == 1000
    waits.end(0)
    pair.pump()
    assert waits.begun[1000:] == ["batch 0", "batch 1", "batch 2"]
    for number in range(3):
        waits.end(f"batch {number}")
    pair.pump()
    assert results == [["batch 0", "batch 1", "batch 2"]]


def test_a_batch_that_is_refused_fails_although_others_wait_behind_it(
    network: MemoryNetwork,
) -> None:
    """The refusal names no call; it cannot be meant for those that were not sent."""
    pair = connected_pair({"echo": in_reactor(echo)}, network=network, max_batch=1000)
    results: list[Any] = []
    for size in (1001, 2, 1001):
        batch = pair.client.batch()
        for number in range(size):
            batch.call("echo", number)
        batch.send().addCallback(results.append)
    pair.pump()
    assert [len(result) for result in results] == [1001, 2, 1001]
    assert results[1] == [0, 1]
    assert {error.code for error in results[0] + results[2]} == {ErrorCode.BATCH_TOO_LARGE}


def test_those_that_waited_when_the_connection_was_lost_were_not_run(pair: Pair) -> None:
    _, outcomes = begin(pair, range(1003))
    pair.wire.lose(ConnectionError("cut"))
    assert len(outcomes) == 1003
    assert all(isinstance(error, ConnectionLost) for error in outcomes)
    assert [error.maybe_executed for error in outcomes] == [True] * 1000 + [False] * 3


def test_two_ends_that_call_each_other_thousands_of_times_come_to_an_end(
    network: MemoryNetwork,
) -> None:
    """Each stops reading what is too much; were all written at once, both would, for ever."""
    pair = connected_pair({"echo": echo}, network=network, client={"funcs": {"echo": echo}})
    text = "x" * 2000
    results: list[Any] = []
    for _ in range(5000):
        for end in (pair.client, pair.server):
            end.call("echo", text).addBoth(results.append)
    pair.pump()
    assert results == [text] * 10_000
