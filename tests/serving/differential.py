"""One session played to two servers in memory, and everything that can be seen of each.

A `Script` is the options of a server and the steps of a session: bytes that the peer sends, jobs
that threads run, time that passes, a connection that is lost. `play` returns one `Snapshot` for
each step. Nothing in it depends on a wall clock, a thread or a random number, so that two servers
that do the same have equal snapshots, byte by byte and in the same order.
"""

from __future__ import annotations

import functools
import re
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast
from unittest import mock

from twisted.cred.portal import Portal
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import ILogObserver, formatEvent, globalLogPublisher

from kn_sock import (
    ErrorCode,
    MethodTable,
    RPCError,
    RPCServerFactory,
    Stats,
    current_call,
    in_reactor,
)
from kn_sock import protocol as choosing
from kn_sock._serving.admission import Path
from kn_sock._serving.dispatcher import ORDINARY
from kn_sock._serving.fastpath import FAST
from kn_sock.auth import MethodsRealm, TokenChecker
from kn_sock.testing import ManualExecutor, MemoryNetwork, MemoryTransport

__all__ = ["FAST", "ORDINARY", "Path", "Script", "Snapshot", "differences", "play"]

TOKEN = "t0ken-of-bob"


@contextmanager
def serving_by(path: Path) -> Iterator[None]:
    """Serve every connection that is made meanwhile by this path.

    This is the only place that knows how a connection chooses its path.
    """
    with mock.patch.object(choosing, "FAST", path):
        yield


# --- scripts --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Send:
    """The peer sends bytes.

    Attributes:
        data: the bytes.
        piece: the most bytes that one read delivers; ``None`` for all of them at once.
        peer: the connection.
    """

    data: bytes
    piece: int | None = None
    peer: int = 0


@dataclass(frozen=True)
class RunJobs:
    """Threads run jobs that wait for one.

    Attributes:
        count: how many; ``None`` for all that wait.
        during: what happens while the first function named ``slow`` runs. A job that runs then ends
            before the one that was begun first.
        delivers: whether the results reach the reactor before the next step.
    """

    count: int | None = None
    during: tuple[Step, ...] = ()
    delivers: bool = True


@dataclass(frozen=True)
class Fire:
    """A Deferred that a function returned, or a coroutine awaits, has its result.

    Attributes:
        index: its place among those that have none, counted on from the beginning after the last.
        value: its result, or the exception that it fails with.
    """

    index: int = 0
    value: Any = None


@dataclass(frozen=True)
class Pass:
    """Time passes."""

    seconds: float


@dataclass(frozen=True)
class StopTaking:
    """The peer takes nothing of what is written to it; the transport says so if *tells*."""

    peer: int = 0
    tells: bool = True


@dataclass(frozen=True)
class TakeAgain:
    """The peer takes what is written to it."""

    peer: int = 0


@dataclass(frozen=True)
class Drain:
    """The server stops."""


@dataclass(frozen=True)
class EndSending:
    """The peer shuts down its writing side."""

    peer: int = 0


@dataclass(frozen=True)
class Lose:
    """The connection is lost."""

    peer: int = 0


Step: TypeAlias = Send | RunJobs | Fire | Pass | StopTaking | TakeAgain | Drain | EndSending | Lose


@dataclass(frozen=True)
class Script:
    """A server, and a session with it.

    Attributes:
        steps: what happens.
        options: the options of the server.
        threads: whether functions run in threads, by the steps `RunJobs`.
        is_observed: whether the server has metrics and an access log.
        wants_login: whether callers have to log in, by the token `TOKEN`.
        peers: how many connections there are.
        funcs: the functions that are served; by default those of `functions`.
    """

    steps: tuple[Step, ...]
    options: dict[str, Any] = field(default_factory=dict)
    threads: bool = True
    is_observed: bool = True
    wants_login: bool = False
    peers: int = 1
    funcs: Any = None


# --- what is seen ---------------------------------------------------------------------------------


@dataclass
class Snapshot:
    """What one step did, and what there was after it.

    Attributes:
        step: the step, or "the end".
        received: the bytes that each peer received meanwhile.
        unread: the bytes that were written to each peer and that it has not taken.
        log: the lines of the log, each with its level.
        access: the records of the access log.
        runs: what was run: functions with their arguments and their results, and what they saw.
        metrics: the metrics.
        state: whether each connection is read from, and whether it has ended; the jobs that wait;
            whether the reactor was asked to stop; whether a call is served where none is.
        timers: the times of the reactor's delayed calls.
    """

    step: Any
    received: list[bytes]
    unread: list[bytes]
    log: list[str]
    access: list[dict[str, Any]]
    runs: list[Any]
    metrics: dict[str, Any] | None
    state: dict[str, Any]
    timers: list[float]


