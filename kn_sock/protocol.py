"""`RPCProtocol`: a connection's transport on one side, its session and its calls on the other.

Here lines become calls and answers become bytes; what they mean is `_session`'s, what is done about
them `_serving`'s and `_outgoing`'s. Both ends of a connection are this class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IHandshakeListener,
    IPushProducer,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from typing_extensions import override
from zope.interface import implementer

from kn_sock._calling.pending import ClientCall, Outgoing
from kn_sock._intercept.serving import ServeInterceptors
from kn_sock._io.outbox import Outbox
from kn_sock._io.peer import NO_PROCESS, address_text, certificate_of, process_of
from kn_sock._io.reader import Inbound, State
from kn_sock._io.sending import (
    SendAtOnce,
    can_half_close,
    counts_undelivered,
    end_now,
    is_tls,
    undelivered_bytes,
    unsent_bytes,
    write_of,
)
from kn_sock._io.tls import tls_problem
from kn_sock._io.watchdogs import IdleWatchdog, SendWatchdog
from kn_sock._serving.dispatcher import Dispatcher
from kn_sock._serving.fastpath import FAST
from kn_sock._wire.dialects import JSONRPC_2
from kn_sock._wire.documents import DocumentFramer
from kn_sock._wire.framing import Framer, LineFramer
from kn_sock._wire.session import Session
from kn_sock.connection import RPCConnection
from kn_sock.errors import ParseError, RPCError
from kn_sock.options import DRAIN_TIMEOUT, Framing

if TYPE_CHECKING:
    from kn_sock._observe.reports import ConnectionReport
    from kn_sock._settings import ConnectionContext
    from kn_sock._wire.events import Request
    from kn_sock.methods.signature import Method

__all__ = ["RPCProtocol"]

log = Logger()

_FRAMERS: Final[dict[Framing, type[Framer]]] = {
    "lines": LineFramer,
    "documents": DocumentFramer,
}

# How long until it is looked again whether the last that was written has arrived.
_LINGER: Final = 0.05


class IConnectionObserver(Protocol):
    """What makes connections, and is told of their lives."""

    def connection_made(self, protocol: RPCProtocol) -> None:
        """Take note of one that has a transport."""

    def connection_opened(self, protocol: RPCProtocol) -> None:
        """Take note of one over which calls can be made."""

    def connection_ended(self, protocol: RPCProtocol) -> None:
        """Take note of one that is gone."""


@implementer(IHalfCloseableProtocol, IHandshakeListener, IPushProducer)
class RPCProtocol(Inbound):
    """Newline-delimited JSON-RPC over any stream transport; the same class at both ends.

    Made by `RPCServerFactory` and by the clients; its verbs are those of `connection`.

    Reactor: its thread only.

    Spec: JSON-RPC 2.0, JSON-RPC 1.0, kn-sock 0.3, each message answered in its own dialect.
    """

    # Any stream transport; what it offers beyond ITransport is asked for where it is used.
    transport: Any
    #: Who logged in, as the server's checker calls them; ``None`` where nobody has.
    identity: str | None = None
    #: The process at the other end of a Unix socket.
    peer_process = NO_PROCESS
    _connection: RPCConnection
    _opening: Deferred[None] | None = None
    _close_timer: IDelayedCall | None = None
    _linger_timer: IDelayedCall | None = None
    _stall_watch: SendWatchdog | None = None
    _half_closes = False
    # How much the peer had taken when that was last looked at.
    _taken = 0
    _is_reading = True
    _peer_is_done = False
    _close_waiters: tuple[Deferred[None], ...] = ()
    # Why it was closed, where that is known.
    _reason: str | None = None
    # With what its calls ended.
    _loss: tuple[str, BaseException | None] | None = None
    # Whether the log was told why the connection was closed.
    _is_reported = False
    # None where nobody asks for the figures of connections.
    _report: ConnectionReport | None = None

    def __init__(self, settings: ConnectionContext, owner: IConnectionObserver) -> None:
        self._settings = settings
        self._owner = owner
        self.reactor = settings.reactor
        #: What writes requests for this connection.
        self.writer = settings.writer

    # --- the transport calls ----------------------------------------------------------------------

    @override
    def connectionMade(self) -> None:
        transport = self.transport
        # Nagle's algorithm and delayed acknowledgements make small replies wait for each other.
        for option in ("setTcpNoDelay", "setTcpKeepAlive"):
            getattr(transport, option, lambda _: None)(True)
        if counts_undelivered(transport) and can_half_close(transport):
            self._half_closes = True
        process = process_of(transport)
        if process is not NO_PROCESS:
            self.peer_process = process
        settings = self._settings
        runner = settings.runner
        options = runner.options
        self._framer = _FRAMERS[options.framing](options.max_line_bytes)
        self._session = Session(
            settings.writer,
            max_line_bytes=options.max_line_bytes,
            max_batch=options.max_batch,
            unversioned=options.unversioned,
        )
        write = write_of(transport)
        is_prompt = not isinstance(write, SendAtOnce)
        self._outbox = Outbox(write, settings.turn, is_prompt=is_prompt)
        self._serving = Dispatcher(self, self._session, self._outbox, runner, FAST)
        if options.interceptors:
            self._serving.around = ServeInterceptors(self._serving, self).run
        settings.thread_id = get_ident()
        self._state = State.SECURING
        self.opened_at = self.read_at = self.reactor.seconds()
        if options.idle_timeout is not None:
            self._idle_watch = IdleWatchdog(
                self.reactor, options.idle_timeout, self._is_busy, self._idle
            )
        transport.registerProducer(self, True)
        if runner.reports.wants_connections:
            self._report = self._reporting()
        self._owner.connection_made(self)
        if not is_tls(transport):
            self._become_open()
            return
        self._outbox.hold()
        timeout = settings.handshake_timeout
        if timeout is not None:
            self._close_timer = self.reactor.callLater(timeout, self._abort_handshake)

    @property
    def peer(self) -> Any:
        """The peer's address; behind a proxy that tells who calls, the caller's once it has."""
        return self.transport.getPeer()

    @property
    @override
    def peer_text(self) -> str:
        return address_text(self.peer)

    def _reporting(self) -> ConnectionReport:
        """Give what there is to tell of this connection."""
        reports = self._settings.runner.reports
        return reports.opened(self, self._outbox, self._session, self._serving)

    def handshakeCompleted(self) -> None:
        """TLS is ready."""
        if self._state is State.SECURING:
            if self._close_timer is not None:
                self._close_timer.cancel()
                self._close_timer = None
            self._outbox.release()
            self._become_open()

    def _become_open(self) -> None:
        self._state = State.OPEN
        self._owner.connection_opened(self)
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.callback(None)

    def readConnectionLost(self) -> None:
        """The peer has sent all that it will: answer what it asked, then close."""
        if self._state is State.CLOSING:
            self._peer_is_done = True
            self._end_linger()
            return
        if self._backlog:
            self._handle(self._take_backlog())
        if self._framer.unfinished and self._state is State.OPEN:
            error = ParseError(f"{self._framer.missing_end}; nothing in it was run")
            self._outbox.put(JSONRPC_2.encode_error(None, error))
        self._peer_is_done = True
        self._end_calls("the peer sends no more", None)
        self._close_when_answered(is_read_to_the_end=True)

    def writeConnectionLost(self) -> None:
        """All that was written is the kernel's, and the goodbye; close once it has arrived.

        Before that, a close is a reset if the peer has sent anything that was not read; and that
        takes with it what is still on the way.
        """
        self._linger_timer = None
        if self._peer_is_done or not undelivered_bytes(self.transport):
            self.transport.loseConnection()
        else:
            self._linger_timer = self.reactor.callLater(_LINGER, self.writeConnectionLost)

    def _end_linger(self) -> None:
        if self._linger_timer is not None:
            self._linger_timer.cancel()
            self._linger_timer = None
            self.transport.loseConnection()

    @override
    def connectionLost(self, reason: Failure = Failure(ConnectionError())) -> None:  # noqa: B008
        was_made = self._state is not State.NEW
        was_open = self._state is State.OPEN
        self._state = State.LOST
        left_over = self._take_backlog()
        if self._close_timer is not None:
            self._close_timer.cancel()
            self._close_timer = None
        if self._linger_timer is not None:
            self._linger_timer.cancel()
            self._linger_timer = None
        if was_open:
            self._settle_from(left_over)
        if was_made:
            problem = tls_problem(reason.value)
            # The client is told by what waits for it to open.
            if problem is not None and self._opening is None:
                log.info("{peer}: TLS failed: {problem}", peer=self.peer_text, problem=problem)
            self._end_watches()
            self._serving.close()
            text = self._reason or reason.getErrorMessage()
            self._end_calls(text, reason.value)
            self._outbox.close()
            report = self._report or self._reporting()
            report.closed(None if self._is_reported else text)
            if self._serving.is_idle:
                self._serving.detach()
        self._owner.connection_ended(self)
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.errback(reason)
        waiters, self._close_waiters = self._close_waiters, ()
        for waiter in waiters:
            waiter.callback(None)

    @override
    def _refused(self, reason: str) -> None:
        """Take note that the log knows why the connection is closed before it could call."""
        self._is_reported = True
        self._settings.runner.reports.refused(reason)

    # --- how much is read and written -------------------------------------------------------------

    @override
    def pauseProducing(self) -> None:
        """The peer does not take what we write: begin nothing new until it does."""
        if self._stall_watch is None:
            self._stall_watch = SendWatchdog(
                self.reactor,
                self._settings.runner.options.send_timeout,
                lambda: self._outbox.written_bytes - unsent_bytes(self.transport),
                self._stalled,
            )
        self._stall_watch.begin()
        self._serving.set_peer_reads(False)

    @override
    def resumeProducing(self) -> None:
        """The peer took what we wrote: go on."""
        if self._stall_watch is not None:
            self._stall_watch.end()
        self._serving.set_peer_reads(True)

    @override
    def stopProducing(self) -> None:
        """The transport is gone; `connectionLost` follows."""

    @property
    def awaits_replies(self) -> bool:
        """Whether calls of our own wait for this peer's replies."""
        return self._outgoing is not None and self._outgoing.is_waiting

    @override
    def update_reading(self) -> None:
        """Read on, or stop reading, by what is under way.

        Replies that our own calls wait for arrive by the same way as the peer's calls: while there
        are such, reading goes on, or two peers that call each other could wait for ever.
        """
        wanted = not self._backlog and self._serving.wants_more(self.awaits_replies)
        if wanted is self._is_reading or self._state is not State.OPEN:
            return
        self._is_reading = wanted
        if wanted:
            self.transport.resumeProducing()
        else:
            self.transport.pauseProducing()

    def _stalled(self) -> None:
        seconds = self._settings.runner.options.send_timeout
        reason = f"it took nothing of what was sent to it for {seconds:g} s"
        log.warn("{peer}: {reason}; aborted", peer=self.peer_text, reason=reason)
        self._is_reported = True
        self._abort(reason)

    def _is_busy(self) -> bool:
        return self.awaits_replies or not self._serving.is_idle or self._is_taking()

    def _is_taking(self) -> bool:
        """Whether the peer still takes what waits to be sent, and has taken some of it lately."""
        unsent = unsent_bytes(self.transport)
        before, self._taken = self._taken, self._outbox.written_bytes - unsent
        return unsent > 0 and self._taken > before

    def _idle(self) -> None:
        if self._state is State.OPEN:
            self._begin_close("nothing happened on it for idle_timeout")

    def _end_watches(self) -> None:
        for watch in (self._stall_watch, self._idle_watch):
            if watch is not None:
                watch.end()

    # --- calls that we make -----------------------------------------------------------------------

    @property
    def connection(self) -> RPCConnection:
        """The verbs to call the peer with."""
        try:
            return self._connection
        except AttributeError:
            # Asked for by two threads at once, it is one: dict.setdefault() is atomic.
            settings = self._settings
            made = RPCConnection(self, settings.call_options, settings.intercepting)
            return cast(RPCConnection, vars(self).setdefault("_connection", made))

    def start(self, calls: list[ClientCall], line: bytes) -> None:
        """Send a line, and wait for the replies to the calls that it makes.

        Raises:
            ConnectionLost: the connection has ended, and the line makes no call that could fail.
            RuntimeError: this is not the reactor's thread.
        """
        if get_ident() != self._settings.thread_id:
            self._wrong_thread()
        outgoing = self._outgoing
        if outgoing is None:
            outgoing = self._calls()
        outgoing.start(calls, line)
        if not self._is_reading:
            self.update_reading()

    def send_notification(self, line: bytes, timeout: float | None = None) -> Deferred[None]:
        """Send a line that is not answered. It does not wait here, whatever the *timeout*.

        Raises:
            ConnectionLost: the connection has ended.
            RuntimeError: this is not the reactor's thread.
        """
        if get_ident() != self._settings.thread_id:
            self._wrong_thread()
        self._calls().notify(line)
        return succeed(None)

    @staticmethod
    def _wrong_thread() -> NoReturn:
        raise RuntimeError(
            "a connection is for its reactor's thread; elsewhere, wait for it by "
            "blockingCallFromThread(current_call().reactor, current_call().connection.call, …)"
        )

    def cancel_call(self, call: ClientCall) -> object:
        """Give a call up, and tell the peer."""
        return self._calls().cancel(call)

    @override
    def _calls(self) -> Outgoing:
        outgoing = self._outgoing
        if outgoing is None:
            outgoing = Outgoing(self._session, self._outbox, self.reactor, self.peer_text)
            self._outgoing = outgoing
            if self._loss is not None:
                outgoing.end(*self._loss)
        return outgoing

    def _end_calls(self, reason: str, cause: BaseException | None) -> None:
        """Fail our own calls, those under way and those that are still begun."""
        if self._loss is None:
            self._loss = (reason, cause)
        if self._outgoing is not None:
            self._outgoing.end(reason, cause)

    # --- the end ----------------------------------------------------------------------------------

    @property
    def peer_certificate(self) -> Any:
        """The certificate that the peer showed over TLS, or ``None``."""
        return certificate_of(self.transport)

    @property
    def is_open(self) -> bool:
        """Whether calls can be made."""
        return self._state is State.OPEN and not self._peer_is_done

    def serve(
        self,
        methods: Mapping[str, Method],
        absent: Callable[[Request], RPCError | None] | None = None,
    ) -> None:
        """Serve these methods to this peer from now on; see `Dispatcher.serve`."""
        self._serving.serve(methods, absent)

    def when_open(self) -> Deferred[None]:
        """Wait until calls can be made: over TLS, until its handshake is done.

        Returns:
            A Deferred that fires then, or fails with what ended the connection before. Cancelling
            it aborts the connection.
        """
        if self._state is State.OPEN:
            return succeed(None)
        if self._state is not State.SECURING:
            return fail(ConnectionAborted())

        def give_up(_: object) -> None:
            self._opening = None
            self.abort()

        self._opening = Deferred(give_up)
        return self._opening

    def when_closed(self) -> Deferred[None]:
        """Wait until the connection has ended."""
        if self._state is State.LOST:
            return succeed(None)
        waiter: Deferred[None] = Deferred()
        self._close_waiters = (*self._close_waiters, waiter)
        return waiter

    def serving_is_idle(self) -> None:
        """Take note that every call of the peer is answered."""
        self._close_when_answered()

    def drain(self) -> Deferred[None]:
        """Refuse new calls, finish those under way, flush, close.

        Returns:
            A Deferred that fires when the connection is closed.
        """
        if self._state is State.OPEN:
            self._serving.drain()
        elif self._state is State.SECURING:
            self._abort_handshake()
        self._close_when_answered()
        return self.when_closed()

    @override
    def _close_when_answered(self, *, is_read_to_the_end: bool = False) -> None:
        if self._state is not State.OPEN:
            return
        self._serving.tells_when_idle = True
        if self._serving.is_idle and not self._backlog:
            self._begin_close("closed when all was answered", is_read_to_the_end)

    def close(self) -> Deferred[None]:
        """Write what waits and close; calls of ours that wait for a reply fail.

        Returns:
            A Deferred that fires when the connection is closed.
        """
        if self._state is State.OPEN:
            self._begin_close("this side closed it")
        elif self._state is State.SECURING:
            self._abort_handshake()
        return self.when_closed()

    def _begin_close(self, reason: str, is_read_to_the_end: bool = False) -> None:
        # First, as what is written now may report back.
        self._state = State.CLOSING
        self._reason = reason
        if self._outgoing is not None:
            self._outgoing.tell_all_cancelled()
        self._settings.turn.flush()
        self._end_watches()
        self._take_backlog()
        self._serving.close()
        self._end_calls(reason, None)
        if is_read_to_the_end and end_now(self.transport):
            return
        # A peer that never reads would hold up the close for ever.
        self._close_timer = self.reactor.callLater(DRAIN_TIMEOUT, self.abort)
        if not self._is_reading:
            # TLS has to hear the peer's goodbye, and plain TCP that the peer is gone.
            self._is_reading = True
            self.transport.resumeProducing()
        # With a producer registered, TLS would wait for it before it closes.
        self.transport.unregisterProducer()
        if self._half_closes and not self._peer_is_done:
            # `writeConnectionLost` goes on.
            self.transport.loseWriteConnection()
        else:
            self.transport.loseConnection()

    def _abort_handshake(self) -> None:
        # A goodbye would have to wait for the handshake, and the peer may never end that.
        self._reason = "closed before the TLS handshake was done"
        self.abort()

    @override
    def _violated(self, reason: str) -> None:
        log.warn("{peer}: {reason}; closed", peer=self.peer_text, reason=reason)
        self._is_reported = True
        self._abort(reason)

    @override
    def _abort(self, reason: str) -> None:
        self._state = State.CLOSING
        self._reason = reason
        # The transport would drop it, and nobody could tell that it was never sent.
        self._outbox.hold()
        self._end_watches()
        self._take_backlog()
        self._serving.close()
        self.transport.abortConnection()

    def abort(self) -> None:
        """Close at once, whatever is not written."""
        if self._close_timer is not None and self._close_timer.active():
            self._close_timer.cancel()
        self._close_timer = None
        if self._state is not State.LOST:
            self._abort(self._reason or "this side aborted it")
