from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock

from kn_sock._io.deadlines import Deadlines

pure = settings(derandomize=True, deadline=None)


class FakeCalls:
    """Calls by id, each of which may end before its time."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.open: dict[int, float] = {}
        self.expired: list[tuple[float, int]] = []
        self.deadlines = Deadlines(clock, self.open, self.expire)

    def begin(self, call_id: int, seconds: float) -> None:
        self.open[call_id] = self.clock.seconds() + seconds
        self.deadlines.add(call_id, seconds, len(self.open))

    def expire(self, call_id: int) -> None:
        del self.open[call_id]
        self.expired.append((self.clock.seconds(), call_id))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def calls(clock: Clock) -> FakeCalls:
    return FakeCalls(clock)


def test_reports_a_call_when_its_time_has_come(calls: FakeCalls, clock: Clock) -> None:
    calls.begin(1, 5)
    clock.advance(4.5)
    assert calls.expired == []
    clock.advance(0.5)
    assert calls.expired == [(5, 1)]
    assert clock.getDelayedCalls() == []


def test_never_reports_a_call_that_ended_in_time(calls: FakeCalls, clock: Clock) -> None:
    calls.begin(1, 5)
    calls.begin(2, 6)
    del calls.open[1]
    clock.pump([5, 1, 10])
    assert calls.expired == [(6, 2)]
    assert clock.getDelayedCalls() == []


def test_needs_one_timer_for_many_calls(calls: FakeCalls, clock: Clock) -> None:
    for call_id in range(1000):
        calls.begin(call_id, 30 + call_id % 7)
    assert len(clock.getDelayedCalls()) == 1


def test_a_shorter_time_that_comes_later_is_kept(calls: FakeCalls, clock: Clock) -> None:
    calls.begin(1, 30)
    clock.advance(1)
    calls.begin(2, 3)
    assert len(clock.getDelayedCalls()) == 1
    clock.pump([2, 1, 26])
    assert calls.expired == [(4, 2), (30, 1)]


def test_reports_in_the_order_of_time(calls: FakeCalls, clock: Clock) -> None:
    for call_id, seconds in ((1, 3), (2, 1), (3, 2), (4, 1)):
        calls.begin(call_id, seconds)
    clock.advance(10)
    assert [call_id for _, call_id in calls.expired] == [2, 4, 3, 1]


def test_no_time_at_all_is_up_at_once(calls: FakeCalls, clock: Clock) -> None:
    calls.begin(1, 0)
    assert calls.expired == []
    clock.advance(0)
    assert calls.expired == [(0, 1)]


def test_what_a_report_begins_is_watched_too(clock: Clock) -> None:
    open_calls = {1}
    expired: list[int] = []

    def report(call_id: int) -> None:
        expired.append(call_id)
        open_calls.discard(call_id)
        if call_id < 4:
            open_calls.add(call_id + 1)
            deadlines.add(call_id + 1, 1, 1)

    deadlines = Deadlines(clock, open_calls, report)
    deadlines.add(1, 1, 1)
    clock.pump([1, 1, 1, 1, 1])
    assert expired == [1, 2, 3, 4]
    assert clock.getDelayedCalls() == []


def test_a_report_that_ends_other_calls_keeps_them_from_being_reported(clock: Clock) -> None:
    open_calls = {1, 2, 3}
    expired: list[int] = []

    def report(call_id: int) -> None:
        expired.append(call_id)
        open_calls.clear()

    deadlines = Deadlines(clock, open_calls, report)
    for call_id in (1, 2, 3):
        deadlines.add(call_id, 1, 3)
    clock.advance(1)
    assert expired == [1]


def test_a_report_may_stop_it(clock: Clock) -> None:
    open_calls = {1, 2, 3}

    def report(call_id: int) -> None:
        open_calls.clear()
        deadlines.stop()

    deadlines = Deadlines(clock, open_calls, report)
    for call_id in (1, 2, 3):
        deadlines.add(call_id, call_id, 3)
    clock.advance(1)
    assert clock.getDelayedCalls() == []


def test_forgets_everything_when_it_stops(calls: FakeCalls, clock: Clock) -> None:
    calls.begin(1, 5)
    calls.deadlines.stop()
    calls.deadlines.stop()
    assert clock.getDelayedCalls() == []
    clock.advance(10)
    assert calls.expired == []


def test_can_be_used_again_after_it_stopped(calls: FakeCalls, clock: Clock) -> None:
    calls.begin(1, 5)
    calls.deadlines.stop()
    calls.begin(2, 5)
    clock.advance(5)
    assert calls.expired == [(5, 2)]


def kept(calls: FakeCalls) -> int:
    return len(calls.deadlines._in_order) + len(calls.deadlines._others)


@pytest.mark.parametrize(
    "seconds",
    [(3600, 3600), (3600, 60), (60, 3600, 1, 7200)],
    ids=["equal", "two_kinds", "all_kinds"],
)
def test_keeps_nothing_of_calls_that_ended_long_ago(
    calls: FakeCalls, clock: Clock, seconds: tuple[float, ...]
) -> None:
    for call_id in range(10_000):
        calls.begin(call_id, seconds[call_id % len(seconds)])
        del calls.open[call_id]
    assert kept(calls) < 200
    assert len(clock.getDelayedCalls()) == 1


def test_a_call_that_takes_long_does_not_keep_those_behind_it(
    calls: FakeCalls, clock: Clock
) -> None:
    calls.begin(0, 3600)
    for call_id in range(1, 10_000):
        calls.begin(call_id, 3600)
        del calls.open[call_id]
    assert kept(calls) < 200
    clock.advance(3600)
    assert calls.expired == [(3600, 0)]


def test_those_that_came_in_order_and_the_others_are_reported_by_time(
    calls: FakeCalls, clock: Clock
) -> None:
    for call_id, seconds in enumerate((4, 6, 5, 6, 1, 8, 3)):
        calls.begin(call_id, seconds)
    # The first of each kind has ended.
    del calls.open[0], calls.open[4]
    for _ in range(8):
        clock.advance(1)
    assert calls.expired == [(3, 6), (5, 2), (6, 1), (6, 3), (8, 5)]
    assert clock.getDelayedCalls() == []


def test_a_clock_that_is_set_back_delays_no_later_call(calls: FakeCalls, clock: Clock) -> None:
    clock.advance(100)
    calls.begin(1, 5)
    clock.rightNow = 50
    calls.begin(2, 5)
    clock.advance(5)
    assert calls.expired == [(55, 2)]


def test_keeps_every_open_call_when_it_drops_those_that_ended(
    calls: FakeCalls, clock: Clock
) -> None:
    for call_id in range(1000):
        calls.begin(call_id, 100 + call_id)
        if call_id % 50:
            del calls.open[call_id]
    clock.advance(2000)
    assert sorted(call_id for _, call_id in calls.expired) == list(range(0, 1000, 50))


steps = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.integers(0, 20)),
        st.tuples(st.just("end"), st.integers(0, 5)),
        st.tuples(st.just("wait"), st.integers(0, 6)),
    ),
    max_size=200,
)


@pure
@given(steps)
def test_each_call_ends_in_time_or_is_reported_on_time(wanted: list[tuple[str, int]]) -> None:
    clock = Clock()
    calls = FakeCalls(clock)
    due: dict[int, float] = {}
    ended: list[int] = []
    for step, number in [*wanted, ("wait", 30)]:
        if step == "begin":
            calls.begin(len(due), number)
            due[len(due)] = clock.seconds() + number
        elif step == "end" and calls.open:
            ended.append(list(calls.open)[number % len(calls.open)])
            del calls.open[ended[-1]]
        elif step == "wait":
            clock.pump([1] * number)
        assert len(clock.getDelayedCalls()) <= 1
    clock.advance(0)
    assert sorted([*ended, *(call_id for _, call_id in calls.expired)]) == list(due)
    for when, call_id in calls.expired:
        assert due[call_id] <= when <= due[call_id] + 1
