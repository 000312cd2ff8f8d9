from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import gatherResults

from kn_sock import CallCancelled, CallTimeout, RPCClient, RPCError, connect
from tests.interop.peers import CLIENT, PEERS, SERVER, Program, Serve, Start

PEER = "Go net/rpc/jsonrpc"


@dataclass
class Pair:
    """Go's struct of the same name."""

    A: int
    B: int


def double(number: int) -> int:
    return number * 2


def multiply(pair: Pair) -> int:
    return pair.A * pair.B


def divide(pair: Pair) -> float:
    if pair.B == 0:
        raise ValueError("Division by zero is not allowed")
    return pair.A / pair.B


def nothing(number: int) -> None: ...


def done(number: int) -> bool:
    nothing(number)
    return True


FUNCS = {
    "double": double,
    "Arith.Multiply": multiply,
    "Arith.Divide": divide,
    "nothing": nothing,
    "done": done,
}


# --- its client, our server -----------------------------------------------------------------------


@pytest.fixture
def go_client(start: Start, serve: Serve) -> Program:
    """Go's client, connected to our server; its first call has the id 0."""
    return start(PEERS / "bin" / "go-client", str(serve(FUNCS)))


def call(method: str, param: Any) -> dict[str, Any]:
    return {"method": method, "param": param}


@pytest.mark.interop(PEER, CLIENT, "results")
def test_its_first_call_which_has_the_id_0_gets_its_result(go_client: Program) -> None:
    assert go_client.ask([call("double", 21)]) == [{"result": 42}]


@pytest.mark.interop(PEER, CLIENT, "a struct")
def test_its_struct_is_an_object(go_client: Program) -> None:
    assert go_client.ask([call("Arith.Multiply", {"A": 7, "B": 8})]) == [{"result": 56}]


@pytest.mark.interop(PEER, CLIENT, "errors and calls after them")
def test_an_error_leaves_its_connection_usable(go_client: Program) -> None:
    assert go_client.ask(
        [
            call("Arith.Divide", {"A": 1, "B": 0}),
            call("no_such_method", 1),
            call("double", "two"),
        ]
    ) == [
        {"error": "Division by zero is not allowed", "goes on": True},
        {"error": "Method 'no_such_method' not found", "goes on": True},
        {"error": "double(number: int) -> int: number: Expected `int`, got `str`", "goes on": True},
    ]
    assert go_client.ask([call("double", 21)]) == [{"result": 42}]


@pytest.mark.interop(PEER, CLIENT, "many calls in flight")
def test_each_of_many_calls_gets_its_own_result(go_client: Program) -> None:
    outcomes = go_client.ask([call("double", number) for number in range(2000)])
    assert outcomes == [{"result": number * 2} for number in range(2000)]


@pytest.mark.interop(PEER, CLIENT, "True where there is nothing to return")
def test_it_takes_none_for_the_end_and_true_for_a_result(go_client: Program) -> None:
    assert go_client.ask([call("done", 1)]) == [{"result": True}]
    # Go wants an error where the result is null: its client is of no more use.
    assert go_client.ask([call("nothing", 1)]) == [
        {"error": "invalid error <nil>", "goes on": False}
    ]
    assert go_client.ask([call("done", 1)]) == [
        {"error": "connection is shut down", "goes on": False}
    ]


# --- its server, our clients ----------------------------------------------------------------------


@pytest.fixture
def go_port(start: Start) -> int:
    return start(PEERS / "bin" / "go-server").port()


@pytest.mark.interop(PEER, SERVER, "results")
def test_its_server_gives_results(go_port: int) -> None:
    with RPCClient("127.0.0.1", go_port, dialect="1.0") as client:
        assert client.call("Arith.Multiply", {"A": 7, "B": 8}) == 56
        assert client.call("Arith.Divide", {"A": 7, "B": 8}) == 0.875


