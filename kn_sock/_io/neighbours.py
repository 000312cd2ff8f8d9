"""What the reader of a connection needs of the parts around it."""

from __future__ import annotations

from collections.abc import Sized
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.interfaces import IReactorTime

if TYPE_CHECKING:
    from kn_sock._wire.events import Refusal, Request
    from kn_sock.errors import RPCError


class Serves(Protocol):
    """What serves the peer's requests."""

    path: Any
    tells_when_idle: bool
    turn_seconds: float

    def receive(self, request: Request) -> None:
        """Begin a call, or hold it back."""

    def receive_refusal(self, refusal: Refusal) -> None:
        """Answer what was no request."""

    def cancel(self, request_id: Any) -> None:
        """Cancel a call."""


class Calls(Protocol):
    """Our own calls in flight."""

    @property
    def queued(self) -> Sized:
        """Lines that wait for the calls in flight to become fewer."""

    def proceed(self) -> None:
        """Send what waits for the calls in flight to become fewer."""

    def receive_unmatched(self, error: RPCError) -> None:
        """Take an error that names no call."""


class Reads(Protocol):
    """The connection that is read."""

    reactor: IReactorTime
    read_at: float

    @property
    def outgoing(self) -> Calls | None:
        """Our own calls in flight; ``None`` until one is made."""

    @property
    def peer_text(self) -> str:
        """The peer's address, as text."""

    def calls(self) -> Calls:
        """Our own calls in flight; made when first needed."""

    def update_reading(self) -> None:
        """Read on, or pause."""

    def close_when_answered(self) -> None:
        """Close once every call of the peer has been answered."""

    def read_to_its_end(self) -> None:
        """All that the peer has sent is processed, and it sends no more."""

    def refuse(self, protocol: str) -> None:
        """Disconnect a peer that speaks another protocol."""

    def ignored(self, reason: str) -> None:
        """Log a reply that belongs to no call."""

    def violated(self, reason: str) -> None:
        """Disconnect a peer that broke the protocol."""
