"""What the reactor's thread sets once, and another thread waits for."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from kn_sock.errors import ConnectionLost

if TYPE_CHECKING:
    from kn_sock._blocking.reactor_thread import ReactorThread

# Waits are sliced, so that a signal is seen on every platform, and the end of the thread too.
_SLICE = 1.0


class Outcome:
    """A result or an error that the reactor's thread sets once, and another thread waits for.

    When the interpreter ends, nothing is set any more: only daemon threads still wait then, and
    an exception would print their tracebacks over the program's last output.
    """

    __slots__ = ("_error", "_lock", "_result", "_thread", "is_there")

    def __init__(self, thread: ReactorThread) -> None:
        self._thread = thread
        # Made only if the thread has to wait: of many calls at once, most have ended by then.
        self._lock: threading.Lock | None = None
        self._result: Any = None
        self._error: BaseException | None = None
        #: Whether it was set.
        self.is_there = False

    def succeed(self, result: Any) -> None:
        """Set the result."""
        if not self.is_there:
            self._result = result
            self._wake()

    def fail(self, error: BaseException) -> None:
        """Set the error."""
        if not self.is_there and not self._thread.is_ending:
            self._error = error
            self._wake()

    def _wake(self) -> None:
        # In this order, as `wait` does the opposite: one of the two sees what the other has set.
        self.is_there = True
        if self._lock is not None:
            self._lock.release()

    def wait(self) -> Any:
        """Wait for it, on any thread but the reactor's.

        Raises:
            Whatever error it was.
            ForkedError: this is a child of the process in which the call was made.
        """
        lock = threading.Lock()
        lock.acquire()
        self._lock = lock
        while not (self.is_there or lock.acquire(timeout=_SLICE)):
            self._thread.check_process()
            # At the interpreter's end daemon threads are left waiting; others run exit handlers.
            is_left = self._thread.is_ending and threading.current_thread().daemon
            if not self._thread.is_alive and not is_left:
                raise ConnectionLost("the reactor's thread has ended")
        if self._error is not None:
            try:
                raise self._error
            finally:
                # The traceback holds this frame, which holds the error: a cycle, otherwise.
                self._error = None
        return self._result
