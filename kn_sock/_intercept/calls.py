"""Interceptors around our own calls.

Each call of `connection` goes through here; the innermost ``proceed()`` makes it.
The interceptors run within the time limit of the call.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from kn_sock._calling.options import CallOptions, check_method
from kn_sock._intercept.chain import Interceptor, around
from kn_sock._observe.peer_log import PeerLog
from kn_sock._serving.context import time_left
from kn_sock.connection import Channel, DeferredCallCancelled, RPCConnection
from kn_sock.errors import CallTimeout


class OutgoingCall:
    """A call that is about to be made, as the interceptors of a client are given it.

    Attributes:
        method: the name.
        args: arguments by position.
        kwargs: arguments by name.
        timeout: seconds that it may take in all, from when it was made; ``None`` for no limit.
        traceparent: the trace that it belongs to, sent to the server; ``None`` for none.
        is_notification: whether nothing comes back. What ``proceed()`` gives is then ``None``, once
            it is sent.

    All but the last may be set before ``proceed()``, and count then.
    """

    __slots__ = ("args", "is_notification", "kwargs", "method", "timeout", "traceparent")

    def __init__(
        self,
        method: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        timeout: float | None,
        traceparent: str | None = None,
        is_notification: bool = False,
    ) -> None:
        self.method = method
        self.args = args
        self.kwargs = kwargs
        self.timeout = timeout
        self.traceparent = traceparent
        self.is_notification = is_notification

    def __repr__(self) -> str:
        return f"<OutgoingCall of {self.method}>"


#: Makes a call, which may take so many seconds more.
Send: TypeAlias = "Callable[[OutgoingCall, float | None], Deferred[Any]]"


class InterceptedCalls:
    """Runs interceptors around the calls that are made.

    Args:
        interceptors: the first one outermost; at least one.
        reactor: schedules the time limits.
    """

    def __init__(self, interceptors: Sequence[Interceptor], reactor: Any) -> None:
        self.interceptors = tuple(interceptors)
        self.reactor = reactor
        self.log = PeerLog(reactor)

    def call(
        self,
        channel: Channel,
        options: CallOptions,
        method: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        is_notification: bool = False,
    ) -> Deferred[Any]:
        """Make a call, or a notification, over a channel."""
        try:
            timeout = time_left(options.timeout)
        except CallTimeout:
            return fail()
        call = OutgoingCall(
            method,
            args,
            kwargs,
            timeout=timeout,
            traceparent=options.traceparent,
            is_notification=is_notification,
        )
        return self.run(call, partial(send_alone, channel, options))

    def run(self, call: OutgoingCall, send: Send) -> Deferred[Any]:
        """Make a call.

        Returns:
            A Deferred with what the first interceptor returns or raises; or with `CallTimeout`, or,
            when it is cancelled, `CallCancelled`.
        """
        return _Making(self, call, send).outcome


def send_alone(
    channel: Channel, options: CallOptions, call: OutgoingCall, timeout: float | None
) -> Deferred[Any]:
    """Make a call as the interceptors have left it."""
    check_method(call.method)
    changed = dataclasses.replace(options, timeout=timeout, traceparent=call.traceparent)
    plain = RPCConnection(channel, changed)
    verb = plain.notify if call.is_notification else plain.call
    return verb(call.method, *call.args, **call.kwargs)


class _Making:
    """One call, with its interceptors, until it has ended."""

    def __init__(self, calls: InterceptedCalls, call: OutgoingCall, send: Send) -> None:
        self._reactor = calls.reactor
        self._call = call
        self._send = send
        self._since = self._reactor.seconds()
        self._timer: IDelayedCall | None = None
        self._was_sent = False
        self.outcome: Deferred[Any] = Deferred(self._cancelled)
        self._start_timer()
        self._chain = around(calls.interceptors, call, self._proceed)
        self._chain.addBoth(self._finished)

    # --- the time that it may take ----------------------------------------------------------------

    def _remaining(self) -> float | None:
        timeout = self._call.timeout
        return None if timeout is None else timeout - (self._reactor.seconds() - self._since)

    def _start_timer(self) -> None:
        self._stop_timer()
        remaining = self._remaining()
        if remaining is not None and not self.outcome.called:
            self._timer = self._reactor.callLater(max(0.0, remaining), self._expire)

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _too_late(self) -> CallTimeout:
        text = f"{self._call.method} was not done by its interceptors within its time"
        return CallTimeout(text, maybe_executed=self._was_sent)

    def _expire(self) -> None:
        self._timer = None
        # First, so that the outcome of the cancellation is ignored.
        self.outcome.errback(self._too_late())
        self._chain.cancel()

    # --- the call itself --------------------------------------------------------------------------

    def _proceed(self) -> Deferred[Any]:
        if self.outcome.called:
            return fail(DeferredCallCancelled(f"the call of {self._call.method} has ended"))
        remaining = self._remaining()
        if remaining is not None and remaining <= 0:
            return fail(self._too_late())
        # From here on the call has its own deadline, which says what became of it.
        self._stop_timer()
        self._was_sent = True
        try:
            sent = self._send(self._call, remaining)
        except Exception:
            sent = fail()
        return sent.addBoth(self._replied)

    def _replied(self, result: Any) -> Any:
        self._start_timer()
        return result

    # --- the end ----------------------------------------------------------------------------------

    def _finished(self, result: Any) -> None:
        self._stop_timer()
        if self.outcome.called:
            return
        if isinstance(result, Failure):
            self.outcome.errback(result)
        else:
            self.outcome.callback(result)

    def _cancelled(self, outcome: Deferred[Any]) -> None:
        self._stop_timer()
        outcome.errback(DeferredCallCancelled(f"the call of {self._call.method} was cancelled"))
        self._chain.cancel()
