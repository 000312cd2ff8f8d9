"""When to connect again.

Twisted's ``ClientService`` does not fit: it counts a connection as made before the TLS handshake,
tries one endpoint, and does not handle the loss of a connection while it is prepared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.application.internet import backoffPolicy
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from kn_sock._declarations import check_seconds
from kn_sock._observe.peer_log import PeerLog

if TYPE_CHECKING:
    from kn_sock.protocol import RPCProtocol

log = Logger()

#: From 0.1 s to 30 s, and up to a second more, by chance: clients that lost a server together
#: should not come back together.
default_policy = backoffPolicy(initialDelay=0.1, maxDelay=30.0, factor=1.6)


class Reconnector:
    """Dials until there is a connection, for as long as one is wanted.

    Args:
        dial: one attempt.
        clock: the reactor.
        policy: the number of attempts that failed, to the seconds before the next.
        is_wanted: whether to try again after an attempt that failed.
        up: called with each new connection.
        gave_up: called with the error of the last attempt.
        failed: called with the error of each attempt.
    """

    def __init__(
        self,
        dial: Callable[[], Deferred[RPCProtocol]],
        clock: IReactorTime,
        policy: Callable[[int], float] | None,
        *,
        is_wanted: Callable[[], bool],
        up: Callable[[RPCProtocol], object],
        gave_up: Callable[[BaseException], object],
        failed: Callable[[BaseException], object],
    ) -> None:
        if policy is not None and not callable(policy):
            raise TypeError(f"retry_policy must be a function, not {policy!r}")
        self._dial = dial
        self._clock = clock
        self._log = PeerLog(clock)
        self._policy = policy or default_policy
        self._is_wanted = is_wanted
        self._up = up
        self._gave_up = gave_up
        self._report = failed
        self._failures = 0
        self._timer: IDelayedCall | None = None
        self._dialling: Deferred[RPCProtocol] | None = None

    def begin(self) -> None:
        """Dial, unless an attempt is running or due."""
        if self._dialling is None and self._timer is None:
            self._begin()

    def begin_later(self) -> None:
        """Dial after a pause, unless that is running or due."""
        if self._dialling is None and self._timer is None:
            self._pause()

    def stop(self) -> None:
        """Stop the current attempt and the timer."""
        self._failures = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        dialling, self._dialling = self._dialling, None
        if dialling is not None:
            dialling.cancel()

    def _pause(self) -> float:
        self._failures += 1
        try:
            delay = self._policy(self._failures)
            check_seconds("the pause", delay)
            delay = float(delay)
        except Exception:
            log.failure("retry_policy failed; the pause is that without one")
            delay = default_policy(self._failures)
        self._timer = self._clock.callLater(delay, self._resume)
        return delay

    def _resume(self) -> None:
        self._timer = None
        if self._is_wanted():
            self._begin()

    def _begin(self) -> None:
        dialling = self._dialling = self._dial()
        dialling.addCallbacks(self._succeeded, self._failed, (dialling,), {}, (dialling,))

    def _succeeded(self, protocol: RPCProtocol, dialling: Deferred[RPCProtocol]) -> None:
        if self._dialling is not dialling:
            # An endpoint that cannot be cancelled has connected after all.
            protocol.abort()
            return
        self._dialling = None
        self._failures = 0
        self._up(protocol)

    def _failed(self, failure: Failure, dialling: Deferred[RPCProtocol]) -> None:
        if self._dialling is not dialling or failure.check(CancelledError):
            return
        self._dialling = None
        self._report(failure.value)  # type: ignore[arg-type]  # it is an exception
        if not self._is_wanted():
            self._gave_up(failure.value)  # type: ignore[arg-type]  # it is an exception
            return
        delay = self._pause()
        self._log.warn(
            "{problem}; trying again in {delay:.1f} s", problem=str(failure.value), delay=delay
        )
