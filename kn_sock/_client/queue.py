"""Calls that wait for a connection: made without one, or left open by one that was lost.

They wait, with a bound and a deadline. A call that waits has not been written, or may be run twice;
whatever ends the wait says which it was (``maybe_executed``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from kn_sock._calling.call import Resend
from kn_sock._exceptions import another
from kn_sock.errors import CallTimeout, ConnectionLost
from kn_sock.options import MAX_PENDING

if TYPE_CHECKING:
    from kn_sock._calling.call import ClientCall, UnfinishedWrite
    from kn_sock._wire.requests import RequestEncoder
    from kn_sock.protocol import RPCProtocol


class _Waiting:
    """Something to send, once there is a connection."""

    def __init__(
        self,
        calls: list[ClientCall],
        send: Callable[[RPCProtocol], object],
        fail: Callable[[BaseException], object],
        timeout: float | None,
        deadline: float | None,
    ) -> None:
        self.calls = calls
        self.send = send
        self.fail = fail
        self.timeout = timeout
        self.deadline = deadline
        self.timer: IDelayedCall | None = None

    @property
    def earlier_loss(self) -> ConnectionLost | None:
        """How the connection was lost that it was written to, if it was."""
        again: Resend | None = self.calls[0].again if self.calls else None
        return again.loss if again is not None else None

    def stop_timer(self) -> None:
        """Cancel the timer: the wait is over."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class RequestQueue:
    """Passes calls to the present connection, and keeps them while there is none.

    Args:
        writer: writes the requests, whichever connection they go out by.
        clock: the reactor.
        queues: whether anything may wait; what is made without a connection fails at once if not.
        servers: how many endpoints there are.
        need_connection: called when something begins to wait.
        close: ends all connections, and the making of them.
    """

    def __init__(
        self,
        writer: RequestEncoder,
        clock: IReactorTime,
        *,
        queues: bool,
        servers: int = 1,
        need_connection: Callable[[], object],
        close: Callable[[], Deferred[None]],
    ) -> None:
        self.writer = writer
        self._clock = clock
        self._queues = queues
        self._servers = servers
        #: Why the last attempt to connect failed, if one has since there was a connection.
        self.last_problem: BaseException | None = None
        self._need_connection = need_connection
        self._close = close
        self._protocol: RPCProtocol | None = None
        self._waiting: deque[_Waiting] = deque()
        self._ended: str | None = None

    # --- the connection ---------------------------------------------------------------------------

    def begin(self) -> None:
        """Queue calls again, after `end`."""
        self._ended = None

    def opened(self, protocol: RPCProtocol) -> None:
        """Use a new connection, and send over it what waits, in order."""
        self._protocol = protocol
        self.last_problem = None
        now = self._clock.seconds()
        # Calls made meanwhile wait behind these.
        while self._waiting and protocol.is_open:
            one = self._waiting.popleft()
            one.stop_timer()
            if one.deadline is not None:
                for call in one.calls:
                    call.timeout = max(0.0, one.deadline - now)
            try:
                one.send(protocol)
            except Exception as problem:
                self._fail(one, problem)

    def ended(self, protocol: RPCProtocol) -> bool:
        """Discard a connection; return whether it was the current one."""
        if self._protocol is not protocol:
            return False
        self._protocol = None
        if self._waiting:
            self._need_connection()
        return True

    def take_over(self, left: list[UnfinishedWrite], loss: ConnectionLost) -> None:
        """Queue what a connection left open, if it was not written or may be run twice.

        A batch is sent again whole, or not at all. What was written twice fails.
        """
        taken: list[_Waiting] = []
        for each in left if self._queues and self._ended is None else ():
            if len(self._waiting) + len(taken) >= MAX_PENDING:
                break
            line = each.line
            again = each.calls[0].again
            if not each.is_whole:
                continue
            may_run_twice = again is not None and again.may_run_twice
            if line is None and again is not None and may_run_twice and again.loss is None:
                line = again.line
                again.loss = loss
            if line is not None:
                each.is_taken = True
                taken.append(self._waiting_for(each.calls, line, each.deadline))
        if taken:
            for one in taken:
                self._start_timer(one)
            self._waiting.extendleft(reversed(taken))
            self._need_connection()

    def move(self, call: ClientCall) -> bool:
        """Send a call to another server: the present one refuses it, and has run nothing of it.

        Returns:
            Whether there is another that has not refused it.
        """
        again = call.again
        if again is None or self._ended is not None or again.refusals >= self._servers - 1:
            return False
        again.refusals += 1
        protocol = self._protocol
        if protocol is not None and again.sent_over is protocol:
            self._protocol = None
            if not protocol.awaits_replies:
                # Otherwise the server closes it, when it has answered what is in flight.
                protocol.close()
        waiting = self._waiting_for([call], again.line, again.deadline)
        if self._protocol is not None and self._protocol.is_open and not self._waiting:
            if again.deadline is not None:
                # Its time runs from the beginning.
                call.timeout = max(0.0, again.deadline - self._clock.seconds())
            waiting.send(self._protocol)
        else:
            self._wait(waiting)
        return True

    def fail_waiting(self, error: BaseException) -> None:
        """Fail all that waits: no connection will come."""
        waiting, self._waiting = self._waiting, deque()
        for one in waiting:
            one.stop_timer()
            self._fail(one, error)

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection."""
        return self._protocol is not None

    @property
    def has_waiting(self) -> bool:
        """Whether something waits for a connection."""
        return bool(self._waiting)

    def end(self, reason: str) -> None:
        """Fail all that waits, and all that is still begun."""
        self._ended = reason
        self.fail_waiting(ConnectionLost(reason, maybe_executed=False))

    # --- calls ------------------------------------------------------------------------------------

    def start(self, calls: list[ClientCall], line: bytes) -> None:
        """Send a line, now or once there is a connection, and wait for the replies to its calls."""
        first = calls[0]
        first.keeper = self
        if self._servers > 1 and first.unit is None:
            if first.again is None:
                first.again = Resend(line, may_run_twice=False)
            first.again.deadline = self._deadline_in(first.timeout)
        protocol = self._protocol
        if protocol is not None and protocol.is_open and not self._waiting:
            if first.again is not None:
                first.again.sent_over = protocol
            protocol.calls().start(calls, line)
            return
        self._wait(self._waiting_for(calls, line, self._deadline_in(calls[0].timeout)))

    def send_notification(self, line: bytes, timeout: float | None) -> Deferred[None]:
        """Send a line that is not answered, now or once there is a connection, in that time.

        Returns:
            A Deferred that fires when it is sent. Cancelling it before discards the notification.
        """
        protocol = self._protocol
        if protocol is not None and protocol.is_open and not self._waiting:
            return protocol.calls().send_notification(line)

        def give_up(_: object) -> None:
            if one in self._waiting:
                self._waiting.remove(one)
                one.stop_timer()

        def send(protocol: RPCProtocol) -> None:
            protocol.calls().send_notification(line).chainDeferred(done)

        def fail(error: BaseException) -> None:
            if not done.called:
                done.errback(Failure(another(error)))

        done: Deferred[None] = Deferred(give_up)
        one = _Waiting([], send, fail, timeout, self._deadline_in(timeout))
        self._wait(one)
        return done

    def cancel_call(self, call: ClientCall) -> object:
        """Cancel a call, written or not."""
        for one in self._waiting:
            if call in one.calls:
                # A batch is cancelled as a whole.
                one.stop_timer()
                self._waiting.remove(one)
                return False
        return self._protocol is not None and self._protocol.calls().cancel_call(call)

    def close(self) -> Deferred[None]:
        """Close for good: what waits fails, and what is in flight too."""
        self.end("this side closed it")
        return self._close()

    def when_closed(self) -> Deferred[None]:
        """Return a Deferred that fires when the present connection has ended."""
        return succeed(None) if self._protocol is None else self._protocol.when_closed()

    # --- waiting ----------------------------------------------------------------------------------

    def _deadline_in(self, timeout: float | None) -> float | None:
        return None if timeout is None else self._clock.seconds() + timeout

    def _waiting_for(
        self, calls: list[ClientCall], line: bytes, deadline: float | None
    ) -> _Waiting:
        def fail(error: BaseException) -> None:
            for call in list(calls):
                call.fail(another(error))

        def send(protocol: RPCProtocol) -> None:
            again = calls[0].again
            if again is not None:
                again.sent_over = protocol
            protocol.calls().start(calls, line)

        return _Waiting(calls, send, fail, calls[0].timeout, deadline)

    def _wait(self, one: _Waiting) -> None:
        if self._ended is not None:
            self._fail(one, _unsent(f"the connection is closed: {self._ended}"))
        elif not self._queues:
            self._fail(one, _unsent("there is no connection, and calls do not wait for one"))
        elif len(self._waiting) >= MAX_PENDING:
            text = f"not connected, and {MAX_PENDING:,} calls wait for a connection already"
            self._fail(one, _unsent(text))
        else:
            self._start_timer(one)
            self._waiting.append(one)
            if self._protocol is None or not self._protocol.is_open:
                self._need_connection()

    def _start_timer(self, one: _Waiting) -> None:
        if one.deadline is not None:
            left = max(0.0, one.deadline - self._clock.seconds())
            one.timer = self._clock.callLater(left, self._time_out, one)

    def _time_out(self, one: _Waiting) -> None:
        one.timer = None
        self._waiting.remove(one)
        loss = one.earlier_loss
        text = f"no connection within {one.timeout:g} s"
        if self.last_problem is not None:
            text = f"{text}; the last attempt: {self.last_problem}"
        if loss is not None:
            text = f"{loss}; it was not sent again: {text}"
        one.fail(CallTimeout(text, maybe_executed=loss is not None))

    @staticmethod
    def _fail(one: _Waiting, error: BaseException) -> None:
        loss = one.earlier_loss
        if loss is not None:
            cause, error = error, ConnectionLost(f"{loss}; it was not sent again: {error}")
            error.__cause__ = cause
        one.fail(error)


def _unsent(text: str) -> ConnectionLost:
    return ConnectionLost(text, maybe_executed=False)
