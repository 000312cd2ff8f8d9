from __future__ import annotations

import contextlib
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from queue import SimpleQueue
from typing import TypeAlias

import pytest

from kn_sock._serving.budget import Account, Budget
from kn_sock._serving.threads import CompletionNotifier, ConnectionQueue, WorkerPool

MakePool: TypeAlias = Callable[[int], WorkerPool]
MakeQueue: TypeAlias = Callable[[], ConnectionQueue]

# Long enough for any machine; nothing waits for it unless it fails.
PATIENCE = 20.0


class FakeReactor:
    """Takes what is to run on its thread, and runs it when told to."""

    def __init__(self) -> None:
        self.wanted: SimpleQueue[Callable[[], object]] = SimpleQueue()

    def call_from_thread(self, function: Callable[[], object]) -> None:
        self.wanted.put(function)

    def turn(self) -> None:
        self.wanted.get(timeout=PATIENCE)()


class Gate:
    """A function that waits until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self) -> None:
        self.entered.set()
        assert self.opened.wait(PATIENCE)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.opened.set()


@pytest.fixture
def make_pool() -> Iterator[MakePool]:
    pools = []

    def make(threads: int) -> WorkerPool:
        pools.append(WorkerPool(threads))
        return pools[-1]

    yield make
    for pool in pools:
        pool.stop()


@pytest.fixture
def reactor() -> FakeReactor:
    return FakeReactor()


class Task:
    """A job, as calls are."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function

    def _run(self, lane: ConnectionQueue) -> None:
        self._function()


def nothing() -> None:
    pass


def unlimited() -> Account:
    return Account(Budget(2**40, 2**40, nothing), nothing)


@pytest.fixture
def finished(reactor: FakeReactor) -> CompletionNotifier:
    def deliver(lanes: deque[ConnectionQueue]) -> None:
        for _ in range(len(lanes)):
            lanes.popleft().deliver()

    return CompletionNotifier(reactor.call_from_thread, deliver)


@pytest.fixture
def delivered() -> list[Task]:
    return []


@pytest.fixture
def make_lane(finished: CompletionNotifier, delivered: list[Task]) -> MakeQueue:
    def make() -> ConnectionQueue:
        def done() -> None:
            while made.ended:
                delivered.append(made.ended.popleft())

        made = ConnectionQueue(finished, done, unlimited())
        return made

    return make


@pytest.fixture
def lane(make_lane: MakeQueue) -> ConnectionQueue:
    return make_lane()


def put(lane: ConnectionQueue, function: Callable[[], object] = nothing) -> Task:
    task = Task(function)
    lane.waiting.append(task)
    return task


# --- a lane ---------------------------------------------------------------------------------------


def test_a_job_runs_once_and_is_delivered(
    lane: ConnectionQueue, reactor: FakeReactor, delivered: list[Task]
) -> None:
    ran: list[int] = []
    task = put(lane, lambda: ran.append(1))
    lane.run_next()
    lane.run_next()
    assert ran == [1]
    assert delivered == []
    reactor.turn()
    assert delivered == [task]


def test_the_job_that_waited_longest_is_run_first(lane: ConnectionQueue) -> None:
    ran: list[int] = []
    for number in range(3):
        put(lane, partial(ran.append, number))
    lane.run_next()
    lane.run_next()
    assert ran == [0, 1]


def test_a_withdrawn_job_never_runs(lane: ConnectionQueue, reactor: FakeReactor) -> None:
    task = put(lane, lambda: pytest.fail("it ran"))
    assert lane.withdraw(task)
    assert not lane.withdraw(task)
    lane.run_next()
    assert reactor.wanted.empty()


def test_a_withdrawn_job_leaves_the_others_their_order(lane: ConnectionQueue) -> None:
    ran: list[int] = []
    tasks = [put(lane, partial(ran.append, number)) for number in range(3)]
    assert lane.withdraw(tasks[1])
    for _ in range(3):
        lane.run_next()
    assert ran == [0, 2]


def test_a_job_that_runs_cannot_be_withdrawn(lane: ConnectionQueue, gate: Gate) -> None:
    task = put(lane, gate)
    thread = threading.Thread(target=lane.run_next)
    thread.start()
    assert gate.entered.wait(PATIENCE)
    assert not lane.withdraw(task)
    gate.opened.set()
    thread.join(PATIENCE)
    assert not lane.withdraw(task)


def test_a_job_is_either_run_or_withdrawn(lane: ConnectionQueue) -> None:
    ran: list[int] = []
    tasks = [put(lane, partial(ran.append, index)) for index in range(2000)]
    start = threading.Barrier(2)

    def run_all() -> None:
        start.wait(PATIENCE)
        for _ in tasks:
            lane.run_next()

    thread = threading.Thread(target=run_all)
    thread.start()
    start.wait(PATIENCE)
    # From the end, where the other thread comes last.
    withdrawn = [index for index in reversed(range(2000)) if lane.withdraw(tasks[index])]
    thread.join(PATIENCE)
    assert sorted(ran + withdrawn) == list(range(len(tasks)))


