"""What docs/compatibility.rst tells users of kn-sock 0.3, line by line.

Each test here is named after the line of that page that it holds true. Where the other end is of
kn-sock 0.3, it is imitated to the byte: `OldClient` and `OldServer` send what 0.3.0 sends.
"""

from __future__ import annotations

import configparser
import contextlib
import datetime
import errno
import functools
import importlib.util
import inspect
import json
import multiprocessing
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from zope.interface import implementer

import kn_sock
import kn_sock.errors
import kn_sock.rpc
from kn_sock import (
    CallTimeout,
    ConnectFailed,
    ConnectionLost,
    InternalError,
    InvalidParams,
    MethodNotFound,
    MethodTable,
    RemoteError,
    RPCClient,
    RPCError,
    ServerOptions,
    connect,
    current_call,
    in_reactor,
    start_rpc_server,
)
from kn_sock.tap import Options
from kn_sock.testing import MemoryNetwork, connected_pair

TOP = Path(__file__).resolve().parents[2]

# Nothing here takes this long; a test that does has hung.
PATIENCE = 20.0


# --- the page and its tests -----------------------------------------------------------------------


def lines_of_the_page() -> list[str]:
    """Give the terms of the page's definition lists: one for each thing that it says."""
    page = (TOP / "docs" / "compatibility.rst").read_text(encoding="utf-8")
    return re.findall(r"^(\w.*)\n {4}\S", page, flags=re.MULTILINE)


def tests_of_the_page() -> list[str]:
    return [
        name
        for name, value in globals().items()
        if name.startswith("test_") and value is not test_each_line_of_the_page_has_its_test
    ]


def test_each_line_of_the_page_has_its_test() -> None:
    wanted = ["test_" + re.sub(r"\W+", "_", line.lower()) for line in lines_of_the_page()]
    assert len(wanted) > 50
    assert sorted(wanted) == sorted(tests_of_the_page())


# --- the ends -------------------------------------------------------------------------------------


class Served:
    """A server as `start_rpc_server` runs it, in a thread of its own."""

    def __init__(self, funcs: Any, event: Any = None, **options: Any) -> None:
        self.shutdown = event or threading.Event()
        self.host, self.port = "", 0
        self.raised: BaseException | None = None
        ready = threading.Event()

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
            finally:
                ready.set()

        self.thread = threading.Thread(target=serve, daemon=True)
        self.thread.start()
        assert ready.wait(PATIENCE)

    def stop(self) -> None:
        self.shutdown.set()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


Serve = Callable[..., Served]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[Served] = []

    def make(funcs: Any, **options: Any) -> Served:
        servers.append(Served(funcs, **options))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


def old_request(method: Any, *args: Any, **kwargs: Any) -> bytes:
    """Write a call as the client of 0.3.0 does."""
    return json.dumps({"method": method, "params": args, "kwargs": kwargs}).encode() + b"\n"


