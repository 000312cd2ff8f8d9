"""The access log: a line of JSON for each call."""

from __future__ import annotations

import io
import json
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from kn_sock import RPCError, RPCServerFactory, connect, in_reactor
from kn_sock.testing import ManualExecutor, MemoryNetwork, MemoryReactor, Pair, connected_pair


def add(a: int, b: int) -> int:
    return a + b


def fails() -> None:
    raise ValueError("a secret")


def refuses() -> None:
    raise RPCError(4042, "another secret")


FUNCS = {"add": add, "fails": fails, "refuses": refuses}


def called(pair: Pair, method: str, *args: Any) -> None:
    pair.client.call(method, *args).addErrback(lambda _: None)
    pair.pump()


def lines_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


def test_each_call_is_one_line(network: MemoryNetwork, path: Path) -> None:
    pair = connected_pair(FUNCS, network=network, access_log=path)
    pair.advance(86_400)
    called(pair, "add", 1, 2)
    called(pair, "fails")
    called(pair, "refuses")
    called(pair, "nope")
    pair.client.notify("add", 3, 4)
    pair.pump()
    common = {
        "time": "1970-01-02T00:00:00.000+00:00",
        "peer": "127.0.0.1:50000",
        "milliseconds": 0.0,
    }
    assert lines_of(path) == [
        {**common, "method": "add", "outcome": "ok"},
        {**common, "method": "fails", "outcome": "function_raised", "code": -32000},
        {**common, "method": "refuses", "outcome": "error", "code": 4042},
        {**common, "method": "nope", "outcome": "method_not_found", "code": -32601},
        {**common, "method": "add", "outcome": "ok"},
    ]


def test_nothing_of_arguments_or_results_is_in_it(network: MemoryNetwork, path: Path) -> None:
    pair = connected_pair({**FUNCS, "echo": lambda text: text}, network=network, access_log=path)
    called(pair, "echo", "a secret")
    called(pair, "add", "a secret", 1)
    called(pair, "fails")
    called(pair, "refuses")
    assert len(lines_of(path)) == 4
    assert "secret" not in path.read_text()


def test_every_member_of_a_batch_is_a_line(network: MemoryNetwork, path: Path) -> None:
    pair = connected_pair(FUNCS, network=network, access_log=path)
    batch = pair.client.batch()
    batch.call("add", 1, 2)
    batch.notify("add", 1, 2)
    batch.call("fails")
    batch.send()
    pair.pump()
    assert [each["outcome"] for each in lines_of(path)] == ["ok", "ok", "function_raised"]


def test_a_call_in_a_thread_has_its_time(network: MemoryNetwork, path: Path) -> None:
    executor = ManualExecutor()
    pair = connected_pair(FUNCS, network=network, executor=executor, access_log=path)
    called(pair, "add", 1, 2)
    pair.advance(1.25)
    assert lines_of(path) == []
    executor.run()
    pair.pump()
    (line,) = lines_of(path)
    assert (line["milliseconds"], line["outcome"]) == (1250.0, "ok")


def test_a_call_that_its_connection_did_not_outlive_is_lost(
    network: MemoryNetwork, path: Path
) -> None:
    @in_reactor
    def waits() -> Deferred[Any]:
        return Deferred()

    executor = ManualExecutor()
    funcs = {"waits": waits, "add": add}
    options: dict[str, Any] = {"executor": executor, "max_pending": 2, "access_log": path}
    pair = connected_pair(funcs, network=network, **options)
    called(pair, "waits")
    called(pair, "add", 1, 2)
    called(pair, "add", 3, 4)
    pair.wire.lose(ConnectionError("cut"))
    executor.run()
    network.pump()
    assert [(each["method"], each["outcome"]) for each in lines_of(path)] == [
        ("waits", "lost"),
        ("add", "lost"),
        ("add", "lost"),
    ]


def test_a_method_that_asks_to_exit_has_its_line(
    network: MemoryNetwork, path: Path, logged_errors: Any
) -> None:
    def leave() -> None:
        raise SystemExit

    pair = connected_pair({"leave": leave}, network=network, access_log=path)
    called(pair, "leave")
    assert [each["outcome"] for each in lines_of(path)] == ["exit"]
    logged_errors.claim()


