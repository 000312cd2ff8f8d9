"""The blocking client and server, over real sockets on loopback."""

from __future__ import annotations

import concurrent.futures
import errno
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import deferLater
from twisted.internet.threads import blockingCallFromThread

from kn_sock import (
    CallTimeout,
    ConnectFailed,
    ConnectionLost,
    ConnectRefused,
    InternalError,
    InvalidParams,
    MethodNotFound,
    RemoteError,
    RPCClient,
    RPCError,
    current_call,
    in_reactor,
    start_rpc_server,
)
from kn_sock._blocking.reactor_thread import reactor_thread

# Nothing here takes this long; a test that does has hung.
PATIENCE = 20.0


class Served:
    """A server in a thread of its own."""

    def __init__(self, funcs: Any, **options: Any) -> None:
        self.shutdown = threading.Event()
        ready: threading.Event = threading.Event()
        self.host, self.port = "", 0
        self.raised: BaseException | None = None

        def on_ready(host: str, port: int) -> None:
            self.host, self.port = host, port
            ready.set()

        def serve() -> None:
            try:
                start_rpc_server(
                    0, funcs, shutdown_event=self.shutdown, on_ready=on_ready, **options
                )
            except BaseException as raised:
                self.raised = raised

        self.thread = threading.Thread(target=serve, daemon=True)
        self.thread.start()
        assert ready.wait(PATIENCE)

    def stop(self) -> None:
        self.shutdown.set()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


class Gate:
    """Functions that block until the test opens the gate."""

    def __init__(self) -> None:
        self.is_open = threading.Event()
        self.entered = threading.Semaphore(0)

    def wait(self) -> str:
        self.entered.release()
        assert self.is_open.wait(PATIENCE)
        return "through"

    def wait_for_cancel(self) -> bool:
        self.entered.release()
        call = current_call()
        while not call.cancelled:
            if self.is_open.wait(0.01):
                break
        self.is_open.set()
        return call.cancelled


def add(a: Any, b: Any) -> Any:
    return a + b


def divide(a: float, b: float) -> float:
    if b == 0:
        raise ValueError("Division by zero is not allowed")
    return a / b


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def served(gate: Gate) -> Iterator[Served]:
    funcs = {
        "add": add,
        "radd": in_reactor(add),
        "divide": divide,
        "invert": lambda x: 1 / x,
        "wait": gate.wait,
        "wait_for_cancel": gate.wait_for_cancel,
        "thread_name": lambda: threading.current_thread().name,
    }
    server = Served(funcs)
    yield server
    gate.is_open.set()
    server.stop()


@pytest.fixture
def client(served: Served) -> Iterator[RPCClient]:
    with RPCClient("localhost", served.port) as client:
        yield client


def test_a_call_returns_the_result(client: RPCClient) -> None:
    assert client.call("add", 10, 20) == 30
    assert client.call("add", a=[1], b=[2]) == [1, 2]
    assert client.call("add", 1, b=2) == 3
    assert client.remote.add(2**100, 1) == 2**100 + 1


def test_exceptions_are_those_of_a_local_call(client: RPCClient) -> None:
    with pytest.raises(ValueError, match=r"^Division by zero is not allowed$") as caught:
        client.call("divide", 10, 0)
    assert isinstance(caught.value, RemoteError)
    with pytest.raises(ZeroDivisionError):
        client.call("invert", 0)
    with pytest.raises(MethodNotFound, match="not found"):
        client.call("nope")
    with pytest.raises(InvalidParams, match="missing a required argument: 'b'"):
        client.call("add", 1)


def test_functions_run_outside_the_reactors_thread(client: RPCClient) -> None:
    assert client.call("thread_name").startswith("kn_sock-")
    assert client.call("thread_name") != "kn_sock-reactor"


def test_a_blocking_function_stalls_nobody_else(served: Served, gate: Gate) -> None:
    with RPCClient("127.0.0.1", served.port) as one, RPCClient("127.0.0.1", served.port) as other:
        slow = one.submit("wait")
        assert gate.entered.acquire(timeout=PATIENCE)
        assert [other.call("add", n, n) for n in range(100)] == [2 * n for n in range(100)]
        assert one.call("add", 1, 2) == 3
        assert not slow.done()
        gate.is_open.set()
        assert slow.result(PATIENCE) == "through"


