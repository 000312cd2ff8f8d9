"""The connection of a blocking client, and the calls that threads wait for."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import InvalidStateError
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from kn_sock._blocking.future import CallFuture
from kn_sock._calling.call import ClientCall, Resend
from kn_sock._client.reconnecting import OnLost, ReconnectingClient
from kn_sock._declarations import check_flag
from kn_sock.client import DEFAULT_CONNECT_TIMEOUT, ClientFactory
from kn_sock.connection import RPCConnection

if TYPE_CHECKING:
    from kn_sock._blocking.outcome import Outcome
    from kn_sock._blocking.reactor_thread import ReactorThread
    from kn_sock._calling.options import CallOptions
    from kn_sock._client.credentials import CredentialsLike
    from kn_sock._client.failover import OnConnected
    from kn_sock.protocol import RPCProtocol

log = Logger()


class BlockingCall(ClientCall, kw_only=True):
    """A call whose outcome a thread waits for."""

    outcome: Outcome

    def succeed(self, result: Any) -> None:
        self.outcome.succeed(result)

    def fail(self, error: BaseException) -> None:
        self.outcome.fail(error)


class FutureCall(ClientCall, kw_only=True):
    """A call whose outcome a `concurrent.futures.Future` gets."""

    # The connection stays open for what the future waits for.
    handle: ConnectionRef
    future: CallFuture = None  # type: ignore[assignment]  # made below

    def __post_init__(self) -> None:
        self.future = CallFuture(self._give_up, self.handle.link.thread.check_process)

    def _give_up(self) -> None:
        self.handle.link.give_up(self)

    def succeed(self, result: Any) -> None:
        self._settle(self.future.set_result, result)

    def fail(self, error: BaseException) -> None:
        self._settle(self.future.set_exception, error)

    def _settle(self, setter: Callable[[Any], object], outcome: Any) -> None:
        try:
            setter(outcome)
        except InvalidStateError:
            # It was cancelled.
            return
        except BaseException:
            # A future itself logs what its callbacks raise, but for SystemExit and its like. This
            # is not their thread to end, and other calls wait for what it does next.
            log.failure("a callback of the future of {method} raised", method=self.method)
        self.future.release()


class ConnectionRef:
    """Keeps a connection open while a client, one derived from it, or a future lives."""

    def __init__(self, link: BlockingConnection) -> None:
        self.link = link

    def __del__(self) -> None:
        # Nothing here may wait: this can run on any thread, at any time; and Ctrl-C may have come
        # before there was a link.
        if hasattr(self, "link"):
            self.link.release()


class BlockingConnection:
    """A client's connection, on the reactor's thread; made anew when a call finds it lost.

    Args:
        thread: the reactor's thread.
        endpoints: gives the endpoints for its reactor, in the order in which they are tried.
        connect_timeout: seconds for each of them.
        on_connected: as for `Connector`.
        queue_while_disconnected: whether to try again, for as long as calls wait, when no
            connection can be made. Otherwise an attempt that fails fails the calls that wait.
        stay_connected: whether to connect again as soon as the connection is lost.
        on_lost: called with the `ConnectionLost` of each connection that was lost.
        credentials: as for `Connector`.
        options: as for `ClientFactory`.

    Reactor: its thread only, but for the methods that say otherwise.
    """

    def __init__(
        self,
        thread: ReactorThread,
        endpoints: Callable[[Any], list[IStreamClientEndpoint]],
        *,
        connect_timeout: float | None = DEFAULT_CONNECT_TIMEOUT,
        on_connected: OnConnected | None = None,
        queue_while_disconnected: bool = False,
        stay_connected: bool = False,
        on_lost: OnLost | None = None,
        credentials: CredentialsLike | None = None,
        **options: Any,
    ) -> None:
        check_flag("queue_while_disconnected", queue_while_disconnected)
        check_flag("stay_connected", stay_connected)
        self._stays = stay_connected
        self.thread = thread
        self.queues = queue_while_disconnected
        reactor = thread.reactor
        self._factory = ClientFactory(
            reactor, turn=thread.turn, on_exit=self._exit_asked, ended=self._ended, **options
        )
        self._client = ReconnectingClient(
            self,
            self._factory,
            endpoints(reactor),
            reactor,
            connect_timeout=connect_timeout,
            on_connected=on_connected,
            credentials=credentials,
            on_lost=on_lost,
        )
        self.channel = self._client.queue
        self.call_options: CallOptions = self._factory.settings.call_options
        self.intercepting = self._factory.settings.intercepting
        # Calls with interceptors around them.
        self._intercepted: dict[ClientCall, Deferred[Any]] = {}
        self.is_closed = False

    def connect(self) -> Deferred[None]:
        """Connect for the first time; the Deferred fails with `ConnectFailed`."""
        return self._client.connector.dial().addCallback(self.connected)

    # --- what the reconnecting client asks for ----------------------------------------------------

    def need_connection(self) -> None:
        """Connect, unless an attempt is running."""
        self.thread.closables.add(self.channel)
        self._client.reconnector.begin()

    def is_wanted(self) -> bool:
        """Whether calls wait for a connection, or it is to be there in any case."""
        if self._stays and not self.is_closed:
            return True
        return self.queues and self.channel.has_waiting

    def connected(self, protocol: RPCProtocol) -> None:
        """Send what waits over a new connection."""
        if self.is_closed:
            # Ctrl-C came during the attempt, and nobody is there to cancel it.
            protocol.close()
            return
        self.thread.closables.add(self.channel)
        self.channel.opened(protocol)

    def gave_up(self, error: BaseException) -> None:
        """Fail the calls that wait."""
        self.channel.fail_waiting(error)
        self.closed()

    def closed(self) -> None:
        """Close nothing at the end of the process if nothing is open."""
        if not self.channel.is_connected and not self.channel.has_waiting:
            self.thread.closables.discard(self.channel)

    def _exit_asked(self, _: BaseException) -> None:
        # A function that this client serves raised it. The reactor is not its own to stop.
        self.channel.close()

    def _ended(self, protocol: RPCProtocol) -> None:
        was_current = not self.is_closed and self._client.lost(protocol)
        self.channel.ended(protocol)
        self.closed()
        if was_current and self._stays:
            self.thread.closables.add(self.channel)
            self._client.reconnector.begin_later()

    def begin(self, call: ClientCall, args: Any, kwargs: Any, options: CallOptions) -> None:
        """Encode a call in this thread, and send it. Any thread but the reactor's.

        Interceptors run first, on the reactor's thread.

        Args:
            call: what to call, and what waits for the outcome.
            args: arguments by position.
            kwargs: arguments by name.
            options: how the call is made; its time is the call's own.

        Raises:
            TypeError, ValueError: an argument cannot be sent.
        """
        if self.intercepting is not None:
            # What is current in this thread, the call that it serves, is so for the interceptors.
            run = copy_context().run
            self.thread.submit(run, self._begin_intercepted, call, args, kwargs, options)
            return
        call.call_id, line = self.channel.writer.encode_call(
            call.method,
            args,
            kwargs,
            timeout=options.timeout_to_send(call.timeout),
            traceparent=options.traceparent,
        )
        if options.idempotent:
            call.again = Resend(line)
        self.thread.submit(self.channel.start, [call], line)

    def notify(self, send: Callable[[], Deferred[None]], method: str) -> None:
        """Send a notification, and wait until it is sent, except on a reactor's thread.

        Args:
            send: does it, on the reactor's thread.
            method: its name, for the log.
        """
        if self.thread.may_wait:
            self.thread.call(self._send_at_once, send)
        else:
            self.thread.submit(self._notify_later, send, method)

    def _send_at_once(self, send: Callable[[], Deferred[None]]) -> Deferred[None]:
        # In the next turn what was written in this one is the system's.
        return maybeDeferred(send).addCallback(lambda _: deferLater(self.thread.reactor, 0))

    def _notify_later(self, send: Callable[[], Deferred[None]], method: str) -> None:
        maybeDeferred(send).addErrback(
            lambda failed: log.warn(
                "the notification {method} was not sent: {reason}",
                method=method,
                reason=failed.getErrorMessage(),
            )
        )

    def verbs(self, options: CallOptions) -> RPCConnection:
        """Return the connection with the interceptors around its calls. Reactor: its thread."""
        return RPCConnection(self.channel, options, self.intercepting)

    def _begin_intercepted(
        self, call: ClientCall, args: Any, kwargs: Any, options: CallOptions
    ) -> None:
        deferred = self.verbs(options).call(call.method, *args, **kwargs)
        self._intercepted[call] = deferred
        deferred.addBoth(self._end_intercepted, call)

    def _end_intercepted(self, result: Any, call: ClientCall) -> None:
        self._intercepted.pop(call, None)
        if isinstance(result, Failure):
            call.fail(cast(BaseException, result.value))
        else:
            call.succeed(result)

    def give_up(self, call: ClientCall) -> None:
        """Cancel a call, soon. Thread: any."""
        if not self.thread.is_forked:
            self.thread.submit(self._give_up, call)

    def _give_up(self, call: ClientCall) -> None:
        intercepted = self._intercepted.get(call)
        if intercepted is not None:
            intercepted.cancel()
        else:
            self.channel.cancel_call(call)

    def close(self, timeout: float | None = None) -> None:
        """Close the connection, and wait until it is closed, except on a reactor's thread.

        Args:
            timeout: seconds after which what is not sent is not sent any more.
        """
        if self.is_closed or self.thread.is_forked or self.thread.is_ending:
            return
        if not self.thread.may_wait:
            self.release()
            return
        self.thread.check()
        self.is_closed = True
        self.thread.call(self._close_within, timeout)

    def _close_within(self, timeout: float | None) -> Deferred[None]:
        closing = self.channel.close()
        if timeout is not None and not closing.called:
            timer = self.thread.reactor.callLater(timeout, self._factory.abort)
            closing.addBoth(lambda _: timer.cancel() if timer.active() else None)
        return closing

    def release(self) -> None:
        """Close without waiting. Any thread."""
        if not self.is_closed and not self.thread.is_forked:
            self.is_closed = True
            self.thread.submit(self.channel.close)
