"""Flow control of one connection: whether it reads, and what is done while the peer does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.interfaces import IPushProducer, IReactorTime
from zope.interface import implementer

from kn_sock._io.transport import is_reset, unsent_bytes
from kn_sock._io.watchdogs import ResetWatchdog, SendWatchdog

if TYPE_CHECKING:
    from kn_sock._io.outbox import Outbox


class Flowing(Protocol):
    """The connection whose flow is controlled."""

    reactor: IReactorTime
    transport: Any

    @property
    def wants_more(self) -> bool:
        """Whether what comes in can be processed."""

    def set_peer_reads(self, reads: bool, unsent: int = 0) -> None:
        """Begin nothing new while the peer does not read, and so many bytes are unsent."""

    def stalled(self, reason: str) -> None:
        """Disconnect a peer that accepts no data, or is gone."""


@implementer(IPushProducer)
class FlowControl:
    """The producer that the transport pauses, and the reading that the connection pauses.

    Args:
        connection: the connection.
        outbox: counts what was written.
        send_timeout: seconds in which a peer has to accept some of what waits; ``None`` for no
            limit.
    """

    __slots__ = (
        "_accepted",
        "_connection",
        "_outbox",
        "_reset_watchdog",
        "_send_timeout",
        "_watchdog",
        "is_reading",
    )

    def __init__(self, connection: Flowing, outbox: Outbox, send_timeout: float | None) -> None:
        self._connection = connection
        self._outbox = outbox
        self._send_timeout = send_timeout
        self._watchdog: SendWatchdog | None = None
        self._reset_watchdog: ResetWatchdog | None = None
        # How much the peer had accepted when that was last checked.
        self._accepted = 0
        self.is_reading = True

    # --- writing: called by the transport ---------------------------------------------------------

    def pauseProducing(self) -> None:
        """The peer does not read: begin nothing new."""
        if self._watchdog is None:
            self._watchdog = SendWatchdog(
                self._connection.reactor, self._send_timeout, self._count_accepted, self._stalled
            )
        self._watchdog.begin()
        self._outbox.pause()
        self._connection.set_peer_reads(False, self._unsent)

    def resumeProducing(self) -> None:
        """The peer reads again: write what was kept, then go on."""
        self._outbox.resume()
        if self._outbox.is_paused:
            return
        if self._watchdog is not None:
            self._watchdog.end()
        self._connection.set_peer_reads(True)

    def stopProducing(self) -> None:
        """The transport is gone; ``connectionLost`` of the protocol follows."""

    @property
    def _unsent(self) -> int:
        return unsent_bytes(self._connection.transport) + self._outbox.waiting_bytes

    def _stalled(self) -> None:
        self._connection.stalled(
            f"it took nothing of what was sent to it for {self._send_timeout:g} s"
        )

    def _count_accepted(self) -> int:
        return self._outbox.written_bytes - unsent_bytes(self._connection.transport)

    @property
    def is_accepting(self) -> bool:
        """Whether the peer has accepted some of what waits to be sent since the last check."""
        unsent = unsent_bytes(self._connection.transport)
        before, self._accepted = self._accepted, self._outbox.written_bytes - unsent
        return unsent > 0 and self._accepted > before

    # --- reading ----------------------------------------------------------------------------------

    def update_reading(self) -> None:
        """Read on, or pause."""
        wanted = self._connection.wants_more
        if wanted is not self.is_reading:
            self.is_reading = wanted
            transport = self._connection.transport
            (transport.resumeProducing if wanted else transport.pauseProducing)()
            if not wanted:
                self._watch_for_reset()

    def _watch_for_reset(self) -> None:
        connection = self._connection
        if self._reset_watchdog is None:
            self._reset_watchdog = ResetWatchdog(
                connection.reactor,
                lambda: self.is_reading,
                lambda: is_reset(connection.transport),
                lambda: connection.stalled("it has reset the connection"),
            )
        self._reset_watchdog.begin()

    def read_for_close(self) -> None:
        """Read on in any case: TLS has to read the peer's close_notify, and plain TCP its EOF."""
        if not self.is_reading:
            self.is_reading = True
            self._connection.transport.resumeProducing()

    def stop(self) -> None:
        """Stop the watchdogs."""
        for watchdog in (self._watchdog, self._reset_watchdog):
            if watchdog is not None:
                watchdog.end()

    def detach(self) -> None:
        """Forget the connection, which has ended."""
        self._watchdog = self._reset_watchdog = None
        del self._connection
