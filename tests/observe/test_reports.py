"""What the log is told of connections and calls."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import LogLevel

from kn_sock import InternalError, RPCError, current_call, in_reactor
from kn_sock.testing import ManualExecutor, MemoryNetwork, Pair, connected_pair

HERE = os.path.abspath(__file__)


def add(a: int, b: int) -> int:
    return a + b


def fails() -> None:
    raise ValueError("no luck")


def refuses() -> None:
    raise RPCError(4042, "there is none")


FUNCS = {"add": add, "fails": fails, "refuses": refuses}


def called(pair: Pair, method: str, *args: Any) -> None:
    pair.client.call(method, *args).addErrback(lambda _: None)
    pair.pump()


def of_server(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out what the clients' end of the wire says."""
    return [each for each in events if each.get("peer") != "127.0.0.1:8080"]


# --- calls ----------------------------------------------------------------------------------------


def test_a_call_that_succeeds_is_not_logged(network: MemoryNetwork, log_events: Any) -> None:
    pair = connected_pair(FUNCS, network=network)
    called(pair, "add", 1, 2)
    pair.client.notify("add", 1, 2)
    pair.pump()
    assert log_events.take() == []


@pytest.mark.parametrize(
    ("method", "args", "outcome", "code"),
    [
        ("nope", (), "method_not_found", -32601),
        ("add", (1,), "invalid_params", -32602),
        ("refuses", (), "error", 4042),
    ],
)
def test_what_the_caller_did_wrong_is_information(
    network: MemoryNetwork, log_events: Any, method: str, args: Any, outcome: str, code: int
) -> None:
    pair = connected_pair(FUNCS, network=network)
    called(pair, method, *args)
    (event,) = log_events.take()
    assert event["log_level"] is LogLevel.info
    assert (event["method"], event["peer"]) == (method, "127.0.0.1:50000")
    assert (event["outcome"], event["code"]) == (outcome, code)
    assert event["milliseconds"] == 0.0
    assert "identity" not in event


def test_what_a_function_raised_is_a_warning_with_its_place(
    network: MemoryNetwork, log_events: Any
) -> None:
    pair = connected_pair(FUNCS, network=network)
    called(pair, "fails")
    (event,) = log_events.take()
    assert event["log_level"] is LogLevel.warn
    assert (event["outcome"], event["kind"], event["error"]) == (
        "function_raised",
        "ValueError",
        "no luck",
    )
    line = fails.__code__.co_firstlineno + 1
    assert event["where"] == f"{HERE}:{line} in fails"


@pytest.mark.parametrize("is_intercepted", [False, True])
@pytest.mark.parametrize("runs", ["at once", "later", "in a thread"])
def test_the_place_is_found_wherever_the_function_runs(
    network: MemoryNetwork, log_events: Any, runs: str, is_intercepted: bool
) -> None:
    async def at_once() -> None:
        fails()

    gate: Deferred[None] = Deferred()

    async def later() -> None:
        await gate
        fails()

    async def around(call: Any, proceed: Any) -> Any:
        return await proceed()

    executor = ManualExecutor()
    options: dict[str, Any] = {"interceptors": [around]} if is_intercepted else {}
    funcs = {"at once": at_once, "later": later, "in a thread": fails}
    pair = connected_pair(funcs, network=network, executor=executor, **options)
    called(pair, runs)
    gate.callback(None)
    executor.run()
    pair.pump()
    (event,) = log_events.take()
    assert event["log_level"] is LogLevel.warn
    assert event["where"].startswith(f"{HERE}:")
    assert event["where"].endswith(" in fails")


def test_hidden_errors_are_one_event_with_the_traceback(
    network: MemoryNetwork, log_events: Any, logged_errors: Any
) -> None:
    pair = connected_pair(FUNCS, network=network, expose_errors=False)
    called(pair, "fails")
    (event,) = log_events.take()
    assert event["log_level"] is LogLevel.error
    assert (event["error"], event["outcome"]) == ("no luck", "internal_error")
    assert len(event["reference"]) == 12
    assert event["traceback"].splitlines()[-1] == "ValueError: no luck"
    assert len(logged_errors.claim()) == 1


