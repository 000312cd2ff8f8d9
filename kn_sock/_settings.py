"""What the connections of one factory share."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from kn_sock._calling.options import CallOptions
from kn_sock._wire.requests import RequestEncoder

if TYPE_CHECKING:
    from kn_sock._io.outbox import WriteCoalescer
    from kn_sock._serving.runner import Runner
    from kn_sock.connection import Intercepts


@dataclasses.dataclass
class ConnectionContext:
    """What the connections of one factory share.

    Attributes:
        runner: the methods that the peer may call, and how they run.
        turn: gathers what is written.
        reactor: the reactor that they are on.
        writer: writes our own calls, and numbers them across connections.
        call_options: how they are made unless said otherwise.
        handshake_timeout: seconds for the TLS handshake; ``None`` where something else ends it.
        intercepting: runs the interceptors around them; ``None`` where there are none.
        thread_id: the thread that they are on, once there has been one.
    """

    runner: Runner
    turn: WriteCoalescer
    reactor: Any
    writer: RequestEncoder = dataclasses.field(default_factory=RequestEncoder)
    call_options: CallOptions = dataclasses.field(default_factory=CallOptions)
    handshake_timeout: float | None = None
    intercepting: Intercepts | None = None
    thread_id: int = 0
