"""Answers to the peer's calls: written, bounded while nobody reads them, and reported.

What is answered, and when, is `_serving`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from kn_sock._io.outbox import Outbox
from kn_sock._observe.reports import CallReports
from kn_sock._observe.stats import EXIT
from kn_sock._serving.runner import Runner
from kn_sock._wire.dialects import JSONRPC_2
from kn_sock._wire.events import Request
from kn_sock._wire.session import Session
from kn_sock.errors import ErrorCode, InternalError, RPCError
from kn_sock.methods.table import Method

# So many of the longest lines may wait for a peer that does not read.
_UNREAD_LINES: Final = 16
_UNREAD_ERROR = RPCError(
    ErrorCode.REPLY_TOO_LONG, "the reply was dropped: too much waits to be read before it"
)


class Connection(Protocol):
    """What is asked of the connection whose calls are served."""

    reactor: Any
    read_at: float

    @property
    def peer_text(self) -> str:
        """The peer's address as a person would write it."""

    @property
    def awaits_replies(self) -> bool:
        """Whether calls of our own wait for this peer's replies."""

    def update_reading(self) -> None:
        """Ask `Dispatcher.wants_more` once more."""

    def serving_is_idle(self) -> None:
        """Take note that every call is answered."""


class _Ended:
    """Stands for a connection that has ended."""

    reactor: Any = None
    read_at = 0.0
    peer_text = "a connection that has ended"
    awaits_replies = False

    def update_reading(self) -> None:
        """Nothing is read."""

    def serving_is_idle(self) -> None:
        """Nobody waits for that."""


_ENDED = _Ended()


class Replies:
    """Answers the calls of one connection.

    Args:
        protocol: whose connection it is; told when reading should pause, and when all is answered.
        session: writes the answers.
        outbox: sends them.
        runner: has the methods, and the options.
    """

    _is_over = False
    # Bytes of replies since the peer stopped reading; None while it reads.
    _bytes_while_paused: int | None = None
    _own_reports: CallReports | None = None
    # None where calls that succeed are told to nobody, and cost nothing.
    _records: CallReports | None = None

    def __init__(
        self,
        protocol: Connection,
        session: Session[Any],
        outbox: Outbox,
        runner: Runner,
    ) -> None:
        self._protocol = protocol
        self._session = session
        self._outbox = outbox
        self._runner = runner
        self._methods: Mapping[str, Method] = runner.methods
        if runner.reports.wants_all:
            self._records = self._reports

    def detach(self) -> None:
        """Forget the connection, which has ended, and had no calls under way any more.

        Two that have each other would wait for the garbage collector.
        """
        self._protocol = _ENDED

    @property
    def _reports(self) -> CallReports:
        """Where calls are reported; many a connection has nothing to report."""
        reports = self._own_reports
        if reports is None:
            reports = self._own_reports = CallReports(self._protocol, self._runner.reports)
        return reports

    def _answer(self, request: Request, result: Any) -> None:
        try:
            line = self._session.answer(request, result)
        except InternalError as problem:
            self._refuse(request, InternalError(f"{request.method}: {problem}"))
            return
        self._leave_turn(request)
        if line is not None and not self._is_over:
            if self._bytes_while_paused is not None:
                short = self._within_unread(request, line, self._bytes_while_paused)
                if short is not line:
                    request.replaced_by = _UNREAD_ERROR
                line = short
            self._outbox.put(line)
        if request.replaced_by is not None:
            self._report(request, request.replaced_by)
        elif self._records is not None:
            self._records.ended(request)

    def _within_unread(self, request: Request, line: bytes, unread: int) -> bytes:
        """Let no more than so many bytes of replies wait for a peer that does not read."""
        most = _UNREAD_LINES * self._runner.options.max_line_bytes
        if unread + len(line) > most:
            text = f"the reply was dropped: more than {most:,} bytes wait to be read before it"
            error = RPCError(ErrorCode.REPLY_TOO_LONG, text)
            if request.batch is None:
                instead = self._session.refuse(request, error) or line
            else:
                instead = JSONRPC_2.encode_error(None, error)
            # What is an error already, and as short, stays as it is.
            line = min(line, instead, key=len)
        self._bytes_while_paused = unread + len(line)
        return line

    def _leave_turn(self, request: Request) -> None:
        """Take note that a request is answered."""

    def _refuse(
        self, request: Request, error: RPCError | None, raised: BaseException | None = None
    ) -> None:
        self._leave_turn(request)
        if error is None:
            self._reports.ended(request, EXIT)
            return
        self._report(request, error, raised)
        if self._is_over:
            return
        line = self._session.refuse(request, error)
        if line is not None:
            if self._bytes_while_paused is not None:
                line = self._within_unread(request, line, self._bytes_while_paused)
            self._outbox.put(line)

    def _refuse_unbegun(self, request: Request, error: RPCError) -> bytes | None:
        """Write the refusal of a request that was never let in; it is sent in its turn."""
        self._leave_turn(request)
        self._report(request, error)
        return self._session.refuse(request, error)

    def _report(
        self, request: Request, error: RPCError, raised: BaseException | None = None
    ) -> None:
        is_known = request.method in self._methods
        self._reports.failed(request, error, raised, is_known=is_known)
