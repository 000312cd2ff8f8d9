"""Nothing grows: each load again and again, in a process of its own; the rest is in the soak."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from tests.faults import growth
from tests.faults.growth import LOADS, Left
from tests.faults.peers import Process

# Of each so many that one object left by each shows; the soak has them all.
COUNTS = {
    "connections": 1_000,
    "calls": 10_000,
    "cancelled": 2_000,
    "timed_out": 2_000,
    "clients": 600,
    "hostile": 54,
}
# What memory large things take depends on which of them are there at once.
ROUNDS = {"hostile": 5}


@pytest.mark.parametrize("load", LOADS)
def test_nothing_is_left_by_many(start: Callable[..., Process], load: str) -> None:
    count = str(COUNTS[load])
    rounds = ROUNDS.get(load, 2)
    arguments = [load, "--count", count, "--rounds", str(rounds)]
    measuring = start("-m", "tests.faults.growth", *arguments)
    code, output = measuring.end()
    assert "GROWS" not in output
    assert code == 0
    # The first fills what is filled once.
    assert output.count("Left(") == rounds + 1


NOTHING = Left(sockets=10, readers=2, writers=0, timers=0, ours=50, blocks=100_000, kib=50_000)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("sockets", 1),
        ("readers", 1),
        ("writers", 1),
        ("timers", 1),
        ("ours", 1),
        ("blocks", 2 * growth.MOST_BLOCKS + 1),
        ("kib", 2 * growth.MOST_KIB + 1),
    ],
)
def test_what_grows_is_told(name: str, more: int) -> None:
    grown = dataclasses.replace(NOTHING, **{name: getattr(NOTHING, name) + more})
    twice = dataclasses.replace(NOTHING, **{name: getattr(NOTHING, name) + 2 * more})
    assert growth.problems([NOTHING, NOTHING, NOTHING]) == []
    (problem,) = growth.problems([NOTHING, grown, twice])
    assert name in problem