def test_a_call_read_together_with_a_blocking_one_has_a_thread_of_its_own(gate: Gate) -> None:
    for _ in range(20):
        server = Served({"add": add, "wait": gate.wait})
        with RPCClient("127.0.0.1", server.port) as client:
            futures = [client.submit("wait"), client.submit("add", 1, 2)]
            assert futures[1].result(PATIENCE) == 3
            gate.is_open.set()
            assert futures[0].result(PATIENCE) == "through"
            gate.is_open.clear()
        server.stop()


def test_a_timeout_raises_and_the_client_goes_on(client: RPCClient, gate: Gate) -> None:
    with pytest.raises(CallTimeout) as caught:
        client.with_options(timeout=0.05).call("wait")
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.maybe_executed is True
    assert client.call("add", 1, 2) == 3


def test_a_timeout_is_seen_by_the_running_function(client: RPCClient, gate: Gate) -> None:
    with pytest.raises(CallTimeout):
        client.with_options(timeout=0.05).call("wait_for_cancel")
    assert gate.is_open.wait(PATIENCE)


def test_many_threads_share_one_client(client: RPCClient) -> None:
    def work(n: int) -> list[int]:
        return [client.call("add", n, m) for m in range(50)]

    with ThreadPoolExecutor(10) as pool:
        results = list(pool.map(work, range(10)))
    assert results == [[n + m for m in range(50)] for n in range(10)]


def test_submit_has_many_in_flight_from_one_thread(client: RPCClient) -> None:
    futures = [client.submit("radd", n, n) for n in range(500)]
    assert [future.result(PATIENCE) for future in futures] == [2 * n for n in range(500)]
    with pytest.raises(ValueError, match="Division"):
        client.submit("divide", 1, 0).result(PATIENCE)


def test_cancelling_a_future_reaches_the_function(client: RPCClient, gate: Gate) -> None:
    future = client.submit("wait_for_cancel")
    assert gate.entered.acquire(timeout=PATIENCE)
    assert future.cancel()
    assert gate.is_open.wait(PATIENCE)
    with pytest.raises(CancelledError):
        future.result(PATIENCE)


def test_map_gives_results_in_order_and_raises_in_place(client: RPCClient) -> None:
    assert list(client.map("add", range(1000), range(1000), window=7)) == [
        2 * n for n in range(1000)
    ]
    results = client.map("invert", [1, 2, 0, 4])
    assert next(results) == 1
    assert next(results) == 0.5
    with pytest.raises(ZeroDivisionError):
        next(results)
    with pytest.raises(TypeError, match="iterable"):
        client.map("add")


def test_map_raises_in_place_what_cannot_be_sent(client: RPCClient) -> None:
    results = client.map("add", [1, 2, object(), 4], [1, 1, 1, 1])
    assert [next(results), next(results)] == [2, 3]
    with pytest.raises(TypeError, match="an argument of add cannot be sent"):
        next(results)
    assert list(results) == []


def test_map_leaves_no_garbage_where_an_argument_cannot_be_sent(client: RPCClient) -> None:
    def names() -> list[str]:
        return [type(each).__name__ for each in gc.garbage]

    with pytest.raises(TypeError):
        list(client.map("add", [1, object()], [1, 1]))
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        with pytest.raises(TypeError):
            list(client.map("add", [1, object()], [1, 1]))
        gc.collect()
        assert "BlockingCall" not in names()
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


def test_map_takes_no_more_than_its_window_from_an_endless_source(client: RPCClient) -> None:
    taken: list[int] = []

    def endless() -> Iterator[int]:
        n = 0
        while True:
            taken.append(n)
            yield n
            n += 1

    results = client.map("add", endless(), endless(), window=5)
    assert next(results) == 0
    assert len(taken) <= 12


def test_a_batch_gives_results_and_exceptions(client: RPCClient) -> None:
    batch = client.batch()
    batch.call("add", 1, 2)
    batch.notify("add", 1, 2)
    batch.call("divide", 1, 0)
    batch.call("nope")
    three, error, unknown = batch.send()
    assert three == 3
    assert isinstance(error, ValueError)
    assert isinstance(unknown, MethodNotFound)


