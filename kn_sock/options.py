"""The options of a server, declared once: for the factory, for scripts and for twistd."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Final, Literal, TypeAlias, TypeVar, get_args

from kn_sock._declarations import (
    check_executor,
    check_functions,
    choice_option,
    count_option,
    declarations,
    object_option,
    seconds_option,
    switch_option,
)

T = TypeVar("T")

Framing: TypeAlias = Literal["lines", "documents"]
FRAMINGS: Final[tuple[Framing, ...]] = get_args(Framing)
Unversioned: TypeAlias = Literal["1.0", "2.0"]
Cancellation: TypeAlias = Literal["lsp", "mcp", "none"]

# What a connection starts with at either end.
MAX_LINE_BYTES = 4 * 1024 * 1024
MAX_PENDING = 1000
MAX_BATCH = 1000
MAX_CONTAINERS = 150_000
MAX_BUFFERED_BYTES = 64 * 1024 * 1024
MAX_TOTAL_BUFFERED_BYTES = 512 * 1024 * 1024
DRAIN_TIMEOUT = 10.0
LOGIN_RATE = 120
SEND_TIMEOUT = 60.0
KEEPALIVE = 60.0

# Below this an ordinary error reply would not fit.
_LEAST_LINE_BYTES = 1024


def default_threads() -> int:
    """Count the threads that a pool has at most when nothing else is said."""
    return min(32, (os.cpu_count() or 1) + 4)


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
        max_containers: arrays, objects and members of objects that a line to a server may have, and
            four times as many other values; a line with more is answered with -32007. They are what
            takes long to decode.
        max_buffered_bytes: bytes that the calls of one connection may take: requests that wait, the
            arguments of calls in flight, and results that wait to be sent. While they take as much,
            no call begins, and reading pauses.
        max_total_buffered_bytes: the same for all connections of a server together.
        max_connections: connections that a server has at once; one more is answered with -32009 and
            closed. ``None`` for no limit.
        threads: threads that run the functions which may block; 0 runs every function on the
            reactor.
        call_timeout: seconds that a call may take, from when it was read; then it is cancelled, and
            answered with -32001. ``None`` for no limit but the caller's own.
        idle_timeout: seconds without a message, and without a call in flight in either direction,
            after which a connection is closed. ``None`` for no limit.
        ping_interval: seconds of silence after which the peer is asked by ``rpc.ping`` whether it
            is there; it is disconnected if it says nothing for as long again. For peers that speak
            JSON-RPC 2.0 in both directions. ``None`` for never.
        keepalive: seconds of silence after which TCP asks the other end for a sign of life; the
            connection is lost when there is none for as long again. ``None`` for the times of the
            system.
        send_timeout: seconds in which a peer must accept some of the data that waits for it; it is
            disconnected otherwise. ``None`` for no limit.
        drain_timeout: seconds that calls in flight may still take when the server stops; ``None``
            for no limit.
        login_timeout: seconds that a connection has to log in, if logins are required, before it is
            closed; ``None`` for no limit.
        login_rate: logins that one address may try in a minute; one more is refused without being
            checked. Those that succeed do not count. ``None`` for no limit.
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

    max_line_bytes: int = count_option(
        MAX_LINE_BYTES,
        "the longest line in either direction, in bytes",
        least=_LEAST_LINE_BYTES,
        unit="bytes",
    )
    max_pending: int = count_option(
        MAX_PENDING, "the most calls in flight per connection", least=1, unit="calls"
    )
    max_batch: int = count_option(MAX_BATCH, "the most members of a batch", least=1, unit="members")
    max_containers: int = count_option(
        MAX_CONTAINERS,
        "the most arrays, objects and members of objects of a line",
        least=1000,
        unit="containers",
    )
    max_buffered_bytes: int = count_option(
        MAX_BUFFERED_BYTES,
        "the most bytes that the calls of a connection may take, in both directions",
        least=64 * 1024,
        unit="bytes",
    )
    max_total_buffered_bytes: int = count_option(
        MAX_TOTAL_BUFFERED_BYTES,
        "the most bytes that the calls of all connections may take",
        least=64 * 1024,
        unit="bytes",
    )
    max_connections: int | None = count_option(
        None, "the most connections at once; none for no limit", least=1, unit="connections"
    )
    threads: int = count_option(
        default_threads,
        "threads for functions that may block; 0 runs all on the reactor",
        least=0,
        unit="threads",
        default_text="processors + 4, at most 32",
    )
    call_timeout: float | None = seconds_option(
        None, "cancel a call after this many seconds; none for no limit"
    )
    idle_timeout: float | None = seconds_option(
        None, "close a connection after this many seconds without a message; none for no limit"
    )
    ping_interval: float | None = seconds_option(
        None,
        "ask a peer that was silent for this many seconds whether it is there, and disconnect it "
        "after as long again; none for never",
    )
    keepalive: float | None = seconds_option(
        KEEPALIVE,
        "seconds of silence after which TCP asks for a sign of life; none for the system's times",
    )
    send_timeout: float | None = seconds_option(
        SEND_TIMEOUT,
        "disconnect a peer that accepts no data for this many seconds; none for no limit",
    )
    drain_timeout: float | None = seconds_option(
        DRAIN_TIMEOUT,
        "seconds for calls in flight to finish when the server stops; none for no limit",
    )
    login_timeout: float | None = seconds_option(
        60.0, "seconds for a connection to log in, if logins are required; none for no limit"
    )
    login_rate: int | None = count_option(
        LOGIN_RATE,
        "logins that an address may try in a minute, those that succeed not counted; none for no "
        "limit",
        least=1,
        unit="logins in a minute",
        may_be_none=True,
    )
    expose_errors: bool = switch_option(True, "send the text of an exception to the caller")
    share_tracebacks: bool = switch_option(
        False, "send the traceback of an exception to the caller"
    )
    strict_annotations: bool = switch_option(
        False, "refuse to start if an annotation of a parameter cannot be checked"
    )
    forbid_unknown_fields: bool = switch_option(
        True, "refuse objects with fields that the dataclass of a parameter does not have"
    )
    framing: Framing = choice_option(
        "lines", FRAMINGS, "how messages of the peer end: lines or documents"
    )
    unversioned: Unversioned = choice_option(
        "1.0",
        get_args(Unversioned),
        "dialect of requests with an id and without jsonrpc: 1.0 or 2.0",
    )
    cancellation: Cancellation = choice_option(
        "lsp", get_args(Cancellation), "how calls are cancelled: lsp, mcp or none"
    )
    executor: Executor | None = object_option(
        None,
        "a thread pool that runs the functions, instead of threads; its owner shuts it down",
        check=lambda _, value: check_executor(value),
    )
    serve_interceptors: Sequence[Any] = object_option(
        (),
        "functions around each call that is served, the first one outermost",
        flag="interceptor",
        check=check_functions,
    )
    call_interceptors: Sequence[Any] = object_option(
        (), "functions around each call that this end makes", check=check_functions
    )
    access_log: Any = object_option(
        None, "file that gets a line of JSON for each call; - for stdout", flag="access-log"
    )
    metrics: Any = object_option(
        None,
        "serve metrics for Prometheus over HTTP: a port, HOST:PORT or a server endpoint; "
        "in Python, a registry",
        flag="metrics",
    )
    stats: Any = object_option(
        False, "serve the metrics to callers, by the method rpc.stats", flag="stats"
    )

    def __post_init__(self) -> None:
        for name, declaration in declarations(type(self)).items():
            declaration.check(name, getattr(self, name))


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
