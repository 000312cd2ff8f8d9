"""The options of a server, declared once: for the factory, for scripts and for twistd."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Final, Literal, TypeAlias, TypeVar, get_args

T = TypeVar("T")

Framing: TypeAlias = Literal["lines", "documents"]
FRAMINGS: Final[tuple[Framing, ...]] = get_args(Framing)
Unversioned: TypeAlias = Literal["1.0", "2.0"]
Cancellation: TypeAlias = Literal["lsp", "mcp", "none"]

# What a connection starts with at either end.
MAX_LINE_BYTES = 4 * 1024 * 1024
MAX_PENDING = 1000
MAX_BATCH = 1000
DRAIN_TIMEOUT = 10.0
SEND_TIMEOUT = 60.0

# Below this an ordinary error reply would not fit.
_LEAST_LINE_BYTES = 1024


def default_threads() -> int:
    """Count the threads that a pool has at most when nothing else is said."""
    return min(32, (os.cpu_count() or 1) + 4)


def check_count(name: str, value: object, *, least: int) -> None:
    """Raise unless *value* is a whole number of at least *least*."""
    if type(value) is not int:
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise unless *value* is one of these."""
    known = list(choices)
    if value not in known:
        raise ValueError(f"{name} must be {', '.join(known[:-1])} or {known[-1]}, not {value!r}")


def check_flag(name: str, value: object) -> None:
    """Raise unless *value* is true or false."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")


def check_functions(name: str, value: object) -> None:
    """Raise unless *value* is a list of what can be called."""
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{name} must be a list of functions, not {value!r:.60}")
    for each in value:
        if not callable(each):
            raise TypeError(f"{name} must be functions, and {each!r:.60} cannot be called")


def check_executor(value: object) -> None:
    """Raise unless *value* runs work in threads of this process, or is ``None``."""
    kinds = {kind.__name__ for kind in type(value).__mro__}
    is_one = callable(getattr(value, "submit", None)) and not isinstance(value, type)
    # A result of another process cannot be handed back to the call, and nothing would report it.
    if value is not None and (not is_one or "ProcessPoolExecutor" in kinds):
        raise TypeError(f"executor must be an Executor that has threads, not {value!r:.60}")


def check_seconds(name: str, value: object) -> None:
    """Raise unless *value* is a number of seconds, not negative, or ``None`` for no limit."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, or None for no limit, not {value!r}")
    # The comparison is written so that NaN fails it.
    if not value >= 0:
        raise ValueError(f"{name} must not be negative, not {value!r}")
    try:
        float(value)
    except OverflowError:
        # No clock can add it up: a call that had it would not even begin.
        raise ValueError(f"{name} is too large; None is for no limit") from None


#: How "no limit" is written on a command line.
NO_LIMIT = "none"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Declaration:
    """What is declared of an option, beside its name, type and default.

    Attributes:
        check: raises unless a value may be used; takes the name and the value.
        help: what the option does, in one line; shown by twistd and in the table of options.
        read: makes a value of the text on a command line; ``None`` for an option without a text
            form.
        flag: the name of its flag, if it is not the option's own; ``None`` if there is no flag.
        unit: what a number counts, such as ``"bytes"``.
        values: which values are possible, as text.
        default: the default as text, if it depends on the machine.
    """

    check: Callable[[str, Any], None]
    help: str
    read: Callable[[str], Any] | None = None
    flag: str | None = None
    unit: str = ""
    values: str = ""
    default: str = ""


def _declare(default: Any, declaration: Declaration) -> Any:
    metadata = {"declaration": declaration}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def _count(default: Any, help_text: str, *, least: int, unit: str, default_text: str = "") -> Any:
    """Declare a whole number; ``None`` is for no limit if it is the default."""
    may_be_none = default is None

    def check(name: str, value: object) -> None:
        if value is not None or not may_be_none:
            check_count(name, value, least=least)

    def read(text: str) -> int | None:
        if may_be_none and text == NO_LIMIT:
            return None
        try:
            return int(text)
        except ValueError:
            raise ValueError(f"must be a whole number{_OR_NONE * may_be_none}") from None

    values = f"at least {least:,}"
    return _declare(
        default,
        Declaration(
            check=check, help=help_text, read=read, unit=unit, values=values, default=default_text
        ),
    )


_OR_NONE: Final = f", or {NO_LIMIT} for no limit"


