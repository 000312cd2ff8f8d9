"""Dotted names on the command line."""

from __future__ import annotations

import importlib
import os
from typing import Any

from twisted.python import usage


def load(name: str, flag: str) -> Any:
    """Find what a dotted name names: a module, or something in one.

    Args:
        name: the dotted name.
        flag: the option that gave it, for the text of errors.

    Raises:
        UsageError: it is not there, or its module cannot be imported.
    """
    parts = name.split(".")
    if not all(part.isidentifier() for part in parts):
        raise usage.UsageError(f"{flag} {name!r}: a dotted name is wanted, as mymod.FUNCS")
    module, found = _import_longest(f"{flag} {name}", parts)
    value: Any = module
    for part in parts[found:]:
        try:
            value = getattr(value, part)
        except AttributeError:
            public = [each for each in dir(value) if not each.startswith("_")]
            raise usage.UsageError(
                f"{flag} {name}: {'.'.join(parts[:found])} has no {part}; "
                f"it has {', '.join(public) or 'nothing public'}"
            ) from None
        found += 1
    return value


def _import_longest(given: str, parts: list[str]) -> tuple[Any, int]:
    module: Any = None
    for count in range(1, len(parts) + 1):
        dotted = ".".join(parts[:count])
        try:
            module = importlib.import_module(dotted)
        except ModuleNotFoundError as problem:
            if problem.name is None or not f"{dotted}.".startswith(f"{problem.name}."):
                raise _import_failed(given, dotted, problem) from None
            if module is None:
                raise usage.UsageError(
                    f"{given}: there is no module {dotted} in {os.getcwd()} or on Python's path"
                ) from None
            return module, count - 1
        except Exception as problem:
            raise _import_failed(given, dotted, problem) from None
    return module, len(parts)


def _import_failed(given: str, dotted: str, problem: Exception) -> usage.UsageError:
    place = ""
    frame = problem.__traceback__
    while frame is not None:
        place = f" ({frame.tb_frame.f_code.co_filename}, line {frame.tb_lineno})"
        frame = frame.tb_next
    if place.startswith(" (<frozen"):
        place = ""
    kind = type(problem).__name__
    return usage.UsageError(f"{given}: importing {dotted} failed: {kind}: {problem}{place}")
