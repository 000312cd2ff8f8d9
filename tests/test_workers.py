from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from queue import SimpleQueue
from typing import Any

import pytest

from kn_sock._workers import Finished, Job, Lane, WorkerPool

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
def make_pool() -> Iterator[Callable[[int], WorkerPool]]:
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


@pytest.fixture
def delivered() -> list[Job]:
    return []


@pytest.fixture
def finished(reactor: FakeReactor, delivered: list[Job]) -> Finished:
    def deliver(jobs: deque[Job]) -> None:
        while jobs:
            delivered.append(jobs.popleft())

    return Finished(reactor.call_from_thread, deliver)


def make_job(finished: Finished, function: Callable[[], Any], owner: object = None) -> Job:
    return Job(function, (), lambda _: None, finished, owner)


# --- one job --------------------------------------------------------------------------------------


def test_a_job_runs_once_and_reports(finished: Finished, delivered: list[Job]) -> None:
    job = make_job(finished, lambda: 5, "owner")
    job()
    finished._collect()
    assert delivered == [job]
    assert (job.result, job.error, job.owner) == (5, None, "owner")
    job()
    finished._collect()
    assert delivered == [job]


def test_a_job_calls_its_function_with_its_arguments(
    finished: Finished, delivered: list[Job]
) -> None:
    Job(pow, (2, 5), lambda _: None, finished)()
    finished._collect()
    assert [job.result for job in delivered] == [32]


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_job_keeps_whatever_its_function_raises(
    kind: type[BaseException], finished: Finished, delivered: list[Job]
) -> None:
    def function() -> None:
        raise kind("no")

    job = make_job(finished, function)
    job()
    finished._collect()
    assert delivered == [job]
    assert type(job.error) is kind


def test_a_withdrawn_job_never_runs(finished: Finished, reactor: FakeReactor) -> None:
    job = make_job(finished, lambda: pytest.fail("it ran"))
    assert job.withdraw()
    assert not job.withdraw()
    job()
    assert reactor.wanted.empty()


def test_a_job_that_runs_cannot_be_withdrawn(finished: Finished, gate: Gate) -> None:
    job = make_job(finished, gate)
    thread = threading.Thread(target=job)
    thread.start()
    assert gate.entered.wait(PATIENCE)
    assert not job.withdraw()
    gate.opened.set()
    thread.join(PATIENCE)
    assert not job.withdraw()


def test_a_job_is_either_run_or_withdrawn(finished: Finished) -> None:
    ran: list[int] = []
    jobs = [make_job(finished, partial(ran.append, index)) for index in range(2000)]
    start = threading.Barrier(2)

    def run_all() -> None:
        start.wait(PATIENCE)
        for job in jobs:
            job()

    thread = threading.Thread(target=run_all)
    thread.start()
    start.wait(PATIENCE)
    withdrawn = [index for index, job in enumerate(jobs) if job.withdraw()]
    thread.join(PATIENCE)
    assert sorted(ran + withdrawn) == list(range(len(jobs)))


# --- the way back to the reactor ------------------------------------------------------------------


def test_many_finished_jobs_wake_the_reactor_once(
    finished: Finished, reactor: FakeReactor, delivered: list[Job]
) -> None:
    jobs = [make_job(finished, lambda: 0) for _ in range(50)]
    for job in jobs:
        job()
    reactor.turn()
    assert delivered == jobs
    assert reactor.wanted.empty()


def test_a_job_that_finishes_after_a_delivery_wakes_the_reactor_again(
    finished: Finished, reactor: FakeReactor, delivered: list[Job]
) -> None:
    first, second = make_job(finished, lambda: 0), make_job(finished, lambda: 0)
    first()
    reactor.turn()
    second()
    reactor.turn()
    assert delivered == [first, second]


def test_a_job_that_finishes_during_a_delivery_wakes_the_reactor_again(
    reactor: FakeReactor,
) -> None:
    def deliver(jobs: deque[Job]) -> None:
        for _ in range(len(jobs)):
            order.append(jobs.popleft())
        if len(order) == 1:
            second()

    order: list[Job] = []
    finished = Finished(reactor.call_from_thread, deliver)
    first, second = make_job(finished, lambda: 0), make_job(finished, lambda: 0)
    first()
    reactor.turn()
    assert order == [first]
    reactor.turn()
    assert order == [first, second]


def test_nothing_finished_in_any_thread_is_forgotten(
    finished: Finished, reactor: FakeReactor, delivered: list[Job]
) -> None:
    def run(jobs: list[Job]) -> None:
        for job in jobs:
            job()

    jobs = [[make_job(finished, lambda: 0) for _ in range(500)] for _ in range(4)]
    threads = [threading.Thread(target=run, args=(some,)) for some in jobs]
    for thread in threads:
        thread.start()
    while len(delivered) < 2000:
        reactor.turn()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(delivered) == 2000


# --- the pool -------------------------------------------------------------------------------------