# The reference of an error that is kept from its caller is a random number.
_REFERENCE = re.compile(r'(reference"?:? ?"?)[0-9a-f]{12}')

# The log names the line in which a function's exception was raised. For a builtin, which has no
# lines, that is the line of kn_sock which called it. This is the one difference that is allowed.
_OWN_LINE = re.compile(r'(?:File ")?[^\s("]*/kn_sock/\w[\w/]*\.py(?:", line |:)\d+,? in \w+')
_OWN_SOURCE = re.compile(r"(\(kn_sock\)\n)    .*\n(?: +[~^]+\n)?")


def _normal(text: str) -> str:
    text = re.sub(r"\d+ bytes out", "some bytes out", _REFERENCE.sub(r"\1(reference)", text))
    if "/kn_sock/" not in text:
        return text
    return _OWN_SOURCE.sub(r"\1", _OWN_LINE.sub("(kn_sock)", text))


def _normal_bytes(data: bytes) -> bytes:
    if b"reference" not in data and b"/kn_sock/" not in data:
        return data
    return _normal(data.decode().replace("\\n", "\n").replace('\\"', '"')).encode()


class Peer(Protocol):
    """The peer of one connection."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.end: str | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Any = None) -> None:
        self.end = type(reason.value).__name__


# --- the world ------------------------------------------------------------------------------------


class World:
    """A server, its peers, and what they do."""

    def __init__(self, script: Script) -> None:
        self.runs: list[Any] = []
        self._log: list[str] = []
        self._access: list[dict[str, Any]] = []
        self._during: tuple[Step, ...] = ()
        self._unfired: list[Deferred[Any]] = []
        self.executor = ManualExecutor() if script.threads else None
        self.stats = Stats() if script.is_observed else None
        self.network = MemoryNetwork()
        self.factory = self._factory(script)
        self.network.listen(self.factory)
        self.peers: list[Peer] = []
        for _ in range(script.peers):
            self.network.connect(Factory.forProtocol(Peer)).addCallback(self.peers.append)

    def _factory(self, script: Script) -> RPCServerFactory:
        options = dict(script.options)
        if self.executor is not None:
            options["executor"] = self.executor
        else:
            options["threads"] = 0
        if script.is_observed:
            options |= {"stats": self.stats, "access_log": self._take_record}
        if script.wants_login:
            options["portal"] = Portal(MethodsRealm(), [TokenChecker({TOKEN: "bob"})])
        funcs = functions() if script.funcs is None else script.funcs
        return RPCServerFactory(funcs, reactor=self.network.reactor, **options)

    def _take_record(self, record: dict[str, Any]) -> None:
        self._access.append(dict(record))

    def take_event(self, event: Any) -> None:
        """Observe the log."""
        if event["log_namespace"].startswith("kn_sock"):
            self._log.append(_normal(f"{event['log_level'].name}: {formatEvent(event)}"))

    @property
    def _wires(self) -> list[MemoryTransport]:
        """The ends of the peers."""
        return self.network.wires

    # --- what functions do ------------------------------------------------------------------------

    def unfired(self, canceller: Callable[[Any], None] | None = None) -> Deferred[Any]:
        """Return a Deferred that a later step fires."""
        deferred: Deferred[Any] = Deferred(canceller)
        self._unfired.append(deferred)
        return deferred

    def happen(self) -> None:
        """Play what happens while a thread runs a function."""
        during, self._during = self._during, ()
        for step in during:
            # The thread's own context is not the reactor's.
            Context().run(self.play, step)

    # --- steps ------------------------------------------------------------------------------------

    def play(self, step: Step) -> None:
        """Play one step."""
        if isinstance(step, Send):
            wire = self._wires[step.peer]
            wire.chunk_bytes = step.piece
            wire.write(step.data)
        elif isinstance(step, RunJobs):
            self._run_jobs(step)
            if not step.delivers:
                return
        elif isinstance(step, Fire):
            self._fire(step)
        elif isinstance(step, Pass):
            self.network.reactor.advance(step.seconds)
        else:
            self._play_rare(step)
        self.network.pump()

    def _play_rare(self, step: Step) -> None:
        if isinstance(step, Drain):
            self.factory.drain()
        elif isinstance(step, (StopTaking, TakeAgain, EndSending, Lose)):
            wire = self._wires[step.peer]
            if isinstance(step, EndSending):
                wire.loseWriteConnection()
            elif isinstance(step, Lose):
                wire.lose(ConnectionError("the wire was cut"))
            else:
                self._set_taking(wire, step)

    def _set_taking(self, wire: MemoryTransport, step: StopTaking | TakeAgain) -> None:
        wire.is_paused = isinstance(step, StopTaking)
        if self.peers[step.peer].end is not None:
            return
        if isinstance(step, TakeAgain):
            wire.peer.protocol.resumeProducing()
        elif step.tells:
            wire.peer.protocol.pauseProducing()

    def _run_jobs(self, step: RunJobs) -> None:
        if self.executor is None:
            return
        self._during = step.during
        for _ in range(len(self.executor) if step.count is None else step.count):
            # One by one: a job may have others run meanwhile. Each thread has its own context.
            if len(self.executor):
                Context().run(self.executor.run, 1)
        self._during = ()

    def _fire(self, step: Fire) -> None:
        waiting = [each for each in self._unfired if not each.called]
        self._unfired = waiting
        if waiting:
            deferred = waiting.pop(step.index % len(waiting))
            if isinstance(step.value, BaseException):
                deferred.errback(type(step.value)(*step.value.args))
            else:
                deferred.callback(step.value)

    # --- seeing -----------------------------------------------------------------------------------

    def snapshot(self, step: Any) -> Snapshot:
        """Return what was seen since the last one."""
        received = [_normal_bytes(bytes(peer.received)) for peer in self.peers]
        for peer in self.peers:
            peer.received.clear()
        seen = Snapshot(
            step,
            received,
            [_normal_bytes(wire.peer.written) for wire in self._wires],
            self._log[:],
            self._access[:],
            self.runs[:],
            None if self.stats is None else {**self.stats.as_dict(), "sent_bytes": None},
            {
                "reading": [not wire.peer.is_paused for wire in self._wires],
                "ended": [peer.end for peer in self.peers],
                "jobs": 0 if self.executor is None else len(self.executor),
                "stopped": self.network.reactor.is_stopped,
                "current": current_name(),
            },
            sorted(call.getTime() for call in self.network.reactor.getDelayedCalls()),
        )
        for seen_before in (self._log, self._access, self.runs):
            seen_before.clear()
        return seen

    def end(self) -> None:
        """Lose every connection, and run what is left."""
        for wire in self._wires:
            wire.lose(ConnectionError("the session is over"))
        self.network.pump()
        while self.executor is not None and len(self.executor):
            self.play(RunJobs())
        for deferred in self._unfired:
            if not deferred.called:
                deferred.callback(None)
        self.play(Pass(1000.0))


# The functions are registered once: that takes longer than most scripts.
_worlds: list[World] = []


def playing() -> World:
    """Return the world that is played in."""
    return _worlds[-1]


def play(script: Script, path: Path) -> list[Snapshot]:
    """Play a script to a server whose calls are served by this path."""
    return Context().run(_play, script, path)


def _play(script: Script, path: Path) -> list[Snapshot]:
    with serving_by(path):
        world = World(script)
    _worlds.append(world)
    observer = cast(ILogObserver, world.take_event)
    globalLogPublisher.addObserver(observer)
    try:
        seen = [world.snapshot("the beginning")]
        for step in script.steps:
            world.play(step)
            seen.append(world.snapshot(step))
        world.end()
        seen.append(world.snapshot("the end"))
    finally:
        globalLogPublisher.removeObserver(observer)
        _worlds.remove(world)
    return seen


def differences(script: Script, fast: Path = FAST) -> list[str]:
    """Return what differs, at the first step at which anything does, between the two paths."""
    for one, other in zip(play(script, fast), play(script, ORDINARY), strict=True):
        if repr(one) != repr(other):
            return [
                f"after {one.step!r}, {name}:\n  fast     {left!r}\n  ordinary {right!r}"
                for name, left in vars(one).items()
                # 1 and True and 1.0 are equal, and not the same.
                if repr(left) != repr(right := getattr(other, name))
            ]
    return []


# --- functions ------------------------------------------------------------------------------------


def current_name() -> str | None:
    """Return which method's call is served here, if any is."""
    try:
        return current_call().method
    except LookupError:
        return None


