"""Replies to the peer's calls: encoded, counted while the peer does not read, and reported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from kn_sock._observe.reports import CallReports
from kn_sock._observe.stats import EXIT
from kn_sock._serving.budget import Account, Use
from kn_sock._serving.results import EncodedResult
from kn_sock._serving.runner import ASKS_TO_EXIT
from kn_sock._wire.answers import within_limit
from kn_sock._wire.dialects import JSONRPC_2
from kn_sock._wire.encoding import LEAST_INT, MOST_INT, Success, is_plain
from kn_sock._wire.weight import HEAVY_BYTES
from kn_sock.errors import InternalError, InvalidParams, RPCError

if TYPE_CHECKING:
    from kn_sock._io.outbox import Outbox
    from kn_sock._serving.runner import Runner
    from kn_sock._wire.batches import BatchReply
    from kn_sock._wire.events import Request
    from kn_sock._wire.session import Session
    from kn_sock.methods.signature import Method


class Connection(Protocol):
    """What the serving side needs of its connection."""

    reactor: Any
    read_at: float

    @property
    def peer_text(self) -> str:
        """The peer's address, as text."""

    @property
    def awaits_replies(self) -> bool:
        """Whether calls of our own wait for this peer's replies."""

    def update_reading(self) -> None:
        """Read on or pause, by `Dispatcher.wants_more`."""

    def serving_is_idle(self) -> None:
        """Every call has been answered."""


class EndedConnection:
    """Stands for a connection that has ended."""

    reactor: Any = None
    read_at = 0.0
    peer_text = "a connection that has ended"
    awaits_replies = False

    def update_reading(self) -> None:
        """Nothing is read any more."""

    def serving_is_idle(self) -> None:
        """Nothing waits for that."""


class Owner(Protocol):
    """What is notified of answered requests."""

    def answered(self, request: Request) -> None:
        """A request has been answered."""

    def proceed(self) -> None:
        """There is room again."""


class _NoOwner:
    """Stands for the owner once the connection has ended."""

    def answered(self, request: Request) -> None:
        """Nothing waits for it."""

    def proceed(self) -> None:
        """Nothing waits for room."""


_NO_OWNER = _NoOwner()