class OldClient:
    """A socket that is used as the client of 0.3.0 uses its own."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self._received = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def line(self) -> bytes:
        """Read a line; nothing where the server has hung up."""
        try:
            return self._received.readline()
        except ConnectionResetError:
            return b""

    def ask(self, data: bytes) -> Any:
        self.send(data)
        return json.loads(self.line())

    def call(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        """Call, and give the whole reply."""
        return self.ask(old_request(method, *args, **kwargs))

    def close(self) -> None:
        self._received.close()
        self.socket.close()


OldCalls = Callable[[Served], OldClient]


@pytest.fixture
def old() -> Iterator[OldCalls]:
    clients: list[OldClient] = []

    def make(server: Served) -> OldClient:
        clients.append(OldClient(server.port))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


class OldServer:
    """Answers each line as the server of 0.3.0 does, or as it is told to."""

    def __init__(self, funcs: dict[str, Any] | None = None, replies: Any = ()) -> None:
        self.lines: list[bytes] = []
        self._funcs = funcs or {}
        self._replies = list(replies)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with contextlib.suppress(OSError), peer, peer.makefile("rb") as received:
            for line in received:
                self.lines.append(line)
                peer.sendall(self._replies.pop(0) if self._replies else self._answer(line))

    def _answer(self, line: bytes) -> bytes:
        request = json.loads(line)
        name, params, kwargs = request["method"], request.get("params", []), request.get("kwargs")
        if name not in self._funcs:
            reply = {"error": f"Method '{name}' not found"}
        else:
            try:
                reply = {"result": self._funcs[name](*params, **(kwargs or {}))}
            except Exception as problem:
                reply = {"error": str(problem)}
        return json.dumps(reply).encode() + b"\n"

    def close(self) -> None:
        # Closing alone does not wake who accepts.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def old_server() -> Iterator[Callable[..., OldServer]]:
    servers: list[OldServer] = []

    def make(*args: Any, **kwargs: Any) -> OldServer:
        servers.append(OldServer(*args, **kwargs))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


MakeOldServer = Callable[..., OldServer]


class Gate:
    """A function that blocks until the test opens the gate."""

    def __init__(self) -> None:
        self.is_open = threading.Event()
        self.entered = threading.Semaphore(0)

    def wait(self) -> str:
        self.entered.release()
        assert self.is_open.wait(PATIENCE)
        return "through"


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.is_open.set()


def add(a: Any, b: Any) -> Any:
    return a + b


def echo(value: Any) -> Any:
    return value


def arguments(*args: Any, **kwargs: Any) -> Any:
    return [list(args), kwargs]


def raises(error: BaseException) -> Callable[[], Any]:
    def function() -> Any:
        raise error

    return function


def run_script(text: str) -> tuple[str, str]:
    """Run a script in a fresh interpreter to its end; give what it printed, and its complaints."""
    done = subprocess.run(
        [sys.executable, "-c", text],
        env={**os.environ, "PYTHONPATH": str(TOP)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    return done.stdout, done.stderr


def setup_cfg() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(TOP / "setup.cfg", encoding="utf-8")
    return config


# --- what is the same -----------------------------------------------------------------------------


def test_names() -> None:
    assert kn_sock.rpc.RPCClient is kn_sock.RPCClient is RPCClient
    assert kn_sock.rpc.start_rpc_server is kn_sock.start_rpc_server is start_rpc_server


def test_parameters(serve: Serve) -> None:
    for function, names in (
        (RPCClient, ["host", "port"]),
        (start_rpc_server, ["port", "register_funcs", "host", "shutdown_event"]),
    ):
        parameters = list(inspect.signature(function).parameters.values())
        assert [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD] == names
        named_only = [one for one in parameters if one.kind is one.KEYWORD_ONLY]
        assert all(one.default is not one.empty for one in named_only)
    server = serve({"add": add})
    RPCClient("127.0.0.1", server.port).close()
    RPCClient(host="127.0.0.1", port=server.port).close()
    is_set = threading.Event()
    is_set.set()
    start_rpc_server(0, {"add": add}, "127.0.0.1", is_set)
    start_rpc_server(port=0, register_funcs={}, host="127.0.0.1", shutdown_event=is_set)


def test_ports(serve: Serve) -> None:
    port: Any = str(serve({"add": add}).port)
    with RPCClient("127.0.0.1", port) as client:
        assert client.call("add", 1, 2) == 3


def test_calls(serve: Serve) -> None:
    server = serve({"add": add, "arguments": arguments})
    with RPCClient("localhost", server.port) as client:
        assert client.call("add", 10, 20) == 30
        assert client.call("add", a=10, b=20) == 30
        assert client.call("add", 10, b=20) == 30
        assert client.call("arguments") == [[], {}]
        assert client.call("arguments", 1, {"a": 2}, key=[3]) == [[1, {"a": 2}], {"key": [3]}]


def test_clients_of_0_3(serve: Serve, old: OldCalls) -> None:
    client = old(serve({"add": add, "fail": raises(ValueError("no such thing"))}))
    assert client.call("add", 10, 20) == {"result": 30}
    assert client.call("add", a=10, b=20) == {"result": 30}
    assert client.call("add", 10, b=20) == {"result": 30}
    assert client.call("fail") == {"error": "no such thing"}
    assert client.ask(b'{"method": "add", "params": ["a", "b"]}\n') == {"result": "ab"}
    assert client.ask(b'{"kwargs": {"a": 1, "b": 2}, "method": "add"}\n') == {"result": 3}


def test_servers_of_0_3(old_server: MakeOldServer) -> None:
    server = old_server({"add": add, "fail": raises(ValueError("no such thing"))})
    with RPCClient("127.0.0.1", server.port, dialect="kn-sock") as client:
        assert client.call("add", 10, b=20) == 30
        assert list(client.map("add", range(20), range(20))) == [2 * n for n in range(20)]
        with pytest.raises(RemoteError, match=r"^no such thing$"):
            client.call("fail")
        with pytest.raises(RemoteError, match=r"^Method 'nope' not found$"):
            client.call("nope")
    assert json.loads(server.lines[0]) == {"method": "add", "params": [10], "kwargs": {"b": 20}}


def test_order(serve: Serve, old: OldCalls, gate: Gate) -> None:
    begun: list[str] = []

    def note(name: str) -> str:
        begun.append(name)
        return name

    server = serve({"wait": gate.wait, "note": note})
    client, other = old(server), old(server)
    client.send(old_request("wait") + old_request("note", "second") + old_request("nope"))
    assert gate.entered.acquire(timeout=PATIENCE)
    assert other.call("note", "other") == {"result": "other"}
    assert begun == ["other"]
    gate.is_open.set()
    replies = [json.loads(client.line()) for _ in range(3)]
    assert replies[:2] == [{"result": "through"}, {"result": "second"}]
    assert replies[2] == {"error": "Method 'nope' not found"}


VALUES: list[Any] = [
    *(None, True, False, 0, -1, 2**200, 1.5, 1.0, 1e300, -0.0),
    *("", "é☃😀", "\x00\n\r\u2028", "\ud800", [], {}, [[[]]], {"": {"error": "x"}}),
    *((1, (2, "x")), {3: "a", 2.5: "b", True: "c", None: "d"}, {"id": 1, "result": 2}),
]


@pytest.mark.parametrize("value", VALUES, ids=ascii)
def test_values(serve: Serve, old: OldCalls, old_server: MakeOldServer, value: Any) -> None:
    wanted = json.loads(json.dumps(value))
    server = serve({"echo": echo, "give": lambda: value})
    got = [old(server).call("echo", value)["result"], old(server).call("give")["result"]]
    with RPCClient("127.0.0.1", server.port) as client:
        got += [client.call("echo", value), client.call("give")]
    old_one = old_server({"echo": echo, "give": lambda: value})
    with RPCClient("127.0.0.1", old_one.port, dialect="kn-sock") as client:
        got += [client.call("echo", value), client.call("give")]
    # By their text, which tells 1 from 1.0 and true.
    assert [repr(one) for one in got] == [repr(wanted)] * 6


def test_error_texts(serve: Serve, old: OldCalls) -> None:
    errors = [
        *(ValueError("no"), KeyError("k"), ValueError("a", 1), OSError(2, "No such file", "f")),
        *(TypeError("add() takes 2 positional arguments"), Exception("a\n☃\ud800" * 500)),
    ]
    server = serve({f"fail{n}": raises(error) for n, error in enumerate(errors)})
    client = old(server)
    for n, error in enumerate(errors):
        assert client.call(f"fail{n}") == {"error": str(error)}
    with RPCClient("127.0.0.1", server.port) as new:
        for name in ("multiply", "it's", "n" * 60):
            assert client.call(name) == {"error": f"Method '{name}' not found"}
            with pytest.raises(MethodNotFound) as caught:
                new.call(name)
            assert str(caught.value) == f"Method '{name}' not found"
    assert client.call("n" * 61) == {"error": f"Method '{'n' * 59}…' not found"}


def test_catching_errors(serve: Serve) -> None:
    server = serve({"fail": raises(KeyError("k")), "own": raises(RPCError(7, "mine"))})
    with RPCClient("127.0.0.1", server.port) as client:
        for method, text in (("fail", "'k'"), ("own", "mine"), ("x", "Method 'x' not found")):
            with pytest.raises(Exception) as caught:
                client.call(method)
            args = ("k",) if method == "fail" else (text,)
            assert (str(caught.value), caught.value.args) == (text, args)
    kinds = [
        getattr(kn_sock.errors, name) for name in kn_sock.errors.__all__ if name != "ErrorCode"
    ]
    assert all(issubclass(kind, Exception) for kind in kinds)


def test_refused_connections() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    for host in ("127.0.0.1", "localhost"):
        with pytest.raises(ConnectionRefusedError) as caught:
            RPCClient(host, port)
        assert caught.value.errno == errno.ECONNREFUSED


def test_lost_connections() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            peer, _ = listener.accept()
            with peer, peer.makefile("rb") as received:
                received.readline()

        threading.Thread(target=hang_up, daemon=True).start()
        client = RPCClient("127.0.0.1", listener.getsockname()[1])
        with client, pytest.raises(ConnectionError):
            client.call("add", 1, 2)


def test_closing(serve: Serve) -> None:
    client = RPCClient("127.0.0.1", serve({"add": add}).port)
    client.close()
    client.close()
    with pytest.raises(OSError):
        client.call("add", 1, 2)


def test_arguments_that_cannot_be_sent(serve: Serve) -> None:
    circle: list[Any] = []
    circle.append(circle)
    with RPCClient("127.0.0.1", serve({"echo": echo}).port) as client:
        with pytest.raises(TypeError):
            client.call("echo", object())
        with pytest.raises(ValueError):
            client.call("echo", circle)
        assert client.call("echo", 1) == 1


def test_several_threads(serve: Serve) -> None:
    server = serve({"add": add})
    with RPCClient("127.0.0.1", server.port) as client, ThreadPoolExecutor(8) as pool:
        sums = pool.map(lambda n: client.call("add", n, n), range(200))
        assert list(sums) == [2 * n for n in range(200)]


def test_serving(serve: Serve, old: OldCalls, gate: Gate) -> None:
    servers = [serve({"wait": gate.wait, "me": lambda n=n: n}) for n in range(2)]
    blocked = [old(server) for server in servers]
    for client in blocked:
        client.send(old_request("wait"))
        assert gate.entered.acquire(timeout=PATIENCE)
    assert [old(server).call("me") for server in servers] == [{"result": 0}, {"result": 1}]
    gate.is_open.set()
    assert [json.loads(client.line()) for client in blocked] == [{"result": "through"}] * 2
    for server in servers:
        server.stop()
        assert server.raised is None


def test_events(serve: Serve, old: OldCalls) -> None:
    for event in (threading.Event(), multiprocessing.Event()):
        server = serve({"add": add}, event=event)
        assert old(server).call("add", 1, 2) == {"result": 3}
        event.set()
        server.thread.join(PATIENCE)
        assert not server.thread.is_alive()


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(OSError) as caught:
        start_rpc_server(listener.getsockname()[1], {"add": add}, "127.0.0.1")
    assert caught.value.errno == errno.EADDRINUSE


def test_functions(serve: Serve, old: OldCalls) -> None:
    funcs: dict[str, Any] = {
        "lambda": lambda: 1,
        "bound": "ab".upper,
        "builtin": max,
        "class": dict,
        "partial": functools.partial(add, 1),
    }
    client = old(serve(funcs))
    funcs["late"] = add
    assert client.call("lambda") == {"result": 1}
    assert client.call("bound") == {"result": "AB"}
    assert client.call("builtin", 1, 2) == {"result": 2}
    assert client.call("class", a=1) == {"result": {"a": 1}}
    assert client.call("partial", 2) == {"result": 3}
    assert client.call("late", 1, 2) == {"error": "Method 'late' not found"}


@pytest.mark.parametrize(
    ("host", "bound"),
    [("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1"), ("", "0.0.0.0"), ("0.0.0.0",) * 2],
)
def test_bind_addresses(serve: Serve, old: OldCalls, host: str, bound: str) -> None:
    server = serve({"add": add}, host=host)
    assert server.host == bound
    assert old(server).call("add", 1, 2) == {"result": 3}


def test_line_ends(serve: Serve, old: OldCalls) -> None:
    client = old(serve({"add": add}))
    client.send(b"\n\r\n" + old_request("add", 1, 2).replace(b"\n", b"\r\n") + b"\n")
    client.socket.shutdown(socket.SHUT_WR)
    assert [client.line(), client.line()] == [b'{"result":3}\n', b""]


def test_half_closed_connections(serve: Serve, old: OldCalls) -> None:
    client = old(serve({"add": add}))
    client.send(old_request("add", 1, 2) + old_request("add", 3, 4))
    client.socket.shutdown(socket.SHUT_WR)
    replies = [client.line() for _ in range(3)]
    assert replies == [b'{"result":3}\n', b'{"result":7}\n', b""]


# --- what is stricter -----------------------------------------------------------------------------


def test_listening(serve: Serve) -> None:
    assert serve({"add": add}).host == "127.0.0.1"
    assert serve({"add": add}, host="0.0.0.0").host == "0.0.0.0"


def timeout_of(client: RPCClient) -> float | None:
    return client._options.timeout


def test_timeouts(network: MemoryNetwork, serve: Serve) -> None:
    pair = connected_pair({"wait": in_reactor(Deferred)}, network=network)
    outcomes: list[Any] = []
    pair.client.call("wait").addBoth(outcomes.append)
    pair.client.with_options(timeout=None).call("wait").addBoth(outcomes.append)
    pair.pump()
    pair.advance(29.9)
    assert outcomes == []
    pair.advance(0.1)
    assert [failure.type for failure in outcomes] == [CallTimeout]
    pair.advance(1e6)
    assert len(outcomes) == 1

    port = serve({"add": add}).port
    for options, seconds in (({}, 30.0), ({"timeout": 600}, 600), ({"timeout": None}, None)):
        with RPCClient("127.0.0.1", port, **options) as client:
            assert timeout_of(client) == seconds


def test_time_to_connect(network: MemoryNetwork) -> None:
    @implementer(IStreamClientEndpoint)
    class FakeEndpoint:
        def connect(self, protocolFactory: Any) -> Deferred[Any]:
            return Deferred()

    cases: list[tuple[dict[str, Any], int]] = [({}, 10), ({"connect_timeout": 60}, 60)]
    for options, seconds in cases:
        outcomes: list[Any] = []
        connecting = connect(FakeEndpoint(), reactor=network.reactor, **options)
        connecting.addBoth(outcomes.append)
        network.reactor.advance(seconds - 0.1)
        assert outcomes == []
        network.reactor.advance(0.1)
        assert [failure.type for failure in outcomes] == [ConnectFailed]
    assert inspect.signature(RPCClient).parameters["connect_timeout"].default == 10.0


def test_long_lines(serve: Serve, old: OldCalls) -> None:
    long = "x" * (4 * 1024 * 1024)
    server = serve({"size": len, "give": lambda: long})
    with RPCClient("127.0.0.1", server.port) as client:
        assert client.call("size", long[:-200]) == len(long) - 200
        for call in (("size", long), ("give",)):
            with pytest.raises(RPCError, match="max_line_bytes"):
                client.call(*call)
    one_of_0_3 = old(server)
    assert "max_line_bytes" in one_of_0_3.call("size", long)["error"]["message"]
    assert "max_line_bytes" in one_of_0_3.call("give")["error"]

    more = {"max_line_bytes": 8 * 1024 * 1024}
    server = serve({"size": len, "give": lambda: long}, **more)
    with RPCClient("127.0.0.1", server.port, **more) as client:  # type: ignore[arg-type]  # an option
        assert client.call("size", long) == len(long)
        assert client.call("give") == long


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinity(
    serve: Serve, old: OldCalls, old_server: MakeOldServer, logged_errors: Any, number: float
) -> None:
    server = serve({"echo": echo, "give": lambda: [number]})
    with RPCClient("127.0.0.1", server.port) as client:
        with pytest.raises(ValueError, match="JSON"):
            client.call("echo", number)
        with pytest.raises(InternalError, match="JSON"):
            client.call("give")
    one_of_0_3 = old(server)
    assert "not JSON" in one_of_0_3.call("echo", number)["error"]["message"]
    assert "JSON" in one_of_0_3.call("give")["error"]
    old_one = old_server({"give": lambda: number, "echo": echo})
    with RPCClient("127.0.0.1", old_one.port, dialect="kn-sock") as client:
        with pytest.raises(InternalError, match="not JSON"):
            client.call("give")
        assert client.call("echo", None) is None
    assert len(logged_errors.claim()) == 2


@pytest.mark.parametrize("line", [b"hello\n", b"3\n", b"null\n", b'{"method": "add"\n', b"\xff\n"])
def test_unreadable_lines(serve: Serve, old: OldCalls, line: bytes) -> None:
    client = old(serve({"add": add}))
    refused = client.ask(line)
    assert refused["jsonrpc"] == "2.0"
    assert refused["error"]["code"] in (-32700, -32600)
    assert client.call("add", 1, 2) == {"result": 3}
    client.send(old_request("add", 1, 2).rstrip())
    client.socket.shutdown(socket.SHUT_WR)
    assert json.loads(client.line())["error"]["code"] == -32700
    assert client.line() == b""


def test_requests_with_an_id(serve: Serve, old: OldCalls) -> None:
    client = old(serve({"add": add}))
    call = {"method": "add", "params": [1, 2]}
    of_1 = {"id": 5, "result": 3, "error": None}
    of_2 = {"jsonrpc": "2.0", "id": 5, "result": 3}
    assert client.ask(json.dumps({**call, "id": 5}).encode() + b"\n") == of_1
    assert client.ask(json.dumps({**call, "id": 5, "jsonrpc": "2.0"}).encode() + b"\n") == of_2
    client.send(json.dumps({**call, "id": None}).encode() + b"\n")
    client.send(json.dumps({**call, "jsonrpc": "2.0"}).encode() + b"\n")
    assert client.call("add", 3, 4) == {"result": 7}
    client.socket.shutdown(socket.SHUT_WR)
    assert client.line() == b""


def test_params_that_are_no_array(serve: Serve, old: OldCalls) -> None:
    client = old(serve({"arguments": arguments}))
    assert client.ask(b'{"method": "arguments", "params": {"a": 1, "b": 2}}\n') == {
        "result": [[], {"a": 1, "b": 2}]
    }
    refused = client.ask(b'{"method": "arguments", "params": "ab"}\n')
    assert refused == {"error": "params must be an array or an object, not ab"}
    assert client.ask(b'{"method": "arguments", "params": ["ab"]}\n') == {"result": [["ab"], {}]}


def test_web_browsers(serve: Serve, old: OldCalls) -> None:
    ran: list[int] = []
    server = serve({"run": lambda: ran.append(1), "add": add})
    client = old(server)
    client.send(b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n" + old_request("run"))
    assert client.line() == b"HTTP/1.1 400 Bad Request\r\n"
    assert old(server).call("add", 1, 2) == {"result": 3}
    assert ran == []


def double(count: int) -> int:
    return 2 * count


def weekday(day: datetime.date) -> str:
    return day.strftime("%A")


def test_annotations(serve: Serve, old: OldCalls) -> None:
    client = old(serve({"double": double, "weekday": weekday, "free": lambda count: 2 * count}))
    assert client.call("double", 2) == {"result": 4}
    assert "Expected `int`, got `str`" in client.call("double", "2")["error"]
    assert client.call("free", "2") == {"result": "22"}
    assert client.call("weekday", "2024-02-29") == {"result": "Thursday"}


def test_wrong_arguments(serve: Serve, old: OldCalls) -> None:
    server = serve({"add": lambda a, b: a + b, "fail": raises(TypeError("mine"))})
    assert old(server).call("add", 1) == {"error": "add(a, b): missing a required argument: 'b'"}
    with RPCClient("127.0.0.1", server.port) as client:
        for args, kwargs in (((1,), {}), ((1, 2, 3), {}), ((1, 2), {"c": 3}), ((1,), {"a": 2})):
            with pytest.raises(InvalidParams, match=r"^add\(a, b\): "):
                client.call("add", *args, **kwargs)
        with pytest.raises(TypeError, match=r"^mine$"):
            client.call("fail")


def with_session(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function("session", *args, **kwargs)

    return wrapper


def test_decorators(serve: Serve, old: OldCalls) -> None:
    def load(session: str, key: Any) -> Any:
        return [session, key]

    says_so = with_session(load)
    del says_so.__wrapped__  # type: ignore[attr-defined]  # functools.wraps set it
    client = old(serve({"hidden": with_session(load), "load": says_so}))
    assert "missing a required argument: 'key'" in client.call("hidden", 1)["error"]
    assert client.call("load", 1) == {"result": ["session", 1]}
    assert client.call("load", key=1) == {"result": ["session", 1]}


def test_errors_without_a_text(serve: Serve, old: OldCalls) -> None:
    client = old(serve({"fail": raises(ValueError()), "check": raises(AssertionError())}))
    assert client.call("fail") == {"error": "ValueError"}
    assert client.call("check") == {"error": "AssertionError"}


def test_builtin_errors(serve: Serve) -> None:
    server = serve({"fail": raises(ValueError("no")), "down": raises(ConnectionError("db"))})
    with RPCClient("127.0.0.1", server.port) as client:
        with pytest.raises(ValueError, match=r"^no$"):
            client.call("fail")
        with pytest.raises(ConnectionError, match=r"^db$") as caught:
            client.call("down")
        assert not isinstance(caught.value, ConnectionLost)


async def later() -> int:
    return 5


def test_results(serve: Serve, old: OldCalls, logged_errors: Any) -> None:
    day = datetime.date(2024, 2, 29)
    server = serve({"bad": object, "later": later, "set": lambda: {1}, "day": lambda: day})
    client = old(server)
    assert "cannot be sent as JSON" in client.call("bad")["error"]
    with RPCClient("127.0.0.1", server.port) as new, pytest.raises(RPCError, match="as JSON"):
        new.call("bad")
    assert client.call("later") == {"result": 5}
    assert client.call("set") == {"result": [1]}
    assert client.call("day") == {"result": "2024-02-29"}
    assert len(logged_errors.claim()) == 2


@pytest.mark.parametrize("reply", [b"hello\n", b"{}\n", b"[]\n", b"3\n"])
def test_senseless_replies(old_server: MakeOldServer, reply: bytes) -> None:
    server = old_server({"echo": echo}, replies=[reply])
    with RPCClient("127.0.0.1", server.port, dialect="kn-sock", timeout=None) as client:
        with pytest.raises(InternalError, match="the peer"):
            client.call("echo", 1)
        assert client.call("echo", 2) == 2


def test_hosts(serve: Serve) -> None:
    port = serve({"add": add}).port
    wrong: list[Any] = [None, b"127.0.0.1"]
    for host in wrong:
        with pytest.raises(TypeError):
            RPCClient(host, port)
    RPCClient("localhost", port).close()


def test_unknown_hosts() -> None:
    with pytest.raises(OSError) as caught:
        RPCClient("no-such-host.invalid", 80)
    assert isinstance(caught.value, ConnectFailed)
    assert not isinstance(caught.value, socket.gaierror)


def test_name_of_the_method(serve: Serve) -> None:
    with RPCClient("127.0.0.1", serve({"arguments": arguments}).port) as client:
        with pytest.raises(TypeError, match="method"):
            client.call(method="arguments", a=1)  # type: ignore[call-arg]  # the very mistake
        with pytest.raises(TypeError, match="string"):
            client.call(1)  # type: ignore[arg-type]  # the very mistake
        assert client.call("arguments", method=1, self=2) == [[], {"method": 1, "self": 2}]


def test_names_of_functions() -> None:
    wrong: list[tuple[dict[Any, Any], type[Exception]]] = [
        ({1: add}, TypeError),
        ({"": add}, TypeError),
        ({"add": 1}, TypeError),
        ({"rpc.add": add}, ValueError),
        ({"$/add": add}, ValueError),
    ]
    for funcs, kind in wrong:
        with pytest.raises(kind):
            start_rpc_server(0, funcs)


def test_calls_at_the_same_time(serve: Serve) -> None:
    both = threading.Barrier(2)
    here: list[str] = []

    @in_reactor
    def alone() -> str:
        return threading.current_thread().name

    def meet() -> None:
        both.wait(PATIENCE)
        here.append(threading.current_thread().name)

    server = serve({"meet": meet, "alone": alone}, threads=2)
    with RPCClient("127.0.0.1", server.port) as client, ThreadPoolExecutor(2) as pool:
        list(pool.map(client.call, ["meet", "meet"]))
        assert len(set(here)) == 2
        assert len(set(pool.map(client.call, ["alone"] * 20))) == 1


def test_threads_of_the_server(serve: Serve, gate: Gate) -> None:
    assert ServerOptions().threads == min(32, (os.cpu_count() or 1) + 4)
    server = serve({"wait": gate.wait, "add": add}, threads=1)
    with RPCClient("127.0.0.1", server.port) as one, RPCClient("127.0.0.1", server.port) as other:
        slow = one.submit("wait")
        assert gate.entered.acquire(timeout=PATIENCE)
        quick = other.submit("add", 1, 2)
        # Answered on the reactor: what was sent before has been read.
        assert other.call("rpc.ping") == "pong"
        assert not quick.done()
        gate.is_open.set()
        assert (slow.result(PATIENCE), quick.result(PATIENCE)) == ("through", 3)
    both = threading.Barrier(2)
    server = serve({"meet": lambda: both.wait(PATIENCE)}, threads=2)
    with RPCClient("127.0.0.1", server.port) as one, RPCClient("127.0.0.1", server.port) as other:
        futures = [one.submit("meet"), other.submit("meet")]
        assert sorted(future.result(PATIENCE) for future in futures) == [0, 1]


def test_data_of_a_thread(serve: Serve, gate: Gate) -> None:
    names: dict[Any, str] = {}
    threads: set[int] = set()
    both = threading.Barrier(2)

    def log_in(name: str) -> None:
        names[current_call().peer] = name

    def who() -> str:
        both.wait(PATIENCE)
        threads.add(threading.get_ident())
        return names[current_call().peer]

    server = serve({"log_in": log_in, "who": who}, threads=2)
    with RPCClient("127.0.0.1", server.port) as ada, RPCClient("127.0.0.1", server.port) as bob:
        ada.call("log_in", "Ada")
        bob.call("log_in", "Bob")
        for client, name in ((ada, "Ada"), (bob, "Bob")):
            threads.clear()
            futures = [client.submit("who"), client.submit("who")]
            assert [future.result(PATIENCE) for future in futures] == [name, name]
            assert len(threads) == 2


def test_the_end_of_a_server(serve: Serve, old: OldCalls, gate: Gate) -> None:
    assert ServerOptions().drain_timeout == 10.0
    server = serve({"wait": gate.wait, "add": add})
    busy, idle = old(server), old(server)
    assert idle.call("add", 1, 2) == {"result": 3}
    busy.send(old_request("wait"))
    assert gate.entered.acquire(timeout=PATIENCE)
    server.shutdown.set()
    # One without a call in flight is closed at once.
    assert idle.line() == b""
    assert server.thread.is_alive()
    refused = busy.ask(b'{"id": 1, "method": "add", "params": [1, 2]}\n')
    assert "the server is stopping" in refused["error"]
    gate.is_open.set()
    assert json.loads(busy.line()) == {"result": "through"}
    assert busy.line() == b""
    server.thread.join(PATIENCE)
    assert not server.thread.is_alive()


def test_ctrl_c() -> None:
    printed, complaints = run_script(
        "import os, signal, threading\n"
        "from kn_sock import RPCClient, start_rpc_server\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def interrupt(): os.kill(os.getpid(), signal.SIGINT)\n"
        "def on_ready(host, port):\n"
        "    client = RPCClient(host, port)\n"
        "    threading.Thread(target=client.call, args=('interrupt',)).start()\n"
        "try:\n"
        "    start_rpc_server(0, {'interrupt': interrupt}, on_ready=on_ready)\n"
        "except KeyboardInterrupt:\n"
        "    print('raised')\n"
        "print('returned')\n"
    )
    assert (printed, complaints) == ("returned\n", "")


def test_sys_exit(serve: Serve, old: OldCalls, logged_errors: Any) -> None:
    server = serve({"exit": lambda: sys.exit(3)})
    client = old(server)
    client.send(old_request("exit"))
    assert client.line() == b'{"error":"exit raised SystemExit: the server is stopping"}\n'
    server.thread.join(PATIENCE)
    assert isinstance(server.raised, SystemExit)
    assert server.raised.code == 3
    assert len(logged_errors.claim()) == 1


def test_forks(serve: Serve) -> None:
    printed, _ = run_script(
        "import os, warnings\n"
        "from kn_sock import ForkedError, RPCClient\n"
        "warnings.simplefilter('ignore')\n"
        f"port = {serve({'add': add}).port}\n"
        "client = RPCClient('127.0.0.1', port)\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    try:\n"
        "        client.call('add', 1, 2)\n"
        "    except ForkedError:\n"
        "        print(RPCClient('127.0.0.1', port).call('add', 3, 4), flush=True)\n"
        "    os._exit(0)\n"
        "os.waitpid(child, 0)\n"
        "print(client.call('add', 5, 6))\n"
    )
    assert printed == "7\n11\n"


def test_reconnecting(serve: Serve) -> None:
    def hang_up() -> None:
        current_call().reactor.callFromThread(current_call().connection.close)

    with RPCClient("127.0.0.1", serve({"add": add, "hang_up": hang_up}).port) as client:
        client.call("add", 1, 2)
        with contextlib.suppress(ConnectionLost):
            client.call("hang_up")
        assert client.call("add", 1, 2) == 3


# --- what is not here -----------------------------------------------------------------------------


def test_everything_else() -> None:
    modules = [
        *("tcp", "udp", "file_transfer", "json_socket", "websocket", "http", "pubsub", "queue"),
        *("live_stream", "video_chat", "compression", "decorators", "network", "load_balancer"),
        *("protobuf", "config", "interactive_cli", "utils"),
    ]
    assert [name for name in modules if importlib.util.find_spec(f"kn_sock.{name}")] == []
    names = [
        *("send_tcp_message", "start_udp_server", "send_file", "send_json", "http_get"),
        *("PubSubClient", "VideoChatServer", "compress_data", "retry", "arp_scan"),
    ]
    assert [name for name in names if hasattr(kn_sock, name)] == []


def test_the_kn_sock_command() -> None:
    config = setup_cfg()
    assert not config.has_section("options.entry_points")
    assert importlib.util.find_spec("kn_sock.cli") is None
    options = Options()
    options.parseOptions(["--port", "8080", "--funcs", "math"])
    assert options.subCommand is None


def test_rpcserver(network: MemoryNetwork) -> None:
    assert not hasattr(kn_sock, "RPCServer")
    assert not hasattr(kn_sock.rpc, "RPCServer")
    pair = connected_pair(MethodTable().add({"add": add}), network=network)
    results: list[int] = []
    pair.client.call("add", 1, 2).addCallback(results.append)
    pair.pump()
    assert results == [3]


def test_printed_lines(capfd: pytest.CaptureFixture[str], serve: Serve, old: OldCalls) -> None:
    server = serve({"fail": raises(ValueError("no"))})
    assert server.port > 0
    old(server).call("fail")
    server.stop()
    assert capfd.readouterr() == ("", "")


def test_logging() -> None:
    printed, _ = run_script(
        "import logging, kn_sock\n"
        "root = logging.getLogger()\n"
        "print(root.handlers, root.level == logging.WARNING, hasattr(kn_sock, 'configure_logging'))"
    )
    assert printed == "[] True False\n"


def test_insides_of_the_client(serve: Serve) -> None:
    with RPCClient("127.0.0.1", serve({"add": add}).port, timeout=5) as client:
        assert [name for name in ("sock", "lock", "recv_buffer") if hasattr(client, name)] == []
        assert timeout_of(client) == 5


def test_old_errors() -> None:
    names = ["EasySocketError", "ConnectionTimeoutError", "PortInUseError", "InvalidJSONError"]
    for module in (kn_sock, kn_sock.errors):
        assert [name for name in names if hasattr(module, name)] == []


def test_old_pythons() -> None:
    assert setup_cfg()["options"]["python_requires"] == ">=3.10"


def test_dependencies() -> None:
    needed = setup_cfg()["options"]["install_requires"].split()
    names = {re.split(r"[<>=~!\[]", one)[0] for one in needed}
    assert {"twisted", "msgspec"} <= names
    assert not names & {"opencv-python", "numpy", "pyaudio", "ffmpeg-python"}


# --- how to move ----------------------------------------------------------------------------------


def test_server_first(serve: Serve, old: OldCalls) -> None:
    server = serve({"add": add})
    with RPCClient("127.0.0.1", server.port) as new:
        for n in range(10):
            assert old(server).call("add", n, 1) == {"result": n + 1}
            assert new.call("add", n, 1) == n + 1


def test_clients_first(serve: Serve, old_server: MakeOldServer) -> None:
    for server in (old_server({"add": add}), serve({"add": add})):
        with RPCClient("127.0.0.1", server.port, dialect="kn-sock") as client:
            assert client.call("add", 10, b=20) == 30
            assert [client.submit("add", n, n).result(PATIENCE) for n in range(5)] == [
                0,
                2,
                4,
                6,
                8,
            ]
            with pytest.raises(RPCError, match=r"^Method 'nope' not found$"):
                client.call("nope")


def test_in_the_end(serve: Serve) -> None:
    both = threading.Barrier(2)
    funcs = {"fail": raises(ValueError("no")), "meet": lambda: both.wait(PATIENCE), "add": add}
    port = serve(funcs, threads=2).port
    with RPCClient("127.0.0.1", port, dialect="kn-sock") as client:
        with pytest.raises(RemoteError) as caught:
            client.call("fail")
        assert not isinstance(caught.value, ValueError)
        with pytest.raises(TypeError):
            client.notify("add", 1, 2)
    with RPCClient("127.0.0.1", port) as client:
        with pytest.raises(ValueError) as known:
            client.call("fail")
        assert isinstance(known.value, RemoteError)
        futures = [client.submit("meet"), client.submit("meet")]
        assert sorted(future.result(PATIENCE) for future in futures) == [0, 1]
        client.notify("add", 1, 2)
        batch = client.batch()
        batch.call("add", 1, 2)
        assert batch.send() == [3]


def test_when_it_was_forgotten(old_server: MakeOldServer) -> None:
    calls: list[Any] = []
    server = old_server({"run": lambda *args, **kwargs: calls.append((args, kwargs))})
    with RPCClient("127.0.0.1", server.port) as client:
        for args, kwargs in (((1, 2), {}), ((), {"a": 1, "b": 2})):
            with pytest.raises(ConnectionLost, match='with dialect="kn-sock"') as caught:
                client.call("run", *args, **kwargs)
            assert caught.value.maybe_executed
    assert calls == [((1, 2), {}), (("a", "b"), {})]


def test_timeouts_with_a_server_of_0_3(old_server: MakeOldServer, gate: Gate) -> None:
    server = old_server({"wait": gate.wait, "echo": echo})
    with RPCClient("127.0.0.1", server.port, dialect="kn-sock") as client:
        with pytest.raises(CallTimeout):
            client.with_options(timeout=0.05).call("wait")
        assert gate.entered.acquire(timeout=PATIENCE)
        following = client.submit("echo", "mine")
        assert not following.done()
        gate.is_open.set()
        assert following.result(PATIENCE) == "mine"
    assert [json.loads(line)["method"] for line in server.lines] == ["wait", "echo"]


def test_one_environment() -> None:
    assert setup_cfg()["metadata"]["name"] == "kn-sock"
    assert kn_sock.__name__ == "kn_sock"
