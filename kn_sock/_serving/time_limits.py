"""Deadlines of the peer's calls, by their callers' time limits and our own."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IReactorTime

from kn_sock._io.deadlines import Deadlines

if TYPE_CHECKING:
    from kn_sock._serving.context import ServerCall
    from kn_sock._wire.events import Request

_numbers = itertools.count(1)


class TimeLimits:
    """Requests with a deadline that wait, and calls in flight, by a number of the request.

    A call that ends as soon as it begins is not watched, and needs no timer.

    Args:
        clock: the reactor.
        expire: called with what has not ended in time.
    """

    def __init__(
        self, clock: IReactorTime, expire: Callable[[Request | ServerCall], object]
    ) -> None:
        self._clock = clock
        self._expire = expire
        self._open: dict[int, Request | ServerCall] = {}
        self._deadlines = Deadlines(clock, self._open, self._passed)

    def watch(self, request: Request, waiting: Request | ServerCall) -> None:
        """Watch the deadline of a request, as itself or as the call that it has become."""
        assert request.deadline is not None
        is_watched = request.number != 0
        if not is_watched:
            request.number = next(_numbers)
        self._open[request.number] = waiting
        if not is_watched:
            left = max(0.0, request.deadline - self._clock.seconds())
            self._deadlines.add(request.number, left, len(self._open))

    def settled(self, request: Request) -> None:
        """Forget a request that has been answered."""
        self._open.pop(request.number, None)

    def _passed(self, number: int) -> None:
        self._expire(self._open[number])

    def stop(self) -> None:
        """Forget them all."""
        self._open.clear()
        self._deadlines.stop()

    def __len__(self) -> int:
        return len(self._open)
