"""``twistd knsock``: the access log, the metrics, the figures, and interceptors."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from twisted.python import usage

from kn_sock import MethodNotFound, RPCClient, RPCError, Stats
from kn_sock.metrics import MetricsService
from kn_sock.server import RPCServerService
from kn_sock.tap import Options, makeService
from tests.twistd.test_tap import PATIENCE, SERVES, RunTwistd, parsed, twistd

__all__ = ["twistd"]

MODULE = """
import kn_sock

def add(a, b):
    return a + b

def wait(seconds):
    raise ValueError("no luck")

FUNCS = {"add": add, "wait": wait}

async def refuse(call, proceed):
    if call.method == "rpc.discover":
        raise kn_sock.RPCError(403, "not for you")
    return await proceed()

NUMBER = 3
"""


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "served.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "served", raising=False)
    return tmp_path


def services(*arguments: str) -> list[Any]:
    made: Any = makeService(parsed("--funcs", "served.FUNCS", *arguments))
    return list(made)


# --- options --------------------------------------------------------------------------------------


def test_nothing_of_it_is_on_by_default() -> None:
    (server,) = services()
    options = server.factory.options
    assert (options.access_log, options.metrics, options.stats) == (None, None, False)
    assert list(options.serve_interceptors) == []


def test_several_ports_count_together_and_write_one_log(directory: Path) -> None:
    given = ("--port", "0", "--port", "0", "--stats", "--access-log", "access.log")
    first, second = services(*given)
    assert isinstance(first.factory.stats, Stats)
    assert first.factory.stats is second.factory.stats
    assert first.factory.options.access_log is second.factory.options.access_log
    assert (directory / "access.log").exists()


def test_interceptors_are_named_in_their_order() -> None:
    (server,) = services("--interceptor", "served.refuse", "--interceptor", "served.add")
    names = [each.__name__ for each in server.factory.options.serve_interceptors]
    assert names == ["refuse", "add"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--interceptor", "served.nope"), ["--interceptor served.nope", "served has no nope"]),
        (("--interceptor", "nowhere.f"), ["--interceptor nowhere.f", "no module nowhere"]),
        (("--interceptor", "served.NUMBER"), ["--interceptor served.NUMBER", "cannot be called"]),
        (("--access-log", "no/such/file"), ["--access-log no/such/file", "No such file"]),
        (("--metrics", "nonsense:9100:x"), ["--metrics", "nonsense"]),
        (("--metrics", "70000"), ["--metrics", "65535"]),
    ],
)
def test_what_is_wrong_is_one_line(arguments: tuple[str, str], words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        services(*arguments)
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("given", "interface", "port"),
    [
        ("9100", "127.0.0.1", 9100),
        ("0.0.0.0:9100", "0.0.0.0", 9100),
        ("localhost:9100", "localhost", 9100),
        ("[::1]:9100", "::1", 9100),
        ("tcp:9100:interface=10.0.0.1", "10.0.0.1", 9100),
        ("tcp:9100", "", 9100),
    ],
)
def test_metrics_are_served_where_it_says(given: str, interface: str, port: int) -> None:
    server, metrics = services("--metrics", given)
    assert isinstance(server, RPCServerService)
    assert isinstance(metrics, MetricsService)
    endpoint: Any = metrics._endpoint
    assert (endpoint._interface, endpoint._port) == (interface, port)


def test_metrics_without_the_package_are_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("kn_sock.metrics", "kn_sock._observe.prometheus"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delattr("kn_sock.metrics")
    monkeypatch.delattr("kn_sock._observe.prometheus")
    with pytest.raises(SystemExit, match=r"--metrics: .*pip install prometheus_client"):
        services("--metrics", "9100")


def test_the_help_explains_them() -> None:
    text = str(Options())
    for name in ("access-log", "metrics", "interceptor"):
        assert f"--{name}=" in text
    assert "--stats " in text


def test_stats_takes_no_value() -> None:
    with pytest.raises(usage.UsageError):
        parsed("--funcs", "served.FUNCS", "--stats=maybe")


# --- the command ----------------------------------------------------------------------------------


def test_it_is_observed(twistd: RunTwistd, directory: Path) -> None:
    server = twistd(
        *("-n", "knsock", "--port", "0", "--funcs", "served.FUNCS", "--stats"),
        *("--access-log", "access.log", "--metrics", "0", "--interceptor", "served.refuse"),
    )
    port = int(server.line_with(SERVES)[1])
    metrics = server.line_with(r"metrics on (http://127\.0\.0\.1:\d+/metrics)")[1]
    with RPCClient("localhost", port) as client:
        assert client.call("add", 1, 2) == 3
        with pytest.raises(ValueError, match="no luck"):
            client.call("wait", 1)
        with pytest.raises(RPCError, match="not for you"):
            client.call("rpc.discover")
        with pytest.raises(MethodNotFound):
            client.call("nope")
        figures = client.call("rpc.stats")
    with urlopen(metrics, timeout=PATIENCE) as answer:
        text = answer.read().decode()
    assert figures["calls"]["add"]["outcomes"] == {"ok": 1}
    assert figures["calls"]["rpc.discover"]["outcomes"] == {"error": 1}
    assert 'kn_sock_calls_total{method="add",outcome="ok"} 1.0' in text
    assert 'kn_sock_calls_total{method="(unknown)",outcome="method_not_found"} 1.0' in text
    assert "process_resident_memory_bytes" in text or sys.platform != "linux"
    raised = server.line_with(r"warn\] wait from 127\.0\.0\.1:\d+ raised ValueError: no luck")
    assert "served.py:8 in wait" in raised.string
    server.line_with(r"info\] 127\.0\.0\.1:\d+: connection closed after .* 5 messages")
    _, output = server.end(signal.SIGINT)
    assert "Traceback" not in output
    assert "add" not in output.replace("serving add", ""), "a call that succeeded is not logged"
    lines = [json.loads(line) for line in (directory / "access.log").read_text().splitlines()]
    assert [(each["method"], each["outcome"]) for each in lines] == [
        ("add", "ok"),
        ("wait", "function_raised"),
        ("rpc.discover", "error"),
        ("nope", "method_not_found"),
        ("rpc.stats", "ok"),
    ]


def test_the_access_log_may_be_the_standard_output(twistd: RunTwistd) -> None:
    given = ("--port", "0", "--funcs", "served.FUNCS", "--access-log", "-")
    server = twistd("-n", "knsock", *given)
    with RPCClient("localhost", int(server.line_with(SERVES)[1])) as client:
        client.call("add", 1, 2)
    found = server.line_with(r'^(\{.*"method": "add".*\})$')
    assert json.loads(found[1])["outcome"] == "ok"