def test_runs_what_is_submitted_in_order(make_pool: Callable[[int], WorkerPool]) -> None:
    results: SimpleQueue[int] = SimpleQueue()
    pool = make_pool(1)
    for index in range(100):
        pool.submit(partial(results.put, index))
    assert [results.get(timeout=PATIENCE) for _ in range(100)] == list(range(100))


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_runs_as_many_at_once_as_it_has_threads(
    threads: int, make_pool: Callable[[int], WorkerPool]
) -> None:
    # None of them can end before all have begun: a pool that starts a thread too few is stuck.
    for _ in range(20):
        pool = make_pool(threads)
        meeting = threading.Barrier(threads + 1)

        def meet(meeting: threading.Barrier = meeting) -> None:
            with contextlib.suppress(threading.BrokenBarrierError):
                meeting.wait(PATIENCE)

        for _ in range(threads):
            pool.submit(meet)
        meeting.wait(2)


def test_one_that_blocks_does_not_hold_up_the_next(
    make_pool: Callable[[int], WorkerPool],
) -> None:
    for _ in range(20):
        pool = make_pool(4)
        first, done = Gate(), threading.Event()
        pool.submit(first)
        assert first.entered.wait(PATIENCE)
        pool.submit(done.set)
        ended = done.wait(2)
        first.opened.set()
        assert ended


def test_runs_no_more_at_once_than_it_has_threads(
    make_pool: Callable[[int], WorkerPool],
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
        pool.submit(function)
    for _ in range(1000):
        results.get(timeout=PATIENCE)
    assert max(most) <= 3


def test_starts_no_thread_before_it_is_needed() -> None:
    before = threading.active_count()
    WorkerPool(8)
    assert threading.active_count() == before


def test_its_threads_keep_nothing_from_ending(make_pool: Callable[[int], WorkerPool]) -> None:
    found: SimpleQueue[threading.Thread] = SimpleQueue()
    make_pool(1).submit(lambda: found.put(threading.current_thread()))
    thread = found.get(timeout=PATIENCE)
    assert thread.daemon
    assert thread.name.startswith("kn_sock-")


def test_its_threads_end_when_it_stops(gate: Gate) -> None:
    found: SimpleQueue[threading.Thread] = SimpleQueue()
    pool = WorkerPool(2)
    pool.submit(lambda: found.put(threading.current_thread()))
    thread = found.get(timeout=PATIENCE)
    pool.submit(gate)
    assert gate.entered.wait(PATIENCE)
    pool.stop()
    pool.stop()
    gate.opened.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_stopping_waits_for_nobody(gate: Gate) -> None:
    pool = WorkerPool(1)
    pool.submit(gate)
    assert gate.entered.wait(PATIENCE)
    pool.stop()
    assert not gate.opened.is_set()


def test_a_pool_that_gets_no_thread_at_all_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        WorkerPool(4).submit(lambda: None)


def test_a_pool_that_gets_no_more_threads_goes_on_with_what_it_has(
    make_pool: Callable[[int], WorkerPool], monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    pool = make_pool(4)
    pool.submit(gate)
    assert gate.entered.wait(PATIENCE)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    results: SimpleQueue[int] = SimpleQueue()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    for index in range(3):
        pool.submit(partial(results.put, index))
    gate.opened.set()
    assert [results.get(timeout=PATIENCE) for _ in range(3)] == [0, 1, 2]


def test_lanes_take_turns(make_pool: Callable[[int], WorkerPool], gate: Gate) -> None:
    """One connection's thousand calls do not keep another's single one waiting."""
    single = make_pool(1)
    ran: SimpleQueue[str] = SimpleQueue()
    single.submit(gate, Lane())
    greedy, modest, other = Lane(), Lane(), Lane()
    for number in range(1000):
        single.submit(partial(ran.put, f"greedy {number}"), greedy)
    for number in range(2):
        single.submit(partial(ran.put, f"modest {number}"), modest)
    single.submit(partial(ran.put, "other"), other)
    gate.opened.set()
    order = [ran.get(timeout=PATIENCE) for _ in range(1003)]
    assert order[:6] == ["greedy 0", "modest 0", "other", "greedy 1", "modest 1", "greedy 2"]
    assert order[6:] == [f"greedy {number}" for number in range(3, 1000)]


def test_one_lane_has_every_thread(make_pool: Callable[[int], WorkerPool]) -> None:
    four, lane, barrier = make_pool(4), Lane(), threading.Barrier(4)
    done: SimpleQueue[int] = SimpleQueue()

    def meet() -> None:
        barrier.wait(PATIENCE)
        done.put(1)

    for _ in range(8):
        four.submit(meet, lane)
    assert sum(done.get(timeout=PATIENCE) for _ in range(8)) == 8


def test_no_call_is_lost_where_lanes_run_empty_all_the_time(
    make_pool: Callable[[int], WorkerPool],
) -> None:
    several = make_pool(3)
    results: SimpleQueue[int] = SimpleQueue()
    lanes = [Lane() for _ in range(5)]
    for number in range(20_000):
        several.submit(partial(results.put, number), lanes[number % 5])
    assert sorted(results.get(timeout=PATIENCE) for _ in range(20_000)) == list(range(20_000))
