from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import gatherResults

from kn_sock import (
    CallTimeout,
    ConnectionLost,
    InternalError,
    RemoteError,
    RPCClient,
    RPCConnection,
    connect,
)
from tests.interop.peers import CLIENT, OLD_KN_SOCK, PATIENCE, PROGRAMS, SERVER, Serve, Start
from tests.interop.steps import outcomes

PEER = "kn-sock 0.3"
ALONE = OLD_KN_SOCK / "alone"
BIG = "x" * 300_000
TEXT = "æøå 数 🎈 \u2028"

# What a call may take that is to time out, over a connection that is there.
SHORT = 0.2


def add(a: Any, b: Any) -> Any:
    return a + b


def echo(value: Any) -> Any:
    return value


def divide(a: float, b: float) -> float:
    if b == 0:
        raise ValueError("Division by zero is not allowed")
    return a / b


FUNCS = {"add": add, "echo": echo, "divide": divide}


# --- its client -----------------------------------------------------------------------------------


def run_client(start: Start, port: int, *steps: Any) -> list[Any]:
    """Have the old client take steps; see its program."""
    program = PROGRAMS / "old_kn_sock_client.py"
    return outcomes(start(sys.executable, program, str(port), PYTHONPATH=str(ALONE)), *steps)


def call(method: str, *params: Any, **kwargs: Any) -> list[Any]:
    """Write a step of the old client's."""
    return ["call", method, params, kwargs]


@pytest.mark.interop(PEER, CLIENT, "results")
def test_its_client_makes_several_calls_over_one_connection(start: Start, serve: Serve) -> None:
    steps = [call("add", 1, number) for number in range(20)]
    results = run_client(start, serve(FUNCS), *steps)
    assert results == [{"result": 1 + number} for number in range(20)]


@pytest.mark.interop(PEER, CLIENT, "named arguments")
def test_its_client_names_arguments(start: Start, serve: Serve) -> None:
    steps = [call("add", 1, b=2), call("add", a=3, b=4)]
    assert run_client(start, serve(FUNCS), *steps) == [{"result": 3}, {"result": 7}]


@pytest.mark.interop(PEER, CLIENT, "errors")
def test_its_client_gets_the_text_of_errors_and_goes_on(start: Start, serve: Serve) -> None:
    raised, unknown, after = run_client(
        start, serve(FUNCS), call("divide", 1, 0), call("nope"), call("divide", 1, 4)
    )
    assert raised == {"type": "Exception", "text": "Division by zero is not allowed"}
    assert unknown == {"type": "Exception", "text": "Method 'nope' not found"}
    assert after == {"result": 0.25}


@pytest.mark.interop(PEER, CLIENT, "any text")
def test_its_client_sends_and_gets_any_text(start: Start, serve: Serve) -> None:
    steps = [call("echo", TEXT), call("echo", value=TEXT)]
    assert run_client(start, serve(FUNCS), *steps) == [{"result": TEXT}] * 2


@pytest.mark.interop(PEER, CLIENT, "300 KB")
def test_its_client_sends_and_gets_long_lines(start: Start, serve: Serve) -> None:
    assert run_client(start, serve(FUNCS), call("echo", BIG), call("echo", 1)) == [
        {"result": BIG},
        {"result": 1},
    ]


