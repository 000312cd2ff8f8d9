"""What the connections of one factory share, and who is notified of them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Protocol

from kn_sock._calling.options import CallOptions
from kn_sock._wire.events import Role
from kn_sock._wire.requests import RequestEncoder

if TYPE_CHECKING:
    from kn_sock._io.outbox import WriteCoalescer
    from kn_sock._serving.runner import Runner
    from kn_sock.connection import Intercepts
    from kn_sock.protocol import RPCProtocol


@dataclasses.dataclass
class ConnectionContext:
    """What the connections of one factory share.

    Attributes:
        runner: the methods that the peer may call, and how they run.
        turn: collects what is written.
        reactor: their reactor.
        writer: encodes our own calls, and numbers them across connections.
        call_options: the default options of our own calls.
        handshake_timeout: seconds for the TLS handshake; ``None`` if something else limits it.
        role: what the connections expect from their peers.
        intercepting: runs the interceptors around our own calls; ``None`` without any.
        thread_id: the thread of the reactor, once there has been a connection.
    """

    runner: Runner
    turn: WriteCoalescer
    reactor: Any
    writer: RequestEncoder = dataclasses.field(default_factory=RequestEncoder)
    call_options: CallOptions = dataclasses.field(default_factory=CallOptions)
    handshake_timeout: float | None = None
    role: Role = Role.PEER
    intercepting: Intercepts | None = None
    thread_id: int = 0


class IConnectionObserver(Protocol):
    """What makes connections, and is notified of their lives."""

    def connection_made(self, protocol: RPCProtocol) -> None:
        """A connection has a transport."""

    def connection_opened(self, protocol: RPCProtocol) -> None:
        """Calls can be made over a connection."""

    def connection_ended(self, protocol: RPCProtocol) -> None:
        """A connection has ended."""
