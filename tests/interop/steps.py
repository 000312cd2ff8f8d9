"""Programs that are told what to do on their standard input, and print what became of each."""

from __future__ import annotations

import json
from typing import Any

from tests.interop.peers import Program


def outcomes(program: Program, *steps: Any) -> list[Any]:
    """Have a program take steps, each a list of its name and its arguments; give the outcomes."""
    stdin = program.process.stdin
    assert stdin is not None
    stdin.write(json.dumps(steps))
    return [json.loads(line) for line in program.rest()]
