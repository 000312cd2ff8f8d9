"""The blocking client when its server goes away, comes back, or was never there: real sockets."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kn_sock import (
    CallTimeout,
    ConnectFailed,
    ConnectionLost,
    ConnectRefused,
    ForkedError,
    RPCClient,
    RPCConnection,
    start_rpc_server,
)
from kn_sock._blocking.reactor_thread import reactor_thread

# Nothing here takes this long; a test that does has hung.
PATIENCE = 20.0

SERVER = """
import os, sys, threading
from kn_sock import start_rpc_server

ran = []

def hang(number):
    os.write(1, b"hangs\\n")
    threading.Event().wait()

funcs = {"run": ran.append, "ran": lambda: ran, "hang": hang}
start_rpc_server(int(sys.argv[1]), funcs, threads=30, on_ready=lambda host, port: print(port))
"""


class ServerProcess:
    """A server in a process of its own, that can be killed."""

    def __init__(self, port: int = 0) -> None:
        top = str(Path(__file__).resolve().parents[2])
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(port)],
            env={**os.environ, "PYTHONPATH": top, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def wait_for(self, line: str, times: int) -> None:
        """Read on until it has said this so many times."""
        assert self.process.stdout is not None
        for _ in range(times):
            assert self.process.stdout.readline() == f"{line}\n"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=PATIENCE)


@pytest.fixture
def make_server() -> Iterator[Callable[..., ServerProcess]]:
    made: list[ServerProcess] = []

    def make(port: int = 0) -> ServerProcess:
        made.append(ServerProcess(port))
        return made[-1]

    yield make
    for server in made:
        if server.process.poll() is None:
            server.kill()


def test_a_server_that_is_killed_and_comes_back_is_called_on_by_every_thread(
    make_server: Callable[..., ServerProcess],
) -> None:
    threads = 20
    first = make_server()
    client = RPCClient("127.0.0.1", first.port, queue_while_disconnected=True, timeout=PATIENCE)
    lost: list[bool] = []

    def work(thread: int) -> int:
        """Have a call lost, then call until one is answered; give the number of that one."""
        number = thread * 1_000_000
        name = "hang"
        while True:
            try:
                client.call(name, number)
            except ConnectionLost as problem:
                lost.append(problem.maybe_executed)
            else:
                return number
            name = "run"
            number += 1

    with ThreadPoolExecutor(threads) as pool:
        working = [pool.submit(work, thread) for thread in range(threads)]
        first.wait_for("hangs", threads)
        first.kill()
        make_server(first.port)
        answered = [each.result(PATIENCE) for each in working]
    ran = client.call("ran")
    client.close()
    # Each thread had one call on the way at most. While the first dies, its kernel may take one
    # more connection, and with it more calls.
    assert threads <= len(lost) <= 2 * threads
    assert all(lost)
    # What was lost was not sent again.
    assert sorted(ran) == sorted(answered)


def add(a: Any, b: Any) -> Any:
    return a + b


class Served:
    """A server in a thread of its own."""

    def __init__(self, port: int, funcs: Any) -> None:
        self.shutdown = threading.Event()
        ready = threading.Event()
        self.port = 0

        def on_ready(_: str, port: int) -> None:
            self.port = port
            ready.set()

        self.thread = threading.Thread(
            target=start_rpc_server,
            args=(port, funcs),
            kwargs={"shutdown_event": self.shutdown, "on_ready": on_ready},
            daemon=True,
        )
        self.thread.start()
        assert ready.wait(PATIENCE)

    def stop(self) -> None:
        self.shutdown.set()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


def test_a_client_that_queues_needs_no_server_yet(free_port: int) -> None:
    with RPCClient("127.0.0.1", free_port, queue_while_disconnected=True) as client:
        early = [client.submit("add", n, n) for n in range(3)]
        server = Served(free_port, {"add": add})
        assert [each.result(PATIENCE) for each in early] == [0, 2, 4]
        assert client.call("add", 1, 2) == 3
    server.stop()


def test_a_call_that_no_server_comes_for_in_time_was_not_sent(free_port: int) -> None:
    with RPCClient("127.0.0.1", free_port, queue_while_disconnected=True, timeout=0.2) as client:
        with pytest.raises(CallTimeout, match=r"no connection within 0\.2 s") as caught:
            client.call("add", 1, 2)
        assert caught.value.maybe_executed is False


def test_closing_fails_calls_that_wait_for_a_server(free_port: int) -> None:
    client = RPCClient("127.0.0.1", free_port, queue_while_disconnected=True)
    waiting = client.submit("add", 1, 2)
    client.close()
    # Nothing is left of it on the reactor's thread.
    assert client._handle.link.channel not in reactor_thread().closables
    with pytest.raises(ConnectionLost) as caught:
        waiting.result(PATIENCE)
    assert caught.value.maybe_executed is False


def test_a_child_of_fork_does_not_wait_for_its_parents_connection(free_port: int) -> None:
    with RPCClient("127.0.0.1", free_port, queue_while_disconnected=True) as client:
        waiting = client.submit("add", 1, 2)
        with warnings.catch_warnings():
            # Python's own, of forking where there are threads.
            warnings.simplefilter("ignore")
            child = os.fork()
        if not child:
            try:
                client.call("add", 1, 2)
            except ForkedError:
                os._exit(7)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 7
        server = Served(free_port, {"add": add})
        assert waiting.result(PATIENCE) == 3
    server.stop()


def test_without_queueing_a_call_tries_once_and_says_that_it_was_not_sent(free_port: int) -> None:
    server = Served(free_port, {"add": add})
    with RPCClient("127.0.0.1", free_port) as client:
        assert client.call("add", 1, 2) == 3
        server.stop()
        with pytest.raises(ConnectionRefusedError) as caught:
            client.call("add", 1, 2)
        assert isinstance(caught.value, ConnectFailed)
        assert caught.value.maybe_executed is False


def test_the_second_endpoint_serves_while_the_first_does_not(free_port: int) -> None:
    standby = Served(0, {"who": lambda: "standby"})
    first, second = f"tcp:127.0.0.1:{free_port}", f"tcp:127.0.0.1:{standby.port}"
    with RPCClient.from_endpoint([first, second]) as client:
        assert client.call("who") == "standby"
        primary = Served(free_port, {"who": lambda: "primary"})
        # Until the connection is lost, it is the one that is used.
        assert client.call("who") == "standby"
        standby.stop()
        assert client.call("who") == "primary"
    primary.stop()
    with pytest.raises(ConnectionRefusedError, match="any of 2 endpoints"):
        RPCClient.from_endpoint([first, second])


# --- what prepares a connection -------------------------------------------------------------------


def test_a_connection_is_prepared_before_the_client_is_there() -> None:
    server = Served(0, {"add": add})
    prepared: list[Any] = []

    async def prepare(connection: RPCConnection) -> None:
        prepared.append(threading.current_thread().name)
        prepared.append(await connection.call("add", 1, 2))

    with RPCClient("127.0.0.1", server.port, on_connected=prepare) as client:
        assert prepared == ["kn_sock-reactor", 3]
        assert client.call("add", 3, 4) == 7
    server.stop()


def test_a_connection_that_cannot_be_prepared_is_one_that_failed() -> None:
    server = Served(0, {"add": add})
    clients: list[RPCClient] = []

    def blocks(_: RPCConnection) -> None:
        clients[0].call("add", 1, 2)

    with RPCClient("127.0.0.1", server.port) as other:
        clients.append(other)
        with pytest.raises(ConnectFailed, match="on_connected failed: RuntimeError") as caught:
            RPCClient("127.0.0.1", server.port, on_connected=blocks)
        assert isinstance(caught.value.__cause__, RuntimeError)
    server.stop()


# --- a server that closes after each reply --------------------------------------------------------


class FakeServer:
    """Reads a line from each connection, does as it is told, and closes."""

    def __init__(self, *answers: bytes | None) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.received: list[bytes] = []
        self.closed = threading.Semaphore(0)
        self._answers = answers
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        for answer in self._answers:
            peer, _ = self.listener.accept()
            with peer, peer.makefile("rb") as lines:
                line = lines.readline()
                self.received.append(line)
                if answer is not None:
                    number = line.split(b'"id":')[1].split(b",")[0]
                    peer.sendall(answer.replace(b"ID", number))
                peer.shutdown(socket.SHUT_WR)
                # The client closes, too.
                lines.read()
            self.closed.release()

    def stop(self) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        self.listener.close()


REPLY = b'{"jsonrpc":"2.0","id":ID,"result":"done"}\n'


def test_a_server_that_closes_after_each_reply_is_called_again() -> None:
    server = FakeServer(REPLY, REPLY, REPLY)
    with RPCClient("127.0.0.1", server.port) as client:
        for _ in range(3):
            assert client.call("work") == "done"
            assert server.closed.acquire(timeout=PATIENCE)
    server.stop()


@pytest.mark.parametrize("how", ["call", "submit", "batch"])
def test_a_written_call_that_may_be_run_twice_is_sent_once_more(how: str) -> None:
    reply = b"[" + REPLY[:-1] + b"]\n" if how == "batch" else REPLY
    server = FakeServer(None, reply)
    with RPCClient("127.0.0.1", server.port) as client:
        twice = client.with_options(idempotent=True)
        if how == "call":
            assert twice.call("work") == "done"
        elif how == "submit":
            assert twice.submit("work").result(PATIENCE) == "done"
        else:
            batch = twice.batch()
            batch.call("work")
            assert batch.send() == ["done"]
    server.stop()
    assert len(server.received) == 2
    assert server.received[0] == server.received[1]


def test_a_written_call_that_may_not_fails() -> None:
    server = FakeServer(None, REPLY)
    with RPCClient("127.0.0.1", server.port) as client:
        with pytest.raises(ConnectionLost) as caught:
            client.call("work")
        assert caught.value.maybe_executed is True
        assert client.call("work") == "done"
    server.stop()


def test_a_second_try_that_finds_no_server_says_that_the_first_may_have_run() -> None:
    server = FakeServer(None)
    with RPCClient("127.0.0.1", server.port) as client:
        server.listener.close()
        with pytest.raises(ConnectionLost, match="not sent again") as caught:
            client.with_options(idempotent=True).call("work")
        assert caught.value.maybe_executed is True
        assert isinstance(caught.value.__cause__, ConnectFailed)
    server.stop()


# --- calls that fail together ---------------------------------------------------------------------


def check_each_has_its_own(futures: list[Any], kind: type[BaseException]) -> None:
    errors = [future.exception(PATIENCE) for future in futures]
    assert {type(error) for error in errors} == {kind}
    assert len({str(error) for error in errors}) == 1
    assert len({type(error.__cause__) for error in errors}) == 1
    assert len({id(error) for error in errors}) == len(errors)


def test_calls_that_a_refused_connection_fails_have_errors_of_their_own(free_port: int) -> None:
    server = Served(free_port, {"add": add})
    with RPCClient("127.0.0.1", free_port) as client:
        server.stop()
        with contextlib.suppress(ConnectionLost, ConnectRefused):
            while True:
                client.call("add", 1, 1)
        futures = [client.submit("add", number, 1) for number in range(3)]
        check_each_has_its_own(futures, ConnectRefused)


def test_calls_that_a_close_fails_while_they_wait_have_errors_of_their_own(free_port: int) -> None:
    client = RPCClient("127.0.0.1", free_port, queue_while_disconnected=True)
    futures = [client.submit("add", number, 1) for number in range(3)]
    client.close()
    check_each_has_its_own(futures, ConnectionLost)
