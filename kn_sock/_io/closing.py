"""How a connection opens and ends: one table of transitions.

States, inputs, outputs and transitions stand in blocks of their own. An input without a transition
in the present state is ignored.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from kn_sock._io.transport import end_now, undelivered_bytes

# Seconds between looks at whether the last bytes have arrived.
_LINGER_SECONDS: Final = 0.05

# Seconds that a peer has to take the last bytes; without a limit, one that never reads would hold
# up the close for ever.
_CLOSE_SECONDS: Final = 10.0


class State(enum.Enum):
    """The life of a connection: a state is only followed by a later one."""

    NEW = 0
    #: There is a transport, and the TLS handshake is not done: nothing is read or written.
    SECURING = 1
    OPEN = 2
    #: It closes once every call of the peer has been answered.
    DRAINING = 3
    #: No more input is processed; what was written is still sent.
    CLOSING = 4
    #: All was sent and the writing side is closed; the last bytes are on their way.
    LINGERING = 5
    LOST = 6


class Input(enum.Enum):
    """What happens to a connection."""

    MADE = enum.auto()
    MADE_TLS = enum.auto()
    SECURED = enum.auto()
    PEER_EOF = enum.auto()
    DRAIN = enum.auto()
    ANSWERED = enum.auto()
    CLOSE = enum.auto()
    ABORT = enum.auto()
    WRITE_CLOSED = enum.auto()
    TIMED_OUT = enum.auto()
    LOST = enum.auto()


class Closable(Protocol):
    """What the outputs need of the connection."""

    reactor: IReactorTime
    transport: Any

    def opened(self) -> None:
        """Calls can be made and served."""

    def hold_output(self) -> None:
        """Write nothing until `release_output`."""

    def release_output(self) -> None:
        """Write what was held."""

    def read_to_end(self) -> bool:
        """Process what was read; the peer sends no more.

        Returns:
            Whether all is processed; if not, `Input.PEER_EOF` follows again when it is.
        """

    def fail_calls(self, reason: str) -> None:
        """Fail our own calls: no replies come any more."""

    def refuse_new_calls(self) -> None:
        """Serve no calls but those that were read."""

    def close_when_answered(self) -> None:
        """Feed `Input.ANSWERED` once every call has been answered."""

    def stop_serving(self, *, is_aborted: bool) -> None:
        """End every call; write nothing any more if aborted."""


class Closing:
    """The state of one connection, and the timers that end it.

    Args:
        connection: the connection.
        handshake_timeout: seconds for the TLS handshake; ``None`` for no limit.
    """

    __slots__ = (
        "_close_waiters",
        "_connection",
        "_handshake_timeout",
        "_is_at_eof",
        "_linger_timer",
        "_opening",
        "_timer",
        "half_closes",
        "peer_is_done",
        "reason",
        "state",
    )

    def __init__(self, connection: Closable, handshake_timeout: float | None) -> None:
        self._connection = connection
        self._handshake_timeout = handshake_timeout
        #: Whether the transport can close its writing side alone.
        self.half_closes = False
        self.state = State.NEW
        #: Whether the peer has sent EOF.
        self.peer_is_done = False
        #: Why it was closed, if that is known.
        self.reason: str | None = None
        # Whether the transport is reporting the peer's EOF right now.
        self._is_at_eof = False
        self._timer: IDelayedCall | None = None
        self._linger_timer: IDelayedCall | None = None
        self._opening: Deferred[None] | None = None
        self._close_waiters: tuple[Deferred[None], ...] = ()

    def feed(self, happened: Input, reason: str | None = None) -> None:
        """Make a transition, and run its outputs.

        Args:
            happened: the input.
            reason: why the connection is closed, for the log and for errors; the first one stays.
        """
        transition = _TRANSITIONS.get((self.state, happened))
        if transition is None:
            return
        self.state, outputs = transition
        if reason is not None and self.reason is None:
            self.reason = reason
        for output in outputs:
            output(self)

    @property
    def is_live(self) -> bool:
        """Whether messages are read and calls can be served."""
        return self.state is State.OPEN or self.state is State.DRAINING

    # --- who waits for it -------------------------------------------------------------------------

    def when_open(self) -> Deferred[None]:
        """Return a Deferred that fires when calls can be made: over TLS, after the handshake.

        It fails with what ended the connection before that. Cancelling it aborts the connection.
        """
        if self.state is not State.SECURING:
            return succeed(None) if self.is_live else fail(ConnectionAborted())

        def abort(_: object) -> None:
            self._opening = None
            self.feed(Input.ABORT)

        self._opening = Deferred(abort)
        return self._opening

    @property
    def is_opening_awaited(self) -> bool:
        """Whether something waits for the connection to open, and will report how it failed."""
        return self._opening is not None

    def when_closed(self) -> Deferred[None]:
        """Return a Deferred that fires when the connection has ended."""
        if self.state is State.LOST:
            return succeed(None)
        waiter: Deferred[None] = Deferred()
        self._close_waiters = (*self._close_waiters, waiter)
        return waiter

    def ended(self, reason: Failure) -> None:
        """Notify all that wait, and forget the connection: it is lost, and nothing follows."""
        del self._connection
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.errback(reason)
        waiters, self._close_waiters = self._close_waiters, ()
        for waiter in waiters:
            waiter.callback(None)


# --- outputs --------------------------------------------------------------------------------------


def _open(closing: Closing) -> None:
    closing._connection.opened()
    opening, closing._opening = closing._opening, None
    if opening is not None:
        opening.callback(None)


def _await_handshake(closing: Closing) -> None:
    connection = closing._connection
    connection.hold_output()
    if closing._handshake_timeout is not None:
        closing._timer = connection.reactor.callLater(
            closing._handshake_timeout, closing.feed, Input.TIMED_OUT
        )


def _secured(closing: Closing) -> None:
    _stop_timers(closing)
    closing._connection.release_output()


def _abort_handshake(closing: Closing) -> None:
    # A close_notify would have to wait for the handshake, which the peer may never finish.
    if closing.reason is None:
        closing.reason = "closed before the TLS handshake was done"
    _abort(closing)


def _note_eof(closing: Closing) -> None:
    closing.peer_is_done = True


def _read_to_end(closing: Closing) -> None:
    if not closing._connection.read_to_end():
        return
    # Before calls fail: what is called then must not go out over this connection.
    closing.peer_is_done = True
    closing._connection.fail_calls("the peer sends no more")
    closing._is_at_eof = True
    closing._connection.close_when_answered()
    closing._is_at_eof = False


def _drain(closing: Closing) -> None:
    closing._connection.refuse_new_calls()
    closing._connection.close_when_answered()


def _close(closing: Closing) -> None:
    connection = closing._connection
    connection.stop_serving(is_aborted=False)
    transport = connection.transport
    if closing._is_at_eof and end_now(transport):
        return
    closing._timer = connection.reactor.callLater(_CLOSE_SECONDS, closing.feed, Input.TIMED_OUT)
    # With a producer registered, TLS would wait for it before it closes.
    transport.unregisterProducer()
    if closing.half_closes and not closing.peer_is_done:
        # `Input.WRITE_CLOSED` follows.
        transport.loseWriteConnection()
    else:
        transport.loseConnection()


def _linger(closing: Closing) -> None:
    # Closing earlier would reset the connection if the peer has sent anything that was not read,
    # and the reset would discard the bytes that are still on their way.
    connection = closing._connection
    closing._linger_timer = None
    if closing.peer_is_done or not undelivered_bytes(connection.transport):
        connection.transport.loseConnection()
    else:
        closing._linger_timer = connection.reactor.callLater(
            _LINGER_SECONDS, closing.feed, Input.WRITE_CLOSED
        )


def _end_linger(closing: Closing) -> None:
    closing.peer_is_done = True
    if closing._linger_timer is not None:
        closing._linger_timer.cancel()
        closing._linger_timer = None
        closing._connection.transport.loseConnection()


def _abort(closing: Closing) -> None:
    _stop_timers(closing)
    if closing.reason is None:
        closing.reason = "this side aborted it"
    closing._connection.stop_serving(is_aborted=True)
    closing._connection.transport.abortConnection()


def _stop_timers(closing: Closing) -> None:
    for timer in (closing._timer, closing._linger_timer):
        if timer is not None and timer.active():
            timer.cancel()
    closing._timer = closing._linger_timer = None


# --- transitions ----------------------------------------------------------------------------------

_Output = Callable[[Closing], None]

_TRANSITIONS: Final[dict[tuple[State, Input], tuple[State, tuple[_Output, ...]]]] = {
    (State.NEW, Input.MADE): (State.OPEN, (_open,)),
    (State.NEW, Input.MADE_TLS): (State.SECURING, (_await_handshake,)),
    (State.NEW, Input.LOST): (State.LOST, ()),
    (State.SECURING, Input.SECURED): (State.OPEN, (_secured, _open)),
    (State.SECURING, Input.PEER_EOF): (State.SECURING, (_note_eof,)),
    (State.SECURING, Input.DRAIN): (State.CLOSING, (_abort_handshake,)),
    (State.SECURING, Input.CLOSE): (State.CLOSING, (_abort_handshake,)),
    (State.SECURING, Input.TIMED_OUT): (State.CLOSING, (_abort_handshake,)),
    (State.SECURING, Input.ABORT): (State.CLOSING, (_abort,)),
    (State.SECURING, Input.LOST): (State.LOST, (_stop_timers,)),
    (State.OPEN, Input.PEER_EOF): (State.DRAINING, (_read_to_end,)),
    (State.OPEN, Input.DRAIN): (State.DRAINING, (_drain,)),
    (State.OPEN, Input.CLOSE): (State.CLOSING, (_close,)),
    (State.OPEN, Input.ABORT): (State.CLOSING, (_abort,)),
    (State.OPEN, Input.LOST): (State.LOST, (_stop_timers,)),
    (State.DRAINING, Input.PEER_EOF): (State.DRAINING, (_read_to_end,)),
    (State.DRAINING, Input.DRAIN): (State.DRAINING, (_drain,)),
    (State.DRAINING, Input.ANSWERED): (State.CLOSING, (_close,)),
    (State.DRAINING, Input.CLOSE): (State.CLOSING, (_close,)),
    (State.DRAINING, Input.ABORT): (State.CLOSING, (_abort,)),
    (State.DRAINING, Input.LOST): (State.LOST, (_stop_timers,)),
    (State.CLOSING, Input.PEER_EOF): (State.CLOSING, (_note_eof,)),
    (State.CLOSING, Input.WRITE_CLOSED): (State.LINGERING, (_linger,)),
    (State.CLOSING, Input.TIMED_OUT): (State.CLOSING, (_abort,)),
    (State.CLOSING, Input.ABORT): (State.CLOSING, (_abort,)),
    (State.CLOSING, Input.LOST): (State.LOST, (_stop_timers,)),
    (State.LINGERING, Input.WRITE_CLOSED): (State.LINGERING, (_linger,)),
    (State.LINGERING, Input.PEER_EOF): (State.LINGERING, (_end_linger,)),
    (State.LINGERING, Input.TIMED_OUT): (State.LINGERING, (_abort,)),
    (State.LINGERING, Input.ABORT): (State.LINGERING, (_abort,)),
    (State.LINGERING, Input.LOST): (State.LOST, (_stop_timers,)),
}
