"""What kn_sock is to reach, and whether it did."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.contenders import BARE, BARE_BLOCKING, BARE_DEFERRED

__all__ = ["EVERY_PEER", "TARGETS", "Target"]

#: In place of a contender: each library of others that was measured in that workload.
EVERY_PEER = "every peer"


@dataclass(frozen=True)
class Target:
    """One target: at least, or at most, so much.

    Attributes:
        workload: its name.
        contender: whose figure it is.
        than: whose figure of the same round it is a ratio to; ``None`` for the figure itself.
        least: the least that it has to be.
        most: the most that it may be.
        pinning: the pass that it is about; any, where it is not said.
        is_turned: the ratio is of times and not of rates, so it is turned over.
        than_workload: the workload of *than*, if it is another.
        scale: what the figure, or the ratio, is multiplied with to be compared.
        unit: of a figure that is no ratio.
    """

    workload: str
    contender: str
    than: str | None = None
    least: float | None = None
    most: float | None = None
    pinning: str | None = None
    is_turned: bool = False
    than_workload: str | None = None
    scale: float = 1.0
    unit: str = ""


_REACTOR, _THREAD, _OLD = "kn_sock reactor", "kn_sock thread", "kn-sock 0.3.0"
_OLD_CLIENT = "kn-sock 0.3.0 client, kn_sock server"


def _both(workload: str, reactor: float, thread: float) -> tuple[Target, Target]:
    return (
        Target(workload, _REACTOR, BARE, least=reactor),
        Target(workload, _THREAD, BARE, least=thread),
    )


TARGETS = (
    *_both("1x1", 0.95, 0.5),
    *_both("50x1", 1.2, 0.5),
    Target("50x1", _THREAD, _OLD, least=1.2, pinning="not pinned"),
    *_both("1x1000", 0.5, 0.4),
    *_both("10x100", 0.5, 0.4),
    Target("10x100", _REACTOR, _OLD, least=5),
    Target("batch", _REACTOR, BARE, least=0.5),
    *_both("echo-1m", 0.8, 0.7),
    *_both("echo-16m", 0.8, 0.7),
    # Linear in size: a byte takes at most that much longer where there are sixteen times as many.
    Target(
        "echo-16m",
        _REACTOR,
        _REACTOR,
        most=1.5,
        is_turned=True,
        than_workload="echo-1m",
        scale=1 / 16,
    ),
    Target("churn", _REACTOR, BARE, least=0.8),
    Target("idle", _REACTOR, most=2.5, scale=1 / 1024, unit="KiB"),
    Target("idle-used", _REACTOR, most=2.5, scale=1 / 1024, unit="KiB"),
    Target("client-window", "kn_sock Deferred, bare server", BARE_DEFERRED, least=0.5),
    Target("client-threads", "kn_sock blocking, bare server", BARE_BLOCKING, least=0.7),
    Target("client-threads", "kn_sock blocking", EVERY_PEER, least=2),
    Target("client-1x1", "kn_sock blocking", _OLD_CLIENT, most=1.7, is_turned=True),
    Target("client-window", "kn_sock map", _OLD_CLIENT, least=10),
    Target("client-window", "kn_sock blocking", _OLD_CLIENT, least=10),
    Target("stall-text", _REACTOR, most=50, scale=1000, unit="ms"),
    Target("stall-text", _THREAD, most=50, scale=1000, unit="ms"),
    Target("stall-numbers", _REACTOR, most=50, scale=1000, unit="ms"),
    Target("stall-numbers", _THREAD, most=50, scale=1000, unit="ms"),
)
