"""What every test is held to, whatever it tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from twisted.internet import reactor
from twisted.logger import ILogObserver, LogLevel, formatEvent, globalLogPublisher
from zope.interface import implementer

from kn_sock.testing import MemoryNetwork

# A hundred programs are started, and each would compile kn_sock anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

settings.register_profile("suite", derandomize=True, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


@implementer(ILogObserver)
class LoggedErrors:
    """The errors that were logged during a test; one that is not claimed fails it."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []

    def __call__(self, event: Any) -> None:
        if event["log_level"] >= LogLevel.error:
            self._events.append(event)

    def claim(self) -> list[str]:
        """Take what was logged so far: it was meant to be."""
        events, self._events = self._events, []
        return [str(event["log_format"]).format(**event) for event in events]


@pytest.fixture(autouse=True)
def logged_errors() -> Iterator[LoggedErrors]:
    errors = LoggedErrors()
    globalLogPublisher.addObserver(errors)
    yield errors
    globalLogPublisher.removeObserver(errors)
    assert errors.claim() == []


@implementer(ILogObserver)
class LogEvents:
    """The events that kn_sock logged during a test, whatever their level."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []

    def __call__(self, event: Any) -> None:
        if event["log_namespace"].startswith("kn_sock."):
            self._events.append(event)

    def take(self) -> list[dict[str, Any]]:
        """Take what was logged so far."""
        events, self._events = self._events, []
        return events

    def take_lines(self) -> list[str]:
        """Take it as lines, each with its level."""
        return [f"{event['log_level'].name}: {formatEvent(event)}" for event in self.take()]


@pytest.fixture
def log_events() -> Iterator[LogEvents]:
    events = LogEvents()
    globalLogPublisher.addObserver(events)
    yield events
    globalLogPublisher.removeObserver(events)


@pytest.fixture(autouse=True)
def no_delayed_calls() -> Iterator[None]:
    """Fail a test that leaves a call behind on the global reactor."""
    before = set(reactor.getDelayedCalls())
    yield
    left = set(reactor.getDelayedCalls()) - before
    assert not left


@pytest.fixture
def network() -> Iterator[MemoryNetwork]:
    """A network whose clock holds nothing in the end but what the open connections need."""
    network = MemoryNetwork()
    yield network
    for wire in network.wires:
        wire.lose(ConnectionError("the test is over"))
    network.reactor.advance(0)
    assert network.reactor.getDelayedCalls() == []
