"""The reactor's clock: monotonic, so that a wall clock that is set ends no call."""

from __future__ import annotations

import time
from typing import Any

# Twisted counts from the epoch. A reactor whose seconds are this close to that uses the wall clock.
_NEAR = 60.0


def use_monotonic_clock(reactor: Any) -> None:
    """Make a reactor count its seconds by a clock that is never set.

    Twisted's reactors count by the wall clock: when that is set forward, time limits pass at once,
    and when it is set back, they do not pass for as long. ``twistd knsock``, scripts and blocking
    clients call this for their reactors; an application calls it for its own, if nothing in it
    takes ``reactor.seconds()`` for the time of day. What is scheduled keeps its delay. Idempotent.

    Args:
        reactor: a reactor of Twisted's. One that counts by another clock, such as asyncio's or a
            test's, stays as it is.

    Reactor: its thread, or before it runs.
    """
    if abs(reactor.seconds() - time.time()) > _NEAR:
        return
    shift = time.monotonic() - reactor.seconds()
    for call in reactor.getDelayedCalls():
        call.seconds = time.monotonic
        call.delay(shift)
    reactor.seconds = time.monotonic


def time_of_day(reactor: Any) -> float:
    """Return the seconds since the epoch, by the clock of a test if the reactor is one."""
    return time.time() if reactor.seconds is time.monotonic else float(reactor.seconds())
