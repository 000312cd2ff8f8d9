"""SIGTERM: no reply is lost whose call was accepted, and the end comes in its time."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from kn_sock import ConnectFailed, ConnectionLost, RPCClient, RPCError, in_reactor
from kn_sock.options import DRAIN_TIMEOUT
from tests.faults.peers import (
    HOST,
    PATIENCE,
    Peer,
    Process,
    ScriptedServer,
    ServedService,
    call,
    wait_until,
)

StartTwistd = Callable[..., Process]

# Each method writes down that it was begun, before anything else.
MODULE = """
import os, threading, time
from twisted.internet import reactor, task
from kn_sock import in_reactor

book = os.open(os.environ["BOOK"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def begun(name):
    os.write(book, f"{name}\\n".encode())

def in_thread(name):
    begun(name)
    time.sleep(0.02)
    return name

@in_reactor
def on_reactor(name):
    begun(name)
    return task.deferLater(reactor, 0.02, lambda: name)

@in_reactor
def at_once(name):
    begun(name)
    return name

def endless(name):
    begun(name)
    print("entered", flush=True)
    threading.Event().wait()

FUNCS = {f.__name__: f for f in (in_thread, on_reactor, at_once, endless)}
"""

# Twisted ends itself by the signal that it was asked by.
ENDED = (0, -signal.SIGTERM)

METHODS = ["in_thread", "on_reactor", "at_once"]
LISTENS = r"serving .* on 127\.0\.0\.1:(\d+)"


@pytest.fixture
def run(
    start_twistd: StartTwistd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Process, int]]:
    """Starts ``twistd knsock`` with these methods; gives it, and its port."""
    (tmp_path / "stopped.py").write_text(MODULE)
    monkeypatch.setenv("BOOK", str(tmp_path / "book"))

    def begin(*options: str) -> tuple[Process, int]:
        funcs = ("--port", "0", "--funcs", "stopped.FUNCS")
        server = start_twistd("-n", "knsock", *funcs, *options, cwd=tmp_path)
        return server, int(server.line_with(LISTENS)[1])

    return begin


class Load:
    """Clients that call until the server is gone, and what became of each call."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.answered: set[str] = set()
        self.refused: set[str] = set()
        self.lost: dict[str, bool] = {}
        self.under_way = threading.Semaphore(0)

    def __call__(self, kind: int) -> None:
        (self.one_by_one, self.pipelined, self.batches, self.plain)[kind % 4](kind)

    def one_by_one(self, client_number: int) -> None:
        with RPCClient(HOST, self.port, timeout=PATIENCE) as client:
            number = 0
            while True:
                number += 1
                name = f"{client_number}-{number}"
                try:
                    result = client.call(METHODS[number % 3], name)
                except Exception as problem:
                    if not self.note_failure(name, problem):
                        return
                else:
                    self.note(name, result)

    def pipelined(self, client_number: int) -> None:
        with RPCClient(HOST, self.port, timeout=PATIENCE) as client:
            for first in range(0, 10**9, 50):
                names = [f"{client_number}-{first + n}" for n in range(50)]
                futures = [client.submit(METHODS[n % 3], name) for n, name in enumerate(names)]
                goes_on = True
                for name, future in zip(names, futures, strict=True):
                    problem = future.exception(PATIENCE)
                    if problem is None:
                        self.note(name, future.result())
                    else:
                        goes_on = self.note_failure(name, problem) and goes_on
                if not goes_on:
                    return

    def batches(self, client_number: int) -> None:
        with RPCClient(HOST, self.port, timeout=PATIENCE) as client:
            for first in range(0, 10**9, 10):
                names = [f"{client_number}-{first + n}" for n in range(10)]
                batch = client.batch()
                for n, name in enumerate(names):
                    batch.call(METHODS[n % 3], name)
                try:
                    results = batch.send()
                except (ConnectFailed, ConnectionLost) as problem:
                    results = [problem] * len(names)
                goes_on = True
                for name, result in zip(names, results, strict=True):
                    if isinstance(result, Exception):
                        goes_on = self.note_failure(name, result) and goes_on
                    else:
                        self.note(name, result)
                if not goes_on:
                    return

    def plain(self, client_number: int) -> None:
        """Calls of kn-sock 0.3, one upon the other, answered in their order."""
        peer = Peer(socket.create_connection((HOST, self.port), timeout=PATIENCE))
        sent: list[str] = []
        answers = 0
        try:
            while True:
                for _ in range(5):
                    name = f"{client_number}-{len(sent)}"
                    sent.append(name)
                    request = {"method": METHODS[len(sent) % 3], "params": [name], "kwargs": {}}
                    peer.send(json.dumps(request).encode() + b"\n")
                for _ in range(5):
                    line = peer.line()
                    if not line.endswith(b"\n"):
                        return
                    answer = json.loads(line)
                    name = sent[answers]
                    answers += 1
                    if "result" in answer:
                        self.note(name, answer["result"])
                    else:
                        assert "stopping" in answer["error"] or "drain" in answer["error"], answer
                        self.refused.add(name)
        except ConnectionError:
            pass
        finally:
            self.lost.update(dict.fromkeys(sent[answers:], True))
            peer.close()

    def note(self, name: str, result: Any) -> None:
        assert result == name
        self.answered.add(name)
        self.under_way.release()

    def note_failure(self, name: str, problem: BaseException) -> bool:
        """Take an error; tell whether to go on."""
        if isinstance(problem, RPCError):
            assert problem.code == -32009
            self.refused.add(name)
            return True
        assert isinstance(problem, (ConnectionLost, ConnectFailed)), problem
        self.lost[name] = problem.maybe_executed
        return False


def test_sigterm_under_load_loses_no_reply_whose_call_was_accepted(
    run: Callable[..., tuple[Process, int]], tmp_path: Path
) -> None:
    clients = 12
    server, port = run("--threads", "4", "--drain-timeout", "15")
    load = Load(port)
    with ThreadPoolExecutor(clients) as pool:
        calling = [pool.submit(load, number) for number in range(clients)]
        for _ in range(300):
            assert load.under_way.acquire(timeout=PATIENCE)
        server.send(signal.SIGTERM)
        code, output = server.end()
        for each in calling:
            each.result(PATIENCE)
    begun = set((tmp_path / "book").read_text().split())
    assert len(begun) >= 300
    assert begun == load.answered
    assert not begun & load.refused
    assert not begun & set(load.lost)
    assert code in ENDED
    assert "Traceback" not in output
    assert "aborted" not in output


def test_a_method_that_never_ends_holds_up_the_end_no_longer_than_drain_timeout(
    run: Callable[..., tuple[Process, int]],
) -> None:
    server, port = run("--drain-timeout", "0.5")
    with RPCClient(HOST, port, timeout=PATIENCE) as client:
        endless = client.submit("endless", "e")
        server.line_with("entered")
        before = time.monotonic()
        server.send(signal.SIGTERM)
        problem = endless.exception(PATIENCE)
        code, output = server.end()
        took = time.monotonic() - before
    assert isinstance(problem, ConnectionLost)
    assert problem.maybe_executed
    assert code in ENDED
    assert "Traceback" not in output
    assert "aborted while it was still busy" in output
    assert 0.5 <= took < PATIENCE


def ping_for_ever(client: RPCClient) -> None:
    while True:
        client.call("rpc.ping")


def test_a_second_sigterm_changes_nothing(run: Callable[..., tuple[Process, int]]) -> None:
    """What is in flight still has its time; only that ends it."""
    server, port = run("--drain-timeout", "1")
    with RPCClient(HOST, port, timeout=PATIENCE) as client:
        endless = client.submit("endless", "e")
        server.line_with("entered")
        server.send(signal.SIGTERM)
        with pytest.raises(RPCError) as caught:
            ping_for_ever(client)
        assert caught.value.code == -32009
        server.send(signal.SIGTERM)
        with pytest.raises(RPCError):
            client.call("rpc.ping")
        assert isinstance(endless.exception(PATIENCE), ConnectionLost)
        code, output = server.end()
    assert code in ENDED
    assert "Traceback" not in output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_a_drain_without_a_time_limit(
    run: Callable[..., tuple[Process, int]], number: signal.Signals
) -> None:
    server, port = run("--drain-timeout", "none")
    with RPCClient(HOST, port, timeout=PATIENCE) as client:
        endless = client.submit("endless", "e")
        server.line_with("entered")
        server.send(number)
        with pytest.raises(RPCError):
            ping_for_ever(client)
        server.send(number)
        assert isinstance(endless.exception(PATIENCE), ConnectionLost)
        code, output = server.end()
    assert code in (0, -number)
    assert f"a second {number.name}: closing all connections" in output


def test_sighup_ends_nothing(run: Callable[..., tuple[Process, int]]) -> None:
    server, port = run()
    with RPCClient(HOST, port, timeout=PATIENCE) as client:
        for _ in range(3):
            server.send(signal.SIGHUP)
            server.line_with("reloaded at SIGHUP")
            assert client.call("rpc.ping") == "pong"
    server.send(signal.SIGTERM)
    assert server.end()[0] in ENDED


def test_sighup_before_the_reactor_runs_ends_nothing(
    start_twistd: StartTwistd, tmp_path: Path
) -> None:
    (tmp_path / "stopped.py").write_text(
        "import os, signal\nfrom twisted.internet import reactor\nFUNCS = {'p': print}\n"
        "reactor.callWhenRunning(os.kill, os.getpid(), signal.SIGHUP)\n"
    )
    server = start_twistd("-n", "knsock", "--port", "0", "--funcs", "stopped.FUNCS", cwd=tmp_path)
    server.line_with("reloaded at SIGHUP")
    server.send(signal.SIGTERM)
    assert server.end()[0] in ENDED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_functions_are_imported_ends_it(
    start_twistd: StartTwistd, tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "stopped.py").write_text(
        "import signal\nprint('importing', flush=True)\nsignal.pause()\nFUNCS = {'p': print}\n"
    )
    server = start_twistd("-n", "knsock", "--port", "0", "--funcs", "stopped.FUNCS", cwd=tmp_path)
    server.line_with("importing")
    server.send(number)
    code, _ = server.end()
    assert code in (1, 130, -number)


def test_sigterm_as_soon_as_it_listens_ends_it(run: Callable[..., tuple[Process, int]]) -> None:
    server, _ = run()
    server.send(signal.SIGTERM)
    code, output = server.end()
    assert code in ENDED
    assert "Traceback" not in output


# --- what the kernel has and has not delivered ----------------------------------------------------


@pytest.fixture
def service(nothing_is_left: None) -> Iterator[ServedService]:
    service = ServedService({"echo": in_reactor(lambda value: value)})
    yield service
    service.stop()


@pytest.fixture
def slow_peer(service: ServedService) -> Iterator[Peer]:
    """A client whose kernel takes little at once."""
    peer = join_slowly(service.port)
    yield peer
    peer.close()


def join_slowly(port: int) -> Peer:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect((HOST, port))
    return Peer(sock)


def test_a_call_that_crosses_with_the_close_takes_no_reply_with_it(
    service: ServedService, slow_peer: Peer
) -> None:
    """Bytes that nobody reads make of a close a reset, which drops what is still on the way."""
    big = "x" * 3_000_000
    slow_peer.send(call(1, "echo", big))
    wait_until(lambda: service.connections()[0]._outbox.written_bytes > len(big))
    service.begin_to_stop()
    closing: Any = service.connections()[0]._closing
    wait_until(lambda: closing.state.name in ("CLOSING", "LINGERING"))
    slow_peer.send(call(2, "echo", "too late"))
    assert slow_peer.message()["result"] == big
    assert slow_peer.line() == b""
    slow_peer.close()
    assert service.is_stopped.wait(PATIENCE)


def test_a_peer_that_takes_nothing_more_does_not_hold_up_the_close_for_ever(
    nothing_is_left: None,
) -> None:
    """That is aborted when its time is over."""
    service = ServedService({"echo": in_reactor(lambda value: value)}, drain_timeout=0.5)
    peer = join_slowly(service.port)
    peer.send(call(1, "echo", "x" * 4_000_000))
    wait_until(lambda: service.connections()[0]._outbox.written_bytes > 4_000_000)
    service.begin_to_stop()
    assert service.is_stopped.wait(PATIENCE)
    peer.close()


def test_a_notification_before_the_close_arrives_although_the_server_sends(
    service: ServedService,
) -> None:
    """Replies that the client does not read any more make no reset of its close, either."""
    told: list[int] = []
    is_told = threading.Event()

    @in_reactor
    def tell(number: int) -> None:
        told.append(number)
        if number == 0:
            is_told.set()

    @in_reactor
    def flood() -> Deferred[Any]:
        return Deferred(lambda deferred: deferred.callback("x" * 1_000_000))

    other = ServedService({"tell": tell, "flood": flood})
    client = RPCClient(HOST, other.port, timeout=PATIENCE)
    for _ in range(20):
        client.submit("flood")
    for number in range(200, -1, -1):
        client.submit("tell", number)
    client.notify("tell", 0)
    client.close()
    assert is_told.wait(PATIENCE)
    other.stop()


def test_a_client_whose_call_is_never_answered_is_closed_at_once(
    scripted: Callable[..., ScriptedServer],
) -> None:
    """It waits for what it wrote to arrive, and not for the other side to close."""
    is_over = threading.Event()

    def says_nothing(peer: Peer) -> None:
        peer.line()
        is_over.wait(PATIENCE)

    client = RPCClient(HOST, scripted(says_nothing).port, timeout=PATIENCE)
    waiting = client.submit("hold")
    before = time.monotonic()
    client.close()
    assert time.monotonic() - before < DRAIN_TIMEOUT / 2
    is_over.set()
    assert isinstance(waiting.exception(PATIENCE), ConnectionLost)


def test_a_server_that_sends_no_more_still_gets_the_replies_of_its_client(
    scripted: Callable[..., ScriptedServer],
) -> None:
    answers: list[Any] = []

    def calls_back(peer: Peer) -> None:
        peer.send(call(1, "add", 1, 2))
        peer.stop_sending()
        answers.append(peer.message())
        assert peer.line() == b""

    server = scripted(calls_back)
    client = RPCClient(HOST, server.port, funcs={"add": lambda a, b: a + b})
    server.join()
    client.close()
    assert answers == [{"jsonrpc": "2.0", "id": 1, "result": 3}]
