from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from kn_sock import (
    CallTimeout,
    InvalidParams,
    MethodNotFound,
    RPCClient,
    RPCError,
    current_call,
)
from tests.interop.peers import CLIENT, PATIENCE, PROGRAMS, PYTHON, SERVER, Serve, Start
from tests.interop.steps import outcomes

PEER = "MCP Python SDK"
VERSION = "2025-11-25"

# What a call may take that is to time out, over a connection that is there.
SHORT = 0.2


# --- its client -----------------------------------------------------------------------------------


class Tools:
    """An MCP server: what is called is in a table, as its names are none that Python could have."""

    def __init__(self) -> None:
        self.initialized = threading.Event()
        self.cancelled = threading.Event()
        self.funcs: dict[str, Any] = {
            "initialize": self.initialize,
            "notifications/initialized": self.initialized.set,
            "ping": lambda **_: {},
            "tools/list": self.list,
            "tools/call": self.call,
        }
        self._tools: dict[str, Any] = {
            "add": self.add,
            "refuse": self.refuse,
            "count": self.count,
            "roots": self.roots,
            "log": self.log,
            "wait": self.wait,
        }

    def initialize(self, **params: Any) -> Any:
        return {
            "protocolVersion": params["protocolVersion"],
            "capabilities": {"tools": {}, "logging": {}},
            "serverInfo": {"name": "ours", "version": "1"},
        }

    def list(self, **params: Any) -> Any:
        return {
            "tools": [{"name": name, "inputSchema": {"type": "object"}} for name in self._tools]
        }

    async def call(self, name: str, arguments: dict[str, Any], _meta: Any = None) -> Any:
        text = await self._tools[name](_meta, **arguments)
        return {"content": [{"type": "text", "text": text}]}

    async def add(self, meta: Any, a: Any, b: Any) -> str:
        return str(a + b)

    async def refuse(self, meta: Any) -> str:
        raise RPCError(7, "not today", {"try": "tomorrow"})

    async def count(self, meta: Any, to: int) -> str:
        for number in range(1, to + 1):
            await current_call().connection.notify(
                "notifications/progress",
                progressToken=meta["progressToken"],
                progress=number,
                total=to,
                message="counting",
            )
        return "counted"

    async def roots(self, meta: Any) -> str:
        """Ask the caller, over the same connection."""
        found = await current_call().connection.call("roots/list")
        return ", ".join(root["name"] for root in found["roots"])

    async def log(self, meta: Any, text: str) -> str:
        await current_call().connection.notify("notifications/message", level="info", data=text)
        return ""

    async def wait(self, meta: Any) -> str:
        try:
            await Deferred()
        except CancelledError:
            self.cancelled.set()
            raise
        return ""


@pytest.fixture
def tools() -> Tools:
    return Tools()


def run_client(start: Start, port: int, *steps: Any) -> list[Any]:
    """Have its session take steps, after the handshake; see its program."""
    program = start(PYTHON, PROGRAMS / "mcp_client.py", str(port))
    return outcomes(program, ["initialize"], *steps)


def text_of(outcome: Any) -> str:
    (content,) = outcome["content"]
    assert content["type"] == "text"
    return str(content["text"])


@pytest.mark.interop(PEER, CLIENT, "initialize, ping, tools/list")
def test_its_client_shakes_hands(start: Start, serve: Serve, tools: Tools) -> None:
    initialized, ping, listed = run_client(start, serve(tools.funcs), ["send_ping"], ["list_tools"])
    assert initialized["protocol_version"] == VERSION
    assert initialized["server_info"] == {"name": "ours", "version": "1"}
    assert tools.initialized.wait(PATIENCE)
    assert ping == {}
    assert [tool["name"] for tool in listed["tools"]][:2] == ["add", "refuse"]


@pytest.mark.interop(PEER, CLIENT, "tools/call, errors")
def test_its_client_calls_tools(start: Start, serve: Serve, tools: Tools) -> None:
    _, added, refused, raised, after = run_client(
        start,
        serve(tools.funcs),
        ["call_tool", "add", {"a": 1, "b": 2}],
        ["call_tool", "refuse", {}],
        ["call_tool", "nope", {}],
        ["call_tool", "add", {"a": "æ", "b": "数"}],
    )
    assert text_of(added) == "3"
    assert refused == {"code": 7, "message": "not today", "data": {"try": "tomorrow"}}
    data = {"type": "KeyError", "args": ["nope"]}
    assert raised == {"code": -32000, "message": "'nope'", "data": data}
    assert text_of(after) == "æ数"


@pytest.mark.interop(PEER, CLIENT, "progress, log messages, calls back")
def test_its_client_is_notified_and_called(start: Start, serve: Serve, tools: Tools) -> None:
    _, counted, roots, _, logged = run_client(
        start,
        serve(tools.funcs),
        ["call_tool", "count", {"to": 3}],
        ["call_tool", "roots", {}],
        ["call_tool", "log", {"text": "hello"}],
        ["logged"],
    )
    assert counted["progress"] == [[number, 3, "counting"] for number in (1, 2, 3)]
    assert text_of(counted) == "counted"
    assert text_of(roots) == "here"
    assert logged == "hello"


