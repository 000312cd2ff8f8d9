"""The arithmetic of the report: ratios within a round, medians of rounds, verdicts."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.contenders import CONTENDERS
from benchmarks.targets import EVERY_PEER, Target
from benchmarks.workloads import WORKLOADS, Workload

__all__ = ["Figures", "Judgement"]

_BY_NAME = {workload.name: workload for workload in WORKLOADS}


@dataclass(frozen=True)
class Judgement:
    """What became of a target.

    Attributes:
        measured: what was seen, by pass.
        is_met: whether it was reached in every pass; ``None`` where it was not measured.
    """

    measured: dict[str, float]
    is_met: bool | None


def value_of(seen: dict[str, Any], workload: Workload) -> float | None:
    """Give the figure of one slice that a workload is about."""
    if workload.figure == "rate":
        return float(seen["count"]) / float(seen["seconds"])
    if workload.figure == "bytes":
        return float(seen["bytes"])
    latency = seen["latencies"].get(workload.figure.removeprefix("p"))
    return None if latency is None else float(latency)


class Figures:
    """What was seen, to be asked about.

    Args:
        slices: those of the JSON.
    """

    def __init__(self, slices: Iterable[dict[str, Any]]) -> None:
        self._slices = list(slices)

    def slices(self, workload: str, contender: str, pinning: str) -> list[dict[str, Any]]:
        """Give the slices of one contender in one workload."""
        return [
            seen
            for seen in self._slices
            if (seen["workload"], seen["contender"], seen["pinning"])
            == (workload, contender, pinning)
        ]

    @property
    def passes(self) -> list[str]:
        """The passes that were made."""
        return list(dict.fromkeys(seen["pinning"] for seen in self._slices))

    @property
    def contenders(self) -> list[str]:
        """Those that were measured, in the order of the tables; others after them."""
        seen = dict.fromkeys(each["contender"] for each in self._slices)
        known = [contender.name for contender in CONTENDERS if contender.name in seen]
        return known + [name for name in seen if name not in known]

    def values(self, workload: Workload, contender: str, pinning: str) -> dict[int, float]:
        """Give the figures by their round."""
        found = {}
        for seen in self.slices(workload.name, contender, pinning):
            value = value_of(seen, workload)
            if value is not None:
                found[int(seen["round"])] = value
        return found

    def median(self, workload: Workload, contender: str, pinning: str) -> float | None:
        """Give the median of the rounds."""
        values = self.values(workload, contender, pinning)
        return statistics.median(values.values()) if values else None

    def ratio(
        self,
        workload: Workload,
        contender: str,
        base: str,
        pinning: str,
        base_workload: Workload | None = None,
    ) -> float | None:
        """Give the median of the ratios to another, each within one round."""
        ratios = self.ratios(workload, contender, base, pinning, base_workload)
        return statistics.median(ratios) if ratios else None

    def ratios(
        self,
        workload: Workload,
        contender: str,
        base: str,
        pinning: str,
        base_workload: Workload | None = None,
    ) -> list[float]:
        """Give the ratio to another of each round, the least first."""
        values = self.values(workload, contender, pinning)
        bases = self.values(base_workload or workload, base, pinning)
        return sorted(values[number] / bases[number] for number in values if bases.get(number))

    def peers(self, workload: str, pinning: str) -> list[str]:
        """Give the libraries of others that were measured in a workload."""
        return [
            contender.name
            for contender in CONTENDERS
            if contender.is_peer and self.slices(workload, contender.name, pinning)
        ]

    def judge(self, target: Target) -> Judgement:
        """Hold a target against what was seen."""
        passes = self.passes if target.pinning is None else [target.pinning]
        measured = {}
        for pinning in passes:
            value = self._measured(target, pinning)
            if value is not None:
                measured[pinning] = value
        if not measured:
            return Judgement({}, None)
        return Judgement(measured, all(_reaches(target, value) for value in measured.values()))

    def _measured(self, target: Target, pinning: str) -> float | None:
        workload = _BY_NAME[target.workload]
        base_workload = _BY_NAME[target.than_workload or target.workload]
        if target.than is None:
            value = self.median(workload, target.contender, pinning)
        elif target.than == EVERY_PEER:
            ratios = [
                self.ratio(workload, target.contender, peer, pinning)
                for peer in self.peers(target.workload, pinning)
            ]
            # The strongest of them.
            value = min((ratio for ratio in ratios if ratio is not None), default=None)
        else:
            value = self.ratio(workload, target.contender, target.than, pinning, base_workload)
        if value is None:
            return None
        return (1 / value if target.is_turned else value) * target.scale


def _reaches(target: Target, value: float) -> bool:
    if target.least is not None and value < target.least:
        return False
    return target.most is None or value <= target.most
