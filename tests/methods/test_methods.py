from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import functools
import inspect
import json
import types
import uuid
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET
from twisted.internet import defer
from twisted.internet.defer import Deferred

from kn_sock._wire.dialects import DIALECTS
from kn_sock.errors import InvalidParams
from kn_sock.methods import Method, MethodTable, in_reactor, in_thread

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForTheTypeChecker


def add(a: int, b: int = 2) -> int:
    return a + b


def anything(value):  # type: ignore[no-untyped-def]  # as its users write it
    return value


class Calculator:
    """Everything that an object may hold."""

    factor = 3
    kind = dict

    def __init__(self) -> None:
        self.touched = False
        self.callback = functools.partial(add, 1)

    def scale(self, value: int) -> int:
        return value * self.factor

    @staticmethod
    def zero() -> int:
        return 0

    @classmethod
    def name(cls) -> str:
        return cls.__name__

    @property
    def danger(self) -> int:
        self.touched = True
        raise AssertionError

    @functools.cached_property
    def lazy_danger(self) -> int:
        self.touched = True
        return 5

    def _private(self) -> None: ...

    def __secret(self) -> None: ...


class Doubler:
    def __call__(self, value: int) -> int:
        return value * 2


def called(function: Callable[..., Any], params: Any = UNSET, kwargs: Any = UNSET) -> Any:
    args, named = Method("f", function).bind(params, kwargs)
    return function(*args, **(named or {}))


def complaint(function: Callable[..., Any], params: Any = UNSET, kwargs: Any = UNSET) -> str:
    with pytest.raises(InvalidParams) as raised:
        Method("f", function).bind(params, kwargs)
    return str(raised.value)


# --- what may be served ---------------------------------------------------------------------------


def test_takes_a_mapping() -> None:
    table = MethodTable({"add": add, "double": Doubler()})
    assert list(table) == ["add", "double"]
    assert table["add"].function is add
    assert len(table) == 2
    assert repr(table) == "<MethodTable of add, double>"


def test_takes_any_mapping_and_none_of_its_methods() -> None:
    mapping: Mapping[str, Any] = collections.ChainMap({"add": add}, {"zero": Calculator.zero})
    table = MethodTable(mapping)
    assert sorted(table) == ["add", "zero"]


def test_takes_the_public_methods_of_an_object() -> None:
    calculator = Calculator()
    table = MethodTable(calculator)
    assert sorted(table) == ["name", "scale", "zero"]
    assert table["scale"].function(2) == 6


def test_reads_no_property_of_an_object() -> None:
    calculator = Calculator()
    table = MethodTable(calculator)
    assert not calculator.touched
    assert "danger" not in table
    assert "lazy_danger" not in table


@pytest.fixture
def module() -> types.ModuleType:
    module = types.ModuleType("shop")
    exec(  # a module, written as one
        """
from math import sqrt
from functools import reduce
import os
LIMIT = 5
def buy(): ...
def sell(): ...
def _steal(): ...
class Till: ...
""",
        module.__dict__,
    )
    return module


def test_takes_the_functions_that_a_module_defines(module: types.ModuleType) -> None:
    assert sorted(MethodTable(module)) == ["buy", "sell"]


def test_takes_what_a_module_exports(module: types.ModuleType) -> None:
    module.__all__ = ["_steal", "sqrt", "LIMIT", "Till"]  # type: ignore[attr-defined]
    assert sorted(MethodTable(module)) == ["_steal", "sqrt"]


def test_says_what_a_module_exports_and_lacks(module: types.ModuleType) -> None:
    module.__all__ = ["buy", "rent"]  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match=r"shop.__all__ names rent, which is not there"):
        MethodTable(module)


def test_takes_another_table_with_a_prefix() -> None:
    inner = MethodTable({"add": add}, prefix="calc")
    table = MethodTable({"zero": Calculator.zero}).add(inner, prefix="a.b")
    assert list(table) == ["zero", "a.b.calc.add"]
    assert list(table.add({"x": add})) == ["zero", "a.b.calc.add", "x"]


def test_a_table_may_be_empty() -> None:
    assert list(MethodTable()) == []
    assert list(MethodTable({})) == []
    assert repr(MethodTable()) == "<MethodTable of nothing>"
    assert MethodTable().get("add") is None


def test_refuses_a_name_that_is_taken() -> None:
    table = MethodTable({"add": add})
    with pytest.raises(ValueError, match="add is there twice; give one of them a prefix"):
        table.add({"add": add})
    assert list(table.add({"add": add}, prefix="more")) == ["add", "more.add"]


