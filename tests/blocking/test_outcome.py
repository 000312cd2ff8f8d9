"""What a thread waits for, and the reactor's thread tells it, in whichever order."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from kn_sock._blocking.outcome import Outcome


class FakeReactorThread:
    is_ending = False
    is_alive = True

    def check_process(self) -> None:
        pass


@pytest.fixture
def outcome() -> Outcome:
    return Outcome(FakeReactorThread())  # type: ignore[arg-type]  # all of it that is asked for


def test_what_was_told_before_is_there_without_waiting(outcome: Outcome) -> None:
    assert not outcome.is_there
    outcome.succeed(42)
    assert outcome.is_there
    assert outcome.wait() == 42


def test_an_error_that_was_told_before_is_raised(outcome: Outcome) -> None:
    outcome.fail(ValueError("no"))
    with pytest.raises(ValueError, match=r"^no$"):
        outcome.wait()


def test_only_what_is_told_first_counts(outcome: Outcome) -> None:
    outcome.succeed(1)
    outcome.succeed(2)
    outcome.fail(ValueError())
    assert outcome.wait() == 1


def test_nobody_misses_what_is_told_while_he_begins_to_wait() -> None:
    count = 2000
    outcomes = [Outcome(FakeReactorThread()) for _ in range(count)]  # type: ignore[arg-type]
    barrier = threading.Barrier(2)
    found: list[Any] = []

    def wait() -> None:
        barrier.wait()
        found.extend(each.wait() for each in outcomes)

    def tell() -> None:
        barrier.wait()
        for place, each in enumerate(outcomes):
            each.succeed(place)

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(wait), threads.submit(tell)]:
            done.result(timeout=60)
    assert found == list(range(count))
