"""A clock in place of the reactor, and an executor in place of threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from twisted.internet.task import Clock
from typing_extensions import override

__all__ = ["ManualExecutor", "MemoryReactor"]


class MemoryReactor(Clock):
    """A clock that also takes calls from threads, and remembers being asked to stop."""

    def __init__(self) -> None:
        super().__init__()
        #: Whether something asked for the end of the process.
        self.is_stopped = False

    @override
    def advance(self, amount: float) -> None:
        """Advance the time, and run what is due.

        One turn, as a reactor takes it: what is asked for in it happens in the next, even when it
        is due at once.
        """
        self.rightNow += amount
        due = [call for call in self.calls if call.getTime() <= self.rightNow]
        for call in sorted(due, key=lambda call: call.getTime()):
            if call.active():
                self.calls.remove(call)
                call.called = 1
                call.func(*call.args, **call.kw)

    def callFromThread(self, function: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        """Call a function at the next `MemoryNetwork.pump` or ``advance``. Any thread."""
        self.callLater(0, function, *args, **kwargs)

    def stop(self) -> None:
        """Remember that the reactor was to stop."""
        self.is_stopped = True


class ManualExecutor(Executor):
    """An executor whose jobs run when the test says so, on the test's own thread."""

    def __init__(self) -> None:
        self._jobs: deque[Callable[[], Any]] = deque()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queue a job; it runs in `run`. The future is never completed."""
        self._jobs.append(lambda: fn(*args, **kwargs))
        return Future()

    def run(self, most: int | None = None) -> int:
        """Run the jobs that are queued, or the first *most* of them; return how many ran."""
        count = len(self._jobs) if most is None else min(most, len(self._jobs))
        for _ in range(count):
            self._jobs.popleft()()
        return count

    def __len__(self) -> int:
        return len(self._jobs)
