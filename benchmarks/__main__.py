"""Measure: ``python -m benchmarks``; see ``README.rst`` here."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from benchmarks.contenders import BARE, BARE_BLOCKING, BARE_DEFERRED, CONTENDERS, Contender, against
from benchmarks.install import DEFAULT_DIRECTORY, installed
from benchmarks.rounds import Plan, measure
from benchmarks.workloads import WORKLOADS, Workload

_BASES = (BARE, BARE_BLOCKING, BARE_DEFERRED)
_PASSES = ("pinned", "not pinned")


def chosen_workloads(names: str | None) -> list[Workload]:
    """Give the workloads that a list of names asks for.

    Raises:
        SystemExit: there is no such workload; the text lists those that there are.
    """
    if names is None:
        return list(WORKLOADS)
    known = {workload.name: workload for workload in WORKLOADS}
    for name in names.split(","):
        if name not in known:
            raise SystemExit(f"there is no workload {name}; there are {', '.join(known)}")
    return [known[name] for name in names.split(",")]


def chosen_contenders(names: str | None, more: list[str]) -> list[Contender]:
    """Give the contenders whose names have one of these words in them, and the bare ones.

    Raises:
        SystemExit: no contender has such a name; the text lists those that there are.
    """
    chosen = list(CONTENDERS)
    if names is not None:
        words = [word.lower() for word in names.split(",")]
        for word in words:
            if not any(word in contender.name.lower() for contender in CONTENDERS):
                known = ", ".join(repr(contender.name) for contender in CONTENDERS)
                raise SystemExit(f"no contender has {word!r} in its name; there are {known}")
        chosen = [
            contender
            for contender in CONTENDERS
            if contender.name in _BASES or any(word in contender.name.lower() for word in words)
        ]
    for each in more:
        name, _, directory = each.partition("=")
        if not (Path(directory) / "kn_sock").is_dir():
            raise SystemExit(f"--against NAME=DIRECTORY: there is no kn_sock in {directory!r}")
        chosen += against(name, str(Path(directory).resolve()))
    return chosen


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("output", nargs="?", type=Path, default=Path("results.json"), help="where the JSON goes")
    add("--rounds", type=int, default=7, help="how often each is measured (7)")
    add("--seconds", type=float, default=0.3, help="how long each time (0.3)")
    add("--only", metavar="NAMES", help="workloads, by name, with commas between them")
    add("--contenders", metavar="WORDS", help="those with one of these in their names")
    add("--pinning", choices=_PASSES, help="one pass alone; both by default")
    add("--quick", action="store_true", help="few rounds, short, not pinned: a first look")
    add("--against", action="append", default=[], metavar="NAME=DIRECTORY", help="another kn_sock")
    add("--environment", type=Path, default=DEFAULT_DIRECTORY, help="where the peers are installed")
    add("--install-only", action="store_true", help="install the peers, and end")
    add("--list", action="store_true", help="list workloads and contenders, and end")
    given = parser.parse_args()
    if given.list:
        for workload in WORKLOADS:
            print(f"{workload.name:15} {workload.title}")
        for contender in CONTENDERS:
            print(f"{'':15} {contender.name}")
        return
    workloads = chosen_workloads(given.only)
    contenders = chosen_contenders(given.contenders, given.against)
    environment = installed(given.environment.resolve())
    for name, reason in environment.problems.items():
        print(f"{name} is left out: {reason}")
    if given.install_only:
        return
    passes = _PASSES if given.pinning is None else (given.pinning,)
    rounds, seconds = given.rounds, given.seconds
    if given.quick:
        rounds, seconds, passes = 2, 0.1, ("not pinned",)
        # Those of 16 MiB take as long as all the others together.
        workloads = [
            replace(each, rounds=min(rounds, each.rounds - 1))
            for each in workloads
            if each.name != "echo-16m"
        ]
    plan = Plan(
        workloads,
        contenders,
        rounds=rounds,
        seconds=seconds,
        passes=passes,
        idle_connections=1000 if given.quick else 5000,
    )
    measure(plan, environment, given.output)
    print(f"written to {given.output}")


if __name__ == "__main__":
    main()
