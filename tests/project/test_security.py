"""Each promise of docs/security.rst names the tests that hold it; they are there."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
PAGE = TESTS.parent / "docs" / "security.rst"

PROMISED = re.findall(r"``(test_\w+\.py)::(test_\w+)``", PAGE.read_text("utf-8"))


def test_promises_name_tests() -> None:
    assert len(PROMISED) > 40


@functools.cache
def functions_of(file: str) -> set[str]:
    (path,) = TESTS.rglob(file)
    tree = ast.parse(path.read_text("utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, kinds)}


@pytest.mark.parametrize(("file", "name"), sorted(set(PROMISED)))
def test_what_a_promise_names_is_there(file: str, name: str) -> None:
    assert name in functions_of(file)
