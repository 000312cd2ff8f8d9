"""A batch with interceptors around each member: it is sent when all of them have proceeded."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from kn_sock._calling.call import ClientCall, Resend
from kn_sock._calling.options import BatchEntry, CallOptions, check_method
from kn_sock._exceptions import another
from kn_sock._intercept.calls import InterceptedCalls, OutgoingCall, send_alone
from kn_sock._serving.context import time_left
from kn_sock.connection import Channel, DeferredCallCancelled
from kn_sock.errors import CallTimeout

if TYPE_CHECKING:
    from kn_sock._intercept.chain import Interceptor


class Intercepting(InterceptedCalls):
    """Runs interceptors around calls, notifications and the members of batches."""

    def batch(
        self, channel: Channel, options: CallOptions, entries: list[BatchEntry]
    ) -> Deferred[list[Any]]:
        """Send a batch; the Deferred fires with the results of its calls in order."""
        if not entries:
            return succeed([])
        try:
            timeout = time_left(options.timeout)
        except CallTimeout:
            return fail()
        batch = _InterceptedBatch(self, channel, options, entries)
        batch.start(timeout)
        return batch.deferred


class _Member(ClientCall, kw_only=True):
    """One call or notification of the batch, from its innermost ``proceed()`` to its outcome."""

    call: OutgoingCall
    unit: _InterceptedBatch
    # An interceptor may cancel it; the other members of the line continue.
    outcome: Deferred[Any]
    # Runs while it waits for the others; after that it has its deadline, as any call.
    timer: IDelayedCall | None = None

    def stop_timer(self) -> None:
        """Stop the timer; `timeout` holds the time that is left."""
        if self.timer is not None and self.timer.active():
            self.timer.cancel()
        self.timer = None

    def succeed(self, result: Any) -> None:
        self.outcome.callback(result)

    def fail(self, error: BaseException) -> None:
        self.outcome.errback(error)


class _InterceptedBatch:
    """The members, until the last of them has ended."""

    def __init__(
        self,
        intercepting: InterceptedCalls,
        channel: Channel,
        options: CallOptions,
        entries: list[BatchEntry],
    ) -> None:
        self._intercepting = intercepting
        self._reactor = intercepting.reactor
        self._channel = channel
        self._options = options
        self._entries = entries
        # By place: members that may be sent, and wait for the others or for replies.
        self._members: dict[int, _Member] = {}
        # Those that wait for replies, once it is sent.
        self.calls: list[ClientCall] = []
        # Places whose interceptors have neither proceeded nor ended.
        self._held = set(range(len(entries)))
        self._results: list[Any] = [None] * len(entries)
        self._unsettled = len(entries)
        self._chains: list[Deferred[Any]] = []
        self._is_sent = False
        self._problem: Exception | None = None
        self.deferred: Deferred[list[Any]] = Deferred(self._cancel)

    def start(self, timeout: float | None) -> None:
        """Begin with the interceptors of every member."""
        for place, entry in enumerate(self._entries):
            call = OutgoingCall(
                *entry[:3],
                timeout=timeout,
                traceparent=self._options.traceparent,
                is_notification=not entry.is_call,
            )
            chain = self._intercepting.run(call, partial(self._proceeded, place))
            self._chains.append(chain)
            chain.addBoth(self._ended, place)

    def _proceeded(self, place: int, call: OutgoingCall, timeout: float | None) -> Deferred[Any]:
        """Add a member whose interceptors have proceeded."""
        check_method(call.method)
        if place not in self._held:
            # The batch was sent; an interceptor proceeds once more.
            return send_alone(self._channel, self._options, call, timeout)
        member = self._members[place] = _Member(
            call.method, timeout, call=call, unit=self, outcome=Deferred()
        )
        if timeout is not None and len(self._held) > 1:
            member.timer = self._reactor.callLater(timeout, self._expire, member)
        self._release(place)
        return member.outcome

    @staticmethod
    def _expire(member: _Member) -> None:
        text = f"{member.method} waited too long for the interceptors of others in its batch"
        member.fail(CallTimeout(text, maybe_executed=False))

    def _release(self, place: int) -> None:
        self._held.discard(place)
        if not self._held and not self._is_sent:
            self._is_sent = True
            self._send()

    def _send(self) -> None:
        members = [self._members[place] for place in sorted(self._members)]
        for one in members:
            if one.timer is not None and one.timer.active():
                one.timeout = max(0.0, one.timer.getTime() - self._reactor.seconds())
            one.stop_timer()
        members = [one for one in members if not one.outcome.called]
        if not members or self.deferred.called:
            return
        try:
            line = self._channel.writer.encode_batch([self._written(one) for one in members])
            self.calls = [one for one in members if not one.call.is_notification]
            if self._options.idempotent:
                again = Resend(line)
                for call in self.calls:
                    call.again = again
            if self.calls:
                self._channel.start(self.calls, line)
        except Exception as problem:
            self._not_sent(problem, members)
            return
        if self.calls:
            self._sent(members)
            return
        sending = self._channel.send_notification(line, self._options.timeout)
        sending.addCallbacks(
            lambda _: self._sent(members), lambda failure: self._not_sent(failure.value, members)
        )

    @staticmethod
    def _sent(members: list[_Member]) -> None:
        for one in members:
            if one.call.is_notification:
                one.succeed(None)

    def _not_sent(self, problem: Exception, members: list[_Member]) -> None:
        self._problem = problem
        for one in members:
            one.fail(another(problem))

    def _written(self, member: _Member) -> bytes:
        call = member.call
        writer = self._channel.writer
        if call.is_notification:
            return writer.encode_notification(
                call.method, call.args, call.kwargs, traceparent=call.traceparent
            )
        member.call_id, line = writer.encode_call(
            call.method,
            call.args,
            call.kwargs,
            timeout=self._options.timeout_to_send(member.timeout),
            traceparent=call.traceparent,
        )
        return line

    def _ended(self, result: Any, place: int) -> None:
        """Set the outcome of a member."""
        entry = self._entries[place]
        if isinstance(result, Failure):
            result = result.value
            if not entry.is_call and self._problem is None and not self.deferred.called:
                self._intercepting.log.warn(
                    "the notification {method} of a batch was not sent: {error}",
                    method=entry.method,
                    error=str(result),
                )
        self._results[place] = result
        self._unsettled -= 1
        self._release(place)
        if not self._unsettled and not self.deferred.called:
            if self._problem is not None:
                self.deferred.errback(self._problem)
                return
            kept = zip(self._entries, self._results, strict=True)
            self.deferred.callback([outcome for one, outcome in kept if one.is_call])

    def _cancel(self, deferred: Deferred[list[Any]]) -> None:
        deferred.errback(DeferredCallCancelled("the batch was cancelled"))
        for member in list(self._members.values()):
            member.stop_timer()
            self._channel.cancel_call(member)
        for chain in self._chains:
            chain.cancel()


def intercepting(interceptors: Sequence[Interceptor], reactor: Any) -> Intercepting | None:
    """Make the runner of these interceptors; ``None`` if there are none."""
    return Intercepting(interceptors, reactor) if interceptors else None
