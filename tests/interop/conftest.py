"""Starts and stops the programs, and makes the table of what was seen with them.

``python tests/interop/install.py`` brings the programs, ``--interop-csv FILE`` writes the table.
"""

from __future__ import annotations

import csv
import queue
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from kn_sock import start_rpc_server
from tests.interop.peers import (
    CLIENT,
    PATIENCE,
    SERVER,
    VERSIONS,
    Missing,
    Program,
    Serve,
    Start,
    version_of,
)

# --- the table ------------------------------------------------------------------------------------

Seen = dict[tuple[str, str], dict[str, str]]
SEEN = pytest.StashKey[Seen]()

# From the best to the worst.
OUTCOMES = ["passed", "skipped", "failed"]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SEEN] = {}
    config.addinivalue_line("markers", "interop(peer, role, shows): a row and a word of the table")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--interop-csv", metavar="FILE", help="write what was seen with each peer")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report = yield
    marker = item.get_closest_marker("interop")
    if marker is not None and (report.when == "call" or not report.passed):
        peer, role, shows = marker.args
        seen = item.config.stash[SEEN].setdefault((peer, role), {})
        # A failure that is known is one.
        outcome = "failed" if hasattr(report, "wasxfail") else report.outcome
        # Of a test with several parameters, the worst.
        seen[shows] = max(outcome, seen.get(shows, outcome), key=OUTCOMES.index)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--interop-csv")
    if path:
        with Path(path).open("w", encoding="utf-8", newline="") as file:
            write_table(session.config.stash[SEEN], csv.writer(file, lineterminator="\n"))


def write_table(seen: Seen, table: Any) -> None:
    table.writerow(["Peer", "Version", "Calling our server", "Serving our client"])
    for peer in VERSIONS:
        try:
            version = version_of(peer)
        except Missing as problem:
            version = f"not here: {problem}"
        cells = [cell(seen.get((peer, role), {})) for role in (CLIENT, SERVER)]
        table.writerow([peer, version, *cells])


def cell(outcomes: dict[str, str]) -> str:
    works = ", ".join(shows for shows, outcome in outcomes.items() if outcome == "passed")
    fails = [f"fails: {shows}" for shows, outcome in outcomes.items() if outcome == "failed"]
    return "; ".join(filter(None, [works, *fails])) or "not tried"


# --- programs -------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def peer_is_here(request: pytest.FixtureRequest) -> None:
    """Skip a test whose peer is missing."""
    marker = request.node.get_closest_marker("interop")
    if marker is not None:
        try:
            version_of(marker.args[0])
        except Missing as problem:
            pytest.skip(str(problem))


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a program; it is ended with the test."""
    programs: list[Program] = []

    def start(*command: str | Path, **variables: str) -> Program:
        programs.append(Program(*command, **variables))
        return programs[-1]

    yield start
    for program in programs:
        program.end()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve functions with `start_rpc_server` on loopback until the test ends; give the port."""
    done = threading.Event()
    threads: list[threading.Thread] = []

    def serve(funcs: Any, **options: Any) -> int:
        ports: queue.Queue[int] = queue.Queue()
        thread = threading.Thread(
            target=start_rpc_server,
            args=(0, funcs),
            kwargs={"shutdown_event": done, "on_ready": lambda _, port: ports.put(port), **options},
            daemon=True,
        )
        threads.append(thread)
        thread.start()
        return ports.get(timeout=PATIENCE)

    yield serve
    done.set()
    for thread in threads:
        thread.join(PATIENCE)