def test_a_derived_client_and_a_future_keep_the_connection(served: Served) -> None:
    assert RPCClient("127.0.0.1", served.port).with_options(timeout=5).call("add", 1, 2) == 3
    future = RPCClient("127.0.0.1", served.port).submit("add", 3, 4)
    gc.collect()
    assert future.result(PATIENCE) == 7


def test_waiting_for_several_futures_hears_of_a_cancelled_one(
    client: RPCClient, gate: Gate
) -> None:
    future = client.submit("wait")
    assert future.cancel()
    assert future.cancel()
    done, not_done = concurrent.futures.wait([future], timeout=PATIENCE)
    assert (done, not_done) == ({future}, set())


def test_the_first_future_that_is_done_may_cancel_the_others(client: RPCClient, gate: Gate) -> None:
    futures = [client.submit("wait") for _ in range(3)]
    for future in futures:
        future.add_done_callback(lambda _: [each.cancel() for each in futures])
    assert futures[0].cancel()
    assert all(future.cancelled() for future in futures)
    assert client.call("add", 1, 2) == 3


def test_a_callback_of_a_future_that_exits_leaves_other_calls_alone(
    served: Served, gate: Gate, logged_errors: Any
) -> None:
    with RPCClient(served.host, served.port) as client:
        first, other = client.submit("wait"), client.submit("wait")
        first.add_done_callback(lambda _: sys.exit(3))
        assert gate.entered.acquire(timeout=PATIENCE)
        assert gate.entered.acquire(timeout=PATIENCE)
    assert isinstance(other.exception(PATIENCE), ConnectionLost)
    assert logged_errors.claim() == ["a callback of the future of wait raised"]


def test_a_finished_future_lets_its_client_go(served: Served) -> None:
    client = RPCClient("127.0.0.1", served.port)
    handle = weakref.ref(client._handle)
    future = client.submit("radd", 1, 2)
    assert future.result(PATIENCE) == 3
    client.call("rpc.ping")
    gc.disable()
    try:
        del client
        assert handle() is None
    finally:
        gc.enable()


def test_arguments_are_taken_as_they_are_when_the_call_is_made(client: RPCClient) -> None:
    values = [1]
    futures = []
    for n in range(200):
        futures.append(client.submit("add", values, [n]))
        values.append(n)
    assert [len(future.result(PATIENCE)) for future in futures] == list(range(2, 202))
    with pytest.raises(TypeError):
        client.submit("add", object(), 1)


def test_a_function_of_the_client_that_exits_closes_that_client_alone(
    served: Served, logged_errors: Any
) -> None:
    def leave() -> None:
        raise SystemExit

    @in_reactor
    async def ask() -> Any:
        return await current_call().connection.call("leave")

    server = Served({"ask": ask})
    with (
        RPCClient("127.0.0.1", served.port) as other,
        RPCClient("127.0.0.1", server.port, funcs={"leave": leave}) as client,
    ):
        with pytest.raises(ConnectionLost):
            client.call("ask")
        assert other.call("add", 1, 2) == 3
    server.stop()
    assert len(logged_errors.claim()) == 1


def test_closing_waits_until_what_was_written_has_left() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = RPCClient("127.0.0.1", listener.getsockname()[1])
        peer, _ = listener.accept()
        client.notify("note", "x" * 3_000_000)
        closing = threading.Thread(target=client.close)
        closing.start()
        received = 0
        while data := peer.recv(65536):
            received += len(data)
        closing.join(PATIENCE)
        peer.close()
    assert received > 3_000_000


def test_a_server_that_ends_no_reply_with_a_newline_can_be_called() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        RPCClient("127.0.0.1", listener.getsockname()[1], framing="documents") as client,
    ):
        calling = [client.submit("echo", 1), client.submit("echo", 2)]
        peer, _ = listener.accept()
        with peer, peer.makefile("rb") as requests:
            ids = [json.loads(requests.readline())["id"] for _ in calling]
            for request_id in ids:
                peer.sendall(b'{"jsonrpc": "2.0", "id": %d, "result": "}"}' % request_id)
            assert [each.result(PATIENCE) for each in calling] == ["}", "}"]


def test_a_notification_arrives() -> None:
    arrived = threading.Event()
    server = Served({"tell": lambda: arrived.set()})
    with RPCClient("127.0.0.1", server.port) as client:
        client.notify("tell")
        assert arrived.wait(PATIENCE)
    server.stop()