class Replies:
    """Answers the calls of one connection.

    Args:
        connection: whose calls these are.
        session: encodes replies within the limits.
        outbox: sends them.
        runner: has the options, and what the factory reports to.
        owner: is notified of requests that are answered, if something waits for that: a turn in a
            dialect without ids, or a deadline.
    """

    __slots__ = (
        "_account",
        "_connection",
        "_outbox",
        "_own_reports",
        "_owner",
        "_runner",
        "_session",
        "_unread",
        "is_over",
        "is_paused",
        "methods",
        "records",
    )

    def __init__(
        self,
        connection: Connection,
        session: Session[Any],
        outbox: Outbox,
        runner: Runner,
        owner: Owner,
    ) -> None:
        self._connection = connection
        self._session = session
        self._outbox = outbox
        self._runner = runner
        self._owner = owner
        #: The methods that are served, by name.
        self.methods: Mapping[str, Method] = runner.methods
        #: Whether the connection has ended: nothing is written any more.
        self.is_over = False
        #: Whether the peer does not read what is written to it.
        self.is_paused = False
        # Bytes of replies that wait for it until it does.
        self._unread = 0
        self._own_reports: CallReports | None = None
        self._account: Account | None = None
        #: Where calls that succeed are reported; ``None`` if nobody counts or logs them.
        self.records: CallReports | None = self.reports if runner.reports.wants_all else None

    @property
    def account(self) -> Account:
        """Counts the bytes that calls take; made when first needed. Reactor: its thread."""
        if self._account is None:
            self._account = Account(self._runner.budget, self._owner.proceed)
        return self._account

    @property
    def may_begin(self) -> bool:
        """Whether the budget has room for another call."""
        return self._account is None or self._account.may_begin

    @property
    def has_reports(self) -> bool:
        """Whether there was anything to report."""
        return self._own_reports is not None

    @property
    def reports(self) -> CallReports:
        """Where calls are reported; made when first needed."""
        reports = self._own_reports
        if reports is None:
            reports = self._own_reports = CallReports(self._connection, self._runner.reports)
        return reports

    def set_peer_reads(self, reads: bool, unsent: int) -> None:
        """Begin or end to count the bytes that wait for the peer; so many wait already."""
        self.is_paused = not reads
        if unsent != self._unread:
            self.account.add(Use.RESULTS, unsent - self._unread)
            self._unread = unsent

    def close(self) -> None:
        """Write and count nothing any more: the connection has ended."""
        self.is_over = True
        self.account.close()

    def detach(self, connection: Connection) -> None:
        """Replace the connection, which has ended, so that nothing here keeps it alive."""
        self._connection = connection
        self._owner = _NO_OWNER

    def answer(self, request: Request, result: Any) -> None:
        """Reply with a result; a result without a JSON form becomes an error."""
        if (
            request.dialect is JSONRPC_2
            and type(request.id) is int
            and request.batch is None
            and ((type(result) is int and LEAST_INT <= result <= MOST_INT) or is_plain(result))
            and request.expects_reply
            and not self.is_paused
            and self._runner.queues_plain_replies
        ):
            # Encoded together with the other plain replies of this turn of the reactor.
            if request.number:
                self._owner.answered(request)
            if not self.is_over:
                outbox = self._outbox
                if not outbox.replies:
                    outbox.begin()
                outbox.replies.append(Success("2.0", request.id, result))
            if self.records is not None:
                self.records.ended(request)
            return
        try:
            if type(result) is EncodedResult:
                limit = self._runner.options.max_line_bytes
                line = within_limit(request, result.line, limit, is_result=True)
            else:
                line = self._session.answer(request, result)
        except InternalError as problem:
            self.refuse(request, InternalError(f"{request.method}: {problem}"))
            return
        except RPCError as problem:
            self.refuse(request, problem)
            return
        self._note_answered(request)
        if request.batch is not None:
            self._count_batch(request.batch)
        if line is not None and not self.is_over:
            self._put(line)
        if request.replaced_by is not None:
            self._report(request, request.replaced_by)
        elif self.records is not None:
            self.records.ended(request)

    def refuse(
        self, request: Request, error: RPCError, raised: BaseException | None = None
    ) -> None:
        """Reply with an error.

        Args:
            request: the request.
            error: what the caller gets.
            raised: the exception that the method raised, if it did.
        """
        self._note_answered(request)
        if isinstance(error, InvalidParams) and error.hidden_text is not None:
            error = self._shown(error)
        if isinstance(raised, ASKS_TO_EXIT):
            self.reports.ended(request, EXIT)
        else:
            self._report(request, error, raised)
        if self.is_over:
            return
        line = self._session.refuse(request, error)
        if request.batch is not None:
            self._count_batch(request.batch)
        if line is not None:
            self._put(line)

    def _shown(self, error: InvalidParams) -> RPCError:
        """Return what the caller sees of an error whose text is the application's."""
        if self._runner.options.expose_errors or error.hidden_text is None:
            return error
        return InvalidParams(error.hidden_text)

    def encode_refusal(self, request: Request, error: RPCError) -> bytes | None:
        """Report and encode the refusal of a request; the caller sends it in its turn."""
        self._note_answered(request)
        self._report(request, error)
        return self._session.refuse(request, error)

    def end_batch(self, batch: BatchReply) -> None:
        """Send the reply to a batch, if it is complete."""
        if not self.is_over:
            line = batch.line()
            self._count_batch(batch)
            if line is not None:
                self._put(line)

    def _note_answered(self, request: Request) -> None:
        if request.number or request.dialect.answers_in_order:
            self._owner.answered(request)

    def _put(self, line: bytes) -> None:
        """Send a line; while the peer does not read, it is counted until it does."""
        if self.is_paused:
            self._unread += len(line)
            self.account.add(Use.RESULTS, len(line))
        self._outbox.put(line)

    def _count_batch(self, batch: BatchReply) -> None:
        """Count the replies that wait for the other members of their batch."""
        size = 0 if batch.is_sent else batch.size
        if size - batch.counted >= HEAVY_BYTES or (batch.counted and batch.is_sent):
            self.account.add(Use.RESULTS, size - batch.counted)
            batch.counted = size

    def _report(
        self, request: Request, error: RPCError, raised: BaseException | None = None
    ) -> None:
        self.reports.failed(request, error, raised, is_known=request.method in self.methods)
