"""Signals of a server that twistd runs: drain, and read files again.

Twisted's own handlers log inside of the handler: a signal that comes while a log line is written
can block the process for ever. These only wake the reactor.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType
from typing import Any, Final, Protocol

from twisted.logger import Logger

log = Logger(namespace="kn_sock.server")

_STOPPING: Final = {"SIGTERM": "sigTerm", "SIGINT": "sigInt"}


class Served(Protocol):
    """A service that is told of signals."""

    def abort(self) -> None:
        """Close every connection at once."""

    def reload(self) -> None:
        """Read certificates again."""


class Signals:
    """Handles the signals of one process.

    Args:
        services: drained by SIGTERM or SIGINT, reloaded by SIGHUP.
        reactor: the reactor that runs.
        drains_endlessly: whether there is no time limit for the drain; a second signal ends it
            then. Otherwise it changes nothing, and no call is lost by it.
    """

    def __init__(self, services: Sequence[Served], reactor: Any, *, drains_endlessly: bool) -> None:
        self._services = services
        self._drains_endlessly = drains_endlessly
        self._reactor = reactor
        self._is_stopping = False

    def install(self) -> None:
        """Handle the signals: SIGHUP from now on, the others when the reactor runs. Main thread."""
        # Unhandled, it would end a server that listens, but does not run yet.
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, self._wake(self.reload))
        self._reactor.callWhenRunning(self._replace_handlers_of_reactor)

    def _replace_handlers_of_reactor(self) -> None:
        for name in _STOPPING:
            number = getattr(signal, name)
            # Where the reactor was told to leave them alone, they are not its.
            if callable(signal.getsignal(number)):
                signal.signal(number, self._wake(partial(self.stop, number)))

    def _wake(self, function: Callable[[], object]) -> Callable[[int, FrameType | None], None]:
        def handle(number: int, frame: FrameType | None) -> None:
            self._reactor.callFromThread(function)

        return handle

    def stop(self, number: int) -> None:
        """Drain; abort at the second signal, if the drain has no time limit."""
        if not self._is_stopping:
            self._is_stopping = True
            getattr(self._reactor, _STOPPING[signal.Signals(number).name])(number)
            return
        if not self._drains_endlessly:
            return
        log.warn("a second {name}: closing all connections", name=signal.Signals(number).name)
        for service in self._services:
            service.abort()

    def reload(self) -> None:
        """Read certificates again; what cannot be read stays as it was."""
        for service in self._services:
            try:
                service.reload()
            except (OSError, ValueError) as problem:
                log.error("not reloaded, the old ones stay in use: {reason}", reason=str(problem))
            else:
                log.info("reloaded at SIGHUP")
