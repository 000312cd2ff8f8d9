"""How many bytes the calls of a connection take, and those of a server's connections together.

Only requests and results of ``HEAVY_BYTES`` or more are counted: ``max_pending`` allows so many of
the smaller ones that they take little.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from typing import Final

# A connection that takes no more than this goes on while the others use up what the server has.
_SPARED_BYTES: Final = 256 * 1024


#: In seconds: a turn of one connection ends after so long, and goes on after the others'.
TURN_SECONDS: Final = 0.01


class Use(enum.IntEnum):
    """What bytes are used for."""

    #: Requests that have not begun, as they came.
    WAITING = 0
    #: Arguments of calls in flight, decoded.
    CALLS = 1
    #: Results that wait to be sent, encoded.
    RESULTS = 2


class Budget:
    """The bytes of all connections of a server.

    Args:
        most: how many bytes they may take together.
        most_each: how many bytes each of them may take.
        call_later: the reactor's ``callLater``.
    """

    def __init__(self, most: int, most_each: int, call_later: Callable[..., object]) -> None:
        self._most = most
        self.most_each = most_each
        self._call_later = call_later
        self.lock = threading.Lock()
        self.used = 0
        # Those that take more than is spared, and wait for room if there is none.
        self._heavy: set[Account] = set()

    @property
    def is_used_up(self) -> bool:
        """Whether all connections together take as much as they may. Thread: any."""
        return self.used >= self._most

    def changed(self, account: Account, before: int) -> None:
        """Note that an account has changed; the lock is held."""
        was_used_up = self.is_used_up
        self.used += account.total - before
        if account.total > _SPARED_BYTES:
            self._heavy.add(account)
        else:
            self._heavy.discard(account)
        if was_used_up and not self.is_used_up and self._heavy:
            self._call_later(0, self._wake)

    def _wake(self) -> None:
        for account in [*self._heavy]:
            account.wake()


class Account:
    """The bytes of one connection.

    Results are added by worker threads, too; everything is subtracted on the reactor's thread.

    Args:
        budget: that of the server.
        wake: called on the reactor's thread when other connections have made room.
    """

    __slots__ = ("_budget", "_is_closed", "_used", "total", "wake")

    def __init__(self, budget: Budget, wake: Callable[[], object]) -> None:
        self._budget = budget
        self.wake = wake
        self._used = [0, 0, 0]
        self.total = 0
        self._is_closed = False

    def add(self, use: Use, size: int) -> None:
        """Add bytes, or subtract them. Thread: any to add, the reactor's to subtract."""
        budget = self._budget
        with budget.lock:
            if self._is_closed:
                return
            before = self.total
            self._used[use] += size
            self.total = before + size
            budget.changed(self, before)

    def close(self) -> None:
        """Release everything: the connection has ended."""
        with self._budget.lock:
            self._is_closed = True
            before, self.total = self.total, 0
            self._used = [0, 0, 0]
            self._budget.changed(self, before)
        self.wake = _nothing

    def used(self, use: Use) -> int:
        """Return how many bytes are used for something."""
        return self._used[use]

    @property
    def may_read(self) -> bool:
        """Whether there is room for another request."""
        return self._has_room(self.total)

    @property
    def may_begin(self) -> bool:
        """Whether there is room for another call in flight."""
        return self._has_room(self._used[Use.CALLS] + self._used[Use.RESULTS])

    @property
    def may_finish(self) -> bool:
        """Whether there is room for another result. Thread: any."""
        return self._has_room(self._used[Use.RESULTS])

    def _has_room(self, size: int) -> bool:
        budget = self._budget
        return size < budget.most_each and (size <= _SPARED_BYTES or not budget.is_used_up)


def _nothing() -> None:
    pass
