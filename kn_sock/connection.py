"""`RPCConnection`: calls over one connection, as Deferreds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.defer import CancelledError, Deferred, fail, maybeDeferred, succeed

from kn_sock._calling.call import ClientCall, Resend
from kn_sock._calling.options import Batch, BatchEntry, CallOptions, Remote, check_method
from kn_sock._serving.context import time_left
from kn_sock.errors import CallCancelled, CallTimeout

if TYPE_CHECKING:
    from kn_sock._wire.requests import RequestEncoder

__all__ = ["RPCConnection"]


class Intercepts(Protocol):
    """What makes calls with interceptors around them."""

    def call(
        self,
        channel: Channel,
        options: CallOptions,
        method: str,
        args: Any,
        kwargs: Any,
        *,
        is_notification: bool = False,
    ) -> Deferred[Any]:
        """Make a call, or a notification."""

    def batch(
        self, channel: Channel, options: CallOptions, entries: list[BatchEntry]
    ) -> Deferred[list[Any]]:
        """Make those of a batch."""


class Channel(Protocol):
    """What the verbs are made of; `RPCProtocol` is one."""

    @property
    def writer(self) -> RequestEncoder:
        """What writes requests for it."""

    def start(self, calls: list[ClientCall], line: bytes) -> None:
        """Send a line, and wait for the replies to the calls that it makes."""

    def send_notification(self, line: bytes, timeout: float | None) -> Deferred[None]:
        """Send a line that is not answered; it may wait so many seconds for a connection."""

    def cancel_call(self, call: ClientCall) -> object:
        """Cancel a call."""

    def close(self) -> Deferred[None]:
        """Close the connection."""

    def when_closed(self) -> Deferred[None]:
        """Return a Deferred that fires when the connection has ended."""


class DeferredVerbs:
    """The verbs, over any channel; every one of them gives a Deferred."""

    _channel: Channel
    _options: CallOptions
    _intercepting: Intercepts | None = None

    def call(self, method: str, /, *args: Any, **kwargs: Any) -> Deferred[Any]:
        """Call a method; every argument after its name goes to the method.

        Returns:
            A Deferred that fires with the result, or fails with: `RemoteError`, the function
            raised; another `RPCError`, the peer refused; `CallTimeout`; `ConnectionLost`;
            `CallCancelled`, which is a ``CancelledError`` too; ``TypeError`` or ``ValueError``, an
            argument cannot be sent. Cancelling it cancels the call at the peer.

        Raises:
            TypeError: the name is no string.
            RuntimeError: this is not the reactor's thread.

        Spec: JSON-RPC 2.0, section 4.
        """
        if type(method) is not str:
            check_method(method)
        options = self._options
        channel = self._channel
        if self._intercepting is not None:
            return self._intercepting.call(channel, options, method, args, kwargs)
        call = DeferredCall(method, options.timeout, channel=channel)
        try:
            call.timeout = timeout = time_left(options.timeout)
            call.call_id, line = channel.writer.encode_call(
                method,
                args,
                kwargs,
                timeout if options.propagate_deadline else None,
                options.traceparent,
            )
        except (TypeError, ValueError, CallTimeout) as problem:
            call.fail(problem)
        else:
            if options.idempotent:
                call.again = Resend(line)
            channel.start([call], line)
        return call.deferred

    def notify(self, method: str, /, *args: Any, **kwargs: Any) -> Deferred[None]:
        """Notify the peer: nothing comes back, not even an error.

        Returns:
            A Deferred that fires when the notification is sent: at once, unless it waits for a
            connection. It fails with `ConnectionLost`; with ``TypeError`` or ``ValueError`` if an
            argument cannot be sent; with `CallTimeout` after the time limit of a call. Cancelling
            it while it waits discards the notification.

        Spec: JSON-RPC 2.0, section 4.1.
        """
        check_method(method)
        options = self._options
        if self._intercepting is not None:
            return self._intercepting.call(
                self._channel, options, method, args, kwargs, is_notification=True
            )
        try:
            line = self._channel.writer.encode_notification(
                method, args, kwargs, traceparent=options.traceparent
            )
        except (TypeError, ValueError):
            return fail()
        return maybeDeferred(self._channel.send_notification, line, self._options.timeout)

    def batch(self) -> Batch[Deferred[list[Any]]]:
        """Begin a batch; its ``send`` gives a Deferred of the list of results."""
        return Batch(self._send_batch)

    def _send_batch(self, entries: list[BatchEntry]) -> Deferred[list[Any]]:
        if self._intercepting is not None:
            return self._intercepting.batch(self._channel, self._options, entries)
        try:
            timeout = time_left(self._options.timeout)
        except CallTimeout:
            return fail()
        return send_batch(self._channel, entries, self._options.replaced({"timeout": timeout}))

    @property
    def remote(self) -> Remote[Deferred[Any]]:
        """The peer's methods as attributes: ``connection.remote.add(10, 20)``."""
        return Remote(self.call)

    def with_options(self, **options: Any) -> RPCConnection:
        """Return the same connection with other call options.

        Args:
            options: ``timeout``, in seconds; ``propagate_deadline``; ``traceparent``, the trace
                that the calls belong to; ``idempotent=True`` for methods that may be run twice. A
                call that was written when the connection was lost is then sent once more, over the
                next one, within its time; a batch is, where none of its calls had ended. That does
                nothing for a connection that does not come back, as `connect` makes it.
        """
        changed = self._options.replaced(options)
        return RPCConnection(self._channel, changed, self._intercepting)


