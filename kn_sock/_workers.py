"""Threads that run the functions which may block, and their way back to the reactor.

A pool of daemon threads: a function that never returns keeps neither the server nor the interpreter
from ending. Many finished jobs wake the reactor once, and a worker that finds more work takes it
without being woken. `Finished` alone is ours to need; the pool may be any
`concurrent.futures.Executor`.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Protocol


class Submits(Protocol):
    """The part of an executor that is used."""

    def submit(self, fn: Callable[[], Any], /) -> Any:
        """Run *fn* on some thread, soon."""


class Job:
    """One function call that is to run on a worker thread.

    Args:
        function: called on the worker thread.
        args: what it is called with.
        done: called on the reactor's thread with the job when the function has ended.
        finished: how the job gets back there.
        owner: whatever *done* wants to find again.
    """

    __slots__ = ("_claim", "_finished", "args", "done", "error", "function", "owner", "result")

    def __init__(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        done: Callable[[Job], object],
        finished: Finished,
        owner: Any = None,
    ) -> None:
        self.function = function
        self.args = args
        self.done = done
        self.owner = owner
        self.result: Any = None
        self.error: BaseException | None = None
        self._finished = finished
        # Whoever pops it owns the job: list.pop() is atomic.
        self._claim = [True]

    def __call__(self) -> None:
        """Run, on a worker thread, unless it was withdrawn."""
        if not self.withdraw():
            return
        try:
            self.result = self.function(*self.args)
        except BaseException as error:
            # All of them: SystemExit too is the reactor's to act on, not this thread's.
            self.error = error
        self._finished.add(self)

    def withdraw(self) -> bool:
        """Take the job back; ``False`` when a thread has it already. Any thread."""
        try:
            self._claim.pop()
        except IndexError:
            return False
        return True


class Finished:
    """Brings finished jobs to the reactor's thread: one wake-up, however many there are.

    Args:
        call_from_thread: the reactor's ``callFromThread``.
        deliver: called on the reactor's thread with everything that has finished by then.
    """

    def __init__(
        self,
        call_from_thread: Callable[..., object],
        deliver: Callable[[deque[Job]], object],
    ) -> None:
        self._call_from_thread = call_from_thread
        self._deliver = deliver
        self._jobs: deque[Job] = deque()
        self._is_waking = False

    def add(self, job: Job) -> None:
        """Hand in a finished job. Any thread."""
        self._jobs.append(job)
        if not self._is_waking:
            self._is_waking = True
            self._call_from_thread(self._collect)

    def _collect(self) -> None:
        # Cleared before the jobs are taken: one that is added after the last was taken wakes again.
        self._is_waking = False
        self._deliver(self._jobs)


class Lane:
    """The calls of one connection that wait for a thread."""

    __slots__ = ("calls", "is_queued")

    def __init__(self) -> None:
        self.calls: deque[Callable[[], Any]] = deque()
        # Whether it has its place among the lanes that wait for a thread.
        self.is_queued = False


class WorkerPool:
    """Threads by need, up to a number; each of them ends when the pool does.

    Lanes take turns, a call each: one that has ten thousand does not keep the others waiting.

    Args:
        threads: the most threads, at least 1.
        name: what the threads' names begin with.
    """

    _numbers = itertools.count(1)

    def __init__(self, threads: int, *, name: str = "kn_sock") -> None:
        self._most = threads
        self._name = f"{name}-{next(self._numbers)}"
        self._queue: SimpleQueue[Lane | None] = SimpleQueue()
        self._lane = Lane()
        self._threads: list[threading.Thread] = []
        self._submitted = 0
        # One cell for each thread, which alone counts in it: no lock is needed to add them up.
        self._finished: list[list[int]] = []

    def submit(self, fn: Callable[[], Any], lane: Lane | None = None, /) -> None:
        """Queue a call in its lane, or in that of those that have none; it must not raise.

        Reactor: the reactor's thread only.

        Raises:
            RuntimeError: no thread can be started, as at the interpreter's end.
        """
        if len(self._threads) < self._most:
            # Every call that is under way has a thread of its own, as long as there may be more. A
            # count that lags behind costs a thread too many, never one too few.
            finished = sum(cell[0] for cell in self._finished)
            if self._submitted - finished >= len(self._threads):
                self._start_thread()
        self._submitted += 1
        lane = lane or self._lane
        lane.calls.append(fn)
        if not lane.is_queued:
            self._enqueue(lane)

    def _enqueue(self, lane: Lane) -> None:
        lane.is_queued = True
        self._queue.put(lane)

    def _start_thread(self) -> None:
        cell = [0]
        thread = threading.Thread(
            target=self._work,
            args=(cell,),
            name=f"{self._name}-{len(self._threads) + 1}",
            daemon=True,
        )
        try:
            thread.start()
        except RuntimeError:
            if not self._threads:
                raise
        else:
            self._threads.append(thread)
            self._finished.append(cell)

    def _work(self, finished: list[int]) -> None:
        queue = self._queue
        while True:
            lane = queue.get()
            if lane is None:
                return
            try:
                call = lane.calls.popleft()
            except IndexError:
                # Two places were taken for one call, when it came as the lane had just run empty.
                call = None
            if lane.calls:
                queue.put(lane)
            else:
                lane.is_queued = False
                # What came before that line was told that the lane had its place.
                if lane.calls and not lane.is_queued:
                    self._enqueue(lane)
            if call is not None:
                call()
                finished[0] += 1

    def stop(self) -> None:
        """Let every thread end once its present call does; nothing waits for them. Idempotent."""
        for _ in self._threads:
            self._queue.put(None)
        self._threads = []
