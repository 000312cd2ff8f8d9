"""Deadlines of many calls on one timer."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Container

from twisted.internet.interfaces import IDelayedCall, IReactorTime

# Below this many entries it is not worth looking for those that are settled.
_FEW = 64


class Deadlines:
    """Reports the calls whose time is up.

    Args:
        clock: the reactor.
        open_calls: the ids of the calls that are not settled yet. Settled ones are dropped lazily.
        expired: called with the id of each open call whose time has come.
    """

    __slots__ = ("_clock", "_expired", "_in_order", "_open", "_others", "_seconds", "_timer")

    def __init__(
        self, clock: IReactorTime, open_calls: Container[int], expired: Callable[[int], object]
    ) -> None:
        self._clock = clock
        self._seconds = clock.seconds
        self._open = open_calls
        self._expired = expired
        # Nearly all calls may take equally long, so that their times come as they do: each of these
        # is later than the one before. The others are in a heap.
        self._in_order: deque[tuple[float, int]] = deque()
        self._others: list[tuple[float, int]] = []
        self._timer: IDelayedCall | None = None

    def add(self, call_id: int, seconds: float, open_count: int) -> None:
        """Watch an open call that may take so many seconds; *open_count* are open in all."""
        when = self._seconds() + seconds
        in_order = self._in_order
        if len(in_order) + len(self._others) > _FEW + 2 * open_count:
            self._drop_settled()
        if in_order and in_order[-1][0] <= when:
            # The timer is set for that one, or for one that is earlier still.
            in_order.append((when, call_id))
            return
        if in_order:
            heapq.heappush(self._others, (when, call_id))
        else:
            in_order.append((when, call_id))
        if self._timer is None:
            self._timer = self._clock.callLater(seconds, self._check)
        elif when < self._timer.getTime():
            self._timer.reset(seconds)

    def _drop_settled(self) -> None:
        # In place: who calls this has hold of them.
        left = [entry for entry in self._in_order if entry[1] in self._open]
        self._in_order.clear()
        self._in_order.extend(left)
        self._others[:] = [entry for entry in self._others if entry[1] in self._open]
        heapq.heapify(self._others)

    def times(self) -> dict[int, float]:
        """Return the deadline of each open call, in the clock's seconds."""
        every = (*self._in_order, *self._others)
        return {call_id: when for when, call_id in every if call_id in self._open}

    def stop(self) -> None:
        """Forget them all."""
        self._in_order.clear()
        self._others.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        self._timer = None
        now = self._seconds()
        in_order, others = self._in_order, self._others
        due = []
        while in_order and (in_order[0][0] <= now or in_order[0][1] not in self._open):
            due.append(in_order.popleft())
        while others and (others[0][0] <= now or others[0][1] not in self._open):
            due.append(heapq.heappop(others))
        next_times = [entries[0][0] for entries in (in_order, others) if entries]
        if next_times:
            self._timer = self._clock.callLater(min(next_times) - now, self._check)
        # Last, as what it calls may add to them, or stop all of this.
        for _, call_id in sorted(due):
            if call_id in self._open:
                self._expired(call_id)