@pytest.mark.interop(PEER, CLIENT, "several clients at once")
def test_its_clients_are_served_at_once(start: Start, serve: Serve) -> None:
    # None of them gets past it before all of them are there.
    meeting = threading.Barrier(4)

    def meet(name: str) -> str:
        meeting.wait(PATIENCE)
        return name

    port = serve({"meet": meet}, threads=4)
    names = ["a", "b", "c", "d"]
    found: dict[str, Any] = {}

    def run(name: str) -> None:
        found[name] = run_client(start, port, call("meet", name))

    threads = [threading.Thread(target=run, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert found == {name: [{"result": name}] for name in names}


@pytest.mark.interop(PEER, CLIENT, "one client in two threads")
def test_threads_of_its_client_get_their_own_results(start: Start, serve: Serve) -> None:
    (got,) = run_client(start, serve(FUNCS), ["share", 2, 100])
    assert got == [[[thread, number] for number in range(100)] for thread in range(2)]


# --- its server -----------------------------------------------------------------------------------


@pytest.fixture
def port(start: Start) -> int:
    """The port of the old server."""
    program = PROGRAMS / "old_kn_sock_server.py"
    return start(sys.executable, program, PYTHONPATH=str(ALONE)).port()


def client(port: int, **options: Any) -> RPCClient:
    return RPCClient("localhost", port, dialect="kn-sock", **options)


@pytest.mark.interop(PEER, SERVER, "results")
def test_its_server_gives_results(port: int) -> None:
    with client(port) as old:
        assert old.call("add", 1, 2) == 3
        assert old.remote.echo([1, {"a": None}]) == [1, {"a": None}]
        assert old.call("echo", TEXT) == TEXT
        assert old.call("echo", BIG) == BIG


@pytest.mark.interop(PEER, SERVER, "named arguments")
def test_its_server_takes_named_arguments(port: int) -> None:
    with client(port) as old:
        assert old.call("add", 1, b=2) == 3
        assert old.call("add", a=3, b=4) == 7


@pytest.mark.interop(PEER, SERVER, "many calls in flight, answered in order")
def test_its_server_answers_calls_in_flight_in_order(port: int) -> None:
    with client(port) as old:
        futures = [old.submit("echo", number) for number in range(500)]
        assert [future.result(PATIENCE) for future in futures] == list(range(500))
        assert list(old.map("add", range(500), range(500))) == [2 * n for n in range(500)]


@pytest.mark.interop(PEER, SERVER, "errors")
def test_its_server_gives_the_text_of_errors(port: int) -> None:
    with client(port) as old:
        with pytest.raises(RemoteError, match=r"^Division by zero is not allowed$") as caught:
            old.call("divide", 1, 0)
        # Its replies hold no more than the text.
        assert caught.value.type_name is None
        with pytest.raises(RemoteError, match=r"^$"):
            old.call("fail_silently")
        with pytest.raises(RemoteError, match=r"^Method 'nope' not found$"):
            old.call("nope")
        assert old.call("divide", 1, 4) == 0.25


@pytest.mark.interop(PEER, SERVER, "errors among calls in flight")
def test_errors_of_its_server_reach_the_calls_that_they_belong_to(port: int) -> None:
    with client(port) as old:
        divisors = [number % 3 for number in range(90)]
        futures = [old.submit("divide", 6, divisor) for divisor in divisors]
        for divisor, future in zip(divisors, futures, strict=True):
            if divisor:
                assert future.result(PATIENCE) == 6 / divisor
            else:
                assert isinstance(future.exception(PATIENCE), RemoteError)


@pytest.mark.interop(PEER, SERVER, "a call after one that timed out")
def test_a_late_reply_of_its_server_is_not_taken_for_the_next(port: int) -> None:
    with client(port) as old, client(port) as other:
        with pytest.raises(CallTimeout) as caught:
            old.with_options(timeout=SHORT).call("wait", "late")
        assert caught.value.maybe_executed
        # It runs one call of a connection at a time: this one stands behind the first.
        following = old.submit("echo", "following")
        assert other.call("release") is None
        assert following.result(PATIENCE) == "following"
        assert old.call("echo", "another") == "another"


@pytest.mark.interop(PEER, SERVER, "a call after one that was cancelled")
def test_a_cancelled_call_of_its_server_leaves_the_others_theirs(port: int) -> None:
    with client(port) as old, client(port) as other:
        calls = [old.submit("echo", 1), old.submit("wait", "late"), old.submit("echo", 2)]
        assert calls[0].result(PATIENCE) == 1
        assert calls[1].cancel()
        assert other.call("release") is None
        assert calls[2].result(PATIENCE) == 2


@pytest.mark.interop(PEER, SERVER, "a reply that is not JSON")
def test_an_infinite_result_of_its_server_fails_its_call_alone(port: int) -> None:
    with client(port) as old:
        calls = [old.submit("infinity"), old.submit("echo", 1)]
        with pytest.raises(InternalError, match="cannot be read"):
            calls[0].result(PATIENCE)
        assert calls[1].result(PATIENCE) == 1


@pytest.mark.interop(PEER, SERVER, "a connection that it ends")
def test_a_result_that_its_server_cannot_encode_ends_the_connection(port: int) -> None:
    with client(port) as old:
        with pytest.raises(ConnectionLost) as caught:
            old.call("unencodable")
        assert caught.value.maybe_executed
        assert old.call("echo", 1) == 1


@pytest.mark.interop(PEER, SERVER, "the dialect named, if forgotten")
def test_a_client_without_the_dialect_is_told_of_it(port: int) -> None:
    default = RPCClient("localhost", port)
    with default, pytest.raises(ConnectionLost, match='connect to it with dialect="kn-sock"'):
        default.call("add", 1, 2)


@pytest.mark.interop(PEER, SERVER, "no notifications and no batches")
def test_what_the_dialect_lacks_is_refused_before_anything_is_sent(port: int) -> None:
    with client(port) as old:
        with pytest.raises(TypeError, match="has no notifications"):
            old.notify("echo", 1)
        batch = old.batch()
        batch.call("echo", 1)
        with pytest.raises(TypeError, match="has no batches"):
            batch.send()
        assert old.call("echo", 1) == 1


async def connection(port: int, **options: Any) -> RPCConnection:
    return await connect(f"tcp:localhost:{port}", dialect="kn-sock", **options)


@pytest.mark.interop(PEER, SERVER, "Deferreds")
@pytest_twisted.ensureDeferred
async def test_its_server_answers_deferreds_in_order(port: int) -> None:
    old = await connection(port)
    fired: list[int] = []
    deferreds = [old.call("echo", number).addCallback(fired.append) for number in range(300)]
    await gatherResults(deferreds)
    assert fired == list(range(300))
    assert await old.call("add", 1, b=2) == 3
    with pytest.raises(RemoteError, match=r"^Division by zero is not allowed$"):
        await old.call("divide", 1, 0)
    await old.close()


@pytest.mark.interop(PEER, SERVER, "Deferreds that time out or are cancelled")
@pytest_twisted.ensureDeferred
async def test_deferreds_given_up_leave_the_others_theirs(port: int) -> None:
    old = await connection(port)
    other = await connection(port)
    waiting = old.with_options(timeout=SHORT).call("wait", "late")
    cancelled = old.call("echo", "cancelled")
    following = old.call("echo", "following")
    with pytest.raises(CallTimeout):
        await waiting
    cancelled.addErrback(lambda _: None).cancel()
    await other.call("release")
    assert await following == "following"
    await old.close()
    await other.close()


# --- its own test ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("client", "server"),
    [
        pytest.param("old", "new", marks=pytest.mark.interop(PEER, CLIENT, "its own test")),
        pytest.param("new", "old", marks=pytest.mark.interop(PEER, SERVER, "its own test")),
        pytest.param(
            "new", "new", marks=pytest.mark.interop(PEER, CLIENT, "its own test with ours alone")
        ),
    ],
)
def test_the_test_that_it_brings_passes(start: Start, client: str, server: str) -> None:
    here = Path(__file__).resolve().parent.parent.parent
    program = start(
        sys.executable,
        PROGRAMS / "old_kn_sock_tests.py",
        ALONE / "own_tests.py",
        client,
        server,
        PYTHONPATH=os.pathsep.join([str(ALONE), str(here)]),
    )
    assert program.rest()[-1] == "[SUCCESS] RPC server/client test"
