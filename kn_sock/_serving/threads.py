"""Threads that run the functions which may block, and their way back to the reactor.

A pool of daemon threads: a function that never returns keeps neither the server nor the interpreter
from ending. Many finished jobs wake the reactor once, and a worker that finds more work takes it
without being woken. The pool may be any `concurrent.futures.Executor`.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from kn_sock._serving.budget import Account


class Job(Protocol):
    """What runs on a worker thread."""

    def _run(self, lane: ConnectionQueue, /) -> object:
        """Run there; it must not raise."""


class Submits(Protocol):
    """The part of an executor that is used."""

    def submit(self, fn: Callable[[], Any], /) -> Any:
        """Run *fn* on some thread, soon."""


class ConnectionQueue:
    """The jobs of one connection: those that wait for a thread, and those that have ended.

    Popping a job transfers ownership. While there is no room for results, no job is begun.

    Args:
        finished: brings those that have ended to the reactor's thread.
        done: called there when there are some, in ``ended``, or when the lane is blocked.
        account: counts the results.
        encode: encodes the result of a job in its thread.
    """

    __slots__ = (
        "_done",
        "_skipped",
        "account",
        "added_for",
        "delivery",
        "encode",
        "ended",
        "finished",
        "is_blocked",
        "is_queued",
        "passes",
        "waiting",
    )

    def __init__(
        self,
        finished: CompletionNotifier,
        done: Callable[[], object],
        account: Account,
        encode: Callable[[Any, Any], Any] = lambda job, result: result,
    ) -> None:
        self.finished = finished
        self._done = done
        self.account = account
        self.encode = encode
        #: Whether threads have stopped for lack of room; the reactor resumes it.
        self.is_blocked = False
        #: How many jobs are begun although there is no room.
        self.passes = 0
        # One for each time that an executor ran nothing, for lack of room.
        self._skipped: deque[None] = deque()
        self.waiting: deque[Any] = deque()
        # Whether it has its place among the lanes that wait for a thread.
        self.is_queued = False
        self.ended: deque[Any] = deque()
        # Which `deliver` is next, and for which it has its place among those that are delivered.
        self.delivery, self.added_for = 0, -1

    def run_next(self) -> None:
        """Run the job that has waited longest, if there is one. Any thread."""
        if self.account.total and not self.may_begin():
            self._skipped.append(None)
            self.block()
            return
        try:
            job = self.waiting.popleft()
        except IndexError:
            # It was withdrawn.
            return
        job._run(self)
        self.ended.append(job)
        self.finished.add(self)

    def may_begin(self) -> bool:
        """Whether the next job may begin. Any thread."""
        if self.passes:
            self.passes = 0
            return True
        return self.account.may_finish

    def block(self) -> None:
        """Begin no job until the reactor finds room. Any thread."""
        self.is_blocked = True
        # It looks now, as room may have been made before that line.
        self.finished.add(self)

    def resume_in(self, executor: Submits) -> None:
        """Submit anew what was not begun. Reactor: its thread.

        Raises:
            Exception: the executor takes no more.
        """
        for _ in range(len(self._skipped)):
            self._skipped.popleft()
            executor.submit(self.run_next)

    def withdraw(self, job: Job) -> bool:
        """Take a job back; ``False`` when a thread has it already. Any thread."""
        try:
            # A job equals none but itself, so that no other code can run meanwhile: it is atomic.
            self.waiting.remove(job)
        except ValueError:
            return False
        return True

    def deliver(self) -> None:
        """Hand over what has ended. Reactor: its thread."""
        # Before they are taken: a job that ends after that notifies again.
        self.delivery += 1
        self._done()


class CompletionNotifier:
    """Brings lanes with finished jobs to the reactor's thread: one wake-up, however many there are.

    Args:
        call_from_thread: the reactor's ``callFromThread``.
        deliver: called on the reactor's thread with all of them.
    """

    def __init__(
        self,
        call_from_thread: Callable[..., object],
        deliver: Callable[[deque[ConnectionQueue]], object],
    ) -> None:
        self._call_from_thread = call_from_thread
        self._deliver = deliver
        self._lanes: deque[ConnectionQueue] = deque()
        # Which round of `_collect` is next, and for which the reactor has been woken.
        self._round, self._woken_for = 0, -1

    def add(self, lane: ConnectionQueue) -> None:
        """Hand in a lane in which a job has ended. Any thread.

        It may be entered again from within, by a finalizer that calls a function of this server:
        what was done is noted after the fact, so that who is interrupted in between does it twice.
        """
        delivery = lane.delivery
        if lane.added_for == delivery:
            return
        self._lanes.append(lane)
        self.go_on()
        lane.added_for = delivery

    def go_on(self) -> None:
        """Schedule a delivery, after others have had their turn. Any thread."""
        coming = self._round
        if self._woken_for != coming:
            self._call_from_thread(self._collect)
            self._woken_for = coming

    def _collect(self) -> None:
        # Before the lanes are taken: one that comes after that wakes again.
        self._round += 1
        self._deliver(self._lanes)


class WorkerPool:
    """Threads by need, up to a number; each of them ends when the pool does.

    Lanes take turns, a job each: one that has ten thousand does not keep the others waiting. No
    lock guards what a job passes: what two threads may do at once are single operations of deques,
    each of them atomic.

    Args:
        threads: the most threads, at least 1.
        name: what the threads' names begin with.
    """

    _numbers = itertools.count(1)

    def __init__(self, threads: int, *, name: str = "kn_sock") -> None:
        self._most = threads
        self._name = f"{name}-{next(self._numbers)}"
        # Lanes that have jobs.
        self._lanes: deque[ConnectionQueue] = deque()
        # The locks that idle threads wait for, each of them its own.
        self._parked: deque[threading.Lock] = deque()
        # Whether one of them is on its way. It wakes the next, if there is more to do than one job:
        # to wake a thread takes longer than most jobs, and the first may do them all meanwhile.
        self._is_waking = False
        self._threads = 0
        # Held while one is started, which is seldom.
        self._starting = threading.Lock()
        self._is_stopped = False

    def submit(self, job: Job, lane: ConnectionQueue) -> None:
        """Queue a job in a lane.

        Reactor: the reactor's thread only.

        Raises:
            RuntimeError: no thread can be started, as at the interpreter's end.
        """
        # Every job that is in flight has a thread of its own, as long as there may be more.
        is_new = not self._parked and self._threads < self._most
        if is_new:
            self._start_thread()
        lane.waiting.append(job)
        if lane.is_blocked:
            return
        if not lane.is_queued:
            lane.is_queued = True
            self._lanes.append(lane)
        if (
            not self._is_waking
            and not (self._parked and self._wake())
            and not is_new
            and self._threads < self._most
        ):
            # The one that was idle has been woken for another job, and may not come back soon.
            self._start_thread()

    def resume(self, lane: ConnectionQueue) -> None:
        """Queue a lane again that was blocked. Reactor: the reactor's thread only."""
        if lane.waiting and not lane.is_queued:
            lane.is_queued = True
            self._lanes.append(lane)
            if not self._is_waking and not (self._parked and self._wake()):
                self._start_thread()

    def _wake(self) -> bool:
        """Wake the thread that was parked last; ``False`` if another was quicker."""
        self._is_waking = True
        try:
            self._parked.pop().release()
        except IndexError:
            self._is_waking = False
            return False
        return True

    def _start_thread(self) -> None:
        # By the reactor's thread, or by one that leaves work behind.
        with self._starting:
            if self._threads >= self._most:
                return
            thread = threading.Thread(
                target=self._work, name=f"{self._name}-{self._threads + 1}", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:
                if not self._threads:
                    raise
            else:
                self._threads += 1

    def _work(self) -> None:
        lanes, parked = self._lanes, self._parked
        lock = threading.Lock()
        lock.acquire()
        while True:
            try:
                lane = lanes.popleft()
            except IndexError:
                if self._is_stopped:
                    return
                # A connection that has ended must not live on while this thread waits.
                lane = waiting = None  # type: ignore[assignment]
                self._park(lock)
                continue
            waiting = lane.waiting
            if lane.account.total and not lane.may_begin():
                lane.is_queued = False
                lane.block()
                continue
            try:
                job = waiting.popleft()
            except IndexError:
                # Withdrawn, or the lane has two places, when a job came as it had just run empty.
                job = None
            if waiting:
                lanes.append(lane)
            else:
                lane.is_queued = False
                # A job that came before that line saw that the lane had its place.
                if waiting and not lane.is_queued:
                    lane.is_queued = True
                    lanes.append(lane)
            if (
                lanes
                and not self._is_waking
                and (parked or self._threads < self._most)
                and not (parked and self._wake())
            ):
                # This job may take long; and who looked while the lane was out of its place found
                # nothing.
                self._start_thread()
            if job is not None:
                job._run(lane)
                lane.ended.append(job)
                if lane.added_for != lane.delivery:
                    lane.finished.add(lane)
                # What it holds must not live on while this thread waits.
                job = None

    def _park(self, lock: threading.Lock) -> None:
        """Wait until there may be something to do."""
        self._parked.append(lock)
        if self._lanes or self._is_stopped:
            # A submit before that line saw no thread to wake.
            try:
                self._parked.remove(lock)
            except ValueError:
                # It is being woken.
                pass
            else:
                return
        lock.acquire()
        self._is_waking = False

    def stop(self) -> None:
        """End every thread after its current call, without waiting. Idempotent."""
        self._is_stopped = True
        while self._wake():
            pass