def test_what_the_server_did_wrong_is_an_error(
    network: MemoryNetwork, log_events: Any, logged_errors: Any
) -> None:
    def gives_up() -> None:
        raise InternalError("out of order")

    pair = connected_pair({"bad": lambda: {1, 2, object()}, "gives_up": gives_up}, network=network)
    called(pair, "bad")
    called(pair, "gives_up")
    events = log_events.take()
    assert [each["log_level"] for each in events] == [LogLevel.error] * 2
    assert [each["outcome"] for each in events] == ["internal_error"] * 2
    assert len(logged_errors.claim()) == 2


def test_a_reply_that_is_too_long_is_a_warning(network: MemoryNetwork, log_events: Any) -> None:
    pair = connected_pair({"much": lambda: "x" * 5000}, network=network, max_line_bytes=2048)
    called(pair, "much")
    (event,) = log_events.take()
    assert event["log_level"] is LogLevel.warn
    assert (event["method"], event["outcome"]) == ("much", "reply_too_long")


def test_a_notification_that_failed_says_that_it_is_one(
    network: MemoryNetwork, log_events: Any
) -> None:
    pair = connected_pair(FUNCS, network=network)
    pair.client.notify("fails")
    pair.client.notify("nope")
    pair.pump()
    raised, unknown = log_events.take_lines()
    assert raised.startswith(
        "warn: the notification fails from 127.0.0.1:50000 raised ValueError: no luck ("
    )
    assert unknown == (
        "info: the notification nope from 127.0.0.1:50000 failed: Method 'nope' not found "
        "(method_not_found, 0.0 ms)"
    )


def test_the_milliseconds_run_from_when_the_call_was_read(
    network: MemoryNetwork, log_events: Any
) -> None:
    executor = ManualExecutor()
    pair = connected_pair(FUNCS, network=network, executor=executor, max_pending=1)
    for _ in range(2):
        pair.client.call("fails").addErrback(lambda _: None)
    pair.pump()
    pair.advance(1.5)
    executor.run()
    pair.pump()
    pair.advance(0.25)
    executor.run()
    pair.pump()
    # The second was held back until the first had ended.
    assert [each["milliseconds"] for each in log_events.take()] == [1500.0, 1750.0]


@pytest.mark.parametrize("begun", [False, True])
def test_cancelled_and_late_calls_are_information(
    network: MemoryNetwork, log_events: Any, begun: bool
) -> None:
    @in_reactor
    def waits() -> Deferred[Any]:
        return Deferred()

    funcs = {"waits": waits if begun else fails}
    pair = connected_pair(funcs, network=network, executor=ManualExecutor(), call_timeout=9.0)
    cancelled = pair.client.call("waits")
    cancelled.addErrback(lambda _: None)
    pair.client.call("waits").addErrback(lambda _: None)
    pair.pump()
    cancelled.cancel()
    pair.pump()
    pair.advance(9)
    events = log_events.take()
    assert [each["outcome"] for each in events] == ["cancelled", "deadline_passed"]
    assert [each["milliseconds"] for each in events] == [0.0, 9000.0]
    assert {each["log_level"] for each in events} == {LogLevel.info}


def test_what_is_refused_unbegun_is_logged(network: MemoryNetwork, log_events: Any) -> None:
    executor = ManualExecutor()
    pair = connected_pair(FUNCS, network=network, executor=executor)
    called(pair, "add", 1, 2)
    network.factory.drain()
    called(pair, "add", 3, 4)
    (event,) = log_events.take()
    assert (event["method"], event["outcome"]) == ("add", "server_busy")
    executor.run()
    pair.pump()


def test_calls_that_the_connection_did_not_outlive_are_not_logged(
    network: MemoryNetwork, log_events: Any
) -> None:
    @in_reactor
    def waits() -> Deferred[Any]:
        return Deferred()

    executor = ManualExecutor()
    pair = connected_pair({"waits": waits, "fails": fails}, network=network, executor=executor)
    called(pair, "waits")
    called(pair, "fails")
    pair.wire.lose(ConnectionError("cut"))
    executor.run()
    network.pump()
    assert [each["log_format"][:24] for each in of_server(log_events.take())] == [
        "{peer}: connection close"
    ]


