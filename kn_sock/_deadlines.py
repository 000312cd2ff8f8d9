"""Deadlines of many calls on one timer: a call that ends in time costs no timer of its own."""

from __future__ import annotations

import heapq
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

    __slots__ = ("_clock", "_expired", "_heap", "_open", "_timer")

    def __init__(
        self, clock: IReactorTime, open_calls: Container[int], expired: Callable[[int], object]
    ) -> None:
        self._clock = clock
        self._open = open_calls
        self._expired = expired
        self._heap: list[tuple[float, int]] = []
        self._timer: IDelayedCall | None = None

    def add(self, call_id: int, seconds: float, open_count: int) -> None:
        """Watch an open call that may take so many seconds; *open_count* are open in all."""
        when = self._clock.seconds() + seconds
        heap = self._heap
        if len(heap) > _FEW + 2 * open_count:
            heap[:] = [entry for entry in heap if entry[1] in self._open]
            heapq.heapify(heap)
        heapq.heappush(heap, (when, call_id))
        if self._timer is None:
            self._timer = self._clock.callLater(seconds, self._check)
        elif heap[0][1] == call_id and when < self._timer.getTime():
            self._timer.reset(seconds)

    def times(self) -> dict[int, float]:
        """Give when the time of each open call comes, in the clock's seconds."""
        return {call_id: when for when, call_id in self._heap if call_id in self._open}

    def stop(self) -> None:
        """Forget them all."""
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        heap = self._heap
        due = []
        while heap and (heap[0][0] <= now or heap[0][1] not in self._open):
            call_id = heapq.heappop(heap)[1]
            if call_id in self._open:
                due.append(call_id)
        if heap:
            self._timer = self._clock.callLater(heap[0][0] - now, self._check)
        # Last, as what it calls may add to the heap, or stop all of this.
        for call_id in due:
            if call_id in self._open:
                self._expired(call_id)
