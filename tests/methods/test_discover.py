from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from kn_sock._wire.dialects import DIALECTS
from kn_sock.methods import MethodTable
from kn_sock.methods.discovery import standard_methods


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.5


class Foreign:
    """A class that JSON has no form for."""


def described(**functions: Callable[..., Any]) -> dict[str, Any]:
    """Give the document as its reader gets it."""
    methods = standard_methods(MethodTable(functions), "1.2.3")
    line = DIALECTS["2.0"].encode_result(1, methods["rpc.discover"].function())
    document: dict[str, Any] = json.loads(line)["result"]
    return document


def only_method(function: Callable[..., Any]) -> dict[str, Any]:
    (method,) = described(f=function)["methods"]
    assert isinstance(method, dict)
    return method


def schemas(function: Callable[..., Any]) -> dict[str, Any]:
    return {one["name"]: one["schema"] for one in only_method(function)["params"]}


def test_every_server_answers_a_ping() -> None:
    ping = standard_methods(MethodTable(), "1")["rpc.ping"]
    assert ping.function() == "pong"
    assert ping.bind(None, None) == ((), None)


def test_both_methods_run_on_the_reactor() -> None:
    methods = standard_methods(MethodTable(), "1")
    assert sorted(methods) == ["rpc.discover", "rpc.ping"]
    assert all(method.on_reactor for method in methods.values())


def test_describes_the_server() -> None:
    document = described()
    assert document["openrpc"].startswith("1.")
    assert document["info"] == {"title": "kn_sock", "version": "1.2.3"}
    assert document["methods"] == []


def test_lists_the_methods_in_their_order() -> None:
    document = described(b=lambda: 0, a=lambda: 0)
    assert [method["name"] for method in document["methods"]] == ["b", "a"]


def test_describes_the_methods_that_were_added_since() -> None:
    table = MethodTable({"a": lambda: 0})
    discover = standard_methods(table, "1")["rpc.discover"].function
    table.add({"b": lambda: 0})
    assert len(msgspec.json.decode(discover())["methods"]) == 2


def test_describes_a_method() -> None:
    def add(a: int, b: float = 2) -> list[int]:
        """Add two numbers.

        Nothing else.
        """
        raise AssertionError(a, b)

    method = only_method(add)
    assert method["summary"] == "Add two numbers."
    assert method["description"] == "Add two numbers.\n\nNothing else."
    assert method["params"] == [
        {"name": "a", "required": True, "schema": {"type": "integer"}},
        {"name": "b", "required": False, "schema": {"type": "number"}},
    ]
    assert method["result"]["schema"] == {"type": "array", "items": {"type": "integer"}}


def test_says_nothing_of_a_method_without_a_docstring() -> None:
    method = only_method(lambda a: a)
    assert "summary" not in method
    assert "description" not in method


def test_describes_what_is_not_annotated_as_anything() -> None:
    def function(a, b: Any, c: Foreign, d: "NoSuchName", *args, **kwargs):  # type: ignore[no-untyped-def,name-defined]  # noqa: F821, UP037
        raise AssertionError

    assert schemas(function) == {"a": {}, "b": {}, "c": {}, "d": {}, "args": {}, "kwargs": {}}
    assert only_method(function)["result"]["schema"] == {}
    required = {one["name"]: one["required"] for one in only_method(function)["params"]}
    assert required == {"a": True, "b": True, "c": True, "d": True, "args": False, "kwargs": False}


def test_describes_a_builtin_without_a_signature() -> None:
    method = only_method(max)
    assert method["params"] == []
    assert method["result"]["schema"] == {}


def test_describes_what_a_partial_leaves_open() -> None:
    def add(a: int, b: int) -> int:
        return a + b

    assert list(schemas(functools.partial(add, 1))) == ["b"]


def parts_of(schema: Any) -> list[Any]:
    parts = [schema]
    if isinstance(schema, dict):
        parts += [part for value in schema.values() for part in parts_of(value)]
    elif isinstance(schema, list):
        parts = [part for value in schema for part in parts_of(value)]
    return parts


def test_every_reference_of_a_schema_can_be_followed() -> None:
    def function(a: Point, b: list[Point]) -> Point:
        raise AssertionError(a, b)

    document = described(f=function)
    method = document["methods"][0]
    references = [
        part["$ref"] for part in parts_of(method) if isinstance(part, dict) and "$ref" in part
    ]
    assert references
    for reference in references:
        assert reference.startswith("#/")
        found: Any = document
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]
        assert found["properties"]["x"] == {"type": "integer"}


@pytest.mark.parametrize("annotation", [dict[int, str], set[int], tuple[int, str], bytes, complex])
def test_can_describe_a_parameter_of_any_type(annotation: Any) -> None:
    def function(a):  # type: ignore[no-untyped-def]  # annotated below
        return a

    function.__annotations__ = {"a": annotation, "return": annotation}
    assert isinstance(schemas(function)["a"], dict)
