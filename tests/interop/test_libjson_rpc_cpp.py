from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from kn_sock import (
    ConnectionLost,
    InvalidParams,
    MethodNotFound,
    RPCClient,
    RPCClientService,
    RPCError,
    RPCServerService,
    connect,
    in_reactor,
)
from tests.interop.peers import CLIENT, PEERS, SERVER, Program, Start

PEER = "libjson-rpc-cpp"


def add(a: int, b: int) -> int:
    return a + b


def subtract(minuend: int, subtrahend: int) -> int:
    return minuend - subtrahend


def divide(a: float, b: float) -> float:
    if b == 0:
        raise ValueError("Division by zero is not allowed")
    return a / b


def nothing() -> None: ...


class Told:
    """What the method ``tell`` was called with first, once it was."""

    def __init__(self) -> None:
        self.what: Deferred[Any] = Deferred()

    @in_reactor
    def tell(self, what: Any) -> None:
        self.what.callback(what)


FUNCS = {"add": add, "subtract": subtract, "divide": divide, "nothing": nothing}

# --- its client, our server -----------------------------------------------------------------------


@pytest.fixture
def told() -> Told:
    return Told()


@pytest_twisted.async_yield_fixture
async def socket(tmp_path: Path, told: Told) -> AsyncIterator[str]:
    """Where our server listens: Debian's build of libjson-rpc-cpp knows no TCP."""
    service = RPCServerService(f"unix:{tmp_path}/ours", {**FUNCS, "tell": told.tell})
    await service.listen()
    yield f"{tmp_path}/ours"
    await service.stopService()


def start_client(start: Start, socket: str, version: str) -> Program:
    return start(PEERS / "bin" / "cpp-client", socket, version)


def call(method: str, params: Any = None) -> dict[str, Any]:
    return {"method": method, "params": params}


@pytest.mark.interop(PEER, CLIENT, "results")
@pytest.mark.parametrize("version", ["1", "2"])
@pytest_twisted.ensureDeferred
async def test_its_calls_get_results(start: Start, socket: str, version: str) -> None:
    client = start_client(start, socket, version)
    for question, result in (
        (call("add", [1, 2]), 3),
        (call("subtract", {"minuend": 5, "subtrahend": 3}), 2),
        (call("nothing"), None),
    ):
        assert await deferToThread(client.ask, question) == {"result": result}


@pytest.mark.interop(PEER, CLIENT, "errors")
@pytest_twisted.ensureDeferred
async def test_its_calls_get_errors(start: Start, socket: str) -> None:
    client = start_client(start, socket, "2")
    for question, code, text in (
        (call("divide", [1, 0]), -32000, "Division by zero is not allowed"),
        (call("no_such_method"), -32601, "Method 'no_such_method' not found"),
        (call("add", [1]), -32602, "missing a required argument: 'b'"),
    ):
        outcome = await deferToThread(client.ask, question)
        assert outcome["code"] == code
        assert outcome["message"].endswith(text)


@pytest.mark.interop(PEER, CLIENT, "JSON-RPC 1.0 but for errors")
@pytest_twisted.ensureDeferred
async def test_its_first_version_wants_errors_that_are_objects(start: Start, socket: str) -> None:
    client = start_client(start, socket, "1")
    outcome = await deferToThread(client.ask, call("divide", [1, 0]))
    assert outcome["message"].startswith("The response is invalid")
    assert await deferToThread(client.ask, call("add", [1, 2])) == {"result": 3}


@pytest.mark.interop(PEER, CLIENT, "notifications")
@pytest_twisted.ensureDeferred
async def test_its_notifications_are_run(start: Start, socket: str, told: Told) -> None:
    client = start_client(start, socket, "2")
    # It waits for a reply, and nothing else can be asked of it.
    client.send(json.dumps({**call("tell", ["news"]), "notify": True}))
    assert await told.what == "news"


@pytest.mark.interop(PEER, CLIENT, "batches")
@pytest_twisted.ensureDeferred
async def test_its_batches_get_results_and_errors(start: Start, socket: str) -> None:
    client = start_client(start, socket, "2")
    batch = [call("add", [1, 2]), call("divide", [1, 0]), call("add", [3, 4])]
    assert await deferToThread(client.ask, batch) == [
        {"result": 3},
        {"code": -32000, "message": "Division by zero is not allowed"},
        {"result": 7},
    ]