@pytest.mark.parametrize("name", ["rpc.x", "rpc.", "$/x"])
def test_refuses_a_reserved_name(name: str) -> None:
    with pytest.raises(ValueError, match="reserved"):
        MethodTable({name: add})


def test_refuses_a_prefix_that_makes_a_name_reserved() -> None:
    with pytest.raises(ValueError, match="reserved"):
        MethodTable({"x": add}, prefix="rpc")
    assert list(MethodTable({"rpcx": add, "$x": add, "x.rpc.y": add})) == ["rpcx", "$x", "x.rpc.y"]


@pytest.mark.parametrize("name", [1, None, "", b"add", ("a",)])
def test_refuses_a_name_that_is_none(name: Any) -> None:
    with pytest.raises(TypeError, match="a method's name is a string"):
        MethodTable({name: add})


@pytest.mark.parametrize("value", [5, None, "add", MethodTable({"add": add}), Calculator()])
def test_refuses_what_cannot_be_called(value: object) -> None:
    with pytest.raises(TypeError, match=r"sum is .*, which cannot be called"):
        MethodTable({"sum": value})


def test_refuses_a_class() -> None:
    with pytest.raises(TypeError, match=r"Calculator is a class; .*Calculator\(\)"):
        MethodTable(Calculator)


@pytest.mark.parametrize(
    ("function", "name"),
    [(add, "add"), (len, "len"), (Calculator().scale, "scale"), (lambda: 0, "<lambda>")],
)
def test_refuses_one_function_and_says_what_to_pass(function: object, name: str) -> None:
    with pytest.raises(TypeError) as raised:
        MethodTable(function)
    assert f"{{{name!r}: {name}}}" in str(raised.value)


def test_refuses_one_partial() -> None:
    with pytest.raises(TypeError, match="one function needs a name"):
        MethodTable(functools.partial(add, 1))


@pytest.mark.parametrize("source", ["add", b"add", 5, 1.5, [add], (add,), {add}])
def test_refuses_what_is_no_source(source: object) -> None:
    with pytest.raises(TypeError, match="functions come from"):
        MethodTable(source)


def test_refuses_an_object_without_public_methods() -> None:
    with pytest.raises(TypeError, match="no public methods"):
        MethodTable(object())


# --- how arguments are bound ----------------------------------------------------------------------


@pytest.mark.parametrize("nothing", [UNSET, None, [], {}])
@pytest.mark.parametrize("kwargs", [UNSET, None, {}])
def test_no_arguments_may_be_written_in_every_way(nothing: Any, kwargs: Any) -> None:
    assert called(lambda a=5, *, b=6: (a, b), nothing, kwargs) == (5, 6)
    assert called(lambda: 7, nothing, kwargs) == 7


def test_binds_by_position_by_name_and_both() -> None:
    assert called(add, [1]) == 3
    assert called(add, [1, 5]) == 6
    assert called(add, {"b": 5, "a": 1}) == 6
    assert called(add, [1], {"b": 5}) == 6
    assert called(add, UNSET, {"a": 1}) == 3


def keyword_only(a: int, *, b: int, c: int = 3) -> tuple[int, ...]:
    return (a, b, c)


def positional_only(a: int, b: int = 2, /, **rest: int) -> tuple[int, int, dict[str, int]]:
    return (a, b, rest)


def variadic(*args: int, **kwargs: str) -> tuple[tuple[int, ...], dict[str, str]]:
    return (args, kwargs)


def test_binds_keyword_only_parameters() -> None:
    assert called(keyword_only, {"a": 1, "b": 2}) == (1, 2, 3)
    assert called(keyword_only, [1], {"b": 2, "c": 4}) == (1, 2, 4)
    assert "missing" in complaint(keyword_only, [1])
    assert "'b'" in complaint(keyword_only, [1])
    assert "too many positional" in complaint(keyword_only, [1, 2])


def test_binds_positional_only_parameters() -> None:
    assert called(positional_only, [1]) == (1, 2, {})
    assert called(positional_only, [1, 5], {"a": 7}) == (1, 5, {"a": 7})
    assert "missing" in complaint(positional_only, {"b": 1})


def test_binds_variable_parameters() -> None:
    assert called(variadic) == ((), {})
    assert called(variadic, [1, 2], {"x": "y"}) == ((1, 2), {"x": "y"})
    assert called(lambda *args: args, list(range(500))) == tuple(range(500))
    assert called(lambda **kwargs: kwargs, {"self": 1, "args": 2}) == {"self": 1, "args": 2}


