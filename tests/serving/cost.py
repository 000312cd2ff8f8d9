"""Counts what a call costs, in things that are the same on every machine.

``python -m tests.serving.cost`` prints the tables at the top of
`tests.serving.test_cost`, as they are now.

Calls of functions, of Python's and of C's, and system calls are what Python tells a profiler: it is
told of every C function, so also of those that are system calls. Memory is what was asked of
Python's allocator. There is no clock in any of it, and nothing else in the process.
"""

from __future__ import annotations

import argparse
import gc
import json
import select
import socket
import sys
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport

import kn_sock
from kn_sock import (
    RPCClient,
    RPCConnection,
    RPCProtocol,
    RPCServerFactory,
    connect,
    in_reactor,
    in_thread,
)
from kn_sock._blocking.reactor_thread import reactor_thread
from kn_sock._serving.dispatcher import Dispatcher
from kn_sock.testing import ManualExecutor, MemoryNetwork, Pair, connected_pair
from tests.faults.peers import HOST, PATIENCE, Peer, ScriptedServer, Served, call, join

MANY = 400
BATCH = 100
CONNECTIONS = 50


class Calls(NamedTuple):
    """What was called, on the way of one request.

    Attributes:
        python: functions written in Python; a generator counts each time that it goes on.
        c: functions written in C.
    """

    python: float
    c: float


# --- counting -------------------------------------------------------------------------------------


class Tally:
    """A function for `sys.setprofile` that counts what is called; one for each thread."""

    def __init__(self) -> None:
        self.python = 0
        self.c = 0
        #: System calls by name.
        self.system: Counter[str] = Counter()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            self.python += 1
        elif event == "c_call" and argument is not sys.setprofile:
            self.c += 1
            name = system_call(argument)
            if name is not None:
                self.system[name] += 1


def system_call(function: Any) -> str | None:
    """Name the system call that a C function is; ``None`` where it is none."""
    owner = function.__self__
    if isinstance(owner, ModuleType):
        return f"{owner.__name__}.{function.__name__}" if owner.__name__ in _SYSTEM else None
    kind = next((kind for kind in _KINDS if isinstance(owner, kind)), None)
    if kind is None or function.__name__ == "fileno":
        return None
    return f"{kind.__name__}.{function.__name__}"


_SYSTEM = {"_socket", "fcntl", "posix", "select"}
_KINDS = (socket.socket, select.epoll)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Have no garbage collected meanwhile: who is told of it would be counted."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def counted(function: Callable[[], object]) -> Tally:
    """Count what a function calls, on this thread."""
    tally = Tally()
    with undisturbed():
        before = sys.getprofile()
        sys.setprofile(tally)
        try:
            function()
        finally:
            sys.setprofile(before)
    # The function itself.
    tally.python -= 1
    return tally


def each(tallies: list[Tally], count: int) -> Calls:
    """Share what was counted among so many requests."""
    python = sum(tally.python for tally in tallies)
    return Calls(round(python / count, 1), round(sum(tally.c for tally in tallies) / count, 1))


# --- functions, in memory -------------------------------------------------------------------------


@in_reactor
def add(a: Any, b: Any) -> Any:
    return a + b


@in_thread
def add_in_thread(a: Any, b: Any) -> Any:
    return a + b


FUNCS = {"add": add, "add_in_thread": add_in_thread}


def requests(method: str, count: int) -> bytes:
    """Write so many calls."""
    return b"".join(call(number, method, number, 1) for number in range(1, count + 1))


def batch(method: str, count: int) -> bytes:
    """Write so many calls in one batch."""
    return b"[" + b",".join(requests(method, count).splitlines()) + b"]\n"


def replies_in(data: bytes) -> int:
    """Count the results in what a server wrote."""
    messages = [json.loads(line) for line in data.splitlines()]
    members = [one for found in messages for one in (found if type(found) is list else [found])]
    return sum("result" in member for member in members)


def network_with_a_real_clock() -> MemoryNetwork:
    """Make a network whose reactor tells the time as a real one: without a function of Python's."""
    network = MemoryNetwork()
    network.reactor.seconds = float  # type: ignore[method-assign]  # it is always 0.0
    return network


class Server:
    """A server's end of a connection in memory, to which a test gives what was read."""

    def __init__(self, funcs: Any = FUNCS, **options: Any) -> None:
        self._pair = connected_pair(funcs, network=network_with_a_real_clock(), **options)
        self.reactor = self._pair.network.reactor
        self._wire = self._pair.wire.peer
        self.read: Callable[[bytes], None] = self._wire.protocol.dataReceived

    def take(self) -> bytes:
        """Take what it wrote."""
        data = self._wire.written
        self._wire._written.clear()
        return data

    def stop(self) -> None:
        self._wire.lose(ConnectionDone())
        self._pair.network.factory.doStop()


