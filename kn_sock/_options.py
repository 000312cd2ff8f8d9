"""The options of a server: one list, from which the factory, the script and twistd all read."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from typing import Any, TypeVar

T = TypeVar("T")

# What a connection starts with at either end.
MAX_LINE_BYTES = 4 * 1024 * 1024
MAX_PENDING = 1000
MAX_BATCH = 1000
DRAIN_TIMEOUT = 10.0

# Below this an ordinary error reply would not fit.
_LEAST_LINE_BYTES = 1024


def default_threads() -> int:
    """Count the threads that a pool has at most when nothing else is said."""
    return min(32, (os.cpu_count() or 1) + 4)


def _option(default: Any, help_text: str) -> Any:
    metadata = {"help": help_text}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """How a server treats its connections.

    Attributes:
        max_line_bytes: the longest line, in bytes, in either direction. A longer request is
            answered with -32007, a longer reply becomes the error -32008; the connection goes on.
        max_pending: calls of one connection that may be under way at once. As many again are read
            and wait, so that a cancellation or the peer's goodbye behind them is heard; past those,
            no more is read from that connection until a call ends.
        max_batch: members that a batch may have; a larger one is answered with -32010.
        threads: threads that run the functions which may block; 0 runs every function on the
            reactor.
        drain_timeout: seconds that calls under way may still take when the server stops; ``None``
            for no limit.
        login_timeout: where callers have to log in, seconds that a connection has for it, before it
            is closed; ``None`` for no limit.
        expose_errors: whether the text of an exception that a function raised goes to the caller.
            Without it the caller gets "internal error" and a reference, which the log has too.
        share_tracebacks: whether the traceback goes to the caller too.
        executor: runs the functions instead of a pool of our own; any thread-based
            `concurrent.futures.Executor`. The caller shuts it down.
    """

    max_line_bytes: int = _option(MAX_LINE_BYTES, "longest line, in bytes, in either direction")
    max_pending: int = _option(MAX_PENDING, "calls of one connection under way at once")
    max_batch: int = _option(MAX_BATCH, "members that a batch may have")
    threads: int = _option(default_threads, "threads for functions that may block; 0 for none")
    drain_timeout: float | None = _option(
        DRAIN_TIMEOUT, "seconds for calls under way when stopping"
    )
    login_timeout: float | None = _option(60.0, "seconds to log in, where that is asked for")
    expose_errors: bool = _option(True, "send the text of an exception to the caller")
    share_tracebacks: bool = _option(False, "send the traceback of an exception to the caller")
    executor: Executor | None = None

    def __post_init__(self) -> None:
        check_count("max_line_bytes", self.max_line_bytes, least=_LEAST_LINE_BYTES)
        check_count("max_pending", self.max_pending, least=1)
        check_count("max_batch", self.max_batch, least=1)
        check_count("threads", self.threads, least=0)
        check_seconds("drain_timeout", self.drain_timeout)
        check_seconds("login_timeout", self.login_timeout)


def options_from(kind: type[T], given: Mapping[str, Any], *, others: Iterable[str] = ()) -> T:
    """Make options of the keywords that a caller gave.

    Raises:
        TypeError: there is no such option; the text lists those that there are, and *others*.
    """
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]  # a dataclass
    for name in given:
        if name not in names:
            known = ", ".join(sorted((*names, *others)))
            raise TypeError(f"there is no option {name}; there are {known}")
    return kind(**given)


def check_count(name: str, value: object, *, least: int) -> None:
    """Raise unless *value* is a whole number of at least *least*."""
    if type(value) is not int:
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")


def check_flag(name: str, value: object) -> None:
    """Raise unless *value* is true or false."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")


def check_seconds(name: str, value: object) -> None:
    """Raise unless *value* is a number of seconds, not negative, or ``None`` for no limit."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, or None for no limit, not {value!r}")
    # The comparison is written so that NaN fails it.
    if not value >= 0:
        raise ValueError(f"{name} must not be negative, and not {value!r}")
