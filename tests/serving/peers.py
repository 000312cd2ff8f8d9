"""A client in memory that sends bytes of its own, and the server that it sends them to."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol

from kn_sock import RPCServerFactory
from kn_sock.testing import MemoryNetwork


def call(request_id: int, method: str, *params: Any) -> bytes:
    request = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
    return json.dumps(request).encode() + b"\n"


class RawClient(Protocol):
    """A client that keeps what it reads, and does nothing else."""

    transport: Any

    def __init__(self) -> None:
        self.received = b""
        self.lost: Exception | None = None
        self.when_lost: Deferred[None] = Deferred()

    @property
    def replies(self) -> list[Any]:
        return [json.loads(line) for line in self.received.splitlines()]

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = reason.value
        self.when_lost.callback(None)


def join(network: MemoryNetwork) -> RawClient:
    client = RawClient()
    network.connect(Factory.forProtocol(lambda: client))
    return client


def listen(network: MemoryNetwork, funcs: Any, **options: Any) -> RPCServerFactory:
    factory = RPCServerFactory(funcs, reactor=network.reactor, **{"threads": 0, **options})
    network.listen(factory)
    return factory


def ask(network: MemoryNetwork, client: RawClient, method: str, *params: Any) -> None:
    client.transport.write(call(1, method, *params))
    network.pump()
