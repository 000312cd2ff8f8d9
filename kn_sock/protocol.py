"""`RPCProtocol`: one connection, composed of its parts. Both ends are this class.

The reader turns bytes into messages, the dispatcher serves the peer's calls, `PendingCalls` makes
our own, and `Closing` knows how the connection opens and ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IHandshakeListener,
)
from twisted.logger import Logger
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from typing_extensions import override
from zope.interface import implementer

from kn_sock._calling.pending import ClientCall, PendingCalls
from kn_sock._intercept.serving import ServeInterceptors
from kn_sock._io.closing import Closing, Input, State
from kn_sock._io.flow import FlowControl
from kn_sock._io.outbox import Outbox
from kn_sock._io.reader import Reader
from kn_sock._io.tls import tls_problem
from kn_sock._io.transport import (
    NO_PROCESS,
    SendAtOnce,
    address_text,
    can_half_close,
    certificate_of,
    counts_undelivered,
    is_tls,
    process_of,
    write_of,
)
from kn_sock._io.watchdogs import IdleWatchdog
from kn_sock._serving.dispatcher import Dispatcher
from kn_sock._serving.fastpath import FAST
from kn_sock._wire.dialects import JSONRPC_2
from kn_sock._wire.documents import DocumentFramer
from kn_sock._wire.framing import Framer, LineFramer
from kn_sock._wire.session import Session
from kn_sock.connection import RPCConnection
from kn_sock.errors import ParseError, RPCError

if TYPE_CHECKING:
    from kn_sock._calling.context import ConnectionContext, IConnectionObserver
    from kn_sock._observe.reports import ConnectionReport
    from kn_sock._wire.events import Request
    from kn_sock.methods.signature import Method
    from kn_sock.options import Framing, ServerOptions

__all__ = ["RPCProtocol"]

log = Logger()

_FRAMERS: Final[dict[Framing, type[Framer]]] = {
    "lines": LineFramer,
    "documents": DocumentFramer,
}


@implementer(IHalfCloseableProtocol, IHandshakeListener)
class RPCProtocol(LineReceiver):
    """Newline-delimited JSON-RPC over any stream transport; the same class at both ends.

    Created by `RPCServerFactory` and by the clients. Calls are made through `connection`.

    It is composed of a reader, a dispatcher, the calls that this end makes, and the table of how it
    closes; here they meet the transport.

    Reactor: its thread only.

    Spec: JSON-RPC 2.0, JSON-RPC 1.0, kn-sock 0.3, each message answered in its own dialect.
    """

    delimiter = b"\n"
    # Any stream transport; what it offers beyond ITransport is looked up when it is used.
    transport: Any
    #: The identity that has logged in, as named by the server's checker; ``None`` if none has.
    identity: str | None = None
    #: The process at the other end of a Unix socket.
    peer_process = NO_PROCESS
    #: Our own calls in flight; ``None`` until one is made.
    outgoing: PendingCalls | None = None
    #: When what is processed now was read, in the reactor's seconds.
    read_at: float
    _connection: RPCConnection
    _opening: Deferred[None] | None = None
    _close_waiters: tuple[Deferred[None], ...] = ()
    # The reason and the cause with which our calls ended.
    _loss: tuple[str, BaseException | None] | None = None
    # Whether the reason for the close was logged already.
    _is_reported = False
    # None if nobody asks for the metrics of connections.
    _report: ConnectionReport | None = None
    # None until there is a transport.
    _closing: Closing | None = None

    def __init__(self, context: ConnectionContext, observer: IConnectionObserver) -> None:
        self._context = context
        self._observer = observer
        self.reactor = context.reactor
        #: Encodes requests for this connection.
        self.writer = context.writer

    # --- the transport calls ----------------------------------------------------------------------

    @override
    def connectionMade(self) -> None:
        transport = self.transport
        # Nagle's algorithm and delayed acknowledgements make small replies wait for each other.
        for option in ("setTcpNoDelay", "setTcpKeepAlive"):
            getattr(transport, option, lambda _: None)(True)
        process = process_of(transport)
        if process is not NO_PROCESS:
            self.peer_process = process
        context = self._context
        half_closes = counts_undelivered(transport) and can_half_close(transport)
        self._closing = Closing(self, half_closes, context.handshake_timeout)
        self._compose(context.runner.options)
        context.thread_id = get_ident()
        self.opened_at = self.read_at = self.reactor.seconds()
        transport.registerProducer(self._flow, True)
        if context.runner.reports.wants_connections:
            self._report = self._make_report()
        self._observer.connection_made(self)
        self._closing.feed(Input.MADE_TLS if is_tls(transport) else Input.MADE)

    def _compose(self, options: ServerOptions) -> None:
        """Make the parts that work on what comes in."""
        context = self._context
        runner = context.runner
        self._session: Session[ClientCall] = Session(
            context.writer,
            max_line_bytes=options.max_line_bytes,
            max_batch=options.max_batch,
            unversioned=options.unversioned,
        )
        write = write_of(self.transport)
        is_prompt = not isinstance(write, SendAtOnce)
        self._outbox = Outbox(write, context.turn, is_prompt=is_prompt)
        self._serving = Dispatcher(self, self._session, self._outbox, runner, FAST)
        if options.serve_interceptors:
            self._serving.around = ServeInterceptors(self._serving, self).run
        framer = _FRAMERS[options.framing](options.max_line_bytes)
        self._reader = Reader(
            self, framer, self._session, self._serving, self._outbox, context.turn
        )
        self._flow = FlowControl(self, self._outbox, options.send_timeout)
        # Called by the transport: without a call of our own in between.
        self.dataReceived = self._reader.feed  # type: ignore[method-assign]
        if options.idle_timeout is not None:
            self._reader.idle_watchdog = IdleWatchdog(
                self.reactor, options.idle_timeout, self._is_busy, self._idle
            )

    @override
    def lineReceived(self, line: bytes) -> None:
        self._reader.handle([line])

    def handshakeCompleted(self) -> None:
        """The TLS handshake is done."""
        self._feed(Input.SECURED)

    def readConnectionLost(self) -> None:
        """The peer has sent EOF: answer its calls, then close."""
        self._feed(Input.PEER_EOF)

    def writeConnectionLost(self) -> None:
        """All that was written was handed to the kernel: close once it has arrived."""
        self._feed(Input.WRITE_CLOSED)

    @override
    def connectionLost(self, reason: Failure = Failure(ConnectionError())) -> None:  # noqa: B008
        closing = self._closing
        if closing is not None:
            self._end(closing, reason)
        self._observer.connection_ended(self)
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.errback(reason)
        waiters, self._close_waiters = self._close_waiters, ()
        for waiter in waiters:
            waiter.callback(None)

    def _end(self, closing: Closing, reason: Failure) -> None:
        was_live = closing.is_live
        closing.feed(Input.LOST)
        self._reader.is_open = False
        left_over = self._reader.take_backlog()
        if was_live:
            self._reader.settle_from(left_over)
        problem = tls_problem(reason.value)
        # A client reports it by what waits for the connection to open.
        if problem is not None and self._opening is None:
            log.info("{peer}: TLS failed: {problem}", peer=self.peer_text, problem=problem)
        self._stop_watchdogs()
        self._serving.close()
        text = closing.reason or reason.getErrorMessage()
        self._end_calls(text, reason.value)
        self._outbox.close()
        report = self._report or self._make_report()
        report.closed(None if self._is_reported else text)
        if self._serving.is_idle:
            self._serving.detach()
        # Parts that refer to the connection would make it wait for the garbage collector.
        del self.dataReceived
        self._reader.detach()
        closing.detach()
        self._flow.detach()

    def _feed(self, happened: Input, reason: str | None = None) -> None:
        if self._closing is not None:
            self._closing.feed(happened, reason)

    @property
    def peer(self) -> Any:
        """The peer's address; behind a proxy that sends PROXY headers, the caller's."""
        return self.transport.getPeer()

    @property
    def peer_text(self) -> str:
        """The peer's address as text, such as ``127.0.0.1:8080``."""
        return address_text(self.peer)

    @property
    def messages(self) -> int:
        """How many lines came in."""
        return self._reader.messages

    @property
    def received_bytes(self) -> int:
        """How many bytes came in."""
        return self._reader.received_bytes

    def _make_report(self) -> ConnectionReport:
        reports = self._context.runner.reports
        return reports.opened(self, self._outbox, self._session, self._serving)

    # --- what the table of closing asks for -------------------------------------------------------

    def opened(self) -> None:
        """Calls can be made and served."""
        self._reader.is_open = True
        self._observer.connection_opened(self)
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.callback(None)

    def hold_output(self) -> None:
        """Write nothing until `release_output`."""
        self._outbox.hold()

    def release_output(self) -> None:
        """Write what was held."""
        self._outbox.release()

    def read_to_end(self) -> None:
        """Process what was read; the peer sends no more."""
        reader = self._reader
        if reader.backlog:
            reader.handle(reader.take_backlog())
        missing = reader.missing_end
        if missing is not None and reader.is_open:
            error = ParseError(f"{missing}; nothing in it was run")
            self._outbox.put(JSONRPC_2.encode_error(None, error))

    def fail_calls(self, reason: str) -> None:
        """Fail our own calls: no replies come any more."""
        self._end_calls(reason, None)

    def refuse_new_calls(self) -> None:
        """Serve no calls but those that were read."""
        self._serving.drain()

    def close_when_answered(self) -> None:
        """Close once every call of the peer has been answered."""
        if self._closing is None or not self._closing.is_live:
            return
        self._serving.tells_when_idle = True
        if self._serving.is_idle and not self._reader.backlog:
            self._feed(Input.ANSWERED, "closed when all was answered")

    serving_is_idle = close_when_answered

    def stop_serving(self, *, is_aborted: bool) -> None:
        """End every call; write nothing any more if aborted."""
        self._reader.is_open = False
        if is_aborted:
            # The transport would drop it, and nobody could tell that it was never sent.
            self._outbox.hold()
        else:
            if self.outgoing is not None:
                self.outgoing.cancel_all()
            self._context.turn.flush()
        self._stop_watchdogs()
        self._reader.take_backlog()
        self._serving.close()
        if is_aborted:
            return
        reason = self._closing.reason if self._closing is not None else None
        self._end_calls(reason or "this side closed it", None)
        self._flow.read_for_close()

    def refuse(self, protocol: str) -> None:
        """Disconnect a peer that speaks another protocol."""
        log.warn(
            "{peer} speaks {protocol}: closed, nothing was run",
            peer=self.peer_text,
            protocol=protocol,
        )
        self._is_reported = True
        self._context.runner.reports.refused(protocol.lower())
        self._feed(Input.ABORT, f"the peer speaks {protocol}")

    # --- how much is read and written -------------------------------------------------------------

    def set_peer_reads(self, reads: bool) -> None:
        """Begin nothing new while the peer does not read what is written to it."""
        self._serving.set_peer_reads(reads)

    @property
    def awaits_replies(self) -> bool:
        """Whether calls of our own wait for this peer's replies."""
        return self.outgoing is not None and self.outgoing.is_waiting

    def update_reading(self) -> None:
        """Read on, or pause, by the calls in flight."""
        if self._closing is not None and self._closing.is_live:
            self._flow.update_reading()

    @property
    def wants_more(self) -> bool:
        """Whether to read on.

        Replies to our own calls arrive in the same stream as the peer's calls: while there are such
        calls, reading goes on, or two peers that call each other could wait for ever.
        """
        return not self._reader.backlog and self._serving.wants_more(self.awaits_replies)

    def stalled(self) -> None:
        """Disconnect a peer that accepts no data."""
        seconds = self._context.runner.options.send_timeout
        self._report_and_abort(
            f"it took nothing of what was sent to it for {seconds:g} s", "aborted"
        )

    def violated(self, reason: str) -> None:
        """Disconnect a peer that broke the protocol."""
        self._report_and_abort(reason, "closed")

    def _report_and_abort(self, reason: str, verb: str) -> None:
        log.warn("{peer}: {reason}; {verb}", peer=self.peer_text, reason=reason, verb=verb)
        self._is_reported = True
        self._feed(Input.ABORT, reason)

    def _is_busy(self) -> bool:
        return self.awaits_replies or not self._serving.is_idle or self._flow.is_accepting

    def _idle(self) -> None:
        self._feed(Input.CLOSE, "nothing happened on it for idle_timeout")

    def _stop_watchdogs(self) -> None:
        self._flow.stop()
        if self._reader.idle_watchdog is not None:
            self._reader.idle_watchdog.end()

    # --- calls that we make -----------------------------------------------------------------------

    @property
    def connection(self) -> RPCConnection:
        """The connection, for calls to the peer."""
        try:
            return self._connection
        except AttributeError:
            # Asked for by two threads at once, it is one: dict.setdefault() is atomic.
            settings = self._context
            made = RPCConnection(self, settings.call_options, settings.intercepting)
            return cast(RPCConnection, vars(self).setdefault("_connection", made))

    def start(self, calls: list[ClientCall], line: bytes) -> None:
        """Send a line, and wait for the replies to the calls that it makes.

        Raises:
            ConnectionLost: the connection has ended, and the line makes no call that could fail.
            RuntimeError: this is not the reactor's thread.
        """
        if get_ident() != self._context.thread_id:
            self._wrong_thread()
        outgoing = self.outgoing
        if outgoing is None:
            outgoing = self.calls()
        outgoing.start(calls, line)
        if not self._flow.is_reading:
            self.update_reading()

    def send_notification(self, line: bytes, timeout: float | None = None) -> Deferred[None]:
        """Send a line that is not answered. It does not wait here, whatever the *timeout*.

        Raises:
            ConnectionLost: the connection has ended.
            RuntimeError: this is not the reactor's thread.
        """
        if get_ident() != self._context.thread_id:
            self._wrong_thread()
        self.calls().notify(line)
        return succeed(None)

    @staticmethod
    def _wrong_thread() -> NoReturn:
        raise RuntimeError(
            "a connection is for its reactor's thread; elsewhere, wait for it by "
            "blockingCallFromThread(current_call().reactor, current_call().connection.call, …)"
        )

    def cancel_call(self, call: ClientCall) -> object:
        """Cancel a call, and notify the peer."""
        return self.calls().cancel(call)

    def calls(self) -> PendingCalls:
        """Our own calls in flight; made when first needed."""
        outgoing = self.outgoing
        if outgoing is None:
            outgoing = PendingCalls(self._session, self._outbox, self.reactor, self.peer_text)
            self.outgoing = outgoing
            if self._loss is not None:
                outgoing.end(*self._loss)
        return outgoing

    def _end_calls(self, reason: str, cause: BaseException | None) -> None:
        """Fail our own calls, those in flight and those that begin later."""
        if self._loss is None:
            self._loss = (reason, cause)
        if self.outgoing is not None:
            self.outgoing.end(reason, cause)

    # --- the end ----------------------------------------------------------------------------------

    @property
    def peer_certificate(self) -> Any:
        """The certificate that the peer showed over TLS, or ``None``."""
        return certificate_of(self.transport)

    @property
    def is_open(self) -> bool:
        """Whether calls can be made."""
        closing = self._closing
        return closing is not None and closing.is_live and not closing.peer_is_done

    def serve(
        self,
        methods: Mapping[str, Method],
        absent: Callable[[Request], RPCError | None] | None = None,
    ) -> None:
        """Serve these methods to this peer from now on; see `Dispatcher.serve`."""
        self._serving.serve(methods, absent)

    def when_open(self) -> Deferred[None]:
        """Wait until calls can be made: over TLS, until the handshake is done.

        Returns:
            A Deferred that fires then, or fails with what ended the connection before. Cancelling
            it aborts the connection.
        """
        if self._closing is None or self._closing.state is not State.SECURING:
            is_live = self._closing is not None and self._closing.is_live
            return succeed(None) if is_live else fail(ConnectionAborted())

        def give_up(_: object) -> None:
            self._opening = None
            self.abort()

        self._opening = Deferred(give_up)
        return self._opening

    def when_closed(self) -> Deferred[None]:
        """Return a Deferred that fires when the connection has ended."""
        if self._closing is not None and self._closing.state is State.LOST:
            return succeed(None)
        waiter: Deferred[None] = Deferred()
        self._close_waiters = (*self._close_waiters, waiter)
        return waiter

    def drain(self) -> Deferred[None]:
        """Refuse new calls, finish those in flight, flush, close.

        Returns:
            A Deferred that fires when the connection is closed.
        """
        self._feed(Input.DRAIN)
        return self.when_closed()

    def close(self) -> Deferred[None]:
        """Write what waits and close; our own calls in flight fail.

        Returns:
            A Deferred that fires when the connection is closed.
        """
        if self._closing is not None and self._closing.is_live:
            self._feed(Input.CLOSE, "this side closed it")
        else:
            self._feed(Input.CLOSE)
        return self.when_closed()

    def abort(self) -> None:
        """Close at once, whatever is not written."""
        self._feed(Input.ABORT)
