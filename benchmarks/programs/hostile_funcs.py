"""What the server of ``benchmarks.hostile`` serves."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater

from kn_sock import in_reactor


@dataclass
class Row:
    """One row of a table."""

    name: str
    count: int = 0
    tags: list[str] = field(default_factory=list)


def text(length: int) -> str:
    """Return a text of this length."""
    return "x" * length


def numbers(count: int) -> list[int]:
    """Return so many numbers."""
    return [1234567] * count


def sleep(seconds: float, *_: Any) -> None:
    """Sleep in a thread."""
    time.sleep(seconds)


@in_reactor
def wait(seconds: float, *_: Any) -> Any:
    """Wait without a thread."""
    return deferLater(reactor, seconds)


def size(*values: Any) -> int:
    """Return how many values came."""
    return len(values)


def rows(table: list[Row]) -> int:
    """Return how many rows came."""
    return len(table)


def _method(number: int) -> Any:
    def method(table: list[Row], first: Row, limit: int | None = None) -> Row | None:
        return table[0] if limit else first

    method.__name__ = f"method_{number}"
    method.__doc__ = f"The method number {number}, of many with the same signature."
    return method


FUNCS: dict[str, Any] = {
    **{each.__name__: each for each in (text, numbers, sleep, wait, size, rows)},
    **{f"method_{number}": _method(number) for number in range(100)},
}
