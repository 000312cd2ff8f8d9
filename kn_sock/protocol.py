"""`RPCProtocol`: one connection, composed of its parts. Both ends are this class.

The reader turns bytes into messages, the dispatcher serves the peer's calls, `PendingCalls` makes
our own, and `Closing` knows how the connection opens and ends.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IHandshakeListener
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from typing_extensions import override
from zope.interface import implementer

from kn_sock._calling.heartbeat import Heartbeat
from kn_sock._calling.pending import PendingCalls
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
    set_tcp_options,
    write_of,
)
from kn_sock._io.watchdogs import IdleWatchdog
from kn_sock._serving.dispatcher import Dispatcher
from kn_sock._serving.fastpath import FAST
from kn_sock._wire.documents import DocumentFramer
from kn_sock._wire.events import Role
from kn_sock._wire.framing import Framer, LineFramer
from kn_sock._wire.session import Session
from kn_sock._wire.sniffing import HTTP_ANSWER
from kn_sock.connection import RPCConnection

if TYPE_CHECKING:
    from kn_sock._calling.call import ClientCall
    from kn_sock._calling.context import ConnectionContext, IConnectionObserver
    from kn_sock._observe.peer_log import PeerLog
    from kn_sock._observe.reports import ConnectionReport
    from kn_sock._wire.events import Request
    from kn_sock.errors import RPCError
    from kn_sock.methods.signature import Method
    from kn_sock.options import Framing, ServerOptions

__all__ = ["RPCProtocol"]

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
    #: The reason and the cause with which the connection has ended; ``None`` before that.
    loss: tuple[str, BaseException | None] | None = None
    # Whether the reason for the close was logged already.
    _is_reported = False
    # None without a ping_interval.
    _heartbeat: Heartbeat | None = None
    # None if nobody asks for the metrics of connections.
    _report: ConnectionReport | None = None

    def __init__(self, context: ConnectionContext, observer: IConnectionObserver) -> None:
        self.context = context
        self._observer = observer
        self.reactor = context.reactor
        self._closing = Closing(self, context.handshake_timeout)

    # --- the transport calls ----------------------------------------------------------------------

    @override
    def connectionMade(self) -> None:
        transport = self.transport
        set_tcp_options(transport, self.context.runner.options.keepalive)
        process = process_of(transport)
        if process is not NO_PROCESS:
            self.peer_process = process
        context = self.context
        self._closing.half_closes = counts_undelivered(transport) and can_half_close(transport)
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
        context = self.context
        runner = context.runner
        self._session: Session[ClientCall] = Session(
            context.writer,
            max_line_bytes=options.max_line_bytes,
            max_batch=options.max_batch,
            unversioned=options.unversioned,
            role=context.role,
        )
        write = write_of(self.transport)
        is_prompt = not isinstance(write, SendAtOnce)
        self._outbox = Outbox(write, context.turn, is_prompt=is_prompt)
        self._serving = Dispatcher(self, self._session, self._outbox, runner, FAST)
        if options.serve_interceptors:
            self._serving.around = ServeInterceptors(self._serving, self).run
        framer = _FRAMERS[options.framing](options.max_line_bytes)
        most = options.max_containers if context.role is Role.SERVER else sys.maxsize
        parts = (framer, self._session, self._serving, self._outbox, context.turn)
        self._reader = Reader(self, *parts, max_containers=most)
        self._flow = FlowControl(self, self._outbox, options.send_timeout)
        # Called by the transport: without a call of our own in between.
        self.dataReceived = self._reader.feed  # type: ignore[method-assign]
        if options.idle_timeout is not None:
            self._reader.idle_watchdog = IdleWatchdog(
                self.reactor, options.idle_timeout, self._is_busy, self._idle
            )
        if options.ping_interval is not None:
            self._heartbeat = Heartbeat(self, options.ping_interval)

    @override
    def lineReceived(self, line: bytes) -> None:
        self._reader.handle([line])

    def handshakeCompleted(self) -> None:
        """The TLS handshake is done."""
        self._closing.feed(Input.SECURED)

    def readConnectionLost(self) -> None:
        """The peer has sent EOF: answer its calls, then close."""
        self._closing.feed(Input.PEER_EOF)

    def writeConnectionLost(self) -> None:
        """All that was written was handed to the kernel: close once it has arrived."""
        self._closing.feed(Input.WRITE_CLOSED)

    @override
    def connectionLost(self, reason: Failure = Failure(ConnectionError())) -> None:  # noqa: B008
        if self._closing.state is not State.NEW:
            self._end(reason)
        self._observer.connection_ended(self)
        self._closing.ended(reason)

    def _end(self, reason: Failure) -> None:
        closing = self._closing
        was_live = closing.is_live
        closing.feed(Input.LOST)
        self._reader.is_open = False
        left_over = self._reader.take_backlog()
        if was_live:
            self._reader.settle_from(left_over)
        problem = tls_problem(reason.value)
        if problem is not None and not closing.is_opening_awaited:
            self._log.info("{peer}: TLS failed: {problem}", peer=self.peer_text, problem=problem)
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
        self._flow.detach()
        if self.outgoing is not None:
            self.outgoing.detach()

    @property
    def peer(self) -> Any:
        """The peer's address; behind a proxy that sends PROXY headers, the caller's."""
        return self.transport.getPeer()

    @property
    def peer_text(self) -> str:
        """The peer's address as text, such as ``127.0.0.1:8080``."""
        return address_text(self.peer)

    @property
    def _log(self) -> PeerLog:
        return self.context.runner.reports.log

    def _make_report(self) -> ConnectionReport:
        reports = self.context.runner.reports
        return reports.opened(self, self._reader, self._outbox, self._session, self._serving)

    # --- what the table of closing asks for -------------------------------------------------------

    def opened(self) -> None:
        """Calls can be made and served."""
        self._reader.is_open = True
        self._observer.connection_opened(self)

    def hold_output(self) -> None:
        """Write nothing until `release_output`."""
        self._outbox.hold()

    def release_output(self) -> None:
        """Write what was held."""
        self._outbox.release()

    def read_to_end(self) -> bool:
        """Process what was read, now or in later turns; the peer sends no more."""
        return self._reader.read_to_end()

    def read_to_its_end(self) -> None:
        """All that the peer has sent is processed, and it sends no more."""
        self._closing.feed(Input.PEER_EOF)

    def fail_calls(self, reason: str) -> None:
        """Fail our own calls: no replies come any more."""
        self._end_calls(reason, None)

    def refuse_new_calls(self) -> None:
        """Serve no calls but those that were read."""
        self._serving.drain()

    def close_when_answered(self) -> None:
        """Close once every call of the peer has been answered."""
        if not self._closing.is_live:
            return
        self._serving.tells_when_idle = True
        if self._serving.is_idle and not self._reader.backlog:
            self._closing.feed(Input.ANSWERED, "closed when all was answered")

    serving_is_idle = close_when_answered

    def stop_serving(self, *, is_aborted: bool) -> None:
        """End every call; write nothing any more if aborted."""
        self._reader.is_open = False
        if is_aborted:
            # The transport would drop it, and it would count as sent.
            self._outbox.hold()
        else:
            if self.outgoing is not None:
                self.outgoing.cancel_all()
            self._outbox.finish()
        self._stop_watchdogs()
        self._reader.take_backlog()
        self._serving.close()
        if is_aborted:
            return
        self._end_calls(self._closing.reason or "this side closed it", None)
        self._flow.read_for_close()

    def refuse(self, protocol: str) -> None:
        """Disconnect a peer that speaks another protocol."""
        self._log.warn(
            "{peer} speaks {protocol}: closed, nothing was run",
            peer=self.peer_text,
            protocol=protocol,
        )
        self._is_reported = True
        self.context.runner.reports.refused(protocol.lower())
        happened = Input.ABORT
        if protocol == "HTTP" and self.context.role is Role.SERVER:
            self._outbox.put(HTTP_ANSWER)
            happened = Input.CLOSE
        self._closing.feed(happened, f"the peer speaks {protocol}")

    # --- how much is read and written -------------------------------------------------------------

    def set_peer_reads(self, reads: bool, unsent: int = 0) -> None:
        """Begin nothing new while the peer does not read, and so many bytes are unsent."""
        self._serving.set_peer_reads(reads, unsent)

    @property
    def awaits_replies(self) -> bool:
        """Whether calls of our own wait for this peer's replies."""
        return self.outgoing is not None and self.outgoing.is_waiting

    def update_reading(self) -> None:
        """Read on, or pause, by the calls in flight."""
        if self._closing.is_live:
            self._flow.update_reading()

    @property
    def wants_more(self) -> bool:
        """Whether to read on.

        Replies to our own calls arrive in the same stream as the peer's calls: while there are such
        calls, reading goes on, or two peers that call each other could wait for ever.
        """
        return not self._reader.backlog and self._serving.wants_more(self.awaits_replies)

    def stalled(self, reason: str) -> None:
        """Disconnect a peer that accepts no data, or is gone."""
        self._report_and_abort(reason, "aborted")

    def ignored(self, reason: str) -> None:
        """Log a reply that belongs to no call."""
        self._log.info("{peer}: {reason}; ignored", peer=self.peer_text, reason=reason)

    def violated(self, reason: str) -> None:
        """Disconnect a peer that broke the protocol."""
        self._report_and_abort(reason, "closed")

    def _report_and_abort(self, reason: str, verb: str) -> None:
        self._log.warn("{peer}: {reason}; {verb}", peer=self.peer_text, reason=reason, verb=verb)
        self._is_reported = True
        self._closing.feed(Input.ABORT, reason)

    def _is_busy(self) -> bool:
        return self.awaits_replies or not self._serving.is_idle or self._flow.is_accepting

    def _idle(self) -> None:
        self._closing.feed(Input.CLOSE, "nothing happened on it for idle_timeout")

    def _stop_watchdogs(self) -> None:
        self._flow.stop()
        for watchdog in (self._reader.idle_watchdog, self._heartbeat):
            if watchdog is not None:
                watchdog.end()

    # --- calls that we make -----------------------------------------------------------------------

    @property
    def connection(self) -> RPCConnection:
        """The connection, for calls to the peer. Thread: any."""
        try:
            return self._connection
        except AttributeError:
            # Asked for by two threads at once, it is one: dict.setdefault() is atomic.
            context = self.context
            made = RPCConnection(self.calls(), context.call_options, context.intercepting)
            return cast(RPCConnection, vars(self).setdefault("_connection", made))

    def calls(self) -> PendingCalls:
        """Our own calls in flight; made when first needed. Thread: any."""
        outgoing = self.outgoing
        if outgoing is None:
            made = PendingCalls(self, self._session, self._outbox, self._flow)
            outgoing = cast(PendingCalls, vars(self).setdefault("outgoing", made))
            if self.loss is not None:
                outgoing.end(*self.loss)
            if self._closing.state is State.LOST:
                outgoing.detach()
        return outgoing

    def _end_calls(self, reason: str, cause: BaseException | None) -> None:
        """Fail our own calls, those in flight and those that begin later."""
        if self.loss is None:
            self.loss = (reason, cause)
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
        return self._closing.is_live and not self._closing.peer_is_done

    def serve(
        self,
        methods: Mapping[str, Method],
        absent: Callable[[Request], RPCError | None] | None = None,
    ) -> None:
        """Serve these methods to this peer from now on; see `Dispatcher.serve`."""
        self._serving.serve(methods, absent)
        self._reader.limit_lines(is_stranger=absent is not None)

    def when_open(self) -> Deferred[None]:
        """Return a Deferred that fires when calls can be made; see `Closing.when_open`."""
        return self._closing.when_open()

    def when_closed(self) -> Deferred[None]:
        """Return a Deferred that fires when the connection has ended."""
        return self._closing.when_closed()

    def drain(self) -> Deferred[None]:
        """Refuse new calls, finish those in flight, flush, close.

        Returns:
            A Deferred that fires when the connection is closed.
        """
        self._closing.feed(Input.DRAIN)
        return self.when_closed()

    def close(self) -> Deferred[None]:
        """Write what waits and close; our own calls in flight fail.

        Returns:
            A Deferred that fires when the connection is closed.
        """
        reason = "this side closed it" if self._closing.is_live else None
        self._closing.feed(Input.CLOSE, reason)
        return self.when_closed()

    def abort(self) -> None:
        """Close at once, whatever is not written."""
        self._closing.feed(Input.ABORT)