@pytest.mark.parametrize("dialect", ["2.0", "1.0", "kn-sock"])
def test_every_dialect_works(served: Served, dialect: Any) -> None:
    with RPCClient("127.0.0.1", served.port, dialect=dialect) as client:
        assert client.call("add", 1, 2) == 3
        with pytest.raises(RemoteError, match=r"^Division by zero is not allowed$"):
            client.call("divide", 1, 0)


def test_the_server_calls_functions_of_the_client() -> None:
    @in_reactor
    async def greet() -> str:
        return f"hello {await current_call().connection.call('name')}"

    server = Served({"greet": greet})
    with RPCClient("127.0.0.1", server.port, funcs={"name": lambda: "Ada"}) as client:
        assert client.call("greet") == "hello Ada"
    server.stop()


def test_a_method_sleeps_on_the_reactor_of_its_call() -> None:
    async def sleeps() -> str:
        await deferLater(current_call().reactor, 0.01)
        return "slept"

    server = Served({"sleeps": sleeps})
    with RPCClient("127.0.0.1", server.port, timeout=PATIENCE) as client:
        assert client.call("sleeps") == "slept"
    server.stop()


def test_a_function_in_a_thread_calls_back_and_waits() -> None:
    def greet() -> str:
        call = current_call()
        with pytest.raises(RuntimeError, match="reactor's thread"):
            call.connection.call("name")
        name = blockingCallFromThread(call.reactor, call.connection.call, "name")
        return f"hello {name}"

    server = Served({"greet": greet})
    with RPCClient("127.0.0.1", server.port, funcs={"name": lambda: "Ada"}) as client:
        assert client.call("greet") == "hello Ada"
    server.stop()


# --- connecting -----------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_a_refused_connection_is_the_builtin_error(free_port: int, host: str) -> None:
    with pytest.raises(ConnectionRefusedError) as caught:
        RPCClient(host, free_port)
    assert isinstance(caught.value, ConnectRefused)
    assert isinstance(caught.value, OSError)
    assert caught.value.errno == errno.ECONNREFUSED
    assert caught.value.__cause__ is not None
    assert f":{free_port}" in str(caught.value)


def test_a_name_that_does_not_exist_is_an_os_error() -> None:
    with pytest.raises(ConnectFailed, match=r"nowhere\.invalid"):
        RPCClient("nowhere.invalid", 8080)


def test_a_server_that_does_not_answer_is_given_up() -> None:
    """The backlog of a listener that accepts nothing fills, and then nobody answers."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    fillers = []
    for _ in range(8):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
        fillers.append(filler)
    with pytest.raises(ConnectFailed) as caught:
        RPCClient("127.0.0.1", listener.getsockname()[1], connect_timeout=0.1)
    assert caught.value.errno == errno.ETIMEDOUT
    for each in (*fillers, listener):
        each.close()


@pytest.mark.parametrize(
    ("port", "kind"), [(0, ValueError), (65536, ValueError), ("80a", TypeError), (True, TypeError)]
)
def test_a_port_that_is_none_is_refused(port: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="port"):
        RPCClient("localhost", port)


def test_options_that_are_none_are_refused(served: Served) -> None:
    with pytest.raises(TypeError, match=r"no option timeuot; there are .*connect_timeout.*timeout"):
        RPCClient("localhost", served.port, timeuot=3)
    with pytest.raises(TypeError, match="no option maxpending"):
        start_rpc_server(0, {"add": add}, maxpending=3)
    with pytest.raises(ValueError, match="port is apart"):
        RPCClient("localhost:8080", 8080)
    for host in ("a..b", "x" * 70 + ".example"):
        with pytest.raises(ValueError, match="no host"):
            RPCClient(host, 8080)
    with pytest.raises(ValueError, match="dialect"):
        RPCClient("localhost", served.port, dialect="3.0")  # type: ignore[arg-type]


def test_an_endpoint_string_connects(served: Served) -> None:
    with RPCClient.from_endpoint(f"tcp:127.0.0.1:{served.port}") as client:
        assert client.call("add", 1, 2) == 3
    with pytest.raises(ValueError, match="endpoint"):
        RPCClient.from_endpoint("nonsense")


def test_a_lost_connection_is_made_anew_by_the_next_call(gate: Gate) -> None:
    first = Served({"add": add, "wait": gate.wait}, drain_timeout=0)
    client = RPCClient("127.0.0.1", first.port)
    waiting = client.submit("wait")
    assert gate.entered.acquire(timeout=PATIENCE)
    first.stop()
    with pytest.raises(ConnectionLost) as caught:
        waiting.result(PATIENCE)
    assert caught.value.maybe_executed is True
    with pytest.raises(ConnectionRefusedError):
        client.call("add", 1, 2)
    gate.is_open.set()

    again = threading.Event()
    ready = threading.Event()
    serving = threading.Thread(
        target=start_rpc_server,
        args=(first.port, {"add": add}),
        kwargs={"shutdown_event": again, "on_ready": lambda *_: ready.set()},
    )
    serving.start()
    assert ready.wait(PATIENCE)
    assert client.call("add", 1, 2) == 3
    client.close()
    again.set()
    serving.join(PATIENCE)


def test_a_closed_client_says_so(served: Served) -> None:
    client = RPCClient("127.0.0.1", served.port)
    client.close()
    client.close()
    with pytest.raises(ConnectionLost, match="closed"):
        client.call("add", 1, 2)
    with pytest.raises(ConnectionLost, match="closed"):
        client.submit("add", 1, 2).result(PATIENCE)


def test_closing_waits_for_no_peer_that_goes_on() -> None:
    """It says goodbye, and need not cut the connection in the end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = RPCClient("127.0.0.1", listener.getsockname()[1])
        peer, _ = listener.accept()
        with peer:
            peer.settimeout(PATIENCE)
            waiting = client.submit("wait")
            assert b"wait" in peer.recv(1000)
            client.close()
            with pytest.raises(ConnectionLost):
                waiting.result(PATIENCE)
            # The cancellation, and then the end; a reset would raise.
            assert b"cancelRequest" in peer.recv(1000)
            assert peer.recv(1000) == b""