class RPCConnection(DeferredVerbs):
    """Calls the peer of one connection.

    Made by `connect`, or found in a method as ``current_call().connection``.

    Reactor: its thread only. No method calls back before it returns, except that a Deferred whose
    call failed at once has already failed.
    """

    def __init__(
        self, channel: Channel, options: CallOptions, intercepting: Intercepts | None = None
    ) -> None:
        self._channel = channel
        self._options = options
        if intercepting is not None:
            self._intercepting = intercepting

    def close(self) -> Deferred[None]:
        """Close the connection; calls that wait for a reply fail with `ConnectionLost`. Idempotent.

        Returns:
            A Deferred that fires when the connection is closed.
        """
        return self._channel.close()

    def when_closed(self) -> Deferred[None]:
        """Return a Deferred that fires when the connection has ended, whoever ended it."""
        return self._channel.when_closed()


class DeferredCallCancelled(CallCancelled, CancelledError):
    """What a cancelled Deferred fails with: also Twisted's own error for it."""


class DeferredCall(ClientCall, kw_only=True):
    """A call whose outcome a Deferred gets."""

    channel: Channel
    deferred: Deferred[Any] = None  # type: ignore[assignment]  # made below

    def __post_init__(self) -> None:
        self.deferred = Deferred(self._give_up)

    def _give_up(self, deferred: Deferred[Any]) -> None:
        self.channel.cancel_call(self)
        deferred.errback(DeferredCallCancelled(f"the call of {self.method} was cancelled"))

    # If several calls end together, the callbacks of one may have cancelled another by now.

    def succeed(self, result: Any) -> None:
        if not self.deferred.called:
            self.deferred.callback(result)

    def fail(self, error: BaseException) -> None:
        if not self.deferred.called:
            self.deferred.errback(error)


class BatchMember(ClientCall, kw_only=True):
    """One call of a batch: puts its outcome in its place of the list."""

    unit: WholeBatch
    place: int

    def succeed(self, result: Any) -> None:
        self.unit.settle(self.place, result)

    def fail(self, error: BaseException) -> None:
        self.unit.settle(self.place, error)


class WholeBatch:
    """The outcomes of one batch, until the last is there."""

    def __init__(self, channel: Channel, entries: list[BatchEntry], timeout: float | None) -> None:
        methods = [entry.method for entry in entries if entry.is_call]
        self.calls: list[ClientCall] = [
            BatchMember(method, timeout, unit=self, place=place)
            for place, method in enumerate(methods)
        ]
        self._channel = channel
        self._results: list[Any] = [None] * len(methods)
        self._awaited = len(methods)
        self.deferred: Deferred[list[Any]] = Deferred(self._cancel)

    def settle(self, place: int, outcome: Any) -> None:
        """Set the outcome of one call."""
        self._results[place] = outcome
        self._awaited -= 1
        if not self._awaited and not self.deferred.called:
            self.deferred.callback(self._results)

    def _cancel(self, deferred: Deferred[list[Any]]) -> None:
        for call in list(self.calls):
            self._channel.cancel_call(call)
        deferred.errback(DeferredCallCancelled("the batch was cancelled"))


def send_batch(
    channel: Channel, entries: list[BatchEntry], options: CallOptions
) -> Deferred[list[Any]]:
    """Send a batch over a channel; the Deferred fires with its results in order.

    Args:
        channel: sends it.
        entries: its calls and notifications.
        options: how each of its calls is made.
    """
    if not entries:
        return succeed([])
    batch = WholeBatch(channel, entries, options.timeout)
    try:
        line = encode_batch(channel.writer, batch.calls, entries, options)
        if options.idempotent:
            again = Resend(line)
            for call in batch.calls:
                call.again = again
        if not batch.calls:
            # Without calls, only this Deferred can report that it was not sent.
            return channel.send_notification(line, options.timeout).addCallback(lambda _: [])
        channel.start(batch.calls, line)
    except Exception as problem:
        batch.deferred.errback(problem)
    return batch.deferred


def encode_batch(
    writer: RequestEncoder,
    calls: list[ClientCall],
    entries: list[BatchEntry],
    options: CallOptions,
) -> bytes:
    """Write a batch, giving each of its calls the id that it was written with.

    Raises:
        TypeError, ValueError: an argument cannot be sent, or the dialect has no batches.
    """
    lines = []
    waiting = iter(calls)
    for entry in entries:
        if entry.is_call:
            next(waiting).call_id, line = writer.encode_call(
                *entry[:3],
                timeout=options.timeout_to_send(options.timeout),
                traceparent=options.traceparent,
            )
        else:
            line = writer.encode_notification(*entry[:3], traceparent=options.traceparent)
        lines.append(line)
    return writer.encode_batch(lines)
