"""A server and a client, connected in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import maybeDeferred

from kn_sock.client import connect
from kn_sock.server import RPCServerFactory
from kn_sock.testing.network import MemoryNetwork

if TYPE_CHECKING:
    from kn_sock.connection import RPCConnection
    from kn_sock.methods.table import Functions
    from kn_sock.protocol import RPCProtocol

__all__ = ["Pair", "connected_pair"]


class Pair:
    """A server and a client, connected.

    Attributes:
        client: the client's verbs.
        server: the server's verbs, to call the functions that the client serves.
        network: the wire, and the clock.
    """

    def __init__(self, network: MemoryNetwork, client: RPCConnection, server: RPCProtocol) -> None:
        self.network = network
        self.client = client
        self.server = server.connection
        #: The client's end of the wire; the server's is its ``peer``.
        self.wire = network.wires[-1]

    def pump(self) -> None:
        """Deliver, and run what is due now, until nothing moves any more."""
        self.network.pump()

    def advance(self, seconds: float) -> None:
        """Advance the time, then deliver."""
        self.network.reactor.advance(seconds)
        self.network.pump()

    def close(self) -> None:
        """Close the connection, and deliver that."""
        self.client.close()
        self.network.pump()


def connected_pair(
    funcs: Functions,
    *,
    network: MemoryNetwork | None = None,
    client: dict[str, Any] | None = None,
    **options: Any,
) -> Pair:
    """Connect a client to a server in memory.

    Args:
        funcs: what the server serves, as for `RPCServerFactory`.
        network: where; by default a new one.
        client: the client's options, as for `connect`.
        options: the server options, by name. ``threads`` is 0 unless said otherwise: every function
            runs on the reactor; with ``executor=ManualExecutor()`` they run when the test says so.
    """
    network = network or MemoryNetwork()
    if "executor" not in options:
        options.setdefault("threads", 0)
    factory = RPCServerFactory(funcs, reactor=network.reactor, **options)
    network.listen(factory)
    client_options = {"threads": 0, **(client or {})}
    connecting = maybeDeferred(connect, network, reactor=network.reactor, **client_options)
    made: list[RPCConnection] = []
    connecting.addCallback(made.append)
    connecting.addErrback(lambda failure: failure.raiseException())
    (server,) = factory.connections
    return Pair(network, made[0], server)