@pytest.mark.interop(PEER, CLIENT, "a call that it gives up is stopped")
def test_a_call_that_its_client_gives_up_is_stopped(
    start: Start, serve: Serve, tools: Tools
) -> None:
    _, given_up, added = run_client(
        start,
        serve(tools.funcs, cancellation="mcp"),
        ["give up", "wait", {}],
        ["call_tool", "add", {"a": 1, "b": 2}],
    )
    assert "timed out" in given_up["message"]
    assert tools.cancelled.wait(PATIENCE)
    assert text_of(added) == "3"


# --- its server -----------------------------------------------------------------------------------


class Host:
    """A client of an MCP server, which serves what the server asks of it."""

    def __init__(self, port: int) -> None:
        self.progress: queue.Queue[Any] = queue.Queue()
        funcs = {
            "notifications/progress": lambda **params: self.progress.put(params),
            "roots/list": lambda **_: {"roots": [{"uri": "file:///here", "name": "here"}]},
        }
        self.client = RPCClient("127.0.0.1", port, funcs=funcs, cancellation="mcp")

    def initialize(self) -> Any:
        found = self.client.call(
            "initialize",
            protocolVersion=VERSION,
            capabilities={"roots": {}},
            clientInfo={"name": "ours", "version": "1"},
        )
        self.client.notify("notifications/initialized")
        return found

    def call_tool(self, name: str, **more: Any) -> str:
        return text_of(self.client.call("tools/call", name=name, **more))


@pytest.fixture
def host(start: Start) -> Iterator[Host]:
    host = Host(start(PYTHON, PROGRAMS / "mcp_server.py").port())
    with host.client:
        yield host


@pytest.mark.interop(PEER, SERVER, "initialize, ping, tools/list, tools/call")
def test_its_server_shakes_hands_and_runs_tools(host: Host) -> None:
    initialized = host.initialize()
    assert initialized["protocolVersion"] == VERSION
    assert initialized["serverInfo"]["name"] == "peer"
    assert host.client.call("ping") == {}
    (tool,) = host.client.call("tools/list")["tools"]
    assert tool["name"] == "add"
    assert host.call_tool("add", arguments={"a": 1, "b": 2}) == "3"


@pytest.mark.interop(PEER, SERVER, "errors")
def test_its_server_gives_errors(host: Host) -> None:
    with pytest.raises(InvalidParams):
        host.client.call("tools/list")  # before it was initialized
    host.initialize()
    with pytest.raises(RPCError, match=r"^not today$") as refused:
        host.call_tool("refuse")
    assert (refused.value.code, refused.value.data) == (7, {"try": "tomorrow"})
    with pytest.raises(RPCError, match=r"^unexpected$") as raised:
        host.call_tool("fail")
    assert raised.value.code == 0
    with pytest.raises(MethodNotFound):
        host.client.call("nope")
    assert host.call_tool("add", arguments={"a": 1, "b": 2}) == "3"


@pytest.mark.interop(PEER, SERVER, "notifications and calls back")
def test_its_server_notifies_and_calls(host: Host) -> None:
    host.initialize()
    counting = {"arguments": {"to": 3}, "_meta": {"progressToken": "mine"}}
    assert host.call_tool("count", **counting) == "counted"
    told = [host.progress.get(timeout=PATIENCE) for _ in range(3)]
    # Each ran in a thread of its own.
    assert sorted(each["progress"] for each in told) == [1, 2, 3]
    assert {each["progressToken"] for each in told} == {"mine"}
    assert host.call_tool("roots") == "here"


@pytest.mark.interop(PEER, SERVER, "a call that is given up is stopped")
def test_a_call_of_its_server_that_is_given_up_is_stopped(host: Host) -> None:
    host.initialize()
    waiting = host.client.submit("tools/call", name="wait")
    assert host.client.call("ping") == {}
    assert waiting.cancel()
    with pytest.raises(CallTimeout):
        host.client.with_options(timeout=SHORT).call("tools/call", name="wait")
    assert host.call_tool("cancelled") == "2"
    assert host.call_tool("add", arguments={"a": 1, "b": 2}) == "3"


@pytest.mark.interop(PEER, SERVER, "no answer to batches or to arguments by position")
def test_its_server_does_not_answer_what_it_cannot_read(host: Host) -> None:
    host.initialize()
    impatient = host.client.with_options(timeout=SHORT)
    with pytest.raises(CallTimeout):
        impatient.call("tools/call", "add")
    batch = impatient.batch()
    batch.call("ping")
    (outcome,) = batch.send()
    assert isinstance(outcome, CallTimeout)
    assert host.client.call("ping") == {}
