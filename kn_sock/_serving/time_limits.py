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
    """Requests with a deadline, and the calls that they became, by a number of their own.

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

    def add(self, request: Request, seconds: float) -> None:
        """Set the deadline of a request, in seconds from now."""
        request.deadline = self._clock.seconds() + seconds
        request.number = next(_numbers)
        self._open[request.number] = request
        self._deadlines.add(request.number, max(0.0, seconds), len(self._open))

    def begun(self, request: Request, call: ServerCall) -> None:
        """Replace a request by its call."""
        self._open[request.number] = call

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