# --- its server, our clients ----------------------------------------------------------------------


@pytest.fixture
def endpoint(start: Start, tmp_path: Path) -> str:
    """Where its server listens, which closes each connection after one reply."""
    return serve_version(start, tmp_path, "2")


def serve_version(start: Start, tmp_path: Path, version: str) -> str:
    socket = tmp_path / "theirs"
    program = start(PEERS / "bin" / "cpp-server", socket, version)
    assert program.line() == f"listening on {socket}"
    return f"unix:{socket}"


@pytest.mark.interop(PEER, SERVER, "results")
def test_its_server_gives_results_each_over_a_new_connection(endpoint: str) -> None:
    with RPCClient.from_endpoint(endpoint) as client:
        assert client.call("add", 1, 2) == 3
    with RPCClient.from_endpoint(endpoint) as client:
        assert client.call("subtract", minuend=5, subtrahend=3) == 2
    with RPCClient.from_endpoint(endpoint) as client:
        assert client.call("last_told") is None


@pytest.mark.interop(PEER, SERVER, "errors")
def test_its_server_gives_errors(endpoint: str) -> None:
    with (
        RPCClient.from_endpoint(endpoint) as client,
        pytest.raises(RPCError, match="Division by zero is not allowed") as caught,
    ):
        client.call("divide", 1, 0)
    assert caught.value.code == -32050
    with RPCClient.from_endpoint(endpoint) as client, pytest.raises(MethodNotFound):
        client.call("no_such_method")
    with RPCClient.from_endpoint(endpoint) as client, pytest.raises(InvalidParams):
        client.call("add", 1)


@pytest.mark.interop(PEER, SERVER, "JSON-RPC 1.0")
def test_its_server_of_the_first_version(start: Start, tmp_path: Path) -> None:
    endpoint = serve_version(start, tmp_path, "1")
    with RPCClient.from_endpoint(endpoint, dialect="1.0") as client:
        assert client.call("add", 1, 2) == 3
    with RPCClient.from_endpoint(endpoint, dialect="1.0") as client:
        assert client.call("last_told") is None
    with (
        RPCClient.from_endpoint(endpoint, dialect="1.0") as client,
        pytest.raises(RPCError, match="Division by zero is not allowed"),
    ):
        client.call("divide", 1, 0)


@pytest.mark.interop(PEER, SERVER, "batches")
def test_its_server_answers_a_batch(endpoint: str) -> None:
    with RPCClient.from_endpoint(endpoint) as client:
        batch = client.batch()
        batch.call("add", 1, 2)
        batch.call("divide", 1, 0)
        batch.call("add", 3, 4)
        first, problem, last = batch.send()
    assert (first, last) == (3, 7)
    assert isinstance(problem, RPCError)


@pytest.mark.interop(PEER, SERVER, "Deferreds")
@pytest_twisted.ensureDeferred
async def test_a_connection_is_good_for_one_call(endpoint: str) -> None:
    for number in range(3):
        connection = await connect(endpoint)
        assert await connection.call("add", number, 1) == number + 1
        with pytest.raises(ConnectionLost):
            await connection.call("add", number, 1)
        with pytest.raises(ConnectionLost) as caught:
            await connection.call("add", number, 1)
        assert not caught.value.maybe_executed
        await connection.close()


@pytest.mark.interop(PEER, SERVER, "one call a connection")
@pytest_twisted.ensureDeferred
async def test_of_calls_in_flight_its_server_answers_the_first_alone(endpoint: str) -> None:
    connection = await connect(endpoint)
    first, second = [connection.call("add", number, 1) for number in (1, 2)]
    assert await first == 2
    with pytest.raises(ConnectionLost) as caught:
        await second
    assert caught.value.maybe_executed
    await connection.close()


@pytest.mark.interop(PEER, SERVER, "a service for calls that may be repeated")
@pytest_twisted.ensureDeferred
async def test_a_service_makes_a_connection_for_each_call(endpoint: str) -> None:
    service = RPCClientService(endpoint, retry_policy=lambda _: 0.0)
    service.startService()
    for number in range(3):
        assert await call_until_answered(service, number) == number + 1
    await service.stopService()


async def call_until_answered(service: RPCClientService, number: int) -> Any:
    while True:
        try:
            return await service.call("add", number, 1)
        except ConnectionLost:
            # It was written to a connection that the server was about to close.
            pass
