"""Log lines about peers: escaped, cut, and bounded in number.

Whatever a peer sends may end up in a log line: a method's name, an error's text, a username. Every
log line about a peer is written here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger, LogLevel

from kn_sock._display import escape_control

log = Logger(namespace="kn_sock.peers")

#: Lines of one kind that are written in a minute.
LINES_A_MINUTE: Final = 600

_MINUTE: Final = 60.0

# The longest text of one field, and of a traceback.
_FIELD_CHARACTERS: Final = 500
_TRACEBACK_CHARACTERS: Final = 20_000


class _Kind:
    """The lines of one format, in the present minute."""

    __slots__ = ("began", "dropped", "written")

    def __init__(self) -> None:
        self.began = float("-inf")
        self.written = self.dropped = 0


class PeerLog:
    """Writes the log lines about the peers of one factory.

    Lines that are too many are counted. The count is written before the next line of their kind, or
    when the factory stops.

    Args:
        clock: the reactor.
    """

    def __init__(self, clock: IReactorTime | None = None) -> None:
        self._now: Callable[[], float] = time.monotonic if clock is None else clock.seconds
        # By format: there are as many as there are places that write a line.
        self._kinds: dict[str, _Kind] = {}

    def debug(self, line: str, **fields: Any) -> None:
        """Write a line of this level; see `emit`."""
        self.emit(LogLevel.debug, line, **fields)

    def info(self, line: str, **fields: Any) -> None:
        """Write a line of this level; see `emit`."""
        self.emit(LogLevel.info, line, **fields)

    def warn(self, line: str, **fields: Any) -> None:
        """Write a line of this level; see `emit`."""
        self.emit(LogLevel.warn, line, **fields)

    def error(self, line: str, **fields: Any) -> None:
        """Write a line of this level; see `emit`."""
        self.emit(LogLevel.error, line, **fields)

    def emit(self, level: Any, line: str, **fields: Any) -> None:
        """Write a line, unless there were too many of its kind in this minute.

        Args:
            level: a level of `twisted.logger.LogLevel`.
            line: the format of the line; its fields are in braces.
            fields: the fields. Texts are escaped and cut; ``traceback`` keeps its newlines.
        """
        kind = self._kinds.get(line)
        if kind is None:
            kind = self._kinds[line] = _Kind()
        now = self._now()
        # The clock may have been set back.
        if not 0 <= now - kind.began < _MINUTE:
            self._summarise(line, kind)
            kind.began, kind.written = now, 0
        if kind.written >= LINES_A_MINUTE:
            kind.dropped += 1
            return
        kind.written += 1
        log.emit(level, line, **{name: _clean(name, value) for name, value in fields.items()})

    @staticmethod
    def _summarise(line: str, kind: _Kind) -> None:
        dropped, kind.dropped = kind.dropped, 0
        if dropped:
            text = "{dropped} more lines like this were not written: {line}"
            log.warn(text, dropped=dropped, line=line)

    def close(self) -> None:
        """Write the counts of what was dropped."""
        for line, kind in self._kinds.items():
            self._summarise(line, kind)


def _clean(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if name == "traceback":
        return escape_control(value, _TRACEBACK_CHARACTERS, keeps_newlines=True)
    return escape_control(value, _FIELD_CHARACTERS)