@pytest.mark.interop(PEER, SERVER, "errors and calls after them")
def test_its_errors_are_texts_and_leave_the_connection_usable(go_port: int) -> None:
    with RPCClient("127.0.0.1", go_port, dialect="1.0") as client:
        for method, param, text in (
            ("Arith.Divide", {"A": 1, "B": 0}, "Division by zero is not allowed"),
            ("Arith.Multiply", "x", "json: cannot unmarshal string"),
            ("Arith.Add", {}, "rpc: can't find method Arith.Add"),
            ("Geo.Area", {}, "rpc: can't find service Geo.Area"),
            ("add", {}, "rpc: service/method request ill-formed: add"),
        ):
            with pytest.raises(RPCError) as caught:
                client.call(method, param)
            assert str(caught.value).startswith(text)
        assert client.call("Arith.Multiply", {"A": 7, "B": 8}) == 56


@pytest.mark.interop(PEER, SERVER, "one parameter a call")
def test_its_server_looks_at_one_parameter_alone(go_port: int) -> None:
    with RPCClient("127.0.0.1", go_port, dialect="1.0") as client:
        assert client.call("Arith.Multiply", {"A": 7, "B": 8}, "lost") == 56
        assert client.call("Arith.Multiply") == 0


@pytest.mark.interop(PEER, SERVER, "notifications")
@pytest_twisted.ensureDeferred
async def test_a_notification_leaves_the_connection_usable(go_port: int) -> None:
    # An RPCClient would make a new connection where no call was in flight.
    connection = await connect(f"tcp:127.0.0.1:{go_port}", dialect="1.0")
    try:
        await connection.notify("Arith.Multiply", {"A": 7, "B": 8})
        # By the last of these, what Go answers to the notification is there.
        for number in range(50):
            assert await connection.call("Arith.Multiply", {"A": 1, "B": number}) == number
    finally:
        await connection.close()


@pytest.mark.interop(PEER, SERVER, "many calls in flight")
def test_calls_in_flight_are_answered_in_any_order(go_port: int) -> None:
    with RPCClient("127.0.0.1", go_port, dialect="1.0") as client:
        passing = [client.submit("Gates.Pass", number) for number in range(100)]
        for number in reversed(range(100)):
            assert client.call("Gates.Open", number) == number
        assert [each.result() for each in passing] == list(range(100))


@pytest.mark.interop(PEER, SERVER, "calls after a timeout and a cancellation")
def test_a_call_that_is_given_up_leaves_the_connection_usable(go_port: int) -> None:
    with RPCClient("127.0.0.1", go_port, dialect="1.0") as client:
        with pytest.raises(CallTimeout):
            client.with_options(timeout=0.01).call("Gates.Pass", 1)
        cancelled = client.submit("Gates.Pass", 2)
        assert cancelled.cancel()
        # Go answers them now: late.
        assert [client.call("Gates.Open", number) for number in (1, 2)] == [1, 2]
        assert client.call("Arith.Multiply", {"A": 7, "B": 8}) == 56


@pytest.mark.interop(PEER, SERVER, "Deferreds")
@pytest_twisted.ensureDeferred
async def test_deferreds_get_its_results_and_errors(go_port: int) -> None:
    connection = await connect(f"tcp:127.0.0.1:{go_port}", dialect="1.0")
    passing = [connection.call("Gates.Pass", number) for number in range(100)]
    given_up = connection.call("Gates.Pass", 100)
    given_up.cancel()
    with pytest.raises(CallCancelled):
        await given_up
    await gatherResults([connection.call("Gates.Open", 100 - number) for number in range(101)])
    assert await gatherResults(passing) == list(range(100))
    with pytest.raises(RPCError, match="Division by zero is not allowed"):
        await connection.call("Arith.Divide", {"A": 1, "B": 0})
    assert await connection.call("Arith.Multiply", {"A": 7, "B": 8}) == 56
    await connection.close()
