"""The future of a call, made when it is first needed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

# A result, and the error that there is instead.
_Told = tuple[Any, "BaseException | None"]


class CallFuture(Future[Any]):
    """A future whose cancellation reaches the call.

    What a `Future` has from its beginning, a condition with a lock and two lists, takes as long to
    make as all else that a call needs. Here it is made for who waits, asks or adds a callback
    before the outcome is there. Of many calls at once, most have ended by then.

    Args:
        give_up: cancels the call. What it holds lives until the call has ended.
        check: raises in a child that was forked since, where the outcome never comes.
    """

    # What came first: the outcome, or a future whose attributes this one takes.
    _first: _Told | Future[Any] | None = None

    def __init__(
        self, give_up: Callable[[], object], check: Callable[[], object] = lambda: None
    ) -> None:
        # Not the base's: see `__getattr__`.
        self._give_up = give_up
        self._check = check

    def __getattr__(self, name: str) -> Any:
        """Make what a future has, as some of it is asked for, and not there yet."""
        mine = vars(self)
        whole: Future[Any] = Future()
        if name not in vars(whole):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        # Each is one step: of several threads that come to the same, one is the first.
        first = mine.setdefault("_first", whole)
        if not isinstance(first, tuple):
            whole = first
        elif first[1] is None:
            whole.set_result(first[0])
        else:
            whole.set_exception(first[1])
        for each, value in vars(whole).items():
            mine.setdefault(each, value)
        return mine[name]

    def set_result(self, result: Any) -> None:
        """Take the result. Raises ``InvalidStateError`` if it was cancelled."""
        outcome = (result, None)
        if vars(self).setdefault("_first", outcome) is not outcome:
            super().set_result(result)

    def set_exception(self, exception: BaseException | None) -> None:
        """Take the error. Raises ``InvalidStateError`` if it was cancelled."""
        outcome = (None, exception)
        if vars(self).setdefault("_first", outcome) is not outcome:
            super().set_exception(exception)

    def result(self, timeout: float | None = None) -> Any:
        """Return the result, or raise the error, within *timeout* seconds."""
        first = self._first
        if type(first) is tuple and first[1] is None:
            return first[0]
        try:
            if first is None:
                self._check()
            return super().result(timeout)
        finally:
            # An error's traceback holds this frame, which holds the error: a cycle, otherwise.
            del self, first

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the error, or ``None``, within *timeout* seconds."""
        if self._first is None:
            self._check()
        return super().exception(timeout)

    def cancel(self) -> bool:
        """Cancel the call, unless its outcome is there."""
        # No lock is held here: what was added by add_done_callback() runs now.
        if not super().cancel():
            return False
        give_up = self.release()
        if give_up is not None:
            # Notifies waiters for several futures, such as concurrent.futures.wait().
            self.set_running_or_notify_cancel()
            give_up()
        return True

    def release(self) -> Callable[[], object] | None:
        """Detach and return what cancels the call, once."""
        # One step, which two threads cannot both take.
        give_up: Callable[[], object] | None = vars(self).pop("_give_up", None)
        return give_up
