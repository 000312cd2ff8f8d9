"""A blocking client's connection, on the reactor's thread, and the calls that threads wait for."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.python.failure import Failure

from kn_sock._dial import dial
from kn_sock._outgoing import PendingCall
from kn_sock._reactor_thread import Outcome, ReactorThread
from kn_sock._verbs import CallOptions
from kn_sock._waiting import WaitingChannel
from kn_sock.client import ClientFactory
from kn_sock.protocol import RPCProtocol


class BlockingCall(PendingCall):
    """A call whose outcome a thread waits for."""

    __slots__ = ("outcome",)

    def __init__(self, method: str, timeout: float | None, thread: ReactorThread) -> None:
        super().__init__(method, timeout)
        self.outcome = Outcome(thread)

    def succeed(self, result: Any) -> None:
        self.outcome.succeed(result)

    def fail(self, error: BaseException) -> None:
        self.outcome.fail(error)


class _CallFuture(Future[Any]):
    """A future whose cancellation reaches the call."""

    def __init__(self, give_up: Callable[[], object]) -> None:
        super().__init__()
        self._give_up = give_up

    def cancel(self) -> bool:
        """Cancel the call, unless its outcome is there."""
        was_cancelled_now = not self.cancelled() and super().cancel()
        if was_cancelled_now:
            self._give_up()
        return self.cancelled()


class FutureCall(PendingCall):
    """A call whose outcome a `concurrent.futures.Future` gets."""

    __slots__ = ("future",)

    def __init__(self, method: str, timeout: float | None, link: Link) -> None:
        super().__init__(method, timeout)
        self.future = _CallFuture(lambda: link.thread.submit(link.cancel, self))

    def succeed(self, result: Any) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class Link:
    """A client's connection, on the reactor's thread; made anew when a call finds it lost.

    Reactor: its thread only, but for `thread` and `release`.
    """

    def __init__(
        self,
        thread: ReactorThread,
        endpoint: Callable[[Any], IStreamClientEndpoint],
        connect_timeout: float | None,
        options: dict[str, Any],
    ) -> None:
        self.thread = thread
        self._connect_timeout = connect_timeout
        reactor = thread.reactor
        self._endpoint = endpoint(reactor)
        self._dialling: Deferred[Any] | None = None
        self._factory = ClientFactory(
            reactor, turn=thread.turn, opened=self._opened, ended=self._ended, **options
        )
        self.call_options: CallOptions = self._factory.settings.call_options
        self.channel = WaitingChannel(
            reactor,
            self.call_options.timeout,
            need_connection=self._connect_anew,
            close=self._stop_dialling,
        )
        self.is_closed = False

    def connect(self) -> Deferred[Any]:
        """Connect; the Deferred fails with `ConnectFailed`."""
        self._dialling = dial(
            self._endpoint, self._factory, self._connect_timeout, self.thread.reactor
        )
        return self._dialling.addBoth(self._dialled)

    def _dialled(self, outcome: Any) -> Any:
        self._dialling = None
        return outcome

    def _connect_anew(self) -> None:
        if self._dialling is None:
            self.connect().addErrback(self._failed_anew)

    def _failed_anew(self, failure: Failure) -> None:
        self.channel.fail_waiting(failure.value)  # type: ignore[arg-type]  # it is an exception

    def _opened(self, protocol: RPCProtocol) -> None:
        self.thread.closables.add(self.channel)
        self.channel.opened(protocol)

    def _ended(self, protocol: RPCProtocol) -> None:
        self.thread.closables.discard(self.channel)
        self.channel.ended(protocol)

    def _stop_dialling(self) -> Deferred[None]:
        if self._dialling is not None:
            self._dialling.addErrback(lambda _: None)
            self._dialling.cancel()
        return succeed(None)

    def start(self, call: PendingCall, method: str, args: Any, kwargs: Any) -> None:
        """Begin a call."""
        try:
            self.channel.start_call(call, method, args, kwargs)
        except Exception as problem:
            call.fail(problem)

    def cancel(self, call: PendingCall) -> None:
        """Give a call up."""
        self.channel.cancel_call(call)

    def release(self) -> None:
        """Close without waiting. Any thread."""
        if not self.is_closed and not self.thread.is_forked:
            self.is_closed = True
            self.thread.submit(self.channel.close)
