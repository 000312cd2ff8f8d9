"""Whether a silent peer is still there: it is asked by ``rpc.ping``, and any answer counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from typing_extensions import override

from kn_sock._calling.call import ClientCall
from kn_sock._io.watchdogs import Watchdog
from kn_sock.errors import CallTimeout

if TYPE_CHECKING:
    from collections.abc import Callable

    from kn_sock._calling.pending import PendingCalls

# Seconds that a peer has to say something, at least: it may be busy.
_LEAST_SECONDS: Final = 5.0


class Connection(Protocol):
    """The connection to the peer that is asked."""

    #: When something was read last, in the reactor's seconds.
    read_at: float
    reactor: Any

    @property
    def is_open(self) -> bool:
        """Whether calls can be made."""

    def stalled(self, reason: str) -> None:
        """Disconnect the peer."""

    def calls(self) -> PendingCalls:
        """Our own calls in flight."""


class _Ping(ClientCall, kw_only=True):
    """Asks; any reply says that the peer is there."""

    silent: Callable[[], object]

    @override
    def succeed(self, result: Any) -> None:
        """Nothing."""

    @override
    def fail(self, error: BaseException) -> None:
        if isinstance(error, CallTimeout):
            self.silent()


def ask(connection: Connection, seconds: float) -> None:
    """Send a ping; disconnect a peer that says nothing in that time.

    A peer that answers in order, as kn-sock 0.3 does, may have a call to end first: it is not
    asked. Nor is one that is being asked.
    """
    calls = connection.calls()
    if not connection.is_open or calls.writer.dialect.answers_in_order or calls.has(_Ping):
        return
    asked_at = connection.reactor.seconds()

    def silent() -> None:
        if connection.read_at <= asked_at:
            since = connection.reactor.seconds() - connection.read_at
            connection.stalled(
                f"nothing was heard from it for {since:.3g} s, although it was asked"
            )

    ping = _Ping("rpc.ping", seconds, silent=silent)
    ping.call_id, line = calls.writer.encode_call("rpc.ping", (), {})
    calls.start([ping], line)


def suspect(connection: Connection, timed_out: ClientCall) -> None:
    """Send a ping, if nothing was heard since a call was written whose time is up."""
    waited = timed_out.timeout or 0.0
    silence = connection.reactor.seconds() - connection.read_at
    if type(timed_out) is not _Ping and silence >= waited:
        ask(connection, max(_LEAST_SECONDS, waited))


class Heartbeat(Watchdog):
    """Asks a peer that was silent for some time whether it is there.

    Args:
        connection: the connection to it.
        interval: seconds of silence; it has as many to answer.
    """

    def __init__(self, connection: Connection, interval: float) -> None:
        super().__init__(connection.reactor)
        self._connection = connection
        self._interval = interval
        self._timer = self._clock.callLater(interval, self._check)

    @override
    def end(self) -> None:
        """Stop to watch, and forget the connection, which refers to this. Idempotent."""
        super().end()
        vars(self).pop("_connection", None)

    def _check(self) -> None:
        self._timer = None
        connection = self._connection
        left = connection.read_at + self._interval - connection.reactor.seconds()
        if left <= 0:
            left = self._interval
            ask(connection, self._interval)
        self._timer = self._clock.callLater(left, self._check)
