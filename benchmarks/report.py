"""Write tables and plots of what was seen: ``python -m benchmarks.report RESULTS DIRECTORY``."""

from __future__ import annotations

import csv
import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.figures import Figures, Judgement
from benchmarks.svg import Dot, Panel, plot
from benchmarks.targets import EVERY_PEER, TARGETS, Target
from benchmarks.workloads import WORKLOADS, Workload

__all__ = ["write"]

_BY_NAME = {contender.name: contender for contender in CONTENDERS}
_TITLES = {workload.name: workload.title for workload in WORKLOADS}
# So many workloads are in the first plot; the others have one of their own.
_CALLS = 5
_CPU_WORKLOADS = ("1x1", "50x1", "1x1000")


def figure(value: float | None) -> str:
    """Write a number with as many digits as say something."""
    if value is None:
        return "–"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.095 else f"{value:.3f}"


class Report:
    """The tables and plots of one run.

    Args:
        results: the JSON.
        directory: where they go.
    """

    def __init__(self, results: dict[str, Any], directory: Path) -> None:
        self._results = results
        self._directory = directory
        self._figures = Figures(results["slices"])
        self._skipped = {
            (each["contender"], each["workload"]): each["reason"] for each in results["skipped"]
        }

    def write(self) -> None:
        """Write all of them."""
        self._directory.mkdir(parents=True, exist_ok=True)
        for pinning in ("pinned", "not pinned"):
            suffix = pinning.replace(" ", "-")
            for side, is_for_clients in (("load", False), ("clients", True)):
                self._ratios(f"{side}-{suffix}", pinning, is_for_clients=is_for_clients)
        self._bare()
        self._spread()
        self._latencies()
        self._idle()
        self._cpu()
        self._generator()
        self._targets()
        self._lost()
        self._left_out()
        self._about()

    def _table(self, name: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        # Sphinx takes no table without rows.
        rows = list(rows) or [["–"] * len(head)]
        path = self._directory / f"{name}.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(head)
            writer.writerows(rows)

    def _rates(self, *, is_for_clients: bool) -> list[Workload]:
        return [
            workload
            for workload in WORKLOADS
            if workload.figure == "rate" and workload.is_for_clients == is_for_clients
        ]

    def _contenders(self, *, is_for_clients: bool) -> list[Contender]:
        chosen = []
        for name in self._figures.contenders:
            contender = _BY_NAME.get(name) or Contender(name, "", wire="2.0")
            if (contender.client is not None) == is_for_clients:
                chosen.append(contender)
        return chosen

    def _ratio(self, workload: Workload, contender: Contender, pinning: str) -> float | None:
        return self._figures.ratio(workload, contender.name, contender.base, pinning)

    def _ratios(self, name: str, pinning: str, *, is_for_clients: bool) -> None:
        """Write the ratios to the bare ones, and draw them."""
        rates = self._rates(is_for_clients=is_for_clients)
        workloads = [each for each in rates if pinning in each.passes]
        contenders = self._contenders(is_for_clients=is_for_clients)
        rows = []
        for contender in contenders:
            ratios = [self._ratio(workload, contender, pinning) for workload in workloads]
            if any(ratio is not None for ratio in ratios):
                base = [contender.base] if is_for_clients else []
                rows.append([contender.name, *base, *map(figure, ratios)])
        head = ["Ratio to"] if is_for_clients else []
        self._table(name, ["", *head, *(each.title for each in workloads)], rows)
        if is_for_clients:
            self._draw(name, workloads, contenders, pinning)
        else:
            self._draw(name, workloads[:_CALLS], contenders, pinning)
            self._draw(f"echo-{name}", workloads[_CALLS:], contenders, pinning)

    def _draw(
        self,
        name: str,
        workloads: Sequence[Workload],
        contenders: Sequence[Contender],
        pinning: str,
    ) -> None:
        drawn = [each for each in contenders if not each.is_pair]
        panels = []
        for workload in workloads:
            dots = []
            for row, contender in enumerate(drawn):
                ratio = self._ratio(workload, contender, pinning)
                if ratio is not None:
                    dots.append(Dot(row, ratio, kind_of(contender)))
            panels.append(Panel(workload.title, dots))
        note = f"calls in a second, {pinning}, as a ratio to the bare one; logarithmic"
        names = [(each.name, kind_of(each)) for each in drawn]
        drawing = plot(f"{name}: ratios to bare", names, panels, note)
        (self._directory / f"{name}.svg").write_text(drawing, "utf-8")

    def _bare(self) -> None:
        """Write what a ratio of 1 was on that machine."""
        rows = []
        for workload in WORKLOADS:
            bases = ["bare"] if not workload.is_for_clients else ["bare blocking", "bare Deferred"]
            for base in bases:
                values = [self._figures.median(workload, base, each) for each in _PASSES]
                if workload.figure == "rate" and any(value is not None for value in values):
                    rows.append([workload.title, base, *map(figure, values)])
        self._table("bare", ["Workload", "Whose", *(f"Calls/s, {each}" for each in _PASSES)], rows)

    def _spread(self) -> None:
        """Write how far the rounds are apart, of what is ours: how much the medians are worth."""
        rows = []
        for contender in CONTENDERS:
            for workload in WORKLOADS:
                spreads = [
                    self._figures.ratios(workload, contender.name, contender.base, pinning)
                    for pinning in _PASSES
                ]
                if contender.is_ours and workload.figure == "rate" and any(spreads):
                    texts = [
                        f"{figure(each[0])} to {figure(each[-1])}" if each else "–"
                        for each in spreads
                    ]
                    rows.append([contender.name, workload.title, *texts])
        self._table("spread", ["Whose", "Workload", "Pinned", "Not pinned"], rows)

    def _latencies(self) -> None:
        """Write how quick calls fare beside others."""
        rows = []
        for workload in WORKLOADS:
            if workload.kind != "beside":
                continue
            for name in self._figures.contenders:
                seen = self._figures.slices(workload.name, name, "not pinned")
                if seen:
                    values = [
                        statistics.median(each["latencies"][point] for each in seen) * 1000
                        for point in ("50", "99", "100")
                    ]
                    rows.append([workload.title, name, *map(figure, values)])
        head = ["Quick calls", "Server", "Median, ms", "99 of 100, ms", "Slowest, ms"]
        self._table("beside", head, rows)

    def _idle(self) -> None:
        rows = []
        for name in self._figures.contenders:
            values = []
            for workload in WORKLOADS:
                if workload.kind == "hold":
                    value = self._figures.median(workload, name, "not pinned")
                    values.append(None if value is None else value / 1024)
            if any(value is not None for value in values):
                rows.append([name, *map(figure, values)])
        self._table("idle", ["Server", "Connected, KiB", "After a call, KiB"], rows)

    def _cpu(self) -> None:
        """Write the time of the processor that servers take."""
        rows = []
        for name in self._figures.contenders:
            values = []
            for workload in _CPU_WORKLOADS:
                seen = self._figures.slices(workload, name, "not pinned")
                # Some end when the time is over, and are not in the rate.
                calls = sum(each.get("answered", each["count"]) for each in seen)
                seconds = sum(each["server_cpu_seconds"] for each in seen)
                values.append(seconds / calls * 100_000 if calls else None)
            if any(value is not None for value in values):
                rows.append([name, *map(figure, values)])
        head = ["Server", *(f"{_TITLES[each]}, s" for each in _CPU_WORKLOADS)]
        self._table("cpu", head, rows)

    def _generator(self) -> None:
        """Write how busy the load generator was: where it is 1, it is what was measured."""
        rows = []
        safe_repr = ("bare", "kn_sock reactor", "uvloop", "Twisted echo")
        for workload in self._rates(is_for_clients=False):
            row = [workload.title]
            for name in safe_repr:
                pinning = "pinned" if "pinned" in workload.passes else "not pinned"
                seen = self._figures.slices(workload.name, name, pinning)
                shares = [each["cpu_seconds"] / each["seconds"] for each in seen]
                row.append(figure(statistics.median(shares)) if shares else "–")
            rows.append(row)
        self._table("generator", ["Workload", *safe_repr], rows)

    def _targets(self) -> None:
        rows = []
        for target in TARGETS:
            judgement = self._figures.judge(target)
            rows.append([*target_texts(target), *judgement_texts(target, judgement)])
        head = ["Workload", "Whose", "Of what", "Target", "Pinned", "Not pinned", "Met"]
        self._table("targets", head, rows)

    def _lost(self) -> None:
        """Write where a library of others is ahead of all that is ours."""
        rows = []
        for workload in WORKLOADS:
            if workload.figure == "bytes":
                continue
            for pinning in self._figures.passes:
                ours = [each.name for each in CONTENDERS if each.is_ours and not each.is_pair]
                for peer in self._figures.peers(workload.name, pinning):
                    ratio = self._against_best(workload, ours, peer, pinning)
                    if ratio is not None and ratio < 1:
                        rows.append([workload.title, pinning, peer, figure(ratio)])
        self._table("lost", ["Workload", "", "Ahead", "kn_sock, as a ratio to it"], rows)

    def _against_best(
        self, workload: Workload, ours: Sequence[str], peer: str, pinning: str
    ) -> float | None:
        ratios = [self._figures.ratio(workload, name, peer, pinning) for name in ours]
        seen = [ratio for ratio in ratios if ratio]
        if not seen:
            return None
        # Of times the smallest is the best.
        return max(seen) if workload.figure == "rate" else 1 / min(seen)

    def _left_out(self) -> None:
        rows = [
            [contender, _TITLES.get(workload, workload), reason]
            for (contender, workload), reason in self._skipped.items()
        ]
        self._table("left-out", ["Who", "Workload", "Why"], rows)

    def _about(self) -> None:
        about = self._results["about"]
        versions = about["versions"]
        distributions = sorted({each.distribution for each in CONTENDERS if each.distribution})
        safe_repr = [*distributions, "msgspec"]
        rows = [[name, versions.get(name, "not here")] for name in safe_repr if name != "kn-sock"]
        rows.insert(0, ["kn-sock", versions["kn-sock 0.3.0"]])
        self._table("versions", ["Library", "Version"], rows)
        rows = [
            ["kn_sock", f"commit {about['commit']}"],
            ["Python", about["python"]],
            ["System", about["system"]],
            ["Processor", f"{about['processor']}, {about['cores']} cores"],
            ["Rounds", f"{about['rounds']} of {about['seconds']} seconds each"],
            [
                "Load average",
                f"{about['load_before']:.1f} before, {about['load_after']:.1f} after",
            ],
        ]
        self._table("machine", ["What", "Which"], rows)


_PASSES = ("pinned", "not pinned")


def kind_of(contender: Contender) -> str:
    """Tell whose it is."""
    if contender.is_ours:
        return "ours"
    return "limit" if contender.is_limit else "peer"


def target_texts(target: Target) -> list[str]:
    """Write a target: workload, whose, of what, and how much."""
    bound = f"at least {target.least:g}" if target.least is not None else f"at most {target.most:g}"
    if target.than is None:
        of_what = target.unit
    elif target.than_workload is not None:
        of_what = f"time for each byte, to {_TITLES[target.than_workload]}"
    else:
        than = "the best peer" if target.than == EVERY_PEER else target.than
        of_what = f"time of {than}" if target.is_turned else than
    return [_TITLES[target.workload], target.contender, of_what, bound]


def judgement_texts(target: Target, judgement: Judgement) -> list[str]:
    """Write what became of it: pinned, not pinned, and the verdict."""
    figures = [figure(judgement.measured.get(pinning)) for pinning in _PASSES]
    verdict = {True: "yes", False: "no", None: "not measured"}[judgement.is_met]
    return [*figures, verdict]


def write(results: dict[str, Any], directory: Path) -> None:
    """Write the tables and plots of what was seen into a directory."""
    Report(results, directory).write()


def main() -> None:
    """Read what the command line names, and write."""
    if len(sys.argv) != 3:
        raise SystemExit("python -m benchmarks.report RESULTS.json DIRECTORY")
    write(json.loads(Path(sys.argv[1]).read_text("utf-8")), Path(sys.argv[2]))


if __name__ == "__main__":
    main()
