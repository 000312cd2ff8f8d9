"""Every file in examples/ runs, as a process of its own, and does what it says."""

from __future__ import annotations

import ast
import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeAlias

import pytest

import kn_sock

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"

# How long anything may take: far more than it does, so that only a hang runs into it.
SECONDS = 20.0

P = ParamSpec("P")

# Examples that a test is there for, and those that the test at hand has started.
claimed: set[str] = set()
started: set[str] = set()


def runs(*names: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Say which examples a test runs; the test fails unless it started just these."""

    def decorate(test: Callable[P, None]) -> Callable[P, None]:
        claimed.update(names)

        @functools.wraps(test)
        def checked(*args: P.args, **kwargs: P.kwargs) -> None:
            started.clear()
            test(*args, **kwargs)
            assert started == set(names)

        return checked

    return decorate


class Running:
    """A process whose output is read line by line."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        paths = [str(Path(kn_sock.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
        # The kn_sock that is tested here, installed or not.
        inherited = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        self._command = command
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._seen: list[str] = []
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**inherited, "PYTHONUNBUFFERED": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                self._lines.put(line)
        self._lines.put(None)

    def _next_line(self) -> str | None:
        try:
            line = self._lines.get(timeout=SECONDS)
        except Empty:
            pytest.fail(f"{self} said nothing for {SECONDS:g} s")
        if line is not None:
            self._seen.append(line)
        return line

    def wait_for(self, pattern: str) -> str:
        """Read on to a line that matches, and give the pattern's first group, or all of it."""
        while (line := self._next_line()) is not None:
            if found := re.search(pattern, line):
                return found[1] if found.re.groups else found[0]
        pytest.fail(f"{self} ended without {pattern!r}")

    def port(self) -> int:
        """Read on to where a server says that it listens."""
        return int(self.wait_for(r"(?i)serving .* on 127\.0\.0\.1:(\d+)"))

    def ended(self, code: int = 0) -> str:
        """Wait for the process's end, and give all that it said."""
        while self._next_line() is not None:
            pass
        assert self._process.wait(SECONDS) == code, str(self)
        output = "".join(self._seen)
        assert "Traceback" not in output
        assert "Unhandled" not in output
        return output

    def interrupted(self, code: int = 0) -> str:
        """Press Ctrl-C, wait for the orderly end, and give all that the process said."""
        self._process.send_signal(signal.SIGINT)
        return self.ended(code)

    def shut_down(self) -> None:
        """Press Ctrl-C, and wait for twistd's orderly end: it ends itself by that very signal."""
        assert "Server Shut Down." in self.interrupted(-signal.SIGINT)

    def clear_away(self) -> None:
        """End it, if it runs yet."""
        self._process.kill()
        self._process.wait(SECONDS)
        self._reader.join(SECONDS)

    def __str__(self) -> str:
        return f"{' '.join(self._command)}\n{''.join(self._seen)}"


Start: TypeAlias = Callable[..., Running]


@pytest.fixture
def start() -> Iterator[Start]:
    """What starts a process, which does not outlive the test."""
    processes: list[Running] = []

    def begin(*command: str, **environment: str) -> Running:
        for file in EXAMPLES.iterdir():
            path = f"examples/{file.name}"
            dotted = f"examples.{file.stem}."
            if any(word == path or word.startswith(dotted) for word in command):
                started.add(file.name)
        process = Running(list(command), environment)
        processes.append(process)
        return process

    # A process that is started with Ctrl-C ignored, as a shell does in the background, hands that
    # on; a handler of its own it does not hand on.
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield begin
    finally:
        signal.signal(signal.SIGINT, handler)
        for process in processes:
            process.clear_away()


@pytest.fixture
def script(start: Start) -> Start:
    """What starts an example as a script."""
    return lambda name, *args: start(sys.executable, f"examples/{name}", *map(str, args))


@pytest.fixture
def twistd(start: Start) -> Start:
    """What starts twistd in the foreground, without leaving a file behind."""
    beside = Path(sys.executable).with_name("twistd")
    python = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
    command = [str(beside)] if beside.exists() else python
    return functools.partial(start, *command, "--nodaemon", "--pidfile=")


class Caller:
    """A socket that speaks JSON-RPC 2.0, as a program that knows nothing of kn_sock would."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
        self._stream = self._socket.makefile("rwb")

    def send(self, method: str, *params: Any) -> None:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        self._stream.write(json.dumps(request).encode() + b"\n")
        self._stream.flush()

    def reply(self) -> Any:
        reply = json.loads(self._stream.readline())
        assert reply["id"] == 1
        return reply

    def call(self, method: str, *params: Any) -> Any:
        self.send(method, *params)
        reply = self.reply()
        assert "error" not in reply
        return reply["result"]

    def error(self, method: str, *params: Any) -> Any:
        self.send(method, *params)
        return self.reply()["error"]

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._socket.close()


def files() -> list[Path]:
    """List the examples."""
    return sorted(path for path in EXAMPLES.iterdir() if path.is_file())


def test_every_example_is_run_by_a_test() -> None:
    assert {path.name for path in files()} == claimed


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_every_example_says_how_it_is_run(path: Path) -> None:
    documentation = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert documentation is not None
    command = rf"(?m)^    .*(python|twistd) .*examples[./]{path.stem}\b"
    assert re.search(command, documentation)


@runs("math_service.py", "math_client.py")
def test_math_service_and_the_blocking_client(script: Start) -> None:
    server = script("math_service.py", 0)
    said = script("math_client.py", "localhost", server.port()).ended().splitlines()
    for line in (
        "hello: Hello, Alice!",
        "add: 30",
        "add, with named arguments: 3.5",
        "multiply, as an attribute: 56",
        "factorial of 25: 15511210043330985984000000",
        "divide by zero: Division by zero is not allowed",
        "unknown method: Method 'no_such_method' not found",
        "within five seconds: 3628800",
        "map: [1, 2, 6, 24, 120]",
        "map, two arguments: [11, 22, 33]",
        "submit: [99, 98, 97]",
    ):
        assert line in said
    assert said[-3:] == [
        "batch: gave 4",
        "batch: failed: Division by zero is not allowed",
        "batch: gave 0.25",
    ]
    assert server.interrupted().endswith("Stopped\n")


@runs("math_client.py")
def test_the_blocking_client_without_a_server(script: Start) -> None:
    with socket.socket() as unheard:
        # Bound, so that nobody else gets the port, and not listening.
        unheard.bind(("127.0.0.1", 0))
        said = script("math_client.py", "127.0.0.1", unheard.getsockname()[1]).ended(1)
    assert "connection refused; is the server running?" in said


@runs("math_service.py", "raw_socket_client.py")
def test_math_service_under_twistd_and_a_raw_socket(script: Start, twistd: Start) -> None:
    server = twistd("knsock", "--port", "0", "--funcs", "examples.math_service.FUNCS")
    said = script("raw_socket_client.py", "localhost", server.port()).ended().splitlines()
    assert said == [
        '-> {"method": "add", "params": [10, 20], "kwargs": {}}',
        '<- {"result":30}',
        "add: 30",
        '-> {"method": "hello", "params": [], "kwargs": {"name": "Alice"}}',
        '<- {"result":"Hello, Alice!"}',
        "hello: Hello, Alice!",
        '-> {"method": "divide", "params": [10, 0], "kwargs": {}}',
        '<- {"error":"Division by zero is not allowed"}',
        "divide failed: Division by zero is not allowed",
        '-> {"method": "no_such_method", "params": [10, 0], "kwargs": {}}',
        '<- {"error":"Method \'no_such_method\' not found"}',
        "no_such_method failed: Method 'no_such_method' not found",
    ]
    server.shut_down()


@runs("multi_service.py")
def test_multi_service(script: Start) -> None:
    said = script("multi_service.py").ended().splitlines()
    assert said[1:] == [
        "ping: pong",
        "server_info: python, system",
        "calc_add: 22",
        "calc_multiply: 72",
        "calc_divide: 25.0",
        "user_get: {'id': 1, 'name': 'Alice', 'email': 'alice@example.com'}",
        "user_names: ['Alice', 'Bob']",
        "user_delete: True",
        "user_names: ['Bob']",
        "calc_divide by zero: Division by zero is not allowed",
        "calc_power: Method 'calc_power' not found",
        "stopped",
    ]


@runs("multi_service.py")
def test_multi_service_on_a_port_in_use(script: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = script("multi_service.py", port).ended(1)
    assert f"cannot listen on 127.0.0.1:{port}: " in said


@runs("prefixed_services.py")
def test_prefixed_services(twistd: Start) -> None:
    server = twistd("knsock", "--port", "0", "--funcs", "examples.prefixed_services.TABLE")
    with Caller(server.port()) as caller:
        assert caller.call("calc.add", 10, 20) == 30
        moment = "2024-02-29T12:00:00Z"
        account = {"owner": "Alice", "limit": "99.90", "opened": moment}
        assert caller.call("accounts.open", account) == {**account, "balance": "0"}
        assert caller.call("accounts.deposit", "Alice", "12.34") == "12.34"
        assert caller.call("accounts.deposit", "Alice", "0.66") == "13.00"
        assert caller.call("accounts.opened_since", moment) == ["Alice"]
        assert caller.call("accounts.opened_since", "2024-03-01T00:00:00+01:00") == []
        assert caller.call("stats.median", [3, 1, 2]) == 2

        refusal = caller.error("accounts.deposit", "Alice", "a lot")
        assert refusal["code"] == -32602
        assert "amount" in refusal["message"]
        assert caller.error("accounts.open", {"limit": 1})["code"] == -32602
        raised = caller.error("accounts.open", account)
        assert raised["code"] == -32000
        assert raised["message"] == "Alice has an account already"
    server.shut_down()


@runs("twisted_server.py", "twisted_client.py")
def test_twisted_server_and_client(script: Start) -> None:
    server = script("twisted_server.py", 0)
    endpoint = f"tcp:localhost:{server.port()}"
    said = script("twisted_client.py", endpoint).ended().splitlines()
    assert said[:2] == ["visit: 1", "echo_later: hello"]
    assert re.fullmatch(r"who_am_i: 127\.0\.0\.1:\d+", said[2])
    assert said[3] == "gathered: ['slept 0.3 s', 'slept 0.2 s', 'slept 0.1 s']"
    assert re.fullmatch(r"batch: 2 [0-9a-f]{8}", said[4])
    assert said[5].startswith("cancelled: ")
    assert said[6].startswith("timeout: no reply to nap from ")
    assert said[7] == "the server raised ValueError - a nap takes its time"
    assert said[8:] == ["closed"]
    # The one that was cancelled, and the one that took too long.
    assert server.interrupted().count("nap cancelled") == 2


@runs("twisted_server.py")
def test_twisted_server_finishes_what_is_under_way(script: Start) -> None:
    server = script("twisted_server.py", 0)
    with Caller(server.port()) as caller:
        caller.send("nap", 0.5)
        server.wait_for("nap begins")
        server.interrupted()
        assert caller.reply()["result"] == "slept 0.5 s"


@runs("twisted_client.py")
def test_the_twisted_client_without_a_server(script: Start) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        endpoint = f"tcp:127.0.0.1:{unheard.getsockname()[1]}"
        said = script("twisted_client.py", endpoint).ended(1)
    assert "connection refused; is the server running?" in said


@runs("service.tac")
def test_service_tac(start: Start, twistd: Start) -> None:
    server = twistd("--python", "examples/service.tac", KNSOCK_PORT="0")
    with Caller(server.port()) as caller:
        assert caller.call("add", 10, 20) == 30
        assert caller.call("reverse", "drawer") == "reward"
        assert caller.error("add", "x" * 70_000)["code"] == -32007
    server.shut_down()


@runs("client_service.py", "math_service.py")
def test_client_service_connects_again(script: Start, twistd: Start) -> None:
    # A path can be listened at again, with no race for it, as there is for a port.
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/socket"
        with socket.socket(socket.AF_UNIX) as first:
            first.bind(path)
            first.listen()
            first.settimeout(SECONDS)
            client = script("client_service.py", f"unix:{path}", 3, 0.01)
            connection, _ = first.accept()
            connection.settimeout(SECONDS)
            assert b'"get_time"' in connection.recv(1000)
        os.unlink(path)
        connection.close()
        client.wait_for(r"call 1: .*\(it may have run\)")

        server = twistd(
            "knsock", "--port", f"unix:{path}", "--funcs", "examples.math_service.FUNCS"
        )
        said = client.ended().splitlines()
        server.shut_down()
    assert re.fullmatch(r"call 2: \d{4}-\d\d-\d\dT\S+", said[1])
    assert re.fullmatch(r"call 3: \d{4}-\d\d-\d\dT\S+", said[2])
    assert said[3:] == ["stopped"]


@runs("failover_client.py", "math_service.py")
def test_failover_client_goes_on_with_the_second_server(script: Start, twistd: Start) -> None:
    with tempfile.TemporaryDirectory() as directory:
        paths = [f"{directory}/first", f"{directory}/second"]
        server = twistd(
            "knsock", "--port", f"unix:{paths[1]}", "--funcs", "examples.math_service.FUNCS"
        )
        server.wait_for(r"(?i)serving .*/second")
        with socket.socket(socket.AF_UNIX) as first:
            first.bind(paths[0])
            first.listen()
            first.settimeout(SECONDS)
            endpoints = ",".join(f"unix:{path}" for path in paths)
            client = script("failover_client.py", endpoints, 2, 0.01)
            connection, _ = first.accept()
        connection.settimeout(SECONDS)
        with connection, connection.makefile("rwb") as lines:
            ping = json.loads(lines.readline())
            reply = {"jsonrpc": "2.0", "id": ping["id"], "result": "pong"}
            lines.write(json.dumps(reply).encode() + b"\n")
            lines.flush()
            # It dies with the first call unanswered.
            assert b'"get_time"' in lines.readline()
        said = client.ended().splitlines()
        server.shut_down()
    assert said[:2] == ["connected", "connected"]
    for number, line in enumerate(said[2:4], 1):
        assert re.fullmatch(rf"call {number}: \d{{4}}-\d\d-\d\dT\S+", line)
    assert said[4:] == ["closed"]


@runs("both_ways.py")
def test_both_ways(script: Start) -> None:
    assert script("both_ways.py").ended().splitlines() == [
        "client: asked for seats for Metropolis, from A1, A2, B7",
        "client: 1 of 2 booked",
        "client: 2 of 2 booked",
        "client: booked Metropolis: A1, A2",
        "closed",
    ]


@runs("accounts.py")
def test_accounts(script: Start) -> None:
    assert script("accounts.py").ended().splitlines() == [
        "ada: 40 given out by ada",
        "report: 60",
        "report: Method 'withdraw' not found",
        "stranger: -32002",
        "stranger: the credentials were not accepted",
    ]


@runs("tracing.py")
def test_tracing(script: Start) -> None:
    said = script("tracing.py").ended().splitlines()
    spans = [re.fullmatch(r"trace (\w{8}) span (\w{8}): (.+), [\d.]+ ms", line) for line in said]
    found = [span for span in spans if span is not None]
    assert [span[3] for span in found] == [
        "client serves which_side: ok",
        "server calls which_side: ok",
        "server serves order: ok",
        "client calls order: ok",
        "client serves which_side: raised KeyError",
        "server calls which_side: raised RemoteKeyError",
        "server serves order: raised RemoteKeyError",
        "client calls order: raised RemoteKeyError",
    ]
    # One trace for each call of the client's, and a span of its own for each line.
    assert len({span[1] for span in found[:4]}) == 1
    assert len({span[1] for span in found}) == 2
    assert len({span[2] for span in found}) == 8
    assert said[4] == "curry with rice"
    assert said[9] == "the guest does not know: 'stew'"