def test_a_reply_that_is_too_long_failed(network: MemoryNetwork, path: Path) -> None:
    funcs = {"much": lambda: "x" * 5000}
    pair = connected_pair(funcs, network=network, access_log=path, max_line_bytes=2048)
    called(pair, "much")
    assert [each["outcome"] for each in lines_of(path)] == ["reply_too_long"]


def test_who_logged_in_is_in_it_and_long_names_are_cut(network: MemoryNetwork, path: Path) -> None:
    pair = connected_pair(FUNCS, network=network, access_log=path)
    pair.wire.peer.protocol.identity = "ada"
    called(pair, "x" * 10_000 + "\n")
    (line,) = lines_of(path)
    assert line["identity"] == "ada"
    assert len(line["method"]) <= 60


def test_a_file_that_was_moved_away_is_made_anew(network: MemoryNetwork, path: Path) -> None:
    pair = connected_pair(FUNCS, network=network, access_log=str(path))
    called(pair, "add", 1, 2)
    moved = path.rename(path.with_suffix(".1"))
    called(pair, "fails")
    called(pair, "nope")
    assert [each["method"] for each in lines_of(moved)] == ["add"]
    assert [each["method"] for each in lines_of(path)] == ["fails", "nope"]
    path.unlink()
    called(pair, "add", 1, 2)
    assert [each["method"] for each in lines_of(path)] == ["add"]


def test_what_is_there_is_kept(network: MemoryNetwork, path: Path) -> None:
    path.write_text('{"method": "before"}\n')
    pair = connected_pair(FUNCS, network=network, access_log=path)
    called(pair, "add", 1, 2)
    assert [each["method"] for each in lines_of(path)] == ["before", "add"]


def test_the_file_is_closed_with_the_server_and_opened_anew(
    network: MemoryNetwork, path: Path
) -> None:
    pair = connected_pair(FUNCS, network=network, access_log=path)
    called(pair, "add", 1, 2)
    factory = network.factory
    factory.doStop()
    pair.close()
    log: Any = factory._reports._access_log
    assert log.close() is None, "closing it once more does nothing"
    connecting = connect(network, reactor=network.reactor, threads=0)
    connecting.addCallback(lambda connection: connection.call("fails"))
    connecting.addErrback(lambda _: None)
    network.pump()
    assert [each["method"] for each in lines_of(path)] == ["add", "fails"]
    network.wires[-1].lose(ConnectionError("the test is over"))


def test_the_standard_output_is_a_dash(
    network: MemoryNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = io.StringIO()
    monkeypatch.setattr(sys, "stdout", output)
    pair = connected_pair(FUNCS, network=network, access_log="-")
    called(pair, "add", 1, 2)
    assert json.loads(output.getvalue())["method"] == "add"


def test_an_observer_gets_the_fields(network: MemoryNetwork) -> None:
    seen: list[Any] = []
    pair = connected_pair(FUNCS, network=network, access_log=seen.append)
    called(pair, "add", 1, 2)
    (event,) = seen
    assert (event["method"], event["outcome"]) == ("add", "ok")
    assert datetime.fromisoformat(event["time"]).tzinfo == timezone.utc


def test_a_log_that_cannot_be_written_harms_no_call_and_is_said_once(
    network: MemoryNetwork, logged_errors: Any
) -> None:
    fail = True

    def full(_: Any) -> None:
        if fail:
            raise OSError("the disk is full")

    pair = connected_pair(FUNCS, network=network, access_log=full)
    for _ in range(3):
        calling = pair.client.call("add", 1, 2)
        pair.pump()
        assert calling.result == 3
    assert len(logged_errors.claim()) == 1
    fail = False
    called(pair, "add", 1, 2)
    fail = True
    called(pair, "add", 1, 2)
    assert len(logged_errors.claim()) == 1


@pytest.mark.parametrize("wrong", [3, True, b"path"])
def test_what_is_no_log_is_an_error(wrong: Any) -> None:
    with pytest.raises(TypeError, match="access_log"):
        RPCServerFactory(FUNCS, reactor=MemoryReactor(), access_log=wrong)


def test_a_file_that_cannot_be_opened_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        RPCServerFactory(FUNCS, reactor=MemoryReactor(), access_log=tmp_path / "no" / "file")