def served(data: bytes, count: int) -> Calls:
    """Count what a server does for what one read brought, its replies written."""
    server = Server()
    server.read(data)
    server.take()
    tally = counted(lambda: server.read(data))
    assert replies_in(server.take()) == count
    return each([tally], count)


def served_in_thread(count: int) -> Calls:
    """Count what a server does for calls that an executor runs, and the job on its thread."""
    executor = ManualExecutor()
    server = Server(executor=executor)
    data = requests("add_in_thread", count)
    for _ in range(2):
        server.take()
        tallies = [
            counted(lambda: server.read(data)),
            counted(lambda: executor.run()),
            counted(lambda: server.reactor.advance(0)),
        ]
    assert replies_in(server.take()) == count
    return each(tallies, count)


class Gate:
    """Functions that keep the one worker thread waiting, and count what it does in between."""

    def __init__(self) -> None:
        self._begins = threading.Event()
        self._has_worked = threading.Event()
        self._ends = threading.Event()
        self.tally = Tally()
        self.thread = threading.current_thread()

    def begin(self) -> None:
        """Keep the thread until `work`, and count from then on."""
        self.thread = threading.current_thread()
        assert self._begins.wait(PATIENCE)
        sys.setprofile(self.tally)

    def end(self) -> None:
        """Count no further."""
        sys.setprofile(None)

    def stay(self) -> None:
        """Keep the thread: it has handed in everything but this."""
        self._has_worked.set()
        assert self._ends.wait(PATIENCE)

    def work(self) -> None:
        """Let the thread do all that it was given up to `stay`."""
        self._begins.set()
        assert self._has_worked.wait(PATIENCE)

    def leave(self) -> None:
        """Let the thread end."""
        self._ends.set()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


def served_in_pool(count: int) -> Calls:
    """Count what a server and its own thread do for calls that all wait when the thread begins."""
    gate = Gate()
    funcs = {**FUNCS, "begin": gate.begin, "end": gate.end, "stay": gate.stay}
    server = Server(funcs, threads=1)
    server.read(call(0, "begin"))
    data = requests("add_in_thread", count)
    tallies = [counted(lambda: server.read(data)), gate.tally]
    server.read(call(count + 1, "end") + call(count + 2, "stay"))
    gate.work()
    tallies.append(counted(lambda: server.reactor.advance(0)))
    assert replies_in(server.take()) == count + 2
    server.stop()
    gate.leave()
    return each(tallies, count)


def called(count: int) -> Calls:
    """Count what a Deferred client does for calls of one turn, and their replies in one read."""
    pair = connected_pair(FUNCS)
    _call_in_a_turn(pair, count)
    tallies = _call_in_a_turn(pair, count)
    pair.close()
    return each(tallies, count)


def _call_in_a_turn(pair: Pair, count: int) -> list[Tally]:
    results: list[Any] = []

    def begin() -> None:
        for number in range(count):
            pair.client.call("add", number, 0).addCallback(results.append)

    tallies = [counted(begin), counted(lambda: pair.network.reactor.advance(0))]
    assert pair.wire.deliver()
    replies = pair.wire.peer.written
    pair.wire.peer._written.clear()
    tallies.append(counted(lambda: pair.wire.protocol.dataReceived(replies)))
    assert results == list(range(count))
    return tallies


def called_by_a_script(count: int) -> Calls:
    """Count what a blocking client does on the thread that calls."""
    other = ScriptedServer(Peer.behave)
    with RPCClient(HOST, other.port, timeout=PATIENCE) as client:
        client.call("echo", 0)
        tally = counted(lambda: [client.call("echo", 1) for _ in range(count)])
    other.stop()
    return each([tally], count)


CALLS: dict[str, Callable[[], Calls]] = {
    "one request in a read": lambda: served(requests("add", 1), 1),
    "400 requests in a read": lambda: served(requests("add", MANY), MANY),
    "a batch of 100": lambda: served(batch("add", BATCH), BATCH),
    "400 requests for threads, an executor's": lambda: served_in_thread(MANY),
    "400 requests for threads, the pool's": lambda: served_in_pool(MANY),
    "one call of a Deferred client": lambda: called(1),
    "400 calls of a Deferred client": lambda: called(MANY),
    "a call of a blocking client, on its thread": lambda: called_by_a_script(MANY),
}


# --- the route of one request ---------------------------------------------------------------------