def test_closing_fails_what_waits(client: RPCClient, gate: Gate) -> None:
    waiting = client.submit("wait")
    assert gate.entered.acquire(timeout=PATIENCE)
    client.close()
    with pytest.raises(ConnectionLost):
        waiting.result(PATIENCE)


def test_a_forgotten_client_closes_its_connection() -> None:
    gone = threading.Event()

    @in_reactor
    async def watch() -> None:
        try:
            await current_call().connection.with_options(timeout=None).call("never")
        except ConnectionLost:
            gone.set()

    server = Served({"watch": watch})
    never = threading.Event()
    client = RPCClient("127.0.0.1", server.port, funcs={"never": never.wait})
    client.notify("watch")
    client.call("rpc.ping")
    del client
    gc.collect()
    assert gone.wait(PATIENCE)
    never.set()
    server.stop()


def test_a_blocking_call_on_the_reactors_thread_raises_at_once(served: Served) -> None:
    client = RPCClient("127.0.0.1", served.port)

    @in_reactor
    def inside() -> Any:
        return client.call("add", 1, 2)

    other = Served({"inside": inside})
    with (
        RPCClient("127.0.0.1", other.port) as caller,
        pytest.raises(RuntimeError, match="reactor's thread"),
    ):
        caller.call("inside")
    other.stop()
    assert client.call("add", 1, 2) == 3
    client.close()


def test_a_blocking_call_inside_a_method_in_a_thread_works(served: Served) -> None:
    client = RPCClient("127.0.0.1", served.port)
    other = Served({"forward": lambda a, b: client.call("add", a, b)})
    with RPCClient("127.0.0.1", other.port) as caller:
        assert caller.call("forward", 1, 2) == 3
    other.stop()
    client.close()


# --- the server -----------------------------------------------------------------------------------


def test_a_port_in_use_is_a_builtin_os_error(served: Served) -> None:
    with pytest.raises(OSError, match=str(served.port)) as caught:
        start_rpc_server(served.port, {"add": add})
    assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize("port", [-1, 65536, "8080", None])
def test_a_server_port_that_is_none_is_refused(port: Any) -> None:
    with pytest.raises(ValueError, match="port"):
        start_rpc_server(port, {"add": add})


@pytest.mark.parametrize("funcs", [None, "add", add, {"add": 3}, {3: add}, int])
def test_functions_that_are_none_are_refused(funcs: Any) -> None:
    with pytest.raises(TypeError):
        start_rpc_server(0, funcs)


