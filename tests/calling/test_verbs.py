from __future__ import annotations

import copy
import math
from typing import Any

import pytest

from kn_sock._calling.options import (
    DEFAULT_TIMEOUT,
    Batch,
    BatchEntry,
    CallOptions,
    Remote,
    check_method,
)


class FakeFace:
    """Notes the calls and batches that reach it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.batches: list[list[BatchEntry]] = []

    def call(self, method: str, /, *args: Any, **kwargs: Any) -> str:
        self.calls.append((method, args, kwargs))
        return f"result of {method}"

    def send(self, entries: list[BatchEntry]) -> str:
        self.batches.append(list(entries))
        return "sent"


@pytest.fixture
def face() -> FakeFace:
    return FakeFace()


@pytest.fixture
def remote(face: FakeFace) -> Remote[str]:
    return Remote(face.call)


@pytest.fixture
def batch(face: FakeFace) -> Batch[str]:
    return Batch(face.send)


# --- options --------------------------------------------------------------------------------------


def test_a_call_has_half_a_minute_unless_it_is_told() -> None:
    assert CallOptions().timeout == DEFAULT_TIMEOUT == 30.0


@pytest.mark.parametrize("timeout", [None, 0, 0.5, 10])
def test_takes_seconds_or_none(timeout: float | None) -> None:
    assert CallOptions(timeout=timeout).timeout == timeout


@pytest.mark.parametrize("timeout", [-1, -0.001, math.nan, -math.inf])
def test_refuses_a_time_that_is_none(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout must not be negative"):
        CallOptions(timeout=timeout)


def test_refuses_a_time_that_no_clock_can_count() -> None:
    with pytest.raises(ValueError, match="timeout is too large; None is for no limit"):
        CallOptions(timeout=10**400)


@pytest.mark.parametrize("timeout", ["5", True, [5], 1j])
def test_refuses_what_is_no_number_of_seconds(timeout: Any) -> None:
    with pytest.raises(TypeError, match="timeout must be a number of seconds, or None"):
        CallOptions(timeout=timeout)


def test_gives_changed_options_and_stays_as_it_is() -> None:
    options = CallOptions(timeout=5)
    assert options.replaced({"timeout": None}) == CallOptions(timeout=None)
    assert options.replaced({}) == options
    assert options.timeout == 5


def test_checks_changed_options_too() -> None:
    with pytest.raises(ValueError, match="timeout"):
        CallOptions().replaced({"timeout": -1})
    with pytest.raises(TypeError, match="timeuot"):
        CallOptions().replaced({"timeuot": 1})


@pytest.mark.parametrize("name", ["add", "calc.add", "", "é"])
def test_a_text_may_name_a_method(name: str) -> None:
    check_method(name)


@pytest.mark.parametrize("name", [None, 5, b"add", ["add"], len])
def test_nothing_else_may_name_a_method(name: object) -> None:
    with pytest.raises(TypeError, match="the method's name, a string"):
        check_method(name)


# --- the proxy ------------------------------------------------------------------------------------


def test_an_attribute_is_a_method(remote: Remote[str], face: FakeFace) -> None:
    assert remote.add(10, 20, z=3) == "result of add"
    assert face.calls == [("add", (10, 20), {"z": 3})]


def test_dots_make_dotted_names(remote: Remote[str], face: FakeFace) -> None:
    remote.calc.deep.add(1)
    assert face.calls == [("calc.deep.add", (1,), {})]


def test_part_of_a_name_can_be_kept(remote: Remote[str], face: FakeFace) -> None:
    calc = remote.calc
    calc.add(1)
    calc.sub(2)
    assert [method for method, _, _ in face.calls] == ["calc.add", "calc.sub"]


@pytest.mark.parametrize(
    "name", ["call", "name", "_call", "_name", "_private", "self", "method", "send", "class_"]
)
def test_no_name_of_ours_stands_in_the_way(name: str, remote: Remote[str], face: FakeFace) -> None:
    getattr(remote, name)(1)
    getattr(remote.a, name)(1)
    assert [method for method, _, _ in face.calls] == [name, f"a.{name}"]


def test_every_keyword_goes_to_the_method(remote: Remote[str], face: FakeFace) -> None:
    remote.add(self=1, method=2, call=3, name=4, timeout=5)
    assert face.calls == [("add", (), {"self": 1, "method": 2, "call": 3, "name": 4, "timeout": 5})]


def test_a_name_of_pythons_own_is_no_method(remote: Remote[str]) -> None:
    for name in ("__len__", "__wrapped__", "__array__", "__await__"):
        assert not hasattr(remote, name)


def test_is_shown_and_not_called_by_what_looks_at_it(remote: Remote[str], face: FakeFace) -> None:
    assert repr(remote) == "<remote methods>"
    assert repr(remote.calc.add) == "<remote calc.add>"
    assert bool(remote)
    copy.copy(remote)
    assert face.calls == []


def test_cannot_be_called_without_a_name(remote: Remote[str]) -> None:
    with pytest.raises(TypeError, match="name the method to call"):
        remote(1)


# --- the batch ------------------------------------------------------------------------------------


def test_a_batch_is_sent_in_order(batch: Batch[str], face: FakeFace) -> None:
    batch.call("add", 1, b=2)
    batch.notify("log", "x")
    batch.call("sub")
    assert len(batch) == 3
    assert face.batches == []
    assert batch.send() == "sent"
    assert face.batches == [
        [
            BatchEntry("add", (1,), {"b": 2}, is_call=True),
            BatchEntry("log", ("x",), {}, is_call=False),
            BatchEntry("sub", (), {}, is_call=True),
        ]
    ]


def test_every_keyword_goes_to_the_method_of_a_batch(batch: Batch[str], face: FakeFace) -> None:
    batch.call("add", self=1, method=2)
    batch.notify("log", self=1, method=2)
    batch.send()
    assert [entry.kwargs for entry in face.batches[0]] == [{"self": 1, "method": 2}] * 2


def test_a_batch_is_sent_once(batch: Batch[str], face: FakeFace) -> None:
    batch.call("add")
    batch.send()
    for again in (batch.send, lambda: batch.call("add"), lambda: batch.notify("add")):
        with pytest.raises(RuntimeError, match="this batch has been sent; begin a new one"):
            again()
    assert len(face.batches) == 1


def test_an_empty_batch_is_for_its_face_to_judge(batch: Batch[str], face: FakeFace) -> None:
    assert len(batch) == 0
    batch.send()
    assert face.batches == [[]]


def test_a_batch_checks_the_name_at_once(batch: Batch[str]) -> None:
    name: Any = 5
    for add in (batch.call, batch.notify):
        with pytest.raises(TypeError, match="the method's name"):
            add(name)
    assert len(batch) == 0