class Route(NamedTuple):
    """The way of one request through a server, from ``dataReceived`` to ``transport.write``.

    Attributes:
        calls: functions written in Python that are called.
        modules: modules of kn_sock that they are in.
    """

    calls: int
    modules: int


def route_of(line: bytes) -> Route:
    """Trace one request whose method runs on the reactor; what was made for the first is there."""
    network = network_with_a_real_clock()
    factory = RPCServerFactory(FUNCS, reactor=network.reactor)
    factory.doStart()
    transport = StringTransport()
    protocol: Any = factory.buildProtocol(network.address)
    protocol.makeConnection(transport)
    protocol.dataReceived(line)
    files: list[str] = []

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            files.append(frame.f_code.co_filename)

    def write(data: bytes) -> None:
        sys.setprofile(None)

    protocol._outbox._write = write
    with undisturbed():
        sys.setprofile(note)
        protocol.dataReceived(line)
    assert sys.getprofile() is None, "nothing was written"
    protocol.connectionLost()
    package = str(Path(kn_sock.__file__).parent)
    return Route(len(files), len({file for file in files if file.startswith(package)}))


def ordinary(**members: Any) -> bytes:
    """Write a request that the fast path leaves to the ordinary one."""
    request = {"jsonrpc": "2.0", "id": 1, "method": "add", "params": [1, 2], **members}
    return json.dumps(request).encode() + b"\n"


ROUTES: dict[str, Callable[[], Route]] = {
    "the fast path": lambda: route_of(call(1, "add", 1, 2)),
    "the caller's timeout": lambda: route_of(ordinary(timeout=5)),
    "a trace": lambda: route_of(ordinary(traceparent="00-1-2-01")),
    "named arguments": lambda: route_of(ordinary(params={"a": 1, "b": 2}, timeout=5)),
}


# --- system calls, over loopback ------------------------------------------------------------------


class CountingServer:
    """A server on a reactor of its own thread, which tells what system calls it made so far."""

    def __init__(self) -> None:
        # Apart, as no two threads can count in one.
        self._reactors, self._workers = Tally(), Tally()
        threading.setprofile(self._workers)
        funcs = {
            **FUNCS,
            "count": in_reactor(lambda: sys.setprofile(self._reactors)),
            "so_far": in_reactor(self._so_far),
        }
        try:
            self._served = Served(funcs, threads=1)
            self.port = self._served.port
            self._peer = join(self.port)
            # The pool's one thread is told to count; it is there before the counting begins.
            for method, params in (("add_in_thread", (1, 1)), ("count", ()), ("add", (1, 1))):
                self.ask(method, *params)
        finally:
            threading.setprofile(None)

    def _so_far(self) -> dict[str, int]:
        return {**self._reactors.system, **_named("thread: ", self._workers)}

    def ask(self, method: str, *params: Any) -> Any:
        """Call, and wait for the result."""
        self._peer.send(call(1, method, *params))
        return self._peer.message()["result"]

    def count(self, load: Callable[[], object]) -> dict[str, int]:
        """Count the system calls for a load: what comes between two questions, but for one."""
        first = Counter(self.ask("so_far"))
        second = Counter(self.ask("so_far"))
        load()
        third = Counter(self.ask("so_far"))
        third.subtract(second)
        second.subtract(first)
        third.subtract(second)
        return {name: number for name, number in sorted(third.items()) if number}

    def stop(self) -> None:
        self._peer.close()
        reactor_thread().call(sys.setprofile, None)
        self._served.stop()


@contextmanager
def counting_server() -> Iterator[CountingServer]:
    with undisturbed():
        server = CountingServer()
        try:
            yield server
        finally:
            server.stop()


def one_by_one(method: str) -> dict[str, int]:
    """Make so many calls, each after the reply to the one before."""
    with counting_server() as server:
        return server.count(lambda: [server.ask(method, 1, 1) for _ in range(MANY)])


def at_once() -> dict[str, int]:
    """Make so many calls in one write."""
    with counting_server() as server:
        peer = server._peer

        def load() -> None:
            peer.send(requests("add", MANY))
            for _ in range(MANY):
                assert "result" in peer.message()

        return server.count(load)


def side_by_side() -> dict[str, int]:
    """Make a call over each of many connections, all before any reply is read."""
    with counting_server() as server:
        peers = [join(server.port) for _ in range(CONNECTIONS)]

        def load() -> None:
            for peer in peers:
                peer.send(call(1, "add", 1, 1))
            for peer in peers:
                assert peer.message()["result"] == 2

        load()
        found = server.count(load)
        for peer in peers:
            peer.close()
        return found


