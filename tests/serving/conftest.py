from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from kn_sock import in_reactor
from kn_sock.testing import ManualExecutor


@pytest.fixture
def executor() -> ManualExecutor:
    return ManualExecutor()


@pytest.fixture
def waiting() -> list[Deferred[Any]]:
    """The Deferreds that `wait` has returned."""
    return []


@pytest.fixture
def wait(waiting: list[Deferred[Any]]) -> Callable[[], Deferred[Any]]:
    """A method that takes as long as the test wants."""

    @in_reactor
    def wait() -> Deferred[Any]:
        waiting.append(Deferred())
        return waiting[-1]

    return wait
