"""Reports of connections and of calls that have ended: log, access log and metrics.

The log gets one line per connection and one per failed call. The access log and the metrics, if
they are on, get every call.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import CancelledError
from twisted.logger import LogLevel

from kn_sock._display import safe_repr, text_of, truncate
from kn_sock._exceptions import describe_exception
from kn_sock._io.clock import time_of_day
from kn_sock._observe.peer_log import PeerLog
from kn_sock._observe.stats import LOST, OK, UNKNOWN, Stats, outcome_of
from kn_sock.errors import ErrorCode, RPCError

if TYPE_CHECKING:
    from kn_sock._observe.access_log import AccessLog
    from kn_sock._wire.events import Request

_RAISED: Final = "{call} from {peer} raised {kind}: {error} ({where}; {outcome}, {milliseconds} ms)"
_HIDDEN: Final = _RAISED + "; internal error, reference {reference}:\n{traceback}"
_FAILED: Final = "{call} from {peer} failed: {error} ({outcome}, {milliseconds} ms)"


class Reports:
    """Where the connections of one factory report.

    Args:
        stats: counts, or ``None``.
        access_log: gets a line for each call, or ``None``.
        log: writes lines about peers.
    """

    def __init__(
        self,
        stats: Stats | None = None,
        access_log: AccessLog | None = None,
        log: PeerLog | None = None,
    ) -> None:
        self.stats = stats
        self.log = log or PeerLog()
        self._access_log = access_log

    @property
    def wants_connections(self) -> bool:
        """Whether connections are reported when they begin, and not only when they end."""
        return self.stats is not None

    @property
    def wants_all(self) -> bool:
        """Whether calls that succeed are reported, too."""
        return self.stats is not None or self._access_log is not None

    # --- connections ------------------------------------------------------------------------------

    def opened(self, connection: Any, *parts: Any) -> ConnectionReport:
        """Register a connection, and the sources of its metrics; see `ConnectionReport`."""
        report = ConnectionReport(self, connection, *parts)
        if self.stats is not None:
            self.stats.opened(report)
        return report

    def refused(self, reason: str) -> None:
        """Count a connection that was closed before it could call; the reason is a word of ours."""
        if self.stats is not None:
            self.stats.connection_refused(reason)

    def login_failed(self) -> None:
        """Count a try to log in that failed."""
        if self.stats is not None:
            self.stats.login_failed()

    def close(self) -> None:
        """Close the file of the access log, and write the counts of dropped lines."""
        self.log.close()
        if self._access_log is not None:
            self._access_log.close()

    # --- calls ------------------------------------------------------------------------------------

    def ended(
        self,
        connection: Any,
        request: Request,
        seconds: float,
        outcome: str,
        *,
        code: int | None = None,
        is_known: bool,
    ) -> None:
        """Count a call, and write its line into the access log.

        Args:
            connection: by which it came.
            request: the call.
            seconds: from when it was read.
            outcome: a word for how it ended.
            code: the error's, if it failed.
            is_known: whether there is a method of that name.
        """
        if self.stats is not None:
            name = request.method if is_known else UNKNOWN
            self.stats.ended(name, outcome, seconds)
        if self._access_log is not None:
            now = datetime.fromtimestamp(time_of_day(connection.reactor), timezone.utc)
            event = {
                "time": now.isoformat(timespec="milliseconds"),
                "peer": connection.peer_text,
                "method": safe_repr(request.method),
                "milliseconds": _milliseconds(seconds),
                "outcome": outcome,
                **_identity_of(connection),
            }
            if code is not None:
                event["code"] = code
            self._access_log(event)


class ConnectionReport:
    """The reports of one connection.

    Args:
        reports: where to.
        connection: which.
        reader, outbox, session: its parts.
        serving: what serves its calls.
    """

    __slots__ = ("_connection", "_outbox", "_reader", "_reports", "_serving", "_session")

    def __init__(
        self,
        reports: Reports,
        connection: Any,
        reader: Any,
        outbox: Any,
        session: Any,
        serving: Any,
    ) -> None:
        self._reports = reports
        self._connection = connection
        self._reader = reader
        self._outbox = outbox
        self._session = session
        self._serving = serving

    # What `Stats` asks of it.

    @property
    def received_bytes(self) -> int:
        """How many bytes came."""
        return int(self._reader.received_bytes)

    @property
    def sent_bytes(self) -> int:
        """How many bytes were written."""
        return int(self._outbox.written_bytes)

    @property
    def late_replies(self) -> int:
        """How many replies came to calls of ours that had ended."""
        return int(self._session.late_replies)

    @property
    def calls_in_flight(self) -> int:
        """How many of the peer's calls have begun, and not ended."""
        return int(self._serving.calls_in_flight)

    @property
    def calls_waiting(self) -> int:
        """How many of the peer's calls were read, and have not begun."""
        return int(self._serving.calls_waiting)

    def closed(self, reason: str | None) -> None:
        """Report the end of the connection; without a reason, it has been logged already."""
        if self._reports.stats is not None:
            self._reports.stats.closed(self)
        if reason is None:
            return
        connection = self._connection
        self._reports.log.info(
            "{peer}: connection closed after {seconds} s, {messages} messages, "
            "{received_bytes} bytes in, {sent_bytes} bytes out: {reason}",
            peer=connection.peer_text,
            seconds=round(max(0.0, connection.reactor.seconds() - connection.opened_at), 3),
            messages=self._reader.messages,
            received_bytes=self.received_bytes,
            sent_bytes=self.sent_bytes,
            reason=reason,
            **_identity_of(connection),
        )


