from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from kn_sock.testing import Outcome, failure_of, outcome_of, value_of


def test_an_outcome_follows_its_deferred() -> None:
    deferred: Deferred[int] = Deferred()
    outcome = Outcome(deferred)
    assert (outcome.is_there, outcome.has_failed, outcome.value) == (False, False, None)
    assert repr(outcome) == "<Outcome, not there>"
    deferred.callback(3)
    assert (outcome.is_there, outcome.has_failed, outcome.value) == (True, False, 3)
    assert repr(outcome) == "<Outcome 3>"


def test_outcomes_of_results_and_failures() -> None:
    error = ValueError("no")
    assert value_of(succeed([1])) == [1]
    assert outcome_of(succeed([1])) == [1]
    assert outcome_of(Deferred()) is None
    assert outcome_of(fail(error)) is error
    assert failure_of(fail(error)) is error
    with pytest.raises(ValueError, match=r"^no$"):
        value_of(fail(error))


@pytest.mark.parametrize(
    ("take", "deferred", "complaint"),
    [
        (value_of, Deferred(), "the Deferred has not fired"),
        (failure_of, Deferred(), "the Deferred has not fired"),
        (failure_of, succeed(3), "the Deferred has not failed, but has 3"),
    ],
)
def test_an_outcome_that_is_not_there_fails_the_assertion(
    take: Callable[[Any], Any], deferred: Deferred[Any], complaint: str
) -> None:
    with pytest.raises(AssertionError, match=f"^{complaint}$"):
        take(deferred)
