"""Bytes that are sent past the transport's own queue: in order, whatever the socket takes."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Any, cast

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor, tcp
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP4ServerEndpoint,
    UNIXClientEndpoint,
    UNIXServerEndpoint,
)
from twisted.internet.protocol import Factory, Protocol

from kn_sock._io.transport import SendAtOnce, unsent_bytes, write_of
from kn_sock.testing import MemoryTransport


class FakeSocket:
    """Takes as many bytes of each send as it is told to; none, like a socket that is full."""

    def __init__(self, takes: list[int]) -> None:
        self._takes = iter(takes)
        self.taken = b""

    def send(self, data: Any) -> int:
        size = next(self._takes, 0)
        if size == 0:
            raise BlockingIOError(errno.EWOULDBLOCK, "full")
        taken = bytes(data[:size])
        self.taken += taken
        return len(taken)


class FakeReactor:
    """Remembers who waits until its socket can be written."""

    def __init__(self) -> None:
        self.writers: set[Any] = set()

    def addWriter(self, writer: Any) -> None:
        self.writers.add(writer)

    def removeWriter(self, writer: Any) -> None:
        self.writers.discard(writer)

    def removeReader(self, reader: Any) -> None:
        """Nothing."""


class FakeConnection(tcp.Connection):
    """Twisted's own queue, over a socket that is none."""

    socket: Any

    def __init__(self, takes: list[int]) -> None:
        self.fake_reactor = FakeReactor()
        self.socket = FakeSocket(takes)
        super(tcp.Connection, self).__init__(cast(Any, self.fake_reactor))
        self.connected = True


@pytest.fixture
def refused() -> FakeConnection:
    return FakeConnection([])


def test_what_the_socket_takes_is_sent_without_the_reactor() -> None:
    transport = FakeConnection([100, 100])
    write = write_of(transport)
    assert isinstance(write, SendAtOnce)
    write(b"one")
    write(b"two")
    assert transport.socket.taken == b"onetwo"
    assert transport.fake_reactor.writers == set()
    assert unsent_bytes(transport) == 0


def test_what_it_does_not_take_waits_in_the_transport(refused: FakeConnection) -> None:
    write_of(refused)(b"one")
    assert refused.fake_reactor.writers == {refused}
    assert unsent_bytes(refused) == 3


def test_nothing_overtakes_what_waits() -> None:
    transport = FakeConnection([2, 100, 100])
    write = write_of(transport)
    write(b"one")
    write(b"two")
    assert transport.socket.taken == b"on"
    transport.doWrite()
    assert transport.socket.taken == b"onetwo"
    write(b"three")
    assert transport.socket.taken == b"onetwothree"


def test_what_is_large_is_the_transports() -> None:
    transport = FakeConnection([10**9])
    write_of(transport)(b"x" * 70_000)
    assert transport.socket.taken == b""
    assert unsent_bytes(transport) == 70_000


@pytest.mark.parametrize("state", ["connected", "disconnecting"])
def test_a_connection_that_ends_is_the_transports(state: str) -> None:
    transport = FakeConnection([100])
    setattr(transport, state, state == "disconnecting")
    write_of(transport)(b"one")
    assert transport.socket.taken == b""


def test_other_transports_are_written_to_as_they_are(network: Any) -> None:
    transport = MemoryTransport(network.address, network.address)
    assert write_of(transport) == transport.write


@given(
    lines=st.lists(st.binary(min_size=1, max_size=20), max_size=20),
    takes=st.lists(st.integers(0, 12), max_size=40),
    turns=st.lists(st.booleans(), max_size=20),
)
def test_every_byte_arrives_once_and_in_order(
    lines: list[bytes], takes: list[int], turns: list[bool]
) -> None:
    transport = FakeConnection([*takes, *[5] * 200])
    write = write_of(transport)
    for line, is_ready in zip(lines, turns + [False] * len(lines), strict=False):
        write(line)
        if is_ready and transport in transport.fake_reactor.writers:
            transport.doWrite()
    while transport in transport.fake_reactor.writers:
        transport.doWrite()
    assert transport.socket.taken == b"".join(lines)
    assert unsent_bytes(transport) == 0


# --- real sockets ---------------------------------------------------------------------------------


class Sink(Protocol):
    """Reads nothing until it is told to."""

    transport: Any

    def __init__(self) -> None:
        self.received = bytearray()
        self.wanted = 0
        self.done: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        self.transport.pauseProducing()

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        if len(self.received) >= self.wanted and not self.done.called:
            self.done.callback(bytes(self.received))


@pytest.fixture(params=["tcp", "unix"])
def endpoints(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[tuple[Any, Any]]:
    if request.param == "unix":
        path = str(tmp_path / "socket")
        yield UNIXServerEndpoint(reactor, path), lambda _: UNIXClientEndpoint(reactor, path)
    else:
        yield (
            TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"),
            lambda port: TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port),
        )


@pytest_twisted.ensureDeferred
async def test_a_socket_that_fills_up_loses_nothing(endpoints: tuple[Any, Any]) -> None:
    """Far more than the kernel takes, in pieces of every size, before the peer reads a byte."""
    server_endpoint, client_endpoint = endpoints
    sinks: list[Sink] = []

    def sink() -> Sink:
        sinks.append(Sink())
        return sinks[-1]

    port = await server_endpoint.listen(Factory.forProtocol(sink))
    client: Any = await client_endpoint(port).connect(Factory.forProtocol(Protocol))
    client.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    write = write_of(client.transport)
    assert isinstance(write, SendAtOnce)
    pieces = [bytes([number % 251]) * (number % 7919 + 1) for number in range(2000)]
    whole = b"".join(pieces)
    for piece in pieces:
        write(piece)
    assert unsent_bytes(client.transport) > 0
    while not sinks:
        turn: Deferred[None] = Deferred()
        reactor.callLater(0, turn.callback, None)
        await turn
    sinks[0].wanted = len(whole)
    sinks[0].transport.resumeProducing()
    assert await sinks[0].done == whole
    gone: Deferred[None] = Deferred()
    sinks[0].connectionLost = lambda reason=None: gone.callback(None)  # type: ignore[method-assign]
    client.transport.loseConnection()
    await gone
    await port.stopListening()
