"""Calls that are made while there is no connection: they wait, with a bound and a deadline.

A call that waits has not been written; whatever ends the wait says so (``maybe_executed=False``).
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from kn_sock._options import MAX_PENDING
from kn_sock._outgoing import PendingCall
from kn_sock._writer import Writer
from kn_sock.errors import CallTimeout, ConnectionLost
from kn_sock.protocol import RPCProtocol


class _Waiting:
    """Something to send, once there is a connection."""

    def __init__(
        self,
        calls: list[PendingCall],
        send: Callable[[RPCProtocol], object],
        fail: Callable[[BaseException], object],
        since: float,
    ) -> None:
        self.calls = calls
        self.send = send
        self.fail = fail
        self.since = since
        self.timer: IDelayedCall | None = None


class WaitingChannel:
    """Passes calls to the present connection, and keeps them while there is none.

    Args:
        writer: writes the requests, whichever connection they go out by.
        clock: the reactor.
        timeout: seconds that a notification waits; a call waits as long as it may take.
        need_connection: called when something begins to wait.
        close: ends the making of connections, once the present one is closing.
    """

    def __init__(
        self,
        writer: Writer,
        clock: IReactorTime,
        timeout: float | None,
        need_connection: Callable[[], object],
        close: Callable[[], Deferred[None]],
    ) -> None:
        self.writer = writer
        self._clock = clock
        self._timeout = timeout
        self._need_connection = need_connection
        self._close = close
        self._protocol: RPCProtocol | None = None
        self._waiting: list[_Waiting] = []
        self._ended: str | None = None

    # --- the connection
    # -----------------------------------------------------------------------------

    def begin(self) -> None:
        """Let calls wait again, after `end`."""
        self._ended = None

    def opened(self, protocol: RPCProtocol) -> None:
        """Take a new connection, and send over it what waits."""
        self._protocol = protocol
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            self._stop_timer(one)
            waited = self._clock.seconds() - one.since
            for call in one.calls:
                if call.timeout is not None:
                    call.timeout = max(0.0, call.timeout - waited)
            try:
                one.send(protocol)
            except Exception as problem:
                one.fail(problem)

    def ended(self, protocol: RPCProtocol) -> None:
        """Take note that a connection is gone."""
        if self._protocol is protocol:
            self._protocol = None

    def fail_waiting(self, error: BaseException) -> None:
        """Fail all that waits: no connection will come."""
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            self._stop_timer(one)
            one.fail(error)

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection."""
        return self._protocol is not None

    def end(self, reason: str) -> None:
        """Fail all that waits, and all that is still begun."""
        self._ended = reason
        self.fail_waiting(ConnectionLost(reason, maybe_executed=False))

    # --- what the verbs are made of
    # -------------------------------------------------------------------

    def start(self, calls: list[PendingCall], line: bytes) -> None:
        """Send a line, now or once there is a connection, and wait for the replies to its calls."""
        if self._protocol is not None and self._protocol.is_open:
            self._protocol.start(calls, line)
            return

        def fail(error: BaseException) -> None:
            for call in list(calls):
                call.fail(error)

        timeout = calls[0].timeout if calls else self._timeout
        self._wait(calls, lambda protocol: protocol.start(calls, line), fail, timeout)

    def send_notification(self, line: bytes) -> Deferred[None]:
        """Send a line that is not answered, now or once there is a connection."""
        if self._protocol is not None and self._protocol.is_open:
            return self._protocol.send_notification(line)
        done: Deferred[None] = Deferred()

        def send(protocol: RPCProtocol) -> None:
            protocol.send_notification(line).chainDeferred(done)

        def fail(error: BaseException) -> None:
            done.errback(Failure(error))

        self._wait([], send, fail, self._timeout)
        return done

    def cancel_call(self, call: PendingCall) -> object:
        """Give a call up, written or not."""
        for one in self._waiting:
            if call in one.calls:
                # What shares its line is given up with it: a batch is cancelled as a whole.
                self._stop_timer(one)
                self._waiting.remove(one)
                return False
        return self._protocol is not None and self._protocol.cancel_call(call)

    def close(self) -> Deferred[None]:
        """Close for good: what waits fails, and what is under way too."""
        self.end("this side closed it")
        closing = [self._close()]
        if self._protocol is not None:
            closing.append(self._protocol.close())
        return DeferredList(closing, consumeErrors=True).addCallback(lambda _: None)

    # --- waiting
    # --------------------------------------------------------------------------------------

    def _wait(
        self,
        calls: list[PendingCall],
        send: Callable[[RPCProtocol], object],
        fail: Callable[[BaseException], object],
        timeout: float | None,
    ) -> None:
        if self._ended is not None:
            fail(ConnectionLost(f"the connection is closed: {self._ended}", maybe_executed=False))
            return
        if len(self._waiting) >= MAX_PENDING:
            text = f"not connected, and {MAX_PENDING:,} calls wait for a connection already"
            fail(ConnectionLost(text, maybe_executed=False))
            return
        one = _Waiting(calls, send, fail, self._clock.seconds())
        self._waiting.append(one)
        if timeout is not None:
            one.timer = self._clock.callLater(timeout, self._time_out, one, timeout)
        self._need_connection()

    def _time_out(self, one: _Waiting, timeout: float) -> None:
        one.timer = None
        self._waiting.remove(one)
        one.fail(CallTimeout(f"no connection within {timeout:g} s", maybe_executed=False))

    @staticmethod
    def _stop_timer(one: _Waiting) -> None:
        if one.timer is not None:
            one.timer.cancel()
            one.timer = None
