"""Whatever a method, its arguments, its result or its exception raises, the call is answered.

Each kind of exception is raised from each place, in each dialect, alone, in a batch, behind a call
that waits, on the reactor and in a thread, beside a second connection that must not notice.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from kn_sock import RPCError, connect, in_reactor
from kn_sock.testing import ManualExecutor, MemoryNetwork
from tests.serving.common import RawClient


class FailingText(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


class ExitingText(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class Odd(BaseException):
    pass


class FailingRPCError(RPCError):
    def __str__(self) -> str:
        raise KeyError("no text")


KINDS: dict[str, Callable[[], BaseException]] = {
    "ValueError": lambda: ValueError("\x1b[2Jno"),
    "an exception whose text fails": FailingText,
    "an exception whose text exits": ExitingText,
    "a BaseException": Odd,
    "GeneratorExit": GeneratorExit,
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "an RPCError whose text fails": lambda: FailingRPCError(1, "x"),
    "an RPCError with data that has no JSON form": lambda: RPCError(1, "x", object()),
}


class Raising:
    """Raises in whatever is done with it."""

    def __init__(self, make: Callable[[], BaseException]) -> None:
        self.make = make

    def __repr__(self) -> str:
        raise self.make()

    __str__ = __repr__

    def __await__(self) -> Iterator[Any]:
        raise self.make()


def methods_that_raise(make: Callable[[], BaseException]) -> dict[str, Any]:
    """Make a method for each place in which an exception may be raised."""

    class Zone(datetime.tzinfo):
        def utcoffset(self, when: Any) -> Any:
            raise make()

        dst = tzname = utcoffset

    @dataclasses.dataclass
    class Refusing:
        x: int = 0

        def __post_init__(self) -> None:
            raise make()

    @dataclasses.dataclass
    class Hiding:
        x: int = 0

        def __getattribute__(self, name: str) -> Any:
            if name == "x":
                raise make()
            return object.__getattribute__(self, name)

    def function() -> None:
        raise make()

    def argument(value: Refusing) -> None:
        """Never run."""

    # A string would not be resolved: the class is local.
    argument.__annotations__["value"] = Refusing

    def default(value: int, other: Any = Raising(make)) -> None:  # noqa: B008
        """Never run: its argument is missing."""

    async def coroutine() -> None:
        raise make()

    def callback() -> Deferred[Any]:
        deferred: Deferred[Any] = Deferred()
        deferred.addCallback(lambda _: function())
        deferred.callback(None)
        return deferred

    return {
        "function": (function, []),
        "argument": (argument, [{}]),
        "default": (default, []),
        "coroutine": (coroutine, []),
        "callback": (in_reactor(callback), []),
        "awaited": (lambda: Raising(make), []),
        "result": (lambda: datetime.datetime(2026, 1, 1, tzinfo=Zone()), []),
        "result in a list": (lambda: [datetime.datetime(2026, 1, 1, tzinfo=Zone())], []),
        "attribute of a result": (lambda: Hiding(), []),
    }


PLACES = list(methods_that_raise(ValueError))


def line_of(dialect: str, key: int, method: str, params: list[Any]) -> dict[str, Any]:
    request: dict[str, Any] = {"method": method, "params": params}
    if dialect == "2.0":
        return {"jsonrpc": "2.0", "id": key, **request}
    return {"id": key, **request} if dialect == "1.0" else {**request, "kwargs": {}}


async def passes(call: Any, proceed: Any) -> Any:
    return await proceed()


SHAPES = [
    *(("2.0", shape) for shape in ("alone", "in a batch", "behind a call that waits")),
    *(("1.0", shape) for shape in ("alone", "behind a call that waits")),
    *(("kn-sock", shape) for shape in ("alone", "behind a call that waits")),
]


@pytest.mark.parametrize("intercepted", [False, True], ids=["plain", "intercepted"])
@pytest.mark.parametrize("threads", [False, True], ids=["reactor", "threads"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_a_call_is_answered_whatever_is_raised_where(
    place: str,
    kind: str,
    threads: bool,
    intercepted: bool,
    network: MemoryNetwork,
    logged_errors: Any,
) -> None:
    function, params = methods_that_raise(KINDS[kind])[place]
    executor = ManualExecutor()
    options: dict[str, Any] = {"executor": executor} if threads else {"threads": 0}
    if intercepted:
        options["serve_interceptors"] = [passes]
    gate: list[Deferred[Any]] = []

    def wait() -> Deferred[Any]:
        gate.append(Deferred())
        return gate[-1]

    client = RawClient(
        network,
        {"raises": function, "wait": in_reactor(wait), "add": lambda a, b: a + b},
        on_exit=lambda _: None,
        **options,
    )
    other: list[Any] = []
    connect(network, reactor=network.reactor)
    other_wire = network.wires[-1]
    other_wire.protocol.dataReceived = lambda data: other.extend(
        json.loads(line) for line in data.splitlines()
    )

    def pump() -> None:
        network.pump()
        while len(executor):
            executor.run()
            network.pump()

    for key, (dialect, shape) in enumerate(SHAPES, 1):
        line: Any = line_of(dialect, key, "raises", params)
        follows = line_of(dialect, 100 + key, "add", [1, 2])
        other_wire.write(json.dumps(line_of("2.0", key, "add", [key, key])).encode() + b"\n")
        waits = [line_of(dialect, 200 + key, "wait", [])] * (shape == "behind a call that waits")
        sent = [[line, follows]] if shape == "in a batch" else [*waits, line, follows]
        client.pair.wire.write(b"".join(json.dumps(one).encode() + b"\n" for one in sent))
        pump()
        while gate:
            gate.pop().callback("waited")
            pump()
        replies = client.take()
        if shape == "in a batch":
            (replies,) = replies
        failed = [one for one in replies if one.get("error") is not None]
        results = [one["result"] for one in replies if one.get("error") is None]
        assert len(failed) == 1, (dialect, shape, replies)
        assert sorted(map(str, results)) == ["3", *["waited"] * len(waits)], (dialect, shape)
        assert [one["result"] for one in other] == [2 * key]
        other.clear()
    logged_errors.claim()