def test_checks_variable_parameters_one_by_one() -> None:
    assert "args: Expected `int`, got `str`" in complaint(variadic, [1, "2"])
    assert "x: Expected `str`, got `int`" in complaint(variadic, [], {"x": 1})


def test_names_of_parameters_do_not_collide_with_ours() -> None:
    def odd(self: int, params: int, name: int, function: int) -> int:
        return self + params + name + function

    assert called(odd, {"self": 1, "params": 2, "name": 3, "function": 4}) == 10


@pytest.mark.parametrize(
    ("params", "kwargs", "text"),
    [
        (UNSET, UNSET, "missing a required argument: 'a'"),
        ([], UNSET, "missing a required argument: 'a'"),
        ([1, 2, 3], UNSET, "too many positional arguments"),
        ({"a": 1, "c": 2}, UNSET, "got an unexpected keyword argument 'c'"),
        ({"b": 1}, UNSET, "missing a required argument: 'a'"),
        ([1], {"a": 2}, "multiple values for argument 'a'"),
        ({"a": 1}, {"b": 2}, "kwargs go with an array of params, not with an object"),
    ],
)
def test_says_what_does_not_fit(params: Any, kwargs: Any, text: str) -> None:
    sentence = complaint(add, params, kwargs)
    assert sentence.startswith("f(a: int, b: int = …) -> int: ")
    assert text in sentence


def test_a_name_that_is_no_text_of_utf8_does_not_fit() -> None:
    assert "unexpected keyword argument" in complaint(add, {"a": 1, "\ud800": 2})


def test_a_type_error_of_the_function_is_its_own() -> None:
    def raises(a: int) -> None:
        raise TypeError("missing a required argument: 'a'")

    args, _ = Method("f", raises).bind([1], None)
    with pytest.raises(TypeError, match="missing"):
        raises(*args)


def test_passes_everything_to_a_builtin_without_a_signature() -> None:
    method = Method("max", max)
    assert method.signature is None
    assert method.bind([1, 2], None) == ([1, 2], {})
    assert method.bind({"key": 1}, None) == ((), {"key": 1})
    assert str(method) == "max(…)"


def test_binds_a_builtin_that_has_a_signature() -> None:
    assert called(len, ["abc"]) == 3
    assert "missing" in complaint(len)


def test_binds_every_kind_of_callable() -> None:
    assert called(Calculator().scale, {"value": 2}) == 6
    assert called(Calculator.name) == "Calculator"
    assert called(functools.partial(add, 1), [5]) == 6
    assert called(functools.partial(add, b=1), {"a": 5}) == 6
    assert called(functools.partial(functools.partial(add), b=1), [5]) == 6
    assert called(Doubler(), [4]) == 8
    assert called(lambda a, b=1: (a, b), [4]) == (4, 1)
    assert called(functools.lru_cache(add), [4]) == 6
    assert called(dict, {"a": 1}) == {"a": 1}


def test_checks_the_arguments_of_every_kind_of_callable() -> None:
    for function in (
        Calculator().scale,
        Doubler(),
        functools.partial(add, 1),
        functools.partial(add, b=1),
        functools.lru_cache(add),
    ):
        assert "Expected `int`, got `str`" in complaint(function, ["x"])


def test_does_not_ask_for_what_a_partial_has_bound() -> None:
    assert "too many positional" in complaint(functools.partial(add, 1), [2, 3])


def test_an_error_is_no_longer_than_a_person_reads() -> None:
    long = "x" * 100_000

    class Size(enum.Enum):
        BIG = "big"

    def chosen(size: Size, kind: Literal["a"] = "a", **rest: int) -> None: ...

    chosen.__annotations__["size"] = Size
    for params in ({"size": long}, {"size": "big", "kind": long}, {"size": "big", long: "y"}):
        assert len(complaint(chosen, params)) < 500
    assert len(complaint(add, {"a": 1, long: 2})) < 500


def test_a_long_signature_is_cut_short() -> None:
    method = Method("f", lambda a="x" * 5000: a)
    assert len(str(method)) <= 200
    assert len(complaint(method.function, [1, 2])) < 500


def test_shows_itself() -> None:
    assert repr(Method("add", add)) == "<Method add(a: int, b: int = …) -> int in a thread>"
    assert repr(Method("f", in_reactor(lambda: 0))) == "<Method f() on the reactor>"


