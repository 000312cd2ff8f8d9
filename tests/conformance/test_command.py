"""``python -m kn_sock.conformance``, as a process of its own."""

from __future__ import annotations

import json
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kn_sock import start_rpc_server
from kn_sock.conformance import FUNCS
from kn_sock.conformance.__main__ import parse_arguments


def examine(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kn_sock.conformance", *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def wrong(value: Any) -> Any:
    """Echo, but for lists."""
    return value if not isinstance(value, (list, dict)) else str(value)


@pytest.fixture
def port() -> Iterator[int]:
    ports: queue.Queue[int] = queue.Queue()
    done = threading.Event()
    served = {**FUNCS, "echo": wrong}
    del served["sum"]
    thread = threading.Thread(
        target=start_rpc_server,
        args=(0, served),
        kwargs={"shutdown_event": done, "on_ready": lambda _, port: ports.put(port)},
    )
    thread.start()
    yield ports.get(timeout=30)
    done.set()
    thread.join(30)


def test_says_what_differs_and_what_agrees(port: int, tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    done = examine(f"localhost:{port}", "--group", "2.0", "--list", "--json", str(found))
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "JSON-RPC 2.0: 139 cases"
    assert "  agrees    [7] an empty array" in lines
    assert "  left out  [7] a batch: the server does not serve sum" in lines
    at = lines.index(
        "  differs   [4.2] an object as the only argument by position: "
        "not the reply that was expected"
    )
    sent = '{"jsonrpc": "2.0", "method": "echo", "params": [{"value": 1}], "id": 1}'
    assert lines[at + 1 : at + 4] == [
        f"    sent      {sent}",
        '    expected  {"jsonrpc": "2.0", "result": {"value": 1}, "id": 1}',
        """    received  {"jsonrpc":"2.0","id":1,"result":"{'value': 1}"}""",
    ]
    (group,) = json.loads(found.read_text("utf-8"))
    assert len(group["agrees"]) + len(group["differs"]) + len(group["skipped"]) == 139
    assert lines[-1] == f"  {len(group['agrees'])} of {139 - len(group['skipped'])} agree"


def test_all_groups_and_single_bytes(port: int) -> None:
    done = examine(f"tcp:localhost:{port}", "--group", "1.0", "--group", "0.3", "--bytewise")
    assert (done.returncode, done.stderr) == (1, "")
    assert "JSON-RPC 1.0: 16 cases\n  16 of 16 agree\n" in done.stdout
    assert "kn-sock 0.3: 12 cases\n" in done.stdout
    assert "  11 of 12 agree\n" in done.stdout


def test_a_server_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    done = examine(f"127.0.0.1:{port}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"cannot connect to 127.0.0.1:{port}: connection refused; is the server running?\n"
    )


def test_a_wrong_endpoint() -> None:
    done = examine("nonsense")
    assert (done.returncode, done.stdout) == (2, "")
    assert "'nonsense' is no client endpoint" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "the following arguments are required: server"),
        (["localhost:1", "--group", "3.0"], "no group is named so; there are 'JSON-RPC 2.0', "),
    ],
)
def test_a_wrong_command_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_arguments(arguments)
    assert caught.value.code == 2
    printed, complained = capsys.readouterr()
    assert printed == ""
    assert complaint in complained