def test_what_a_function_raises_after_that_is(network: MemoryNetwork, log_events: Any) -> None:
    executor = ManualExecutor()
    pair: Pair

    def loses() -> None:
        pair.wire.lose(ConnectionError("cut"))
        fails()

    pair = connected_pair({"loses": loses}, network=network, executor=executor)
    called(pair, "loses")
    executor.run()
    network.pump()
    closed, raised = of_server(log_events.take())
    assert "reason" in closed
    assert (raised["log_level"], raised["kind"]) == (LogLevel.warn, "ValueError")


def test_what_comes_from_the_wire_is_shortened(network: MemoryNetwork, log_events: Any) -> None:
    def fails_at_length(text: str) -> None:
        raise ValueError(text)

    pair = connected_pair({"fails": fails_at_length}, network=network)
    called(pair, "x" * 10_000)
    called(pair, "fails", "y" * 10_000)
    for event in log_events.take():
        assert all(len(str(value)) < 300 for key, value in event.items() if key[:4] != "log_")


def test_who_logged_in_is_a_field(network: MemoryNetwork, log_events: Any) -> None:
    pair = connected_pair(FUNCS, network=network)
    pair.wire.peer.protocol.identity = "ada"
    called(pair, "fails")
    called(pair, "nope")
    pair.close()
    assert [each["identity"] for each in of_server(log_events.take())] == ["ada"] * 3


# --- connections ----------------------------------------------------------------------------------


def test_a_connection_is_one_line_when_it_has_ended(
    network: MemoryNetwork, log_events: Any
) -> None:
    pair = connected_pair(FUNCS, network=network)
    called(pair, "add", 1, 2)
    pair.advance(2.5)
    sent = b'{"jsonrpc":"2.0","id":1,"method":"add","params":[1,2]}\n'
    received = b'{"jsonrpc":"2.0","id":1,"result":3}\n'
    pair.client.close()
    pair.pump()
    (event,) = of_server(log_events.take())
    assert event["log_level"] is LogLevel.info
    assert (event["peer"], event["seconds"], event["messages"]) == ("127.0.0.1:50000", 2.5, 1)
    assert (event["received_bytes"], event["sent_bytes"]) == (len(sent), len(received))
    assert event["reason"] == "Connection was closed cleanly."


def test_the_end_that_calls_has_one_too(network: MemoryNetwork, log_events: Any) -> None:
    pair = connected_pair(FUNCS, network=network)
    pair.close()
    lines = [each for each in log_events.take_lines() if "127.0.0.1:8080" in each]
    assert lines == [
        "info: 127.0.0.1:8080: connection closed after 0.0 s, 0 messages, 0 bytes in, "
        "0 bytes out: this side closed it"
    ]


def test_a_connection_that_was_closed_for_what_it_said_is_one_warning(
    network: MemoryNetwork, log_events: Any
) -> None:
    pair = connected_pair(FUNCS, network=network)
    pair.wire.write(b"GET / HTTP/1.1\r\n")
    pair.pump()
    (event,) = of_server(log_events.take())
    assert event["log_level"] is LogLevel.warn


def test_events_hold_plain_values_alone(
    network: MemoryNetwork, log_events: Any, logged_errors: Any
) -> None:
    """An event may be kept for long, and what it refers to with it."""

    def looks() -> str:
        return current_call().method

    pair = connected_pair({**FUNCS, "looks": looks}, network=network, expose_errors=False)
    for name in ("fails", "nope", "refuses", "looks"):
        called(pair, name)
    pair.close()
    for event in log_events.take():
        for key, value in event.items():
            if not key.startswith("log_"):
                json.dumps(value)
    logged_errors.claim()


def test_errors_of_an_odd_kind_are_told_all_the_same(
    network: MemoryNetwork, log_events: Any
) -> None:
    class Odd(RPCError):
        def __init__(self) -> None:
            self.code = 7

        def __str__(self) -> str:
            raise ValueError("not to be said")

    class Odder(Odd):
        def __init__(self) -> None:
            self.code = []  # type: ignore[assignment]  # that is what is odd

    def odd() -> None:
        raise Odd

    def odder() -> None:
        raise Odder

    pair = connected_pair({"odd": odd, "odder": odder}, network=network, stats=True)
    pair.client.notify("odd")
    pair.client.notify("odder")
    pair.pump()
    events = log_events.take()
    assert [(each["error"], each["outcome"]) for each in events] == [
        ("Odd", "error"),
        ("Odder", "error"),
    ]
