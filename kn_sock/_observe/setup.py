"""Access log and metrics for a factory, from its options."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IReactorTime

from kn_sock._observe.access_log import open_access_log
from kn_sock._observe.peer_log import PeerLog
from kn_sock._observe.reports import Reports
from kn_sock._observe.stats import Stats
from kn_sock.methods.signature import Method, in_reactor

if TYPE_CHECKING:
    from kn_sock.options import ServerOptions


def reports_for(options: ServerOptions, clock: IReactorTime) -> Reports:
    """Make what the connections of a factory with these options report to.

    Raises:
        OSError: the access log cannot be opened.
        ImportError: ``prometheus_client`` is not installed.
        TypeError: one of the options is of a wrong type.
    """
    return Reports(_stats_for(options), open_access_log(options.access_log), PeerLog(clock))


def _stats_for(options: ServerOptions) -> Stats | None:
    if not isinstance(options.stats, (bool, Stats)):
        raise TypeError(f"stats must be True, False or a Stats, not {options.stats!r:.60}")
    given = options.stats if isinstance(options.stats, Stats) else None
    if options.metrics is not None:
        # Not for those who have none: prometheus_client need not be there.
        from kn_sock._observe.prometheus import stats_in

        return stats_in(options.metrics, given)
    return Stats() if options.stats is True else given


def stats_methods(options: ServerOptions, reports: Reports) -> dict[str, Method]:
    """Build ``rpc.stats``, if the options ask for it."""
    if not options.stats or reports.stats is None:
        return {}
    return {"rpc.stats": Method("rpc.stats", _reader(reports.stats))}


def _reader(stats: Stats) -> Callable[[], dict[str, Any]]:
    @in_reactor
    def read() -> dict[str, Any]:
        """Return the metrics of this server: connections, calls by method and outcome, and more."""
        return stats.as_dict()

    return read