def test_servers_run_at_once_and_one_after_another() -> None:
    one, two = Served({"who": lambda: 1}), Served({"who": lambda: 2})
    assert one.host == "127.0.0.1"
    for server, number in ((one, 1), (two, 2)):
        with RPCClient("127.0.0.1", server.port) as client:
            assert client.call("who") == number
    one.stop()
    three = Served({"who": lambda: 3})
    for server, number in ((two, 2), (three, 3)):
        with RPCClient("127.0.0.1", server.port) as client:
            assert client.call("who") == number
        server.stop()


def test_stopping_drains(served: Served, gate: Gate) -> None:
    with RPCClient("127.0.0.1", served.port) as client:
        waiting = client.submit("wait")
        assert gate.entered.acquire(timeout=PATIENCE)
        served.shutdown.set()
        while served.thread.is_alive() and not waiting.done():
            gate.is_open.set()
            served.thread.join(0.05)
        assert waiting.result(PATIENCE) == "through"


def test_a_method_that_exits_ends_the_server(logged_errors: Any) -> None:
    def leave() -> None:
        raise SystemExit(3)

    server = Served({"leave": leave})
    with (
        RPCClient("127.0.0.1", server.port) as client,
        pytest.raises(InternalError, match="leave raised SystemExit: the server is stopping"),
    ):
        client.call("leave")
    server.thread.join(PATIENCE)
    assert isinstance(server.raised, SystemExit)
    assert len(logged_errors.claim()) == 1


def test_threads_zero_puts_everything_on_the_reactor() -> None:
    server = Served({"name": lambda: threading.current_thread().name}, threads=0)
    with RPCClient("127.0.0.1", server.port) as client:
        assert client.call("name") == "kn_sock-reactor"
    server.stop()


def test_an_executor_of_ones_own_runs_the_functions() -> None:
    with ThreadPoolExecutor(1, thread_name_prefix="mine") as pool:
        server = Served({"name": lambda: threading.current_thread().name}, executor=pool)
        with RPCClient("127.0.0.1", server.port) as client:
            assert client.call("name").startswith("mine")
        server.stop()


# --- the process ----------------------------------------------------------------------------------

