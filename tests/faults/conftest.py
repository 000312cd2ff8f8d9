"""What every fault is held to: nothing is left behind, and nothing is logged as an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.faults.peers import (
    Process,
    ScriptedServer,
    Served,
    check_nothing_is_left,
    twistd,
)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield from check_nothing_is_left()


@pytest.fixture
def scripted(nothing_is_left: None) -> Iterator[Callable[..., ScriptedServer]]:
    made: list[ScriptedServer] = []

    def make(*scripts: Any) -> ScriptedServer:
        made.append(ScriptedServer(*scripts))
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.fixture
def serve(nothing_is_left: None) -> Iterator[Callable[..., Served]]:
    made: list[Served] = []

    def make(funcs: Any, **options: Any) -> Served:
        made.append(Served(funcs, **options))
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.fixture
def start(nothing_is_left: None) -> Iterator[Callable[..., Process]]:
    """Starts programs; those that still run in the end are killed."""
    made: list[Process] = []

    def begin(*command: str, **keywords: Any) -> Process:
        made.append(Process(*command, **keywords))
        return made[-1]

    yield begin
    for each in made:
        each.kill()


@pytest.fixture
def start_twistd(nothing_is_left: None) -> Iterator[Callable[..., Process]]:
    made: list[Process] = []

    def begin(*arguments: str, **keywords: Any) -> Process:
        made.append(twistd(*arguments, **keywords))
        return made[-1]

    yield begin
    for each in made:
        each.kill()
