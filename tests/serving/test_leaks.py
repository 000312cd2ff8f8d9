"""What a call leaves behind: nothing that the garbage collector cannot take."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol

from kn_sock import RPCServerFactory, current_call, in_reactor
from kn_sock.testing import ManualExecutor, MemoryNetwork, connected_pair


class KeptError(Exception):
    """What a function keeps in what it was given; it leads to every frame that called it."""


@pytest.fixture
def kept() -> Iterator[weakref.WeakSet[KeptError]]:
    """Those that are still there."""
    errors: weakref.WeakSet[KeptError] = weakref.WeakSet()
    # It must not be collected before the test has looked.
    gc.disable()
    try:
        yield errors
    finally:
        gc.enable()
    gc.collect()
    assert not errors


def keep(where: list[Any], kept: weakref.WeakSet[KeptError]) -> None:
    try:
        raise KeptError
    except KeptError as error:
        where.append(error)
        kept.add(error)


KEEPING: list[dict[str, Any]] = [
    {},
    {"call_timeout": 10},
    {"max_line_bytes": 1024},
    {"executor": ManualExecutor()},
    {"interceptors": [lambda _, proceed: proceed()]},
]


@pytest.mark.parametrize("options", KEEPING, ids=[str([*options]) for options in KEEPING])
@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc": "2.0", "id": 1, "method": "keep", "params": [[]]}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "keep", "params": {"where": []}}',
        b'{"jsonrpc": "2.0", "id": 1.5, "method": "keep", "params": [[]]}',
        b'{"jsonrpc": "2.0", "method": "keep", "params": [[]]}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "keep", "params": [], "kwargs": {"where": []}}',
        b'{"id": 1, "method": "keep", "params": [[]]}',
        b'{"method": "keep", "params": [[]], "kwargs": {}}',
        b'[{"jsonrpc": "2.0", "id": 1, "method": "keep", "params": [[]]}]',
        b'[{"jsonrpc": "2.0", "method": "keep", "params": [[]]}, 1]',
    ],
)
def test_a_call_leaves_nothing_that_cannot_be_collected(
    options: dict[str, Any], line: bytes, kept: weakref.WeakSet[KeptError], network: MemoryNetwork
) -> None:
    options = options if "executor" in options else {**options, "threads": 0}
    factory = RPCServerFactory(
        {"keep": lambda where: keep(where, kept)}, reactor=network.reactor, **options
    )
    network.listen(factory)
    network.connect(Factory.forProtocol(Protocol))
    network.wires[-1].write(line + b"\n")
    network.pump()
    if "executor" in options:
        assert options["executor"].run() == 1
        network.pump()
    assert len(kept) == 1


def test_a_reply_leaves_nothing_that_cannot_be_collected(
    kept: weakref.WeakSet[KeptError], network: MemoryNetwork
) -> None:
    pair = connected_pair({"empty": list}, network=network)
    pair.client.call("empty").addCallback(keep, kept)
    network.pump()
    assert len(kept) == 1


class Listener:
    """Keeps what leads back to itself: the call by the connection, the error by its frames."""

    @in_reactor
    def here(self) -> None:
        self.hear()

    def there(self) -> None:
        self.hear()

    @in_reactor
    async def closes(self) -> None:
        self.hear()
        self.call.connection.close()
        await Deferred()

    @in_reactor
    def later(self) -> Deferred[None]:
        self.hear()
        return Deferred()

    def hear(self) -> None:
        self.call = current_call()
        try:
            raise KeptError
        except KeptError as error:
            self.error = error


@pytest.mark.parametrize("interceptors", [[], [lambda _, proceed: proceed()]])
@pytest.mark.parametrize("call_timeout", [None, 10])
@pytest.mark.parametrize("method", ["here", "there", "later", "closes", "here there"])
@pytest.mark.parametrize("is_run", [True, False])
def test_a_service_that_keeps_its_last_call_is_collected_with_its_server(
    method: str, interceptors: list[Any], call_timeout: float | None, is_run: bool
) -> None:
    network = MemoryNetwork()
    executor = ManualExecutor()
    listener = Listener()
    gone = weakref.ref(listener)
    factory = RPCServerFactory(
        listener,
        reactor=network.reactor,
        executor=executor,
        interceptors=interceptors,
        call_timeout=call_timeout,
    )
    network.listen(factory)
    network.connect(Factory.forProtocol(Protocol))
    lines = [
        b'{"jsonrpc": "2.0", "id": %d, "method": "%s"}\n' % (number, name.encode())
        for number, name in enumerate(method.split())
    ]
    network.wires[-1].write(b"".join(lines))
    network.pump()
    if is_run and "there" in method.split():
        assert executor.run() == 1
        network.pump()
    network.wires[-1].loseConnection()
    network.pump()
    del network, factory, listener, executor
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc": "2.0", "id": 7, "method": "plain"}',
        b'{"jsonrpc": "2.0", "id": 7, "method": "later"}',
        b'{"jsonrpc": "2.0", "method": "plain"}',
        b'{"jsonrpc": "2.0", "method": "later"}',
        b'{"jsonrpc": "2.0", "id": null, "method": "plain"}',
        b'{"jsonrpc": "2.0", "id": 7, "method": "plain"}\n'
        b'{"jsonrpc": "2.0", "id": 7, "method": "later"}',
        b'{"jsonrpc": "2.0", "id": 1.5, "method": "plain"}',
        b'{"method": "plain", "id": 7, "params": []}',
        b'{"command": "plain"}',
        b'[{"jsonrpc": "2.0", "method": "plain"}, {"jsonrpc": "2.0", "id": 7, "method": "later"}]',
    ],
)
@pytest.mark.parametrize("call_timeout", [None, 10])
def test_what_was_served_is_forgotten(
    line: bytes, call_timeout: float | None, network: MemoryNetwork
) -> None:
    async def later() -> int:
        return 1

    executor = ManualExecutor()
    factory = RPCServerFactory(
        # One that is told to be no coroutine function: it runs in a thread.
        {"plain": lambda: 1, "later": lambda: later()},
        reactor=network.reactor,
        executor=executor,
        call_timeout=call_timeout,
    )
    network.listen(factory)
    network.connect(Factory.forProtocol(Protocol))
    (connection,) = factory.connections

    def serve(times: int) -> int:
        for _ in range(times):
            network.wires[-1].write(line + b"\n")
            network.pump()
            executor.run()
            network.pump()
        network.reactor.advance(20)
        gc.collect()
        return sys.getallocatedblocks()

    serve(100)
    before = serve(1)
    assert serve(200) - before < 150
    assert connection._serving.calls_in_flight == 0


class Never(Executor):
    """Has no thread for anybody."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Let it wait."""