RunScript = Callable[[str], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run_script(tmp_path: Path) -> RunScript:
    """Runs a script in a fresh interpreter, to its end."""

    def run(text: str) -> subprocess.CompletedProcess[str]:
        script = tmp_path / "script.py"
        script.write_text(text)
        return subprocess.run(
            [sys.executable, "-W", "error", str(script)],
            env=script_environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    return run


def script_environment() -> dict[str, str]:
    top = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": top, "PYTHONUNBUFFERED": "1"}


SERVE_IN_DAEMON_THREAD = """
import threading
from kn_sock import RPCClient, start_rpc_server

def add(a, b):
    return a + b

ready = threading.Event()
address = []

def on_ready(host, port):
    address.append(port)
    ready.set()

threading.Thread(
    target=start_rpc_server, args=(0, {"add": add, "block": threading.Event().wait}),
    kwargs={"on_ready": on_ready}, daemon=True,
).start()
ready.wait()
client = RPCClient("localhost", address[0])
"""


def test_the_interpreter_ends_with_client_and_server_open(run_script: RunScript) -> None:
    done = run_script(SERVE_IN_DAEMON_THREAD + "print(client.call('add', 1, 2))\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


def test_the_interpreter_ends_with_a_call_under_way(run_script: RunScript) -> None:
    done = run_script(SERVE_IN_DAEMON_THREAD + "future = client.submit('block')\nprint('end')\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


@pytest.mark.parametrize("last", ["", "shutdown.set()", "client.close()\nshutdown.set()"])
def test_a_server_that_is_stopped_with_the_interpreter_prints_nothing(
    run_script: RunScript, last: str
) -> None:
    served = SERVE_IN_DAEMON_THREAD.replace(
        '"on_ready": on_ready}', '"on_ready": on_ready, "shutdown_event": shutdown}'
    ).replace("ready =", "shutdown = threading.Event()\nready =")
    done = run_script(served + "print(client.call('add', 1, 2))\n" + last)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


def test_a_thread_that_waits_does_not_keep_the_interpreter(run_script: RunScript) -> None:
    done = run_script(
        SERVE_IN_DAEMON_THREAD
        + "threading.Thread(target=client.call, args=('block',), daemon=True).start()\n"
        + "print(client.call('add', 1, 2))\n"
    )
    assert (done.returncode, done.stdout) == (0, "3\n")
    assert done.stderr == ""


@pytest.mark.parametrize("last", ["client.close()", "client.call('add', 1, 2)"])
def test_an_exit_handler_that_uses_a_client_does_not_hang(run_script: RunScript, last: str) -> None:
    done = run_script(
        "import atexit\n"
        "def bye():\n"
        "    try:\n"
        f"        {last}\n"
        "    except ConnectionError as error:\n"
        "        print(type(error).__name__)\n"
        "    print('bye')\n"
        "atexit.register(bye)\n" + SERVE_IN_DAEMON_THREAD
    )
    assert done.returncode == 0
    assert done.stdout.endswith("bye\n")
    assert done.stderr == ""


def test_what_was_sent_last_arrives_although_the_script_ends(run_script: RunScript) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        received = [0]

        def read() -> None:
            peer, _ = listener.accept()
            while data := peer.recv(65536):
                received[0] += len(data)
            peer.close()

        reading = threading.Thread(target=read)
        reading.start()
        port = listener.getsockname()[1]
        done = run_script(
            "from kn_sock import RPCClient\n"
            f"RPCClient('127.0.0.1', {port}).notify('note', 'x' * 3_000_000)\n"
        )
        reading.join(PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    assert received[0] > 3_000_000


def test_a_child_of_fork_makes_its_own_client(run_script: RunScript) -> None:
    done = run_script(
        SERVE_IN_DAEMON_THREAD
        + """
import os, warnings
warnings.simplefilter("ignore")
print(client.call("add", 1, 2), flush=True)
child = os.fork()
if not child:
    try:
        client.call("add", 1, 2)
    except RuntimeError as error:
        print(type(error).__name__, "fork" in str(error), flush=True)
    client.close()
    with RPCClient("localhost", address[0]) as own:
        print(own.call("add", 3, 4), flush=True)
    os._exit(0)
os.waitpid(child, 0)
print(client.call("add", 5, 6), flush=True)
"""
    )
    assert done.stdout.splitlines() == ["3", "ForkedError True", "7", "11"]
    assert done.returncode == 0


def test_a_child_of_fork_does_not_wait_for_what_its_parent_is_told(run_script: RunScript) -> None:
    done = run_script(
        SERVE_IN_DAEMON_THREAD
        + """
import os, signal, warnings
warnings.simplefilter("ignore")
results = client.map("block", [0, 60])
print(next(results), flush=True)
child = os.fork()
if not child:
    signal.alarm(10)
    try:
        next(results)
    except RuntimeError as error:
        print(type(error).__name__, flush=True)
    os._exit(0)
os.waitpid(child, 0)
os._exit(0)
"""
    )
    assert done.stdout.splitlines() == ["False", "ForkedError"]


def started(script: Path) -> tuple[subprocess.Popen[str], str, int]:
    """Start a script that serves; give it, and the address that it prints."""
    server = subprocess.Popen(
        [sys.executable, str(script)],
        env=script_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert server.stdout is not None
    host, port = server.stdout.readline().split()
    return server, host, int(port)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_and_returns(tmp_path: Path, number: signal.Signals) -> None:
    script = tmp_path / "server.py"
    script.write_text(
        "from kn_sock import start_rpc_server\n"
        "start_rpc_server(0, {'add': lambda a, b: a + b}, on_ready=lambda *a: print(*a))\n"
        "print('returned')\n"
    )
    server, host, port = started(script)
    assert server.stdout is not None
    with RPCClient(host, port) as client:
        assert client.call("add", 1, 2) == 3
        server.send_signal(number)
        output, errors = server.communicate(timeout=PATIENCE)
    assert (server.returncode, output, errors) == (0, "returned\n", "")


def test_ctrl_c_twice_does_not_wait_for_what_is_under_way(tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text(
        "import threading\n"
        "from kn_sock import start_rpc_server\n"
        "def block():\n"
        "    print('entered')\n"
        "    threading.Event().wait()\n"
        "start_rpc_server(0, {'block': block}, on_ready=lambda *a: print(*a), drain_timeout=None)\n"
        "print('returned')\n"
    )
    server, host, port = started(script)
    assert server.stdout is not None
    with RPCClient(host, port) as client:
        blocked = client.submit("block")
        assert server.stdout.readline() == "entered\n"
        server.send_signal(signal.SIGINT)
        while not isinstance(refused(client), RPCError):
            pass
        assert not blocked.done()
        server.send_signal(signal.SIGINT)
        output, errors = server.communicate(timeout=PATIENCE)
        with pytest.raises(ConnectionLost):
            blocked.result(PATIENCE)
    assert (server.returncode, output, errors) == (0, "returned\n", "")


def refused(client: RPCClient) -> Exception | None:
    """Ask the server for a sign of life; give its refusal."""
    try:
        client.call("rpc.ping")
    except Exception as error:
        return error
    return None


def test_ctrl_c_ends_a_waiting_call(tmp_path: Path, served: Served, gate: Gate) -> None:
    script = tmp_path / "client.py"
    script.write_text(
        "import sys\n"
        "from kn_sock import RPCClient\n"
        "client = RPCClient('127.0.0.1', int(sys.argv[1]))\n"
        "try:\n"
        "    client.call('wait_for_cancel')\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', client.call('add', 1, 2))\n"
    )
    waiting = subprocess.Popen(
        [sys.executable, str(script), str(served.port)],
        env=script_environment(),
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert gate.entered.acquire(timeout=PATIENCE)
    waiting.send_signal(signal.SIGINT)
    output, _ = waiting.communicate(timeout=PATIENCE)
    assert (waiting.returncode, output) == (0, "interrupted 3\n")
    assert gate.is_open.wait(PATIENCE)


def test_ctrl_c_while_the_reactor_is_woken_leaves_the_client_of_use(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    reactor = reactor_thread().reactor
    wake = reactor.callFromThread
    interrupts = [KeyboardInterrupt()]

    def interrupted(*args: Any) -> None:
        if interrupts:
            raise interrupts.pop()
        wake(*args)

    client = RPCClient(served.host, served.port)
    monkeypatch.setattr(reactor, "callFromThread", interrupted)
    with pytest.raises(KeyboardInterrupt):
        client.submit("add", 1, 2)
    assert client.submit("add", 1, 2).result(PATIENCE) == 3
    client.close()


def test_importing_and_using_it_leaves_the_process_as_it_was(run_script: RunScript) -> None:
    done = run_script(
        "import logging, sys, warnings\n"
        "before = (list(logging.root.handlers), warnings.showwarning, sys.stdout)\n"
        + SERVE_IN_DAEMON_THREAD
        + "client.call('add', 1, 2)\n"
        "print(before == (list(logging.root.handlers), warnings.showwarning, sys.stdout))\n"
        "print('twisted.internet.reactor' in sys.modules)\n"
    )
    assert done.stdout.splitlines() == ["True", "False"]


def test_the_reactor_starts_anew_when_its_thread_has_ended() -> None:
    thread = reactor_thread()
    thread.stop()
    assert not thread.is_alive
    server = Served({"add": add})
    with RPCClient("127.0.0.1", server.port) as client:
        assert client.call("add", 1, 2) == 3
    server.stop()


def test_whoever_waits_is_told_when_the_reactor_stops(served: Served, gate: Gate) -> None:
    client = RPCClient("127.0.0.1", served.port)
    waiting = client.submit("wait")
    assert gate.entered.acquire(timeout=PATIENCE)
    reactor_thread().stop()
    with pytest.raises(ConnectionLost):
        waiting.result(PATIENCE)
    with pytest.raises(ConnectionLost):
        client.call("add", 1, 2)


def test_ctrl_c_that_an_event_turns_into_another_error_is_ctrl_c_still() -> None:
    """As it does where it comes between the release of its lock and the end of its wait."""

    class Interrupted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            try:
                raise KeyboardInterrupt
            finally:
                raise RuntimeError("release unlocked lock")  # what it does

    # It ends the server, as Ctrl-C does, and nothing is raised.
    start_rpc_server(0, {"add": add}, shutdown_event=Interrupted())


def test_what_an_event_raises_by_itself_is_not_hidden() -> None:
    class Broken(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        start_rpc_server(0, {"add": add}, shutdown_event=Broken())
