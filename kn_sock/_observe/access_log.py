"""The access log: one line of JSON per call. Its file may be moved away at any time."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import IO, Any, cast

from twisted.logger import Logger, jsonFileLogObserver
from twisted.python.logfile import BaseLogFile
from typing_extensions import override

log = Logger()


class FollowedFile(BaseLogFile):
    """A file that is made anew when the one of that name was moved away, as logrotate does."""

    @override
    def shouldRotate(self) -> bool:
        """Whether another file, or none, has the name now."""
        ours = os.fstat(self._file.fileno())
        try:
            named = os.stat(self.path)
        except FileNotFoundError:
            return True
        return not os.path.samestat(ours, named)

    def rotate(self) -> None:
        """Go on in the file that has the name now."""
        self.reopen()

    @override
    def write(self, data: Any) -> None:
        if self.closed:
            self._openFile()
        super().write(data)

    def __del__(self) -> None:
        # Nobody writes to it any more. One that could not be opened has none.
        if not self.closed and hasattr(self, "_file"):
            self.close()


class AccessLog:
    """Tells an observer of each call.

    Args:
        observer: called with the fields of one call, on the reactor's thread.
        close: closes the file, if there is one; another call opens it again.
    """

    def __init__(
        self,
        observer: Callable[[dict[str, Any]], object],
        close: Callable[[], object] = lambda: None,
    ) -> None:
        self._observer = observer
        self.close = close
        self._is_failing = False

    def __call__(self, event: dict[str, Any]) -> None:
        """Write one line. Never raises: a full disk is the log's trouble, not the caller's."""
        try:
            self._observer(event)
        except Exception:
            if not self._is_failing:
                log.failure("the access log cannot be written; this is said once")
            self._is_failing = True
        else:
            self._is_failing = False


def open_access_log(target: Any) -> AccessLog | None:
    """Make an access log of the option: a path, ``"-"``, an observer, or ``None`` for none.

    Raises:
        OSError: the file cannot be opened.
        TypeError: it is none of these.
    """
    if target is None or isinstance(target, AccessLog):
        return target
    if target == "-":
        return AccessLog(jsonFileLogObserver(sys.stdout, ""))
    if isinstance(target, (str, os.PathLike)):
        file = FollowedFile.fromFullPath(os.fspath(target))
        return AccessLog(
            jsonFileLogObserver(cast("IO[Any]", file), ""),
            lambda: None if file.closed else file.close(),
        )
    if callable(target):
        return AccessLog(target)
    raise TypeError(f"access_log is a path, '-' or a log observer, not {target!r:.60}")