def test_calls_that_wait_for_a_thread_are_nothing_to_the_collector(network: MemoryNetwork) -> None:
    executor = Never()
    factory = RPCServerFactory(
        {"add": lambda a, b: a + b}, reactor=network.reactor, executor=executor
    )
    network.listen(factory)
    network.connect(Factory.forProtocol(Protocol))
    line = b'{"jsonrpc": "2.0", "id": %d, "method": "add", "params": [1, 2]}\n'

    def looked_at() -> int:
        # By its second look it lets tuples of plain values be.
        gc.collect()
        gc.collect()
        return len(gc.get_objects())

    network.wires[-1].write(line % 0)
    network.pump()
    before = looked_at()
    network.wires[-1].write(b"".join(line % (1 + number) for number in range(200)))
    network.pump()
    (connection,) = factory.connections
    assert connection._serving.calls_in_flight == 201
    assert looked_at() - before < 20


@pytest.mark.parametrize("who_ends_it", ["the client", "the server"])
def test_a_connection_that_has_ended_does_not_wait_for_the_collector(
    who_ends_it: str, network: MemoryNetwork
) -> None:
    factory = RPCServerFactory({"add": lambda a, b: a + b}, reactor=network.reactor, threads=0)
    network.listen(factory)
    network.connect(Factory.forProtocol(Protocol))
    wire = network.wires[-1]
    wire.write(b'{"jsonrpc": "2.0", "id": 1, "method": "add", "params": [1, 2]}\n')
    network.pump()
    (connection,) = factory.connections
    gone = weakref.ref(connection)
    del connection
    gc.disable()
    try:
        (wire if who_ends_it == "the client" else wire.peer).loseConnection()
        network.pump()
        # As Twisted's own transports do.
        wire.peer.protocol = wire.peer._producer = None
        assert gone() is None
    finally:
        gc.enable()
