"""Watchdogs for a peer that does not read, one that is gone, and for an idle connection."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Watchdog:
    """Looks at something from time to time.

    Args:
        clock: the reactor.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._timer: IDelayedCall | None = None

    def end(self) -> None:
        """Stop to watch. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class SendWatchdog(Watchdog):
    """Disconnects a peer that accepts no data.

    Args:
        clock: the reactor.
        timeout: seconds without a byte taken; ``None`` for no limit.
        taken: counts the bytes that the peer has taken so far.
        give_up: called when it took none for that long.
    """

    def __init__(
        self,
        clock: IReactorTime,
        timeout: float | None,
        taken: Callable[[], int],
        give_up: Callable[[], object],
    ) -> None:
        super().__init__(clock)
        self._timeout = timeout
        self._taken = taken
        self._give_up = give_up
        self._taken_before = 0

    def begin(self) -> None:
        """Start to watch. Idempotent."""
        if self._timer is None and self._timeout is not None:
            self._taken_before = self._taken()
            self._timer = self._clock.callLater(self._timeout, self._check)

    def _check(self) -> None:
        self._timer = None
        if self._taken() > self._taken_before:
            # Slow, and no worse.
            self.begin()
        else:
            self._give_up()


class ResetWatchdog(Watchdog):
    """Notices a connection that is reset while nothing is read from it.

    Args:
        clock: the reactor.
        is_reading: whether it is read again: then nothing is to be watched.
        is_reset: whether it was reset.
        give_up: called when it was.
    """

    _SECONDS = 1.0

    def __init__(
        self,
        clock: IReactorTime,
        is_reading: Callable[[], bool],
        is_reset: Callable[[], bool],
        give_up: Callable[[], object],
    ) -> None:
        super().__init__(clock)
        self._is_reading = is_reading
        self._is_reset = is_reset
        self._give_up = give_up

    def begin(self) -> None:
        """Start to watch. Idempotent; it ends by itself."""
        if self._timer is None:
            self._timer = self._clock.callLater(self._SECONDS, self._check)

    def _check(self) -> None:
        self._timer = None
        if self._is_reading():
            return
        if self._is_reset():
            self._give_up()
        else:
            self.begin()


class IdleWatchdog(Watchdog):
    """Closes an idle connection.

    Args:
        clock: the reactor.
        timeout: seconds without a message.
        is_busy: whether something is in progress, so that silence means nothing.
        close: called when nothing happened for that long.
    """

    def __init__(
        self,
        clock: IReactorTime,
        timeout: float,
        is_busy: Callable[[], bool],
        close: Callable[[], object],
    ) -> None:
        super().__init__(clock)
        self._timeout = timeout
        self._is_busy = is_busy
        self._close = close
        self._heard = clock.seconds()
        self._timer = clock.callLater(timeout, self._check)

    def heard(self) -> None:
        """Restart: the peer sent something."""
        self._heard = self._clock.seconds()

    def _check(self) -> None:
        self._timer = None
        if self._is_busy():
            # Its silence counts from when this is over, and that is found out soon enough.
            self.heard()
        left = self._heard + self._timeout - self._clock.seconds()
        if left > 0:
            self._timer = self._clock.callLater(left, self._check)
        else:
            self._close()