class Text(str):
    """A string that is not quite a plain one."""


class Bad(RPCError):
    """An error that cannot say what it is."""

    def __str__(self) -> str:
        raise ZeroDivisionError


def _nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


PLAIN_RESULTS: dict[str, Any] = {
    "number": 7,
    "float": 1.5,
    "text": "żółw\n",
    "null": None,
    "list": [1, [2, {"a": None}]],
    "least": -(2**63),
    "below": -(2**63) - 1,
    "most": 2**64 - 1,
    "past": 2**64,
    "huge": 10**5000,
    "nan": float("nan"),
    "infinite": [float("inf")],
    "string1k": "x" * 1000,
    "string5k": "x" * 5000,
    "string70k": "x" * 70_000,
    "escapes": "\x01" * 1000,
    "words": ["é" * 400] * 3,
    "bytes": b"ab",
    "set": {1},
    "object": print,
    "tuple": (1, 2),
    "keys": {1: 2},
    "Text": Text("subclass"),
    "surrogate": "\ud800",
    "deep": _nested(3000),
}


@functools.cache
def functions() -> MethodTable:
    """Return the functions that are served: each twice, with ``now.`` before the one in reactor."""
    made = {**_plain_functions(), **_raising_functions(), **_waiting_functions()}
    again = {**made, **_connection_functions()}
    funcs: dict[str, Any] = {name: _noted(name, each) for name, each in made.items()}
    for name, each in again.items():
        funcs[f"now.{name}"] = in_reactor(_noted(f"now.{name}", each))
    # A builtin has no frame of its own, and one of them no signature.
    funcs |= {"len": len, "now.len": in_reactor(functools.partial(len)), "getattr": getattr}
    return MethodTable(funcs)


