"""The outcome of a Deferred, for assertions."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

__all__ = ["Outcome", "failure_of", "outcome_of", "value_of"]


class Outcome:
    """The outcome of a Deferred, as it is known so far.

    The Deferred's own result becomes ``None``: a failure counts as handled.

    Attributes:
        is_there: whether the Deferred has fired or failed.
        value: the result, or the exception.
        has_failed: whether *value* is the exception that the Deferred failed with.
    """

    def __init__(self, deferred: Deferred[Any]) -> None:
        self.value: Any = None
        self.is_there = self.has_failed = False
        deferred.addBoth(self._set)

    def _set(self, result: Any) -> None:
        self.is_there = True
        self.has_failed = isinstance(result, Failure)
        self.value = result.value if isinstance(result, Failure) else result

    def __repr__(self) -> str:
        return f"<Outcome {self.value!r}>" if self.is_there else "<Outcome, not there>"


def outcome_of(deferred: Deferred[Any]) -> Any:
    """Return the result of a Deferred, or the exception it failed with; ``None`` before that."""
    return Outcome(deferred).value


def value_of(deferred: Deferred[Any]) -> Any:
    """Return the result of a Deferred.

    Raises:
        AssertionError: it has not fired.
        Whatever exception it failed with.
    """
    outcome = Outcome(deferred)
    if outcome.has_failed:
        raise outcome.value
    assert outcome.is_there, "the Deferred has not fired"
    return outcome.value


def failure_of(deferred: Deferred[Any]) -> BaseException:
    """Return the exception that a Deferred has failed with.

    Raises:
        AssertionError: it has not failed.
    """
    outcome = Outcome(deferred)
    assert outcome.is_there, "the Deferred has not fired"
    assert outcome.has_failed, f"the Deferred has not failed, but has {outcome.value!r}"
    error: BaseException = outcome.value
    return error
