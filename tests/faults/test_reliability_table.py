"""The commands of ``docs/reliability.rst`` run what they say."""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.faults.growth import LOADS
from tests.faults.peers import TOP, Process

HERE = "tests/faults"
DOCUMENT = TOP / "docs" / "reliability.rst"


def commands() -> list[tuple[str, str]]:
    """Give the file and the words of each row's command."""
    found: list[tuple[str, str]] = []
    file = ""
    for line in DOCUMENT.read_text("utf-8").splitlines():
        if begins := re.search(r"tests/faults/(test_\w+\.py) -k``", line):
            file = begins[1]
        elif "The commands begin with" in line:
            file = ""
        elif row := re.fullmatch(r"     - ``(?:(test_\w+\.py) -k )?([a-z][\w ]*)``", line):
            found.append((row[1] or file, row[2]))
    return found


def test_every_command_of_the_table_runs_a_test(start: Callable[..., Process]) -> None:
    options = ("--collect-only", "-q", "-p", "no:cacheprovider")
    collecting = start("-m", "pytest", *options, HERE, cwd=TOP)
    code, output = collecting.end()
    assert code == 0
    tests = [line.removeprefix(HERE + "/") for line in output.splitlines() if "::" in line]
    rows = commands()
    assert len(rows) > 40
    for file, words in rows:
        if words in LOADS:
            continue
        for word in words.split(" or "):
            assert any(test.startswith(file) and word in test for test in tests), (file, word)