# --- the way back to the reactor ------------------------------------------------------------------


def test_many_finished_jobs_wake_the_reactor_once(
    make_lane: MakeQueue, reactor: FakeReactor, delivered: list[Task]
) -> None:
    first, second = make_lane(), make_lane()
    tasks = [put(lane) for lane in (first, second) for _ in range(50)]
    for lane in (first, second):
        for _ in range(50):
            lane.run_next()
    reactor.turn()
    assert delivered == tasks
    assert reactor.wanted.empty()


def test_a_job_that_finishes_after_a_delivery_wakes_the_reactor_again(
    lane: ConnectionQueue, reactor: FakeReactor, delivered: list[Task]
) -> None:
    first, second = put(lane), put(lane)
    lane.run_next()
    reactor.turn()
    assert delivered == [first]
    lane.run_next()
    reactor.turn()
    assert delivered == [first, second]


def test_a_job_that_finishes_during_a_delivery_wakes_the_reactor_again(
    finished: CompletionNotifier, reactor: FakeReactor
) -> None:
    order: list[Task] = []

    def done() -> None:
        for _ in range(len(only.ended)):
            order.append(only.ended.popleft())
        if len(order) == 1:
            only.run_next()

    only = ConnectionQueue(finished, done, unlimited())
    first, second = put(only), put(only)
    only.run_next()
    reactor.turn()
    assert order == [first]
    reactor.turn()
    assert order == [first, second]


def test_nothing_finished_in_any_thread_is_forgotten(
    make_lane: MakeQueue, reactor: FakeReactor, delivered: list[Task]
) -> None:
    def run() -> None:
        for number in range(500):
            lanes[number % 2].run_next()

    lanes = [make_lane(), make_lane()]
    for number in range(2000):
        put(lanes[number % 2])
    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    while len(delivered) < 2000:
        reactor.turn()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(set(delivered)) == 2000


# --- the pool -------------------------------------------------------------------------------------


def test_runs_what_is_submitted_in_order(make_pool: MakePool, lane: ConnectionQueue) -> None:
    results: SimpleQueue[int] = SimpleQueue()
    pool = make_pool(1)
    for index in range(100):
        pool.submit(Task(partial(results.put, index)), lane)
    assert [results.get(timeout=PATIENCE) for _ in range(100)] == list(range(100))


def meet(pool: WorkerPool, lane: ConnectionQueue, number: int) -> None:
    """Run so many jobs, none of which can end before all have begun."""
    meeting = threading.Barrier(number + 1)

    def meet() -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            meeting.wait(PATIENCE)

    for _ in range(number):
        pool.submit(Task(meet), lane)
    meeting.wait(2)


@pytest.mark.parametrize(
    ("pools", "threads", "jobs"),
    [
        # A pool that starts a thread too few is stuck.
        *(pytest.param(20, number, [number], id=f"{number} at once") for number in (2, 3, 8)),
        # However its threads went to rest: one that nobody woke would leave the others waiting.
        pytest.param(1, 4, [4] * 300, id="again after it was idle"),
        # More jobs than threads that are idle, and fewer than there may be: each has one at once.
        pytest.param(50, 8, range(2, 9), id="more after it was idle"),
    ],
)
def test_runs_as_many_at_once_as_it_has_threads(
    pools: int, threads: int, jobs: Iterable[int], make_pool: MakePool, lane: ConnectionQueue
) -> None:
    for _ in range(pools):
        pool = make_pool(threads)
        for number in jobs:
            meet(pool, lane, number)


def test_an_idle_thread_keeps_no_connection(make_pool: MakePool) -> None:
    class Place(ConnectionQueue):
        __slots__ = ("__weakref__",)

    pool = make_pool(1)
    gate = Gate()
    gate.opened.set()
    waked = threading.Event()
    lane = Place(CompletionNotifier(lambda _: waked.set(), list), list, unlimited())
    gone = threading.Event()
    weakref.finalize(lane, gone.set)
    pool.submit(Task(nothing), lane)
    assert waked.wait(PATIENCE)
    lane.finished = CompletionNotifier(list, list)
    del lane
    assert gone.wait(2)


def test_one_that_blocks_does_not_hold_up_the_next(
    make_pool: MakePool, lane: ConnectionQueue
) -> None:
    for _ in range(20):
        pool = make_pool(4)
        first, done = Gate(), threading.Event()
        pool.submit(Task(first), lane)
        assert first.entered.wait(PATIENCE)
        pool.submit(Task(done.set), lane)
        ended = done.wait(2)
        first.opened.set()
        assert ended