def _seconds(default: float | None, help_text: str) -> Any:
    def read(text: str) -> float | None:
        try:
            return None if text == NO_LIMIT else float(text)
        except ValueError:
            raise ValueError(f"must be a number of seconds{_OR_NONE}") from None

    return _declare(
        default,
        Declaration(
            check=check_seconds, help=help_text, read=read, unit="seconds", values="at least 0"
        ),
    )


def _switch(default: bool, help_text: str) -> Any:
    def read(text: str) -> bool:
        if text not in ("yes", "no"):
            raise ValueError("must be yes or no")
        return text == "yes"

    return _declare(default, Declaration(check=check_flag, help=help_text, read=read))


def _choice(default: str, choices: Sequence[str], help_text: str) -> Any:
    def check(name: str, value: object) -> None:
        check_choice(name, value, choices)

    values = ", ".join(choices)
    return _declare(default, Declaration(check=check, help=help_text, read=str, values=values))


def _object(
    default: Any,
    help_text: str,
    *,
    flag: str | None = None,
    check: Callable[[str, Any], None] = lambda name, value: None,
) -> Any:
    """Declare an option without a text form."""
    return _declare(default, Declaration(check=check, help=help_text, flag=flag))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """How a server treats its connections.

    Attributes:
        max_line_bytes: the longest line, in bytes, in either direction. A longer request is
            answered with -32007, a longer reply becomes the error -32008; the connection lives.
        max_pending: calls of one connection that may be in flight at once. As many again are read
            and wait, so that a cancellation or an EOF behind them is read; past those, reading
            pauses until a call ends.
        max_batch: members that a batch may have; a larger one is answered with -32010.
        max_connections: connections that a server has at once; one more is answered with -32009 and
            closed. ``None`` for no limit.
        threads: threads that run the functions which may block; 0 runs every function on the
            reactor.
        call_timeout: seconds that a call may take, from when it was read; then it is cancelled, and
            answered with -32001. ``None`` for no limit but the caller's own.
        idle_timeout: seconds without a message, and without a call in flight in either direction,
            after which a connection is closed. ``None`` for no limit.
        send_timeout: seconds in which a peer must accept some of the data that waits for it; it is
            disconnected otherwise. ``None`` for no limit.
        drain_timeout: seconds that calls in flight may still take when the server stops; ``None``
            for no limit.
        login_timeout: seconds that a connection has to log in, if logins are required, before it is
            closed; ``None`` for no limit.
        expose_errors: whether the text of an exception that a function raised goes to the caller.
            Otherwise the caller gets "internal error" and a reference, which is in the log too.
        share_tracebacks: whether the traceback goes to the caller too.
        strict_annotations: whether an annotation that cannot be checked is an error. Otherwise the
            log has a warning, and any value passes.
        forbid_unknown_fields: whether an object with a field that its dataclass does not have is
            refused. Otherwise the field is ignored.
        framing: how messages of the peer end. ``"lines"``: with a newline. ``"documents"``: with
            the JSON document, for peers that send no newline, or several in a message; slower to
            read. What is sent always ends with a newline.
        unversioned: the dialect of requests with an ``id`` and without ``jsonrpc``: ``"1.0"``,
            or ``"2.0"``, for clients that leave out only the version.
        cancellation: how a call is cancelled, at either end. ``"lsp"``: ``$/cancelRequest``, with
            the ``id``. ``"mcp"``: ``notifications/cancelled``, with the ``requestId``. ``"none"``:
            not at all, for peers that do not accept it.
        executor: runs the functions instead of a pool of our own; any thread-based
            `concurrent.futures.Executor`. The caller shuts it down.
        serve_interceptors: functions around each call that this end serves, the first one
            outermost; see :doc:`observability`. A server's older name for them is
            ``interceptors``, a client's ``callback_interceptors``.
        call_interceptors: the same around each call that this end makes. A server's older name for
            them is ``callback_interceptors``, a client's ``interceptors``.
        access_log: the destination of a line of JSON for each call: a path, ``"-"`` for standard
            output, or a function that takes the line's fields.
        metrics: a ``prometheus_client`` registry in which the metrics can be read.
        stats: whether callers may read the metrics, by the method ``rpc.stats``. A `Stats` instead
            of ``True`` is where they are counted; servers may share one.
    """

    max_line_bytes: int = _count(
        MAX_LINE_BYTES,
        "the longest line in either direction, in bytes",
        least=_LEAST_LINE_BYTES,
        unit="bytes",
    )
    max_pending: int = _count(
        MAX_PENDING, "the most calls in flight per connection", least=1, unit="calls"
    )
    max_batch: int = _count(MAX_BATCH, "the most members of a batch", least=1, unit="members")
    max_connections: int | None = _count(
        None, "the most connections at once; none for no limit", least=1, unit="connections"
    )
    threads: int = _count(
        default_threads,
        "threads for functions that may block; 0 runs all on the reactor",
        least=0,
        unit="threads",
        default_text="processors + 4, at most 32",
    )
    call_timeout: float | None = _seconds(
        None, "cancel a call after this many seconds; none for no limit"
    )
    idle_timeout: float | None = _seconds(
        None, "close a connection after this many seconds without a message; none for no limit"
    )
    send_timeout: float | None = _seconds(
        SEND_TIMEOUT,
        "disconnect a peer that accepts no data for this many seconds; none for no limit",
    )
    drain_timeout: float | None = _seconds(
        DRAIN_TIMEOUT,
        "seconds for calls in flight to finish when the server stops; none for no limit",
    )
    login_timeout: float | None = _seconds(
        60.0, "seconds for a connection to log in, if logins are required; none for no limit"
    )
    expose_errors: bool = _switch(True, "send the text of an exception to the caller")
    share_tracebacks: bool = _switch(False, "send the traceback of an exception to the caller")
    strict_annotations: bool = _switch(
        False, "refuse to start if an annotation of a parameter cannot be checked"
    )
    forbid_unknown_fields: bool = _switch(
        True, "refuse objects with fields that the dataclass of a parameter does not have"
    )
    framing: Framing = _choice(
        "lines", FRAMINGS, "how messages of the peer end: lines or documents"
    )
    unversioned: Unversioned = _choice(
        "1.0",
        get_args(Unversioned),
        "dialect of requests with an id and without jsonrpc: 1.0 or 2.0",
    )
    cancellation: Cancellation = _choice(
        "lsp", get_args(Cancellation), "how calls are cancelled: lsp, mcp or none"
    )
    executor: Executor | None = _object(
        None,
        "a thread pool that runs the functions, instead of threads; its owner shuts it down",
        check=lambda _, value: check_executor(value),
    )
    serve_interceptors: Sequence[Any] = _object(
        (),
        "functions around each call that is served, the first one outermost",
        flag="interceptor",
        check=check_functions,
    )
    call_interceptors: Sequence[Any] = _object(
        (), "functions around each call that this end makes", check=check_functions
    )
    access_log: Any = _object(
        None, "file that gets a line of JSON for each call; - for stdout", flag="access-log"
    )
    metrics: Any = _object(
        None,
        "serve metrics for Prometheus over HTTP: a port, HOST:PORT or a server endpoint; "
        "in Python, a registry",
        flag="metrics",
    )
    stats: Any = _object(
        False, "serve the metrics to callers, by the method rpc.stats", flag="stats"
    )

    def __post_init__(self) -> None:
        for name, declaration in declarations(type(self)).items():
            declaration.check(name, getattr(self, name))


def declarations(kind: type[Any]) -> dict[str, Declaration]:
    """Return what is declared of the options of a class, by name.

    Raises:
        TypeError: an option is not declared: no command line would have it, and nothing would
            check it.
    """
    found = {}
    for field in dataclasses.fields(kind):
        if "declaration" not in field.metadata:
            raise TypeError(f"{kind.__name__}.{field.name} is not declared as an option")
        found[field.name] = field.metadata["declaration"]
    return found


#: The older names of options, at either end.
SERVER_ALIASES: Final = {
    "interceptors": "serve_interceptors",
    "callback_interceptors": "call_interceptors",
}
CLIENT_ALIASES: Final = {
    "interceptors": "call_interceptors",
    "callback_interceptors": "serve_interceptors",
}


def without_aliases(given: Mapping[str, Any], aliases: Mapping[str, str]) -> dict[str, Any]:
    """Return options by their present names.

    Raises:
        TypeError: an option is given by both of its names.
    """
    found = dict(given)
    for alias, name in aliases.items():
        if alias in found:
            if name in found:
                raise TypeError(f"{alias} is an older name of {name}; give one of them")
            found[name] = found.pop(alias)
    return found


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
