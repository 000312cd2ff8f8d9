from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kn_sock import MethodTable, RPCServerFactory
from kn_sock.errors import InvalidParams
from kn_sock.methods.signature import Method
from kn_sock.testing import MemoryReactor
from tests.methods.annotations import ROWS, UNCHECKED, Point, RowOfTable, table, takes_extras


def function_of(annotation: Any) -> Callable[[Any], Any]:
    def function(value: Any) -> Any:
        return value

    function.__annotations__ = {"value": annotation}
    return function


def called(function: Callable[..., Any], params: Any, **options: Any) -> Any:
    args, kwargs = Method("f", function, **options).bind(params, None)
    return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.text)
def test_an_annotation_means_what_it_says(row: RowOfTable) -> None:
    function = function_of(row.annotation)
    assert Method("f", function).unchecked == []
    for value, wanted in row.taken:
        for params in ([value], {"value": value}):
            result = called(function, params)
            assert result == wanted
            assert type(result) is type(wanted)
    for value in row.refused:
        with pytest.raises(InvalidParams, match=r"^f\(value: .*"):
            called(function, [value])


@pytest.mark.parametrize(
    ("text", "annotation", "complaint"), UNCHECKED, ids=[one[0] for one in UNCHECKED]
)
def test_an_annotation_that_cannot_be_checked_is_reported_and_passes(
    text: str, annotation: Any, complaint: str
) -> None:
    function = function_of(annotation)
    (sentence,) = Method("shop.f", function).unchecked
    assert sentence.startswith("shop.f: the annotation of value cannot be checked")
    assert complaint in sentence
    for value in (1, "x", [None], {"a": 1}):
        assert called(function, [value]) == value


@pytest.mark.parametrize("annotation", [Any, object, inspect.Parameter.empty])
def test_what_is_for_any_value_needs_no_warning(annotation: Any) -> None:
    function = function_of(annotation)
    assert Method("f", function).unchecked == []
    assert called(function, [{"a": 1}]) == {"a": 1}


def test_names_of_an_enclosing_function_are_found() -> None:
    Local: Any = Point  # noqa: N806  # it stands for a class

    def function(value: Local) -> Any:
        assert Local is Point
        return value

    assert called(function, [{"x": 1}]) == Point(1)


def test_keyword_arguments_that_are_unpacked_from_a_typed_dict() -> None:
    assert called(takes_extras, {"count": 1, "note": "a"}) == {"count": 1, "note": "a"}
    for wrong in ({}, {"count": "1"}, {"count": 1, "other": 2}):
        with pytest.raises(InvalidParams):
            called(takes_extras, wrong)


def test_unknown_fields_may_be_allowed() -> None:
    function = function_of(list[Point])
    value = [{"x": 1, "z": 2}]
    with pytest.raises(InvalidParams, match="Object contains unknown field `z`"):
        called(function, [value])
    assert called(function, [value], forbid_unknown_fields=False) == [Point(1)]
    factory = RPCServerFactory(
        {"f": function}, reactor=MemoryReactor(), forbid_unknown_fields=False
    )
    assert factory.methods["f"].bind([value], None) == ([[Point(1)]], None)


def test_unchecked_annotations_are_warned_of_once(log_events: Any) -> None:
    methods = MethodTable({"f": function_of("NoSuchName"), "g": function_of(int)})
    for _ in range(2):
        RPCServerFactory(methods, reactor=MemoryReactor())
    (line,) = log_events.take_lines()
    assert line.startswith("warn: f: the annotation of value cannot be checked, and any value")


def test_strict_annotations_make_that_an_error() -> None:
    functions = {"f": function_of("NoSuchName"), "g": function_of(complex)}
    with pytest.raises(TypeError, match="f: the annotation of value") as caught:
        RPCServerFactory(functions, reactor=MemoryReactor(), strict_annotations=True)
    assert "\ng: the annotation of value" in str(caught.value)


def test_the_table_of_the_documentation_is_this_one() -> None:
    written = Path(__file__).parents[2] / "docs" / "annotations.csv"
    assert written.read_text("utf-8") == table(), (
        "renew it: python -m tests.methods.annotations docs/annotations.csv"
    )
