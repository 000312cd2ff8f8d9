"""The metrics of a server.

Prometheus and ``rpc.stats`` both read a `Stats`. What open connections count themselves, such as
bytes, is read from them only when the metrics are read.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, Final, Protocol

from kn_sock.errors import ErrorCode

#: The upper ends of the buckets that calls are sorted into by their seconds; one more has no end.
BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

#: What stands for the names that no method has. They are the callers' to choose, without end.
UNKNOWN: Final = "(unknown)"

OK: Final = "ok"
#: The connection ended first.
LOST: Final = "lost"
#: The method asked for the end of the process.
EXIT: Final = "exit"
#: A code that the method, or an interceptor, chose itself.
OTHER: Final = "error"

_OUTCOMES: Final = {int(code): code.name.lower() for code in ErrorCode}


def outcome_of(code: object) -> str:
    """Name what an error code stands for: one of a few words, whatever the code."""
    return _OUTCOMES.get(code, OTHER) if isinstance(code, int) else OTHER


class Source(Protocol):
    """What is read of an open connection."""

    @property
    def received_bytes(self) -> int:
        """How many bytes came."""

    @property
    def sent_bytes(self) -> int:
        """How many bytes were written."""

    @property
    def late_replies(self) -> int:
        """How many replies came to calls of ours that had ended."""

    @property
    def calls_in_flight(self) -> int:
        """How many of the peer's calls have begun, and not ended."""

    @property
    def calls_waiting(self) -> int:
        """How many of the peer's calls were read, and have not begun."""


class MethodStats:
    """The calls of one method that have ended.

    Attributes:
        outcomes: how many of them ended how.
        seconds: how long they took in all, from when each was read to its answer.
        buckets: how many took so long: as many as `BUCKETS` has, and one for those past the last.
    """

    __slots__ = ("buckets", "outcomes", "seconds")

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}
        self.seconds = 0.0
        self.buckets = [0] * (len(BUCKETS) + 1)

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.buckets)


class Stats:
    """The metrics of one server, or of several that share it.

    Figures are counted on the reactor's thread; they may be read on any. What is iterated over is
    copied first, by the one step that no other thread comes between.

    Attributes:
        methods: the calls that have ended, by method.
        connections: how many connections there have been.
        refused: those that were closed before they could call, by the reason.
        unreadable: lines that were no request.
        cancellations: calls that their callers gave up while they waited or ran.
        deadline_drops: calls that were not run, as their time had passed.
        failed_logins: tries to log in that failed.
    """

    def __init__(self) -> None:
        self.methods: dict[str, MethodStats] = {}
        self.connections = 0
        self.refused: dict[str, int] = {}
        self.unreadable = 0
        self.cancellations = 0
        self.deadline_drops = 0
        self.failed_logins = 0
        self._open: set[Source] = set()
        # Of the connections that have ended.
        self._received_bytes = 0
        self._sent_bytes = 0
        self._late_replies = 0

    # --- counting ---------------------------------------------------------------------------------

    def opened(self, source: Source) -> None:
        """Count a connection, and ask it from now on."""
        self.connections += 1
        self._open.add(source)

    def closed(self, source: Source) -> None:
        """Add the counts of a connection that has ended."""
        if source in self._open:
            self._open.remove(source)
            self._received_bytes += source.received_bytes
            self._sent_bytes += source.sent_bytes
            self._late_replies += source.late_replies

    def connection_refused(self, reason: str) -> None:
        """Count a connection that was closed before it could call.

        Args:
            reason: one of a few words of ours, and nothing from the wire.
        """
        self.refused[reason] = self.refused.get(reason, 0) + 1

    def login_failed(self) -> None:
        """Count a try to log in that failed."""
        self.failed_logins += 1

    def ended(self, method: str, outcome: str, seconds: float) -> None:
        """Count a call that has ended.

        Args:
            method: a name that is served, or `UNKNOWN`.
            outcome: one of a few words; see `outcome_of`.
            seconds: from when it was read.
        """
        stats = self.methods.get(method)
        if stats is None:
            stats = self.methods[method] = MethodStats()
        stats.outcomes[outcome] = stats.outcomes.get(outcome, 0) + 1
        stats.seconds += seconds
        stats.buckets[bisect_left(BUCKETS, seconds)] += 1

    # --- reading ----------------------------------------------------------------------------------

    def _sum(self, name: str) -> int:
        return sum(getattr(source, name) for source in self._open.copy())

    @property
    def open_connections(self) -> int:
        """How many connections there are."""
        return len(self._open)

    @property
    def calls_in_flight(self) -> int:
        """Calls that have begun and not ended: in a thread or waiting for one, or as a Deferred."""
        return self._sum("calls_in_flight")

    @property
    def calls_waiting(self) -> int:
        """Calls that were read and not begun: past ``max_pending``, or for their turn."""
        return self._sum("calls_waiting")

    @property
    def received_bytes(self) -> int:
        """Bytes that were read."""
        return self._received_bytes + self._sum("received_bytes")

    @property
    def sent_bytes(self) -> int:
        """Bytes that were written."""
        return self._sent_bytes + self._sum("sent_bytes")

    @property
    def late_replies(self) -> int:
        """Replies to calls of ours that had ended before, which were dropped."""
        return self._late_replies + self._sum("late_replies")

    def as_dict(self) -> dict[str, Any]:
        """Return all metrics as a JSON object."""
        return {
            "connections": {
                "open": self.open_connections,
                "total": self.connections,
                "refused": self.refused.copy(),
            },
            "calls": {
                name: {
                    "outcomes": stats.outcomes.copy(),
                    "seconds": stats.seconds,
                    "buckets": cumulated(stats.buckets),
                }
                for name, stats in self.methods.copy().items()
            },
            "calls_in_flight": self.calls_in_flight,
            "calls_waiting": self.calls_waiting,
            "received_bytes": self.received_bytes,
            "sent_bytes": self.sent_bytes,
            "unreadable": self.unreadable,
            "late_replies": self.late_replies,
            "cancellations": self.cancellations,
            "deadline_drops": self.deadline_drops,
            "failed_logins": self.failed_logins,
        }


def cumulated(buckets: list[int]) -> dict[str, int]:
    """Return cumulative counts for the bounds of a histogram, as Prometheus does."""
    total = 0
    found = {}
    for bound, count in zip((*map(str, map(float, BUCKETS)), "+Inf"), buckets.copy(), strict=True):
        total += count
        found[bound] = total
    return found