# --- how arguments are converted ------------------------------------------------------------------


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.5


class Pixel(msgspec.Struct):
    at: Point
    color: Color = Color.RED


class Foreign:
    """A class of the user's that JSON has no form for."""


def one_parameter(annotation: Any, default: Any = ...) -> Callable[..., Any]:
    def function(value: Any) -> Any:
        return value

    if default is not ...:
        function.__defaults__ = (default,)
    function.__annotations__ = {"value": annotation}
    return function


CONVERSIONS: list[tuple[Any, Any, Any]] = [
    (int, 5, 5),
    (int, 2**100, 2**100),
    (float, 1.5, 1.5),
    (float, 1, 1),
    (float, 10**400, 10**400),
    (str, "x", "x"),
    (bool, True, True),
    (None, None, None),
    (list, [1, "a"], [1, "a"]),
    (list[int], [1, 2], [1, 2]),
    (list[Any], [1, "a"], [1, "a"]),
    (tuple[int, str], [1, "a"], (1, "a")),
    (set[int], [1, 1], {1}),
    (dict[str, int], {"a": 1}, {"a": 1}),
    (dict[int, str], {"7": "a"}, {7: "a"}),
    (list[dict[int, float]], [{"7": 1}], [{7: 1.0}]),
    (int | None, None, None),
    (int | None, 5, 5),
    (int | str, "a", "a"),
    (Literal["a", 1], "a", "a"),
    (Color, "red", Color.RED),
    (datetime.date, "2024-02-29", datetime.date(2024, 2, 29)),
    (
        datetime.datetime,
        "2024-02-29T12:00:00Z",
        datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.timezone.utc),
    ),
    (datetime.timedelta, "PT90S", datetime.timedelta(seconds=90)),
    (decimal.Decimal, "1.10", decimal.Decimal("1.10")),
    (uuid.UUID, "00000000-0000-0000-0000-000000000001", uuid.UUID(int=1)),
    (bytes, "aGk=", b"hi"),
    (Point, {"x": 1}, Point(1, 0.5)),
    (list[Point], [{"x": 1, "y": 2}], [Point(1, 2.0)]),
    (Point | None, None, None),
    (Pixel, {"at": {"x": 1}, "color": "red"}, Pixel(Point(1))),
]


@pytest.mark.parametrize(("annotation", "value", "wanted"), CONVERSIONS, ids=repr)
def test_converts_an_annotated_argument(annotation: Any, value: Any, wanted: Any) -> None:
    for params in ([value], {"value": value}):
        result = called(one_parameter(annotation), params)
        assert result == wanted
        assert type(result) is type(wanted)


@pytest.mark.parametrize(
    ("annotation", "value", "text"),
    [
        (int, True, "Expected `int`, got `bool`"),
        (int, "5", "Expected `int`, got `str`"),
        (int, 1.5, "Expected `int`, got `float`"),
        (int, None, "Expected `int`, got `null`"),
        (float, "1", "Expected `float`, got `str`"),
        (str, 5, "Expected `str`, got `int`"),
        (bool, 1, "Expected `bool`, got `int`"),
        (list[int], [1, "a"], "Expected `int`, got `str` - at `$[1]`"),
        (list[int], {"a": 1}, "Expected `array`, got `object`"),
        (dict[int, str], {"x": "a"}, "Expected `int`, got `str`"),
        (int | None, "a", "Expected `int | null`, got `str`"),
        (Literal["a", "b"], "c", "Invalid enum value 'c'"),
        (Color, "blue", "Invalid enum value 'blue'"),
        (datetime.date, "yesterday", "Invalid RFC3339 encoded date"),
        (decimal.Decimal, "ten", "Invalid decimal string"),
        (uuid.UUID, "x", "Invalid UUID"),
        (Point, {}, "missing required field `x`"),
        (Point, {"x": "1"}, "Expected `int`, got `str` - at `$.x`"),
        (Pixel, {"at": {"x": 1.5}}, "Expected `int`, got `float` - at `$.at.x`"),
    ],
    ids=repr,
)
def test_says_which_argument_has_the_wrong_type(annotation: Any, value: Any, text: str) -> None:
    for params in ([value], {"value": value}):
        sentence = complaint(one_parameter(annotation), params)
        assert sentence.startswith("f(value")
        assert ": value: " in sentence
        assert text in sentence