def _noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Note each run of a function, and in which call it was."""
    if not isinstance(function, types.FunctionType):
        return function

    @functools.wraps(function)
    def noting(*args: Any, **kwargs: Any) -> Any:
        playing().runs.append((name, args, kwargs, current_name()))
        try:
            return function(*args, **kwargs)
        finally:
            playing().runs.append((name, "ended", current_name()))

    return noting


def _plain_functions() -> dict[str, Any]:
    def echo(value: Any) -> Any:
        return value

    def add(a: int, b: int) -> int:
        return a + b

    def some(a: Any, b: float = 2, *, c: Any = 3) -> Any:
        return [a, b, c]

    def rest(*values: Any) -> Any:
        return len(values)

    def named(*, a: Any) -> Any:
        return a

    def words(text: str, **more: Any) -> Any:
        return [text, sorted(more)]

    def result(name: str) -> Any:
        return PLAIN_RESULTS[name]

    return {f.__name__: f for f in (echo, add, some, rest, named, words, result)}


def _raising_functions() -> dict[str, Any]:
    def raises(text: Any = "no luck") -> None:
        raise ValueError(text)

    def refuses(code: Any = 5, text: Any = "no", data: Any = None) -> None:
        raise RPCError(code, text, data)

    def badly() -> None:
        raise Bad(ErrorCode.INTERNAL_ERROR, "never seen", {1, 2})

    def unsayable() -> None:
        raise RPCError(5, "data that JSON has no form for", print)

    def gives_up() -> None:
        raise CancelledError

    def loop() -> None:
        raise RuntimeError("no running event loop")

    def leaves() -> None:
        raise SystemExit(3)

    def interrupts() -> None:
        raise KeyboardInterrupt

    each = (raises, refuses, badly, unsayable, gives_up, loop, leaves, interrupts)
    return {f.__name__: f for f in each}


def _waiting_functions() -> dict[str, Any]:
    def later() -> Any:
        return playing().unfired()

    def stubborn() -> Any:
        def canceller(_: Any) -> None:
            raise ZeroDivisionError("not cancelled")

        return playing().unfired(canceller)

    def deaf() -> Any:
        # Cancelled, it has a result all the same.
        return playing().unfired(lambda deferred: deferred.callback("late"))

    def at_once(value: Any = 1) -> Any:
        return succeed(value)

    def fails_at_once() -> Any:
        return fail(ValueError("at once"))

    async def steps() -> Any:
        playing().runs.append(("awaiting", current_name()))
        found = await playing().unfired()
        playing().runs.append(("awaited", current_name()))
        return found

    async def sums(*values: Any) -> Any:
        return sum(values)

    def coroutine() -> Any:
        return steps()

    def slow(value: Any = None) -> Any:
        call = current_call()
        playing().happen()
        playing().runs.append(("slow", call.cancelled, call.deadline is None, current_name()))
        return value

    return {
        **{f.__name__: f for f in (later, stubborn, deaf, at_once, fails_at_once)},
        **{f.__name__: f for f in (steps, coroutine, sums, slow, who)},
    }


def who() -> Any:
    call = current_call()
    told = (call.method, call.is_notification, call.deadline, call.remaining, call.identity)
    return [*told, call.traceparent, call.peer_text, call.cancelled]


def _connection_functions() -> dict[str, Any]:
    """Return functions that use the connection, which is for the reactor's thread."""

    def notifies(text: Any = "hello") -> Any:
        current_call().connection.notify("news", text)

    def asks_back(*values: Any) -> Any:
        return current_call().connection.call("peer.add", *values)

    def closes() -> Any:
        current_call().connection.close()
        return "closed"

    def aborts() -> Any:
        current_call()._protocol.abort()
        return "aborted"

    return {f.__name__: f for f in (notifies, asks_back, closes, aborts)}
