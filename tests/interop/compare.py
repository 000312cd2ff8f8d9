"""Put the cases of kn_sock.conformance to other libraries, and to kn_sock; write two tables.

    python -m tests.interop.compare DIRECTORY

``peers.csv`` counts what agrees, ``peers-differ.csv`` has what does not. The libraries are those
that ``python tests/interop/install.py`` brings.
"""

from __future__ import annotations

import csv
import dataclasses
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.task import react

import kn_sock
from kn_sock.conformance import Examiner, Finding, Group, read_groups
from tests.interop.peers import PROGRAMS, PYTHON, Program, from_pypi

LIBRARIES = (
    "aiorpcX",
    "ajsonrpc",
    "json-rpc",
    "jsonrpclib-pelix",
    "jsonrpcserver",
    "pjrpc",
    "tinyrpc",
)

# Seconds that a reply may take before it is taken not to come.
TIMEOUT = 3.0

# The last group is kn_sock's own.
GROUPS = read_groups()[:3]


def is_text(sent: bytes) -> bool:
    try:
        sent.decode()
    except UnicodeDecodeError:
        return False
    return True


def groups_for(library: str) -> list[Group]:
    """Leave out bytes that are no UTF-8 where a library takes text: they never reach it."""
    if library in ("kn_sock", "aiorpcX"):
        return list(GROUPS)
    return [
        dataclasses.replace(group, cases=tuple(case for case in group.cases if is_text(case.sent)))
        for group in GROUPS
    ]


@dataclasses.dataclass
class Outcome:
    """What was found of one library; groups that it does not speak are not in ``findings``."""

    library: str
    version: str
    findings: dict[str, list[Finding]]


def start(library: str) -> tuple[Program, str]:
    if library == "kn_sock":
        program = Program(sys.executable, "-m", "tests.interop.programs.conformance_server")
        return program, kn_sock.__version__
    program = Program(PYTHON, PROGRAMS / "dispatching_server.py", library)
    return program, from_pypi(library)()


async def examine(reactor: Any, library: str) -> Outcome:
    program, version = start(library)
    try:
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", program.port())
        examiner = Examiner(endpoint, reactor, timeout=TIMEOUT)
        outcome = Outcome(library, version, {})
        for group in groups_for(library):
            habits = await examiner.habits(group)
            if habits.speaks:
                found = [finding async for finding in examiner.examine(group, habits)]
                outcome.findings[group.name] = found
        return outcome
    finally:
        program.end()


def agreeing(findings: list[Finding]) -> str:
    return f"{sum(finding.problem is None for finding in findings)}/{len(findings)}"


def counts(outcome: Outcome) -> list[str]:
    """Count what agrees: by section of JSON-RPC 2.0, and in all of each group."""
    first = outcome.findings.get(GROUPS[0].name, [])
    sections = dict.fromkeys(case.section for case in GROUPS[0].cases)
    cells = [
        agreeing([finding for finding in first if finding.case.section == section])
        for section in sections
    ]
    for group in GROUPS:
        findings = outcome.findings.get(group.name)
        cells.append(agreeing(findings) if findings is not None else "not spoken")
    return cells


def what_came(finding: Finding) -> str:
    assert finding.problem is not None
    if finding.problem == "not the reply that was expected":
        return "answered otherwise"
    return finding.problem.partition(":")[0]


def write(directory: Path, outcomes: list[Outcome]) -> None:
    sections = dict.fromkeys(case.section for case in GROUPS[0].cases)
    with (directory / "peers.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["Library", "Version", *sections, "2.0", "1.0", "kn-sock 0.3"])
        for outcome in outcomes:
            table.writerow([outcome.library, outcome.version, *counts(outcome)])
    differing: dict[str, dict[str, str]] = {}
    for outcome in outcomes:
        for finding in outcome.findings.get(GROUPS[0].name, []):
            if finding.problem is not None:
                row = differing.setdefault(finding.case.title, {})
                row[outcome.library] = what_came(finding)
    with (directory / "peers-differ.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["Case", "Differs"])
        for case in GROUPS[0].cases:
            by_problem: dict[str, list[str]] = {}
            for library, problem in differing.get(case.title, {}).items():
                by_problem.setdefault(problem, []).append(library)
            if by_problem:
                said = [f"{', '.join(who)}: {what}" for what, who in by_problem.items()]
                table.writerow([case.title, "; ".join(said)])


async def compare(reactor: Any, directory: Path) -> None:
    outcomes = [await examine(reactor, library) for library in ("kn_sock", *LIBRARIES)]
    write(directory, outcomes)
    for outcome in outcomes:
        first = outcome.findings.get(GROUPS[0].name, [])
        kinds = Counter(what_came(finding) for finding in first if finding.problem is not None)
        print(outcome.library, outcome.version, agreeing(first), dict(kinds))


def main(reactor: Any, directory: str) -> Deferred[None]:
    return Deferred.fromCoroutine(compare(reactor, Path(directory)))


if __name__ == "__main__":
    react(main, sys.argv[1:])