@pytest.mark.parametrize(
    ("annotation", "value", "wanted"),
    [
        (Point, {"x": 1}, {"x": 1, "y": 0.5}),
        (Point | None, {"x": 1}, {"x": 1, "y": 0.5}),
        (list[Point], [{"x": 1}], [{"x": 1, "y": 0.5}]),
        (list[Point] | None, [{"x": 1}], [{"x": 1, "y": 0.5}]),
        (list[list[Point]], [[{"x": 1}]], [[{"x": 1, "y": 0.5}]]),
        (dict[str, list[Point]], {"a": [{"x": 1}]}, {"a": [{"x": 1, "y": 0.5}]}),
        (Pixel, {"at": {"x": 1}}, {"at": {"x": 1, "y": 0.5}, "color": "red"}),
    ],
    ids=repr,
)
def test_a_converted_argument_can_be_sent_back_whole(
    annotation: Any, value: Any, wanted: Any
) -> None:
    result = called(one_parameter(annotation), [value])
    assert json.loads(DIALECTS["2.0"].encode_result(1, result))["result"] == wanted


def test_a_default_of_none_makes_null_an_argument() -> None:
    function = one_parameter(int, None)
    assert called(function, [None]) is None
    assert called(function) is None
    assert called(function, [5]) == 5
    assert "Expected" in complaint(function, ["x"])
    assert called(one_parameter(dict[int, str], None), [None]) is None


@pytest.mark.parametrize(
    "annotation",
    [
        Any,
        object,
        Foreign,
        Foreign | None,
        list[Foreign],
        dict[str, Foreign],
        Callable[[int], int],
        complex,
        range,
        type[int],
        Deferred,
        "NoSuchName",
        "list[NoSuchName]",
        "not an expression",
        list["NoSuchName"],  # type: ignore[name-defined]  # noqa: F821
    ],
    ids=repr,
)
@pytest.mark.parametrize("value", [5, "x", None, [1], {"a": 1}])
def test_passes_an_argument_whose_annotation_says_nothing_of_json(
    annotation: Any, value: Any
) -> None:
    assert called(one_parameter(annotation), [value]) == value


def test_passes_an_argument_without_annotation() -> None:
    assert called(anything, [{"a": None}]) == {"a": None}


def test_reads_annotations_that_are_strings() -> None:
    def function(a: int, b: list[Point], c: OnlyForTheTypeChecker, d: NoSuchName) -> Any:  # type: ignore[name-defined]  # noqa: F821
        return a, b, c, d

    assert called(function, [1, [{"x": 2}], "3", 4]) == (1, [Point(2)], "3", 4)
    assert "a: Expected `int`" in complaint(function, ["1", [], 3, 4])
    assert called(one_parameter("int | None"), [None]) is None
    assert called(one_parameter("Point"), [{"x": 1}]) == Point(1)
    # As written in quotes in a module whose annotations are strings already.
    assert called(one_parameter("'Point'"), [{"x": 1}]) == Point(1)


def test_reads_annotations_where_a_wrapped_function_was_defined(module: types.ModuleType) -> None:
    exec(
        "import decimal as d\ndef pay(amount: d.Decimal): return amount\n",
        module.__dict__,
    )

    @functools.wraps(module.pay)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return module.pay(*args, **kwargs)

    assert called(wrapper, ["1.5"]) == decimal.Decimal("1.5")
    assert "Invalid decimal" in complaint(wrapper, ["x"])


@pytest.mark.parametrize("error", [ValueError, TypeError, KeyError, ZeroDivisionError])
def test_an_argument_whose_own_check_fails_does_not_fit(error: type[Exception]) -> None:
    @dataclasses.dataclass
    class Checked:
        x: int

        def __post_init__(self) -> None:
            raise error("x is odd")

    assert "x is odd" in complaint(one_parameter(Checked), [{"x": 1}])
    assert "x is odd" in complaint(one_parameter(Checked), {"value": {"x": 1}})


class Tree(msgspec.Struct):
    inner: Tree | None = None


def test_an_argument_nested_too_deeply_does_not_fit() -> None:
    value: dict[str, Any] = {}
    for _ in range(200_000):
        value = {"inner": value}
    assert "value is nested too deeply" in complaint(one_parameter(Tree), [value])


# --- where it runs --------------------------------------------------------------------------------


async def async_function() -> int:
    return 1


class AsyncCallable:
    async def __call__(self) -> int:
        return 1

    async def method(self) -> int:
        return 1


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


def awaited(function: Callable[..., Any]) -> Callable[..., Coroutine[Any, Any, Any]]:
    @functools.wraps(function)
    async def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


