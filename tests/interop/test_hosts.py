"""Our client within programs of others that fork, and that raise in the middle of a call.

``pip install celery gunicorn`` into this environment brings them.
"""

from __future__ import annotations

import importlib.util
import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kn_sock import current_call
from tests.faults.peers import HOST, PATIENCE, Process, Served, wait_until


class Funcs:
    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.cancelled = threading.Semaphore(0)

    def add(self, a: int, b: int) -> int:
        return a + b

    def hold(self) -> None:
        """Wait for the cancellation."""
        self.entered.release()
        never = threading.Event()
        while not current_call().cancelled:
            never.wait(0.01)
        self.cancelled.release()


@pytest.fixture
def funcs() -> Funcs:
    return Funcs()


@pytest.fixture
def port(funcs: Funcs) -> Iterator[int]:
    server = Served(funcs)
    yield server.port
    server.stop()


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    made: list[Process] = []

    def begin(module: str, *arguments: str, cwd: Path) -> Process:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"pip install {module}")
        made.append(Process("-m", module, *arguments, cwd=cwd))
        return made[-1]

    yield begin
    for each in made:
        each.kill()


TASKS = """
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from kn_sock import RPCClient

app = Celery(broker="filesystem://", backend="file://{directory}/results")
app.conf.broker_transport_options = {{
    "data_folder_in": "{directory}/queue", "data_folder_out": "{directory}/queue",
    "control_folder": "{directory}/control",
}}

@app.task(name="work")
def work(port):
    client = RPCClient("127.0.0.1", port)
    try:
        client.call("hold")
    except SoftTimeLimitExceeded:
        return ["given up", client.call("add", 1, 2)]
"""


def test_the_soft_time_limit_of_a_celery_worker_cancels_the_call(
    start: Callable[..., Process], funcs: Funcs, port: int, tmp_path: Path
) -> None:
    (tmp_path / "tasks.py").write_text(TASKS.format(directory=tmp_path))
    for name in ("queue", "control", "results"):
        (tmp_path / name).mkdir()
    options = ("-c", "1", "-l", "info", "--soft-time-limit", "1", "--without-mingle")
    worker = start("celery", "-A", "tasks", "worker", *options, cwd=tmp_path)
    worker.line_with("ready")
    send = f"import tasks; tasks.work.delay({port})"
    assert Process("-c", send, cwd=tmp_path).end()[0] == 0
    assert funcs.entered.acquire(timeout=PATIENCE)
    assert funcs.cancelled.acquire(timeout=PATIENCE)
    results = tmp_path / "results"
    wait_until(lambda: any(results.iterdir()))
    found: list[Any] = [json.loads(path.read_text()) for path in results.iterdir()]
    assert [(one["status"], one["result"]) for one in found] == [("SUCCESS", ["given up", 3])]


APPLICATION = """
from kn_sock import ForkedError, RPCClient

# In the master: its workers are forked from it.
client = RPCClient("127.0.0.1", {port})
assert client.call("add", 1, 2) == 3
own = None

def application(environ, start_response):
    global own
    if own is None:
        try:
            client.call("add", 1, 2)
        except ForkedError:
            own = RPCClient("127.0.0.1", {port})
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(own.call("add", 3, 4)).encode()]
"""


def test_workers_that_gunicorn_has_forked_are_told_and_make_clients_of_their_own(
    start: Callable[..., Process], port: int, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text(APPLICATION.format(port=port))
    options = ("--preload", "-w", "3", "-b", f"{HOST}:0", "app:application")
    server = start("gunicorn", *options, cwd=tmp_path)
    address = server.line_with(r"Listening at: (http://\S+)")[1]
    for _ in range(20):
        with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
            assert answer.read() == b"7"