def test_runs_no_more_at_once_than_it_has_threads(
    make_pool: MakePool, lane: ConnectionQueue
) -> None:
    lock = threading.Lock()
    running: list[int] = []
    most: list[int] = []
    results: SimpleQueue[None] = SimpleQueue()

    def function() -> None:
        with lock:
            running.append(1)
            most.append(len(running))
        with lock:
            running.pop()
        results.put(None)

    pool = make_pool(3)
    for _ in range(1000):
        pool.submit(Task(function), lane)
    for _ in range(1000):
        results.get(timeout=PATIENCE)
    assert max(most) <= 3


def test_starts_no_thread_before_it_is_needed() -> None:
    before = threading.active_count()
    WorkerPool(8)
    assert threading.active_count() == before


def test_its_threads_keep_nothing_from_ending(make_pool: MakePool, lane: ConnectionQueue) -> None:
    found: SimpleQueue[threading.Thread] = SimpleQueue()
    make_pool(1).submit(Task(lambda: found.put(threading.current_thread())), lane)
    thread = found.get(timeout=PATIENCE)
    assert thread.daemon
    assert thread.name.startswith("kn_sock-")


def test_its_threads_end_when_it_stops(gate: Gate, lane: ConnectionQueue) -> None:
    found: SimpleQueue[threading.Thread] = SimpleQueue()
    pool = WorkerPool(2)
    pool.submit(Task(lambda: found.put(threading.current_thread())), lane)
    thread = found.get(timeout=PATIENCE)
    pool.submit(Task(gate), lane)
    assert gate.entered.wait(PATIENCE)
    pool.stop()
    pool.stop()
    gate.opened.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_stopping_waits_for_nobody(gate: Gate, lane: ConnectionQueue) -> None:
    pool = WorkerPool(1)
    pool.submit(Task(gate), lane)
    assert gate.entered.wait(PATIENCE)
    pool.stop()
    assert not gate.opened.is_set()


def refuse(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_pool_that_gets_no_thread_at_all_says_so(
    monkeypatch: pytest.MonkeyPatch, lane: ConnectionQueue
) -> None:
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        WorkerPool(4).submit(Task(lambda: None), lane)


def test_a_pool_that_gets_no_more_threads_goes_on_with_what_it_has(
    make_pool: MakePool,
    monkeypatch: pytest.MonkeyPatch,
    gate: Gate,
    lane: ConnectionQueue,
) -> None:
    pool = make_pool(4)
    pool.submit(Task(gate), lane)
    assert gate.entered.wait(PATIENCE)
    results: SimpleQueue[int] = SimpleQueue()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    for index in range(3):
        pool.submit(Task(partial(results.put, index)), lane)
    gate.opened.set()
    assert [results.get(timeout=PATIENCE) for _ in range(3)] == [0, 1, 2]


def test_lanes_take_turns(
    make_pool: MakePool,
    gate: Gate,
    make_lane: MakeQueue,
) -> None:
    """One connection's thousand calls do not keep another's single one waiting."""
    single = make_pool(1)
    ran: SimpleQueue[str] = SimpleQueue()
    single.submit(Task(gate), make_lane())
    greedy, modest, other = make_lane(), make_lane(), make_lane()
    for number in range(1000):
        single.submit(Task(partial(ran.put, f"greedy {number}")), greedy)
    for number in range(2):
        single.submit(Task(partial(ran.put, f"modest {number}")), modest)
    single.submit(Task(partial(ran.put, "other")), other)
    gate.opened.set()
    order = [ran.get(timeout=PATIENCE) for _ in range(1003)]
    assert order[:6] == ["greedy 0", "modest 0", "other", "greedy 1", "modest 1", "greedy 2"]
    assert order[6:] == [f"greedy {number}" for number in range(3, 1000)]


def test_one_lane_has_every_thread(make_pool: MakePool, make_lane: MakeQueue) -> None:
    four, lane, barrier = make_pool(4), make_lane(), threading.Barrier(4)
    done: SimpleQueue[int] = SimpleQueue()

    def meet() -> None:
        barrier.wait(PATIENCE)
        done.put(1)

    for _ in range(8):
        four.submit(Task(meet), lane)
    assert sum(done.get(timeout=PATIENCE) for _ in range(8)) == 8


def test_no_call_is_lost_where_lanes_run_empty_all_the_time(
    make_pool: MakePool, make_lane: MakeQueue
) -> None:
    several = make_pool(3)
    results: SimpleQueue[int] = SimpleQueue()
    lanes = [make_lane() for _ in range(5)]
    for number in range(20_000):
        several.submit(Task(partial(results.put, number)), lanes[number % 5])
    assert sorted(results.get(timeout=PATIENCE) for _ in range(20_000)) == list(range(20_000))