def plain_deferred() -> Deferred[int]:
    return defer.succeed(1)


def bare_deferred() -> defer.Deferred:  # type: ignore[type-arg]  # as its users write it
    return defer.succeed(1)


def unresolved_deferred() -> "NoSuchModule.Deferred[int]":  # type: ignore[name-defined]  # noqa: F821, UP037
    raise AssertionError


@in_reactor
def marked_reactor() -> None: ...


@in_thread
def marked_thread() -> Deferred[int]:
    return defer.succeed(1)


@pytest.mark.parametrize(
    "function",
    [
        async_function,
        functools.partial(async_function),
        AsyncCallable(),
        AsyncCallable().method,
        awaited(add),
        functools.partial(awaited(add), 1),
        plain_deferred,
        bare_deferred,
        functools.partial(plain_deferred),
        logged(plain_deferred),
        unresolved_deferred,
        marked_reactor,
        functools.partial(marked_reactor),
        in_reactor(functools.partial(add, 1)),
        in_reactor(lambda: 0),
        in_reactor(Doubler()),
    ],
)
def test_runs_on_the_reactor(function: Callable[..., Any]) -> None:
    assert Method("f", function).on_reactor


@pytest.mark.parametrize(
    "function",
    [
        add,
        anything,
        len,
        max,
        dict,
        lambda: 0,
        Doubler(),
        Calculator().scale,
        functools.partial(add, 1),
        logged(add),
        # The wrapper decides; its coroutine is awaited on the reactor.
        logged(async_function),
        marked_thread,
        functools.partial(marked_thread),
    ],
)
def test_runs_in_a_thread(function: Callable[..., Any]) -> None:
    assert not Method("f", function).on_reactor


def test_refuses_an_async_function_in_a_thread() -> None:
    @in_thread
    async def marked() -> None: ...

    with pytest.raises(TypeError, match="f is async and cannot run in a thread"):
        Method("f", marked)
    with pytest.raises(TypeError, match="remove @in_thread"):
        MethodTable({"f": functools.partial(marked)})


def test_marks_survive_beside_other_decorators() -> None:
    class Served:
        @in_reactor
        def plain(self) -> None: ...

        @staticmethod
        @in_reactor
        def static() -> None: ...

        @in_reactor
        @staticmethod
        def static_inside() -> None: ...

        @in_reactor
        @classmethod
        def of_class(cls) -> None: ...

    table = MethodTable(Served())
    assert {name: method.on_reactor for name, method in table.items()} == {
        "plain": True,
        "static": True,
        "static_inside": True,
        "of_class": True,
    }


def test_a_bound_method_can_be_marked() -> None:
    assert Method("f", in_reactor(Calculator().scale)).on_reactor


@dataclasses.dataclass
class Branch:
    inner: Branch | None = None
    points: list[Point] = dataclasses.field(default_factory=list)
    name: str = "twig"


def test_a_type_that_holds_itself_is_completed_throughout() -> None:
    def grow(branch: Branch) -> None: ...

    value = {"inner": {"points": [{"x": 1}]}}
    (branch,), _ = Method("grow", grow).bind([value], UNSET)
    written = json.loads(DIALECTS["2.0"].encode_result(1, branch))["result"]
    assert written["name"] == written["inner"]["name"] == "twig"
    assert written["inner"]["points"] == [{"x": 1, "y": 0.5}]


SIGNATURES: list[Callable[..., Any]] = [
    lambda: ...,
    lambda a: ...,
    lambda a, b: ...,
    lambda a, b=1, c=2: ...,
    lambda a=0, *, b: ...,
    lambda *, a, b=1: ...,
    lambda a, /, b: ...,
    lambda a, *b: ...,
    lambda a, **c: ...,
    lambda a, b=1, *c, d, **e: ...,
]


@given(
    function=st.sampled_from(SIGNATURES),
    named=st.dictionaries(st.sampled_from("abcde"), st.integers(), max_size=4),
)
def test_names_are_bound_as_python_would(function: Callable[..., Any], named: Any) -> None:
    """The quick way, for plain signatures, and the slow one, for all others, tell no difference."""
    method = Method("f", function)
    try:
        expected = inspect.signature(function).bind(**named)
    except TypeError:
        with pytest.raises(InvalidParams):
            method.bind(named, None)
    else:
        args, kwargs = method.bind(named, None)
        assert (tuple(args), kwargs or {}) == (expected.args, expected.kwargs)
