"""What is measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

__all__ = ["WORKLOADS", "Workload"]

Figure: TypeAlias = Literal["rate", "p50", "p99", "p100", "bytes"]

KIB = 1024
MIB = 1024 * 1024
# 4 MiB is the longest line that kn_sock takes unless told otherwise; a little is around it.
_LONG_TEXT = 4 * MIB - 200
_NUMBERS = 4 * MIB // 7 - 100


@dataclass(frozen=True)
class Workload:
    """One workload.

    Attributes:
        name: how it is asked for.
        title: what the tables call it.
        kind: the order: of ``benchmarks.load`` (``run``, ``churn``, ``burst``, ``beside``,
            ``hold``) or of ``programs/client.py`` (``calls``, ``threads``, ``window``).
        figure: what the table shows of it: the rate of calls, a percentile of latencies in
            seconds, or bytes.
        method: the one that is called.
        size: the length of its text; 0 for ``add(1, 2)``.
        load: more arguments of `benchmarks.load.load_of`.
        other: the load beside it, one of `OTHERS`.
        is_same: whether that goes over the same connection.
        passes: whether it is measured pinned and not pinned.
        rounds: at most so many.
        only: the contenders that it is for, where it is not for all of its side.
        number: how many threads, calls in flight or bytes an order is for.
    """

    name: str
    title: str
    kind: str
    figure: Figure = "rate"
    method: str = "add"
    size: int = 0
    load: dict[str, int] = field(default_factory=dict)
    other: str = ""
    is_same: bool = False
    passes: tuple[str, ...] = ("pinned", "not pinned")
    rounds: int = 99
    only: tuple[str, ...] = ()
    number: int = 0

    @property
    def is_for_clients(self) -> bool:
        """Whether clients of the contenders' own make the calls."""
        return self.kind in ("calls", "threads", "window")

    def order(self, wire: str, port: int, seconds: float) -> dict[str, Any]:
        """Give the order for the load generator."""
        load: dict[str, Any] = {"method": self.method, "text": self.size, **self.load}
        order = {"kind": self.kind, "port": port, "wire": wire, "seconds": seconds, "load": load}
        if self.kind == "beside":
            order |= {"other": OTHERS[self.other], "is_same": self.is_same}
        return order


#: What goes on beside quick calls.
OTHERS: dict[str, dict[str, Any]] = {
    "sleeps": {"method": "sleep", "text": 5, "in_flight": 4},
    "text": {"method": "size", "text": _LONG_TEXT},
    "numbers": {"method": "size", "numbers": _NUMBERS},
}

# A server that runs everything where it reads would stall for all of them: a ratio to it says
# nothing.
_BESIDE = ("kn_sock reactor", "kn_sock thread", "aiorpcX", "txjsonrpc-ng")
# It answers one line after the other, so the same connection waits.
_OTHER = (*_BESIDE, "kn-sock 0.3.0")
_STALLED = ("bare", *_OTHER)
_ON_NOTHING = ("not pinned",)

WORKLOADS = (
    Workload("1x1", "1 × 1", "run"),
    Workload("50x1", "50 × 1", "run", load={"connections": 50}),
    Workload("1x1000", "1 × 1,000", "run", load={"in_flight": 1000}),
    Workload("10x100", "10 × 100", "run", load={"connections": 10, "in_flight": 100}),
    Workload("batch", "batch of 100", "run", load={"batch": 100}),
    Workload("echo-1k", "echo 1 KiB", "run", method="echo", size=KIB),
    Workload("echo-64k", "echo 64 KiB", "run", method="echo", size=64 * KIB),
    Workload("echo-1m", "echo 1 MiB", "run", method="echo", size=MIB, load={"least": 5}),
    Workload(
        "echo-16m",
        "echo 16 MiB",
        "run",
        method="echo",
        size=16 * MIB,
        load={"least": 2},
        rounds=5,
    ),
    Workload("churn", "churn", "churn"),
    Workload("burst", "burst of 1,000", "burst", load={"connections": 1000}, passes=_ON_NOTHING),
    Workload(
        "beside-same",
        "beside 10 ms calls, same connection",
        "beside",
        "p99",
        other="sleeps",
        is_same=True,
        passes=_ON_NOTHING,
        # Netstrings are not told apart line by line.
        only=tuple(name for name in _BESIDE if name != "txjsonrpc-ng"),
    ),
    Workload(
        "beside-other",
        "beside 10 ms calls, another connection",
        "beside",
        "p99",
        other="sleeps",
        passes=_ON_NOTHING,
        only=_OTHER,
    ),
    Workload(
        "stall-text",
        "beside 4 MiB lines, a text",
        "beside",
        "p100",
        other="text",
        passes=_ON_NOTHING,
        only=_STALLED,
    ),
    Workload(
        "stall-numbers",
        "beside 4 MiB lines, numbers",
        "beside",
        "p100",
        other="numbers",
        passes=_ON_NOTHING,
        only=_STALLED,
    ),
    Workload(
        "idle",
        "an idle connection",
        "hold",
        "bytes",
        passes=_ON_NOTHING,
        rounds=2,
        only=("bare", "kn_sock reactor", "kn_sock thread", "aiorpcX", "txjsonrpc-ng", "uvloop"),
    ),
    Workload(
        "idle-used",
        "an idle connection after a call",
        "hold",
        "bytes",
        passes=_ON_NOTHING,
        rounds=2,
        number=1,
        only=(*_STALLED, "uvloop"),
    ),
    Workload("client-1x1", "calls, one thread", "calls"),
    Workload("client-echo-1m", "echo 1 MiB", "calls", number=MIB),
    Workload("client-threads", "10 threads", "threads", number=10),
    Workload("client-window", "1,000 in flight", "window", number=1000),
)
