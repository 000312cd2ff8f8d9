"""Transports and endpoints in memory."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.error import ConnectionRefusedError as TwistedRefusedError
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IListeningPort,
    IPushProducer,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
    ITransport,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from kn_sock.testing.reactor import MemoryReactor

__all__ = ["MemoryNetwork", "MemoryTransport"]

# As much as a transport of Twisted's takes before it asks its producer to pause.
HIGH_WATER_BYTES = 64 * 1024

# Deliveries after which a test is taken to go round in a circle.
_MANY = 100_000


@implementer(ITransport, IPushProducer)
class MemoryTransport:
    """One end of a wire in memory.

    Attributes:
        is_held: while true, nothing that this end wrote is delivered.
        chunk_bytes: the most bytes that one delivery of what this end wrote has; ``None`` for all.
        is_paused: whether this end's protocol has stopped reading.
    """

    def __init__(self, address: IPv4Address, peer_address: IPv4Address) -> None:
        self.is_held = False
        self.chunk_bytes: int | None = None
        self.is_paused = False
        self.disconnecting = False
        self.protocol: Any = None
        self.peer: MemoryTransport = self
        self._address = address
        self._peer_address = peer_address
        self._written = bytearray()
        self._producer: Any = None
        self._producer_is_paused = False
        self._ends_writing = False
        self._told_end = False
        self._is_lost = False

    @property
    def written(self) -> bytes:
        """What this end wrote and the other has not read."""
        return bytes(self._written)

    @property
    def unsent_bytes(self) -> int:
        """How many bytes this end wrote that the other has not read."""
        return len(self._written)

    # --- ITransport, and what Twisted's own have beside it ----------------------------------------

    def write(self, data: bytes) -> None:
        """Write bytes."""
        if not isinstance(data, bytes):
            raise TypeError(f"a transport writes bytes, not {type(data).__name__}")
        if self._is_lost or self._ends_writing:
            return
        self._written += data
        if (
            self._producer is not None
            and not self._producer_is_paused
            and len(self._written) > HIGH_WATER_BYTES
        ):
            self._producer_is_paused = True
            self._producer.pauseProducing()

    def writeSequence(self, data: Any) -> None:
        """Write several pieces."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Close, once what was written has been read."""
        self.disconnecting = True

    def abortConnection(self) -> None:
        """Close at once; what was not read is lost."""
        self.disconnecting = True
        self._written.clear()
        self.lose(ConnectionAborted())

    def loseWriteConnection(self) -> None:
        """Shut down the writing side alone, as ``nc -N`` does at the end of its input."""
        self._ends_writing = True

    def getPeer(self) -> IPv4Address:
        """Return the address of the other end."""
        return self._peer_address

    def getHost(self) -> IPv4Address:
        """Return the address of this end."""
        return self._address

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Register the producer that is paused when too much is written."""
        self._producer = producer

    def unregisterProducer(self) -> None:
        """Forget the producer."""
        self._producer = None

    def pauseProducing(self) -> None:
        """Deliver nothing to this end."""
        self.is_paused = True

    def resumeProducing(self) -> None:
        """Deliver to this end again."""
        self.is_paused = False

    def stopProducing(self) -> None:
        """Close."""
        self.loseConnection()

    # --- the wire ---------------------------------------------------------------------------------

    def lose(self, reason: Exception) -> None:
        """End the connection, both ends at once, whatever is in flight."""
        for end in (self, self.peer):
            if not end._is_lost:
                end._is_lost = True
                end.protocol.connectionLost(Failure(reason))

    def deliver(self) -> bool:
        """Move one piece of what this end wrote to the other; return whether anything moved."""
        peer = self.peer
        if self._is_lost or self.is_held or peer.is_paused:
            return False
        if self._written:
            size = self.chunk_bytes or len(self._written)
            data = bytes(self._written[:size])
            del self._written[:size]
            peer.protocol.dataReceived(data)
            self._resume_producer()
            return True
        if self.disconnecting:
            self.lose(ConnectionDone())
            return True
        if self._ends_writing and not self._told_end:
            self._told_end = True
            half_closeable = IHalfCloseableProtocol(peer.protocol, None)
            if half_closeable is None:
                # As a socket does: to such a protocol the end of reading is the end.
                self.lose(ConnectionDone())
            else:
                half_closeable.readConnectionLost()
            return True
        return False

    def _resume_producer(self) -> None:
        if self._producer_is_paused and not self._written and self._producer is not None:
            self._producer_is_paused = False
            self._producer.resumeProducing()


@implementer(IListeningPort)
class _MemoryPort:
    def __init__(self, network: MemoryNetwork) -> None:
        self._network = network

    def startListening(self) -> None:
        """Nothing: it listens from the beginning."""

    def stopListening(self) -> Deferred[None]:
        """Refuse connections from now on."""
        factory, self._network.factory = self._network.factory, None
        if factory is not None:
            factory.doStop()
        return succeed(None)

    def getHost(self) -> IPv4Address:
        """Return the address that is listened on."""
        return self._network.address


@implementer(IStreamServerEndpoint, IStreamClientEndpoint)
class MemoryNetwork:
    """A place to listen and to connect to: an endpoint for both, and the wires between them.

    Attributes:
        reactor: the clock, to be given as ``reactor=`` to what is tested.
        wires: the connections in the order in which they were made: the client's end of each; the
            server's is its ``peer``.
    """

    def __init__(self) -> None:
        self.reactor = MemoryReactor()
        self.wires: list[MemoryTransport] = []
        self.address = IPv4Address("TCP", "127.0.0.1", 8080)
        self.factory: Any = None

    def listen(self, protocolFactory: Any) -> Deferred[IListeningPort]:
        """Listen with a factory."""
        self.factory = protocolFactory
        protocolFactory.doStart()
        return succeed(_MemoryPort(self))

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        """Connect to the listening factory; refused if there is none."""
        server = self.factory.buildProtocol(self.address) if self.factory is not None else None
        if server is None:
            return fail(TwistedRefusedError())
        here = IPv4Address("TCP", "127.0.0.1", 50_000 + len(self.wires))
        client = protocolFactory.buildProtocol(self.address)
        near = MemoryTransport(here, self.address)
        far = MemoryTransport(self.address, here)
        near.peer, far.peer = far, near
        near.protocol, far.protocol = client, server
        self.wires.append(near)
        server.makeConnection(far)
        client.makeConnection(near)
        return succeed(client)

    def pump(self) -> None:
        """Deliver, and run what is due now, until nothing moves any more."""
        for _ in range(_MANY):
            self.reactor.advance(0)
            moved = False
            for near in list(self.wires):
                for end in (near, near.peer):
                    moved = end.deliver() or moved
            if not moved and not self._is_due():
                return
        raise AssertionError("what is tested does not come to rest")

    def _is_due(self) -> bool:
        now = self.reactor.seconds()
        return any(call.getTime() <= now for call in self.reactor.getDelayedCalls())
