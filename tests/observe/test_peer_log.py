from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from twisted.cred.portal import Portal
from twisted.internet.task import Clock
from twisted.logger import LogLevel

import kn_sock
from kn_sock import in_reactor
from kn_sock._observe.peer_log import LINES_A_MINUTE, PeerLog
from kn_sock.auth import MethodsRealm, PasswordChecker
from kn_sock.testing import MemoryNetwork
from tests.serving.peers import join, listen

HOSTILE = "\x1b[2J\r\nforged line\u202e\x00\ud800" + "x" * 10_000


def test_a_field_is_escaped_and_cut(log_events: Any) -> None:
    PeerLog(Clock()).warn("{peer} said {text}", peer="127.0.0.1:1", text=HOSTILE)
    (line,) = log_events.take_lines()
    assert line.isprintable()
    assert line.startswith(r"warn: 127.0.0.1:1 said \x1b[2J\r\nforged line\u202e\x00\ud800xxx")
    assert len(line) < 600


def test_a_traceback_keeps_its_newlines_and_nothing_else(log_events: Any) -> None:
    PeerLog(Clock()).warn("raised:\n{traceback}", traceback="one\ntwo\r\x1b[1m")
    assert log_events.take_lines() == ["warn: raised:\none\ntwo\\r\\x1b[1m"]


def test_lines_of_a_kind_are_bounded_in_a_minute_and_the_rest_is_counted(log_events: Any) -> None:
    clock = Clock()
    peer_log = PeerLog(clock)
    for number in range(LINES_A_MINUTE + 5):
        peer_log.info("line {number}", number=number)
    peer_log.info("another {kind}", kind="kind")
    lines = log_events.take_lines()
    assert len(lines) == LINES_A_MINUTE + 1
    assert lines[-1] == "info: another kind"
    clock.advance(60)
    peer_log.info("line {number}", number="after")
    assert log_events.take_lines() == [
        "warn: 5 more lines like this were not written: line {number}",
        "info: line after",
    ]


def test_a_clock_that_is_set_back_does_not_silence_the_log(log_events: Any) -> None:
    clock = Clock()
    clock.advance(3600)
    peer_log = PeerLog(clock)
    for _ in range(LINES_A_MINUTE):
        peer_log.info("line")
    clock.rightNow = 0
    peer_log.info("line")
    assert len(log_events.take()) == LINES_A_MINUTE + 1


def test_what_was_dropped_is_counted_at_the_end(log_events: Any) -> None:
    peer_log = PeerLog(Clock())
    for _ in range(LINES_A_MINUTE + 1):
        peer_log.emit(LogLevel.info, "line")
    log_events.take()
    peer_log.close()
    peer_log.close()
    assert log_events.take_lines() == ["warn: 1 more lines like this were not written: line"]


def _direct_log_calls() -> list[str]:
    """Find calls of a module's own logger whose format names a peer or what a peer may say."""
    found = []
    for file in Path(kn_sock.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "log"
                and file.name != "peer_log.py"
                and node.args
                and isinstance(node.args[0], ast.Constant)
            ):
                continue
            if any(f"{{{name}" in str(node.args[0].value) for name in ("peer", "problem", "error")):
                found.append(f"{file.name}:{node.lineno}")
    return found


def test_every_line_about_a_peer_is_written_by_the_peer_log() -> None:
    assert _direct_log_calls() == []


def hostile_lines() -> list[bytes]:
    """What a peer can say, with a hostile text wherever there may be a text."""
    messages: list[Any] = [
        {"id": None, "error": {"code": 1, "message": HOSTILE}},
        {"id": 7, "error": {"code": 1, "message": "m", "data": HOSTILE}},
        {"error": HOSTILE},
        {"result": HOSTILE},
        {"jsonrpc": "2.0", "id": HOSTILE, "result": 1},
        {"jsonrpc": "2.0", "method": HOSTILE},
        {"jsonrpc": "2.0", "method": "fails", "params": [HOSTILE]},
        {"jsonrpc": "2.0", "method": "fails", "params": {HOSTILE: 1}},
        {"jsonrpc": "2.0", "id": 1, "method": "fails", "params": [HOSTILE]},
        {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": HOSTILE}},
        {"jsonrpc": HOSTILE, "id": 1, "method": "fails"},
        {"method": HOSTILE, "params": [], "kwargs": {}},
        {"jsonrpc": "2.0", "id": 2, "method": "rpc.login", "params": [HOSTILE, HOSTILE]},
        {"jsonrpc": "2.0", "id": 3, "method": "fails", "traceparent": HOSTILE},
    ]
    lines = [json.dumps(message).encode() for message in messages]
    hostile = HOSTILE.encode(errors="surrogatepass")
    return [*lines, hostile, b"GET /" + hostile + b" HTTP/1.1\r\n"]


@pytest.mark.parametrize("has_login", [False, True])
@pytest.mark.parametrize("line", hostile_lines())
def test_no_hostile_text_comes_into_the_log_as_it_is(
    network: MemoryNetwork, log_events: Any, line: bytes, has_login: bool
) -> None:
    def fails(*said: Any) -> None:
        raise ValueError(*said)

    portal = Portal(MethodsRealm(), [PasswordChecker({"ada": "secret"})]) if has_login else None
    factory = listen(network, {"fails": in_reactor(fails)}, portal=portal)
    client = join(network)
    client.transport.write(line + b"\n")
    network.pump()
    network.reactor.advance(2.0)
    network.pump()
    factory.drain()
    network.pump()
    for said in log_events.take_lines():
        assert not set(said) & {"\x1b", "\r", "\u202e", "\0", "\ud800"}
        assert "\nforged" not in said
        assert len(said) < 2000


@pytest.mark.parametrize("text", ["plain", "naïve", "日本語"])
def test_printable_text_stays_as_it_is(text: str, log_events: Any) -> None:
    PeerLog().info("{text}", text=text)
    assert log_events.take_lines() == [f"info: {text}"]
