"""Metrics for Prometheus, by ``prometheus_client``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

from kn_sock._observe.stats import Stats, cumulated

try:
    from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
    )
except ImportError as problem:
    raise ImportError("metrics need prometheus_client: pip install prometheus_client") from problem

__all__ = ["CONTENT_TYPE_LATEST", "REGISTRY", "CollectorRegistry", "generate_latest", "stats_in"]

_GAUGES = {
    "open_connections": "Connections that are open.",
    "calls_in_flight": "Calls that have begun and not ended.",
    "calls_waiting": "Calls that were read and have not begun.",
}
_COUNTERS = {
    "connections": "Connections that were opened.",
    "received_bytes": "Bytes that were read.",
    "sent_bytes": "Bytes that were written.",
    "unreadable": "Lines that were no request.",
    "late_replies": "Replies to calls that had ended, which were dropped.",
    "cancellations": "Calls that their callers gave up.",
    "deadline_drops": "Calls that were not run, as their time had passed.",
    "failed_logins": "Tries to log in that failed.",
}


class StatsCollector:
    """Reads the metrics for a registry, each time that somebody fetches them."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats

    def describe(self) -> Iterator[Metric]:
        """Return every metric, so that the registry can check for duplicate names."""
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        """Return every metric. Thread: any."""
        stats = self._stats
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(f"kn_sock_{name}", text, value=getattr(stats, name))
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"kn_sock_{name}", text, value=getattr(stats, name))
        refused = CounterMetricFamily(
            "kn_sock_connections_refused",
            "Connections that were closed before they could call.",
            labels=["reason"],
        )
        for reason, count in stats.refused.copy().items():
            refused.add_metric([reason], count)
        yield refused
        yield from self._calls()

    def _calls(self) -> Iterator[Metric]:
        calls = CounterMetricFamily(
            "kn_sock_calls", "Calls that have ended.", labels=["method", "outcome"]
        )
        seconds = HistogramMetricFamily(
            "kn_sock_call_seconds",
            "Seconds from when a call was read to its answer.",
            labels=["method"],
        )
        for name, stats in self._stats.methods.copy().items():
            for outcome, count in stats.outcomes.copy().items():
                calls.add_metric([name, outcome], count)
            seconds.add_metric([name], list(cumulated(stats.buckets).items()), stats.seconds)
        yield calls
        yield seconds


# Servers with the same registry count together: no name may be registered twice.
_by_registry: WeakKeyDictionary[CollectorRegistry, Stats] = WeakKeyDictionary()


def stats_in(registry: Any, given: Stats | None) -> Stats:
    """Return the metrics that a registry exports; the given ones, if it has none yet.

    Raises:
        TypeError: it is no registry.
        ValueError: it has others, or metrics of these names.
    """
    if not isinstance(registry, CollectorRegistry):
        raise TypeError(f"metrics is a prometheus_client registry, not {registry!r:.60}")
    stats = _by_registry.get(registry)
    if stats is None:
        stats = Stats() if given is None else given
        registry.register(StatsCollector(stats))
        _by_registry[registry] = stats
    elif given is not None and given is not stats:
        raise ValueError("the registry in metrics already has the metrics of another Stats")
    return stats