class CallReports:
    """What one connection reports of the calls that it serves. Each of them is reported once.

    Args:
        connection: theirs.
        reports: where to.
    """

    __slots__ = ("_connection", "_is_over", "_reports", "is_of_stranger")

    def __init__(self, connection: Any, reports: Reports) -> None:
        #: Whether the caller has to log in first. Callers without a login must not fill the log.
        self.is_of_stranger = False
        self._connection = connection
        self._reports = reports
        self._is_over = False

    def unreadable(self) -> None:
        """Count a line that was not a request."""
        if self._reports.stats is not None:
            self._reports.stats.unreadable += 1

    def cancelled(self) -> None:
        """Count a cancelled call."""
        if self._reports.stats is not None:
            self._reports.stats.cancellations += 1

    def ended(self, request: Request, outcome: str = OK, *, is_known: bool = True) -> None:
        """Report a call that ended without an error."""
        if not self._is_over:
            seconds = self._seconds_of(request)
            self._reports.ended(self._connection, request, seconds, outcome, is_known=is_known)

    def failed(
        self, request: Request, error: RPCError, raised: BaseException | None, *, is_known: bool
    ) -> None:
        """Report a call that failed.

        Args:
            request: the call.
            error: what the caller gets.
            raised: what the method raised, if that is what it was.
            is_known: whether there is a method of that name.
        """
        is_functions = raised is not None and not isinstance(raised, (RPCError, CancelledError))
        if self._is_over:
            # The call was reported when its connection ended; what its function did was not.
            if is_functions:
                self._log(request, error, raised)
            return
        stats = self._reports.stats
        if stats is not None and raised is None and _was_dropped(error):
            stats.deadline_drops += 1
        self._reports.ended(
            self._connection,
            request,
            self._seconds_of(request),
            outcome_of(error.code),
            code=error.code,
            is_known=is_known,
        )
        if is_functions or not self.is_of_stranger:
            self._log(request, error, raised if is_functions else None)

    def end(self, requests: Iterable[Request]) -> None:
        """Report that the connection ended before these calls; later reports are dropped."""
        if self._reports.wants_all:
            for request in requests:
                self.ended(request, LOST)
        self._is_over = True

    def _seconds_of(self, request: Request) -> float:
        connection = self._connection
        since = connection.read_at if request.since is None else request.since
        seconds: float = connection.reactor.seconds() - since
        # The clock on the wall may have been set back.
        return max(0.0, seconds)

    def _log(self, request: Request, error: RPCError, raised: BaseException | None) -> None:
        name = safe_repr(request.method)
        fields: dict[str, Any] = {
            "peer": self._connection.peer_text,
            "method": name,
            # Nothing is ever answered to a notification (section 4.1): the log is all there is.
            "call": name if request.expects_reply else f"the notification {name}",
            "milliseconds": _milliseconds(self._seconds_of(request)),
            "outcome": outcome_of(error.code),
            "code": error.code,
            "error": truncate(text_of(error)),
            **_identity_of(self._connection),
        }
        log = self._reports.log
        if raised is None:
            log.emit(_level_of(error), _FAILED, **fields)
            return
        fields["kind"] = type(raised).__name__
        fields["where"] = where_of(raised)
        if _is_hidden(error):
            fields["error"] = truncate(text_of(describe_exception(raised)))
            fields["reference"] = error.data["reference"]
            fields["traceback"] = traceback_of(raised)
            log.error(_HIDDEN, **fields)
        else:
            log.warn(_RAISED, **fields)


def _level_of(error: RPCError) -> Any:
    """Return the log level of an error that no function raised."""
    if error.code == ErrorCode.INTERNAL_ERROR:
        return LogLevel.error
    if error.code == ErrorCode.REPLY_TOO_LONG:
        return LogLevel.warn
    return LogLevel.info


def _is_hidden(error: RPCError) -> bool:
    return isinstance(error.data, dict) and "reference" in error.data


def _was_dropped(error: RPCError) -> bool:
    return error.code == ErrorCode.DEADLINE_PASSED and not error.data["maybe_executed"]


def _identity_of(connection: Any) -> dict[str, str]:
    """Return the identity of a connection as a log field, if it has one."""
    identity = getattr(connection, "identity", None)
    return {} if identity is None else {"identity": safe_repr(identity)}


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)


def where_of(exception: BaseException) -> str:
    """Return the file, line and function in which an exception was raised."""
    frame = exception.__traceback__
    if frame is None:
        return "nowhere"
    while frame.tb_next is not None:
        frame = frame.tb_next
    code = frame.tb_frame.f_code
    return f"{code.co_filename}:{frame.tb_lineno} in {code.co_name}"


def traceback_of(exception: BaseException) -> str:
    """Format a traceback from the method's own first line on."""
    frames = exception.__traceback__
    while frames is not None and frames.tb_frame.f_globals.get("__name__", "").startswith(
        "kn_sock."
    ):
        frames = frames.tb_next
    lines = traceback.format_exception(
        type(exception), exception, frames or exception.__traceback__
    )
    return "".join(lines)
