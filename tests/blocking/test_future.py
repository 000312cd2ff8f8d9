"""A call's future is one of `concurrent.futures`, whichever of asking and telling comes first."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import Any

import pytest

from kn_sock._blocking.future import CallFuture

PATIENCE = 20.0

Use = Callable[[CallFuture], Any]


@pytest.fixture
def given_up() -> list[None]:
    return []


@pytest.fixture
def future(given_up: list[None]) -> CallFuture:
    return CallFuture(lambda: given_up.append(None))


def callback_of(future: CallFuture) -> Any:
    seen: list[Any] = []
    future.add_done_callback(seen.append)
    return seen


USES: dict[str, Use] = {
    "done": lambda future: future.done(),
    "running": lambda future: future.running(),
    "cancelled": lambda future: future.cancelled(),
    "repr": lambda future: repr(future).partition("state=")[2],
    "result": lambda future: future.result(0),
    "exception": lambda future: repr(future.exception(0)),
    "wait": lambda future: [len(part) for part in concurrent.futures.wait([future], timeout=0)],
    "as_completed": lambda future: len(list(concurrent.futures.as_completed([future], timeout=0))),
    "callback": lambda future: len(callback_of(future)),
    "cancel": lambda future: future.cancel(),
}


def outcome_of(use: Callable[[], Any]) -> Any:
    try:
        return use()
    except (Exception, CancelledError) as raised:
        return type(raised), str(raised)


def told(future: Future[Any], outcome: str) -> None:
    if outcome == "result":
        future.set_result(42)
    elif outcome == "error":
        future.set_exception(ValueError("no"))
    elif outcome == "cancelled":
        future.cancel()
        future.set_running_or_notify_cancel()


@pytest.mark.parametrize("use", [use for use in USES if use != "cancel"])
@pytest.mark.parametrize("outcome", ["nothing", "result", "error", "cancelled"])
@pytest.mark.parametrize("was_used_before", [False, True])
def test_it_does_what_any_future_does(
    future: CallFuture, use: str, outcome: str, was_used_before: bool
) -> None:
    any_future: Any = Future()
    for each in (future, any_future):
        if was_used_before:
            each.done()
        if outcome == "cancelled" and each is future:
            # It tells of that by itself.
            assert each.cancel()
        else:
            told(each, outcome)
    assert outcome_of(lambda: USES[use](future)) == outcome_of(lambda: USES[use](any_future))


def test_what_is_told_to_it_while_somebody_waits_wakes_him(future: CallFuture) -> None:
    waits = threading.Event()
    future.add_done_callback(lambda _: None)
    condition = future._condition  # to know that somebody waits

    def wait() -> None:
        with condition:
            waits.set()
            found.append(future.result(PATIENCE))

    found: list[Any] = []
    thread = threading.Thread(target=wait)
    thread.start()
    assert waits.wait(PATIENCE)
    future.set_result(42)
    thread.join(PATIENCE)
    assert found == [42]


@pytest.mark.parametrize("tell", [lambda f: f.set_result(1), lambda f: f.set_exception(OSError())])
@pytest.mark.parametrize("first", [lambda f: f.set_result(1), lambda f: f.set_exception(OSError())])
def test_it_is_told_once(future: CallFuture, first: Use, tell: Use) -> None:
    first(future)
    with pytest.raises(InvalidStateError):
        tell(future)


def test_what_was_cancelled_takes_no_outcome(future: CallFuture, given_up: list[None]) -> None:
    assert future.cancel()
    assert future.cancel()
    assert given_up == [None]
    with pytest.raises(InvalidStateError):
        future.set_result(1)
    with pytest.raises(CancelledError):
        future.result(0)


def test_what_was_told_cannot_be_cancelled(future: CallFuture, given_up: list[None]) -> None:
    future.set_result(1)
    assert not future.cancel()
    assert not given_up
    assert future.result() == 1


def test_an_error_that_was_raised_is_no_cycle() -> None:
    future = CallFuture(lambda: None)
    seen = weakref.ref(future)
    gc.disable()
    try:
        future.set_exception(ValueError("no"))
        try:
            future.result()
        except ValueError:
            del future
        assert seen() is None
    finally:
        gc.enable()


def test_it_has_no_other_attributes(future: CallFuture) -> None:
    assert not hasattr(future, "unheard_of")
    with pytest.raises(AttributeError, match="'CallFuture' object has no attribute 'unheard_of'"):
        _ = future.unheard_of


def test_asyncio_can_wait_for_it(future: CallFuture) -> None:
    async def wait() -> Any:
        waited = asyncio.wrap_future(future)
        threading.Thread(target=future.set_result, args=(42,)).start()
        return await asyncio.wait_for(waited, PATIENCE)

    assert asyncio.run(wait()) == 42


@pytest.mark.parametrize("use", ["wait", "as_completed", "callback", "result"])
def test_nobody_misses_what_is_told_while_he_begins_to_wait(use: str) -> None:
    count = 1000
    futures = [CallFuture(lambda: None) for _ in range(count)]
    barrier = threading.Barrier(3)
    found: list[list[Any]] = [[], []]

    def wait(place: int) -> None:
        mine = found[place]
        barrier.wait()
        if use == "wait":
            for number in range(0, count, 10):
                done, _ = concurrent.futures.wait(futures[number : number + 10], timeout=PATIENCE)
                mine.extend(sorted(each.result() for each in done))
        elif use == "as_completed":
            for number in range(0, count, 10):
                some = futures[number : number + 10]
                done = set(concurrent.futures.as_completed(some, timeout=PATIENCE))
                mine.extend(sorted(each.result() for each in done))
        elif use == "callback":
            for future in futures:
                future.add_done_callback(lambda done: mine.append(done.result()))
        else:
            mine.extend(future.result(PATIENCE) for future in futures)

    threads = [threading.Thread(target=wait, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    barrier.wait()
    for number, future in enumerate(futures):
        future.set_result(number)
    for thread in threads:
        thread.join(PATIENCE)
    assert [sorted(each) for each in found] == [list(range(count))] * 2