def called_one_by_one() -> dict[str, int]:
    """Make calls with a Deferred client, each after the reply to the one before."""
    other = ScriptedServer(Peer.behave)
    thread = reactor_thread()
    tally = Tally()
    found: Counter[str] = Counter()

    async def load(connection: RPCConnection) -> None:
        sys.setprofile(tally)
        await connection.call("echo", 0)
        before = tally.system.copy()
        for number in range(MANY):
            assert await connection.call("echo", number) == number
        found.update(tally.system)
        found.subtract(before)
        sys.setprofile(None)

    with undisturbed():
        connection = thread.call(
            lambda: connect(f"tcp:{HOST}:{other.port}", reactor=thread.reactor)
        )
        thread.call(lambda: Deferred.fromCoroutine(load(connection)))
        thread.call(connection.close)
    other.stop()
    return {name: number for name, number in sorted(found.items()) if number}


def called_by_a_script_one_by_one() -> dict[str, int]:
    """Make calls with a blocking client, whose thread counts apart from the reactor's."""
    other = ScriptedServer(Peer.behave)
    reactors = Tally()
    with undisturbed(), RPCClient(HOST, other.port, timeout=PATIENCE) as client:
        reactor_thread().call(sys.setprofile, reactors)
        client.call("echo", 0)
        reactors.system.clear()
        caller = counted(lambda: [client.call("echo", 1) for _ in range(MANY)])
        found = dict(reactors.system)
        reactor_thread().call(sys.setprofile, None)
    other.stop()
    return dict(sorted({**found, **_named("thread: ", caller)}.items()))


def _named(prefix: str, tally: Tally) -> dict[str, int]:
    return {prefix + name: number for name, number in list(tally.system.items())}


SYSTEM_CALLS: dict[str, Callable[[], dict[str, int]]] = {
    "400 requests, one after the other": lambda: one_by_one("add"),
    "400 requests in one write": at_once,
    "50 connections, a request each": side_by_side,
    "400 requests for threads, one after the other": lambda: one_by_one("add_in_thread"),
    "400 calls of a Deferred client, one after the other": called_one_by_one,
    "400 calls of a blocking client, one after the other": called_by_a_script_one_by_one,
}


# --- memory ---------------------------------------------------------------------------------------


def held(function: Callable[[], object]) -> int:
    """Count the bytes that are held after a function and were not before."""
    with undisturbed():
        tracemalloc.start()
        try:
            function()
            gc.collect()
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()


def idle_connection() -> int:
    """Count the bytes of a server's connection that was called over; not those of its transport."""
    network = MemoryNetwork()
    factory = RPCServerFactory(FUNCS, reactor=network.reactor)
    factory.doStart()
    transports = [StringTransport() for _ in range(MANY)]
    protocols: list[RPCProtocol] = []
    data = requests("add", 1)

    def open_many() -> None:
        for transport in transports:
            protocol: Any = factory.buildProtocol(network.address)
            protocol.makeConnection(transport)
            protocol.dataReceived(data)
            protocols.append(protocol)
            transport.clear()

    bytes_held = held(open_many)
    for protocol in protocols:
        protocol.connectionLost()
    return bytes_held // MANY


def waiting_call() -> int:
    """Count the bytes of a call that waits for a thread."""
    executor = ManualExecutor()
    server = Server(executor=executor)
    data = requests("add_in_thread", MANY)
    server.read(data)
    executor.run()
    server.reactor.advance(0)
    bytes_held = held(lambda: server.read(data)) // MANY
    executor.run()
    return bytes_held


BYTES: dict[str, Callable[[], int]] = {
    "an idle connection, without its transport": idle_connection,
    "a call that waits for a thread": waiting_call,
}


TABLES: dict[str, dict[str, Callable[[], Any]]] = {
    "CALLS": CALLS,
    "ROUTES": ROUTES,
    "SYSTEM_CALLS": SYSTEM_CALLS,
    "BYTES": BYTES,
}


def main() -> None:
    # Counting takes so long that a turn might end in the middle of what is counted.
    Dispatcher.turn_seconds = 60.0
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="as tests.serving.test_cost reads it")
    given = parser.parse_args()
    found = {
        title: {name: count() for name, count in rows.items()} for title, rows in TABLES.items()
    }
    if given.json:
        print(json.dumps(found))
        return
    for title, counts in found.items():
        print(f"{title} = {{")
        for name, cost in counts.items():
            print(f'    "{name}": {tuple(cost) if isinstance(cost, tuple) else cost},')
        print("}")


if __name__ == "__main__":
    main()
