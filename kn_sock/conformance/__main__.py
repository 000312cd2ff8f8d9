"""``python -m kn_sock.conformance host:port``: test a server against the cases."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from kn_sock._client.endpoints import endpoint_for
from kn_sock.conformance import FUNCS, Examiner, Finding, Group, read_groups
from kn_sock.errors import ConnectFailed

# As many characters of a line are shown.
_SHOWN = 300


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m kn_sock.conformance",
        description="Put a server of newline-delimited JSON-RPC to the test.",
        epilog="The server has to serve the functions of kn_sock.conformance.FUNCS, as "
        "'twistd -n knsock --port 8080 --funcs kn_sock.conformance.FUNCS' does. "
        "The exit status is 0 when nothing differs, 1 when something does, "
        "2 when there is no such server.",
    )
    parser.add_argument("server", help="host:port, or any client endpoint of Twisted's")
    parser.add_argument(
        "--group",
        action="append",
        metavar="NAME",
        help="only the groups whose name contains this; may be repeated",
    )
    parser.add_argument(
        "--timeout", type=float, default=5.0, metavar="SECONDS", help="for each reply (default: 5)"
    )
    parser.add_argument(
        "--bytewise", action="store_true", help="send every byte of what is short on its own"
    )
    parser.add_argument("--list", action="store_true", help="print each case that agrees, too")
    parser.add_argument("--json", metavar="FILE", help="write what was found, as JSON")
    given = parser.parse_args(arguments)
    given.groups = groups_named(given.group)
    if not given.groups:
        names = ", ".join(repr(group.name) for group in read_groups())
        parser.error(f"no group is named so; there are {names}")
    return given


def groups_named(parts: Iterable[str] | None) -> list[Group]:
    """Choose the groups whose names contain one of these; all for ``None``."""
    return [
        group
        for group in read_groups()
        if parts is None or any(part.lower() in group.name.lower() for part in parts)
    ]


def bytewise(data: bytes) -> Iterable[bytes]:
    """Cut what is short into single bytes."""
    if len(data) > 2000:
        return (data,)
    return (data[index : index + 1] for index in range(len(data)))


class Report:
    """Prints findings, and counts them."""

    def __init__(self, *, lists_all: bool) -> None:
        self._lists_all = lists_all
        self.groups: list[dict[str, Any]] = []

    @property
    def differs(self) -> bool:
        """Whether anything differed."""
        return any(group["differs"] for group in self.groups)

    def begin(self, group: Group, left_out: str | None = None) -> None:
        """Begin with a group."""
        print(f"{group.name}: {left_out or f'{len(group.cases)} cases'}", flush=True)
        self.groups.append(
            {"group": group.name, "left_out": left_out, "agrees": [], "differs": [], "skipped": []}
        )

    def skip(self, title: str, lacking: str) -> None:
        """Leave a case out: it calls a function that the server lacks."""
        self.groups[-1]["skipped"].append(title)
        print(f"  left out  {title}: the server does not serve {lacking}")

    def add(self, finding: Finding) -> None:
        """Print the outcome of a case."""
        if finding.problem is None:
            self.groups[-1]["agrees"].append(finding.case.title)
            if self._lists_all:
                print(f"  agrees    {finding.case.title}")
            return
        self.groups[-1]["differs"].append(
            {
                "case": finding.case.title,
                "problem": finding.problem,
                "received": [line.decode("utf-8", "replace") for line in finding.received],
            }
        )
        print(f"  differs   {finding.case.title}: {finding.problem}")
        for exchange in finding.case.exchanges:
            for line in exchange.sent.splitlines() or [b"(nothing)"]:
                print(f"    sent      {shown(line)}")
            for pattern in exchange.expected:
                print(f"    expected  {shown(json.dumps(pattern, default=float).encode())}")
        for line in finding.received:
            print(f"    received  {shown(line)}")

    def end(self) -> None:
        """Sum up the group."""
        group = self.groups[-1]
        count = len(group["agrees"])
        total = count + len(group["differs"])
        print(f"  {count} of {total} agree", flush=True)


def shown(line: bytes) -> str:
    """Make a line fit to be shown."""
    text = line.decode("utf-8", "backslashreplace")
    text = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(line)} bytes)"


async def run(reactor: Any, given: argparse.Namespace) -> int:
    """Examine the server; give the exit status."""
    place = given.server
    if place.rpartition(":")[2].isdigit() and place.count(":") == 1:
        place = f"tcp:{place}"
    endpoint = endpoint_for(place, reactor)
    options = {"pieces": bytewise} if given.bytewise else {}
    examiner = Examiner(endpoint, reactor, timeout=given.timeout, **options)
    report = Report(lists_all=given.list)
    for group in given.groups:
        habits = await examiner.habits(group, FUNCS)
        if not habits.speaks:
            report.begin(group, "left out, the server does not speak it")
            continue
        report.begin(group)
        for case in group.cases:
            if lacking := habits.lacking_for(case):
                report.skip(case.title, lacking)
        async for finding in examiner.examine(group, habits):
            report.add(finding)
        report.end()
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump(report.groups, file, indent=1)
    return 1 if report.differs else 0


def main(reactor: Any, *arguments: str) -> Deferred[None]:
    """Examine the server that the command line names, and end with the exit status."""

    async def examine() -> None:
        given = parse_arguments(arguments)
        try:
            status = await run(reactor, given)
        except (ConnectFailed, ValueError) as problem:
            print(problem, file=sys.stderr)
            status = 2
        raise SystemExit(status)

    return Deferred.fromCoroutine(examine())


if __name__ == "__main__":
    react(main, sys.argv[1:])
