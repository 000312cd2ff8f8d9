"""What annotations check: the rows of the table in the documentation, and how it is written.

``python -m tests.methods.annotations docs/annotations.csv`` writes it.
"""

from __future__ import annotations

import collections
import collections.abc as abc
import csv
import dataclasses
import datetime
import decimal
import enum
import functools
import io
import pathlib
import sys
import typing
import uuid
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypedDict, TypeVar

import msgspec
from msgspec import Meta
from typing_extensions import NotRequired, Unpack


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


@dataclasses.dataclass
class Circle:
    radius: float


@dataclasses.dataclass
class File:
    path: pathlib.Path
    tags: abc.Iterable[str] = ()


@dataclasses.dataclass
class Shape:
    outline: Point | Circle


@dataclasses.dataclass
class Scaled:
    x: int
    by: dataclasses.InitVar[int]

    def __post_init__(self, by: int) -> None:
        self.x *= by


T = TypeVar("T")


@dataclasses.dataclass
class Box(Generic[T]):
    content: T


@dataclasses.dataclass
class Tree:
    label: str
    children: list[Tree] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class PathTree:
    path: pathlib.Path
    inner: PathTree | None = None


class Order(TypedDict):
    dish: str
    counts: NotRequired[abc.Iterable[int]]


class Pair(NamedTuple):
    name: str
    path: pathlib.Path = pathlib.Path()


class Row(msgspec.Struct):
    x: int
    path: pathlib.Path | None = None


class Color(enum.Enum):
    RED = "red"


UserId = typing.NewType("UserId", int)

DAY = datetime.date(2026, 1, 2)
NOON = datetime.datetime(2026, 1, 2, 12)
ID = uuid.UUID(int=7)


@dataclasses.dataclass(frozen=True)
class RowOfTable:
    """One row: values that arrive, and as what; and values that are refused."""

    annotation: Any
    text: str
    taken: list[tuple[Any, Any]]
    refused: list[Any]


def row(text: str, annotation: Any, taken: list[tuple[Any, Any]], *refused: Any) -> RowOfTable:
    return RowOfTable(annotation, text, taken, list(refused))


ROWS = [
    row("int", int, [(1, 1)], "1", 1.5, True, None),
    row("float", float, [(1.5, 1.5), (1, 1)], "1", None),
    row("str", str, [("a", "a")], 1, None),
    row("bool", bool, [(True, True)], 1, "true"),
    row("bytes", bytes, [("YQ==", b"a")], 1, "?"),
    row("int | None", int | None, [(1, 1), (None, None)], "1"),
    row("Literal['a', 1]", Literal["a", 1], [("a", "a"), (1, 1)], "b", 2),
    row("Literal[True]", Literal[True], [(True, True)], 1, False),
    row("Color, an Enum", Color, [("red", Color.RED)], "blue"),
    row("UserId, a NewType of int", UserId, [(1, 1)], "1"),
    row("datetime", datetime.datetime, [("2026-01-02T12:00:00", NOON)], "noon", 1),
    row("date", datetime.date, [("2026-01-02", DAY)], "2026", 1),
    row(
        "datetime | date",
        datetime.datetime | datetime.date,
        [("2026-01-02T12:00:00", NOON), ("2026-01-02", DAY)],
        "soon",
        1,
    ),
    row("Decimal", decimal.Decimal, [("1.5", decimal.Decimal("1.5"))], "x", []),
    row("UUID", uuid.UUID, [(str(ID), ID)], "x", 1),
    row("UUID | str", uuid.UUID | str, [(str(ID), ID), ("x", "x")], 1),
    row("Path", pathlib.Path, [("/tmp/a", pathlib.Path("/tmp/a"))], 1),  # not used
    row("list[int]", list[int], [([1], [1])], ["1"], 1),
    row("list", list, [([1, "a"], [1, "a"])], 1),
    row("Sequence[int]", abc.Sequence[int], [([1], [1])], ["1"]),
    row("Iterable[int]", abc.Iterable[int], [([1], [1])], ["1"], 1),
    row("set[int]", set[int], [([1, 1], {1})], ["1"]),
    row("frozenset[int]", frozenset[int], [([1], frozenset({1}))], ["1"]),
    row("tuple[int, str]", tuple[int, str], [([1, "a"], (1, "a"))], [1], ["a", 1]),
    row("tuple[int, ...]", tuple[int, ...], [([1, 2], (1, 2))], ["a"]),
    row("deque[int]", collections.deque[int], [([1], collections.deque([1]))], ["1"], 1),
    row("dict[str, int]", dict[str, int], [({"a": 1}, {"a": 1})], {"a": "1"}, []),
    row("dict[int, str]", dict[int, str], [({"1": "a"}, {1: "a"})], {"x": "a"}),
    row("Mapping[str, int]", abc.Mapping[str, int], [({"a": 1}, {"a": 1})], {"a": "1"}),
    row(
        "OrderedDict[str, int]",
        collections.OrderedDict[str, int],
        [({"a": 1}, collections.OrderedDict(a=1))],
        {"a": "1"},
    ),
    row(
        "Counter[str]", collections.Counter[str], [({"a": 1}, collections.Counter("a"))], {"a": ""}
    ),
    row("Annotated[int, Meta(ge=0)]", Annotated[int, Meta(ge=0)], [(1, 1)], -1, "1"),
    row(
        "Annotated[int | None, Meta(ge=0)]",
        Annotated[int | None, Meta(ge=0)],
        [(1, 1), (None, None)],
        -1,
        "1",
    ),
    row(
        "Point, a dataclass",
        Point,
        [({"x": 1}, Point(1)), ({"x": 1, "y": 2}, Point(1, 2))],
        {},
        {"x": "1"},
        {"x": 1, "z": 3},
        [1],
    ),
    row("list[Point]", list[Point], [([{"x": 1}], [Point(1)])], [{"x": 1, "z": 3}], [{}]),
    row(
        "Point | Circle, two dataclasses",
        Point | Circle,
        [({"x": 1}, Point(1)), ({"radius": 2.0}, Circle(2.0))],
        {},
        {"x": 1, "radius": 2.0},
        1,
    ),
    row(
        "list[Point | Circle]",
        list[Point | Circle],
        [([{"x": 1}, {"radius": 2.0}], [Point(1), Circle(2.0)])],
        [{}],
        {"x": 1},
    ),
    row(
        "Shape, with a field Point | Circle",
        Shape,
        [({"outline": {"radius": 1.0}}, Shape(Circle(1.0)))],
        {"outline": 1},
        {},
        {"outline": {"x": 1}, "z": 1},
    ),
    row(
        "File, with a Path and an Iterable[str]",
        File,
        [({"path": "a", "tags": ["b"]}, File(pathlib.Path("a"), ["b"]))],
        {"path": 1},
        {"path": "a", "tags": [1]},
    ),
    row(
        "Scaled, with an InitVar", Scaled, [({"x": 2, "by": 3}, Scaled(2, 3))], {"x": 2}, {"by": 1}
    ),
    row("Box[int], a generic dataclass", Box[int], [({"content": 1}, Box(1))], {"content": "1"}),
    row(
        "Tree, which holds itself",
        Tree,
        [({"label": "a", "children": [{"label": "b"}]}, Tree("a", [Tree("b")]))],
        {"label": "a", "children": [{}]},
        {"label": "a", "children": [{"label": "b", "z": 1}]},
    ),
    row(
        "PathTree, with a Path and itself",
        PathTree,
        [
            (
                {"path": "a", "inner": {"path": "b"}},
                PathTree(pathlib.Path("a"), PathTree(pathlib.Path("b"))),
            )
        ],
        {"path": "a", "inner": {"path": 1}},
    ),
    row(
        "Order, a TypedDict with an Iterable",
        Order,
        [({"dish": "soup", "counts": [1]}, {"dish": "soup", "counts": [1]})],
        {"dish": 1},
        {"counts": [1]},
        {"dish": "soup", "counts": ["1"]},
    ),
    row(
        "Pair, a NamedTuple with a Path",
        Pair,
        [(["a", "b"], Pair("a", pathlib.Path("b"))), (["a"], Pair("a"))],
        ["a", 1],
        [],
    ),
    row("Row, a msgspec Struct", Row, [({"x": 1}, Row(1))], {"x": "1"}, {}),
]

# Annotations that check nothing, with a part of the warning.
UNCHECKED: list[tuple[str, Any, str]] = [
    ("a class of your own", type("Foreign", (), {}), "write a dataclass"),
    ("list of such a class", list[type("Foreign", (), {})], "write a dataclass"),  # type: ignore[misc]
    ("Callable[[int], int]", abc.Callable[[int], int], "write a dataclass"),
    ("complex", complex, "write a dataclass"),
    ("a name that is not found", "NoSuchName", "NoSuchName is not found when the program runs"),
    ("a name imported under TYPE_CHECKING", "OnlyForTypes", "outside of TYPE_CHECKING"),
    ("Annotated[str, Meta(ge=0)]", Annotated[str, Meta(ge=0)], "constraints do not apply"),
]


class Extras(TypedDict):
    count: int
    note: NotRequired[str]


def takes_extras(**extras: Unpack[Extras]) -> dict[str, Any]:
    return dict(extras)


def shown(value: Any) -> str:
    return msgspec.json.encode(value).decode()


@functools.cache
def table() -> str:
    """Return the table as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["Annotation", "Accepted, for example", "Refused, for example"])
    for one in ROWS:
        taken = ", ".join(f"``{shown(value)}``" for value, _ in one.taken)
        refused = ", ".join(f"``{shown(value)}``" for value in one.refused)
        name, comma, note = one.text.partition(", ") if "[" not in one.text else (one.text, "", "")
        writer.writerow([f"``{name}``{comma}{note}", taken, refused])
    for text, _, _ in UNCHECKED:
        writer.writerow([text, "any value, with a warning", ""])
    return out.getvalue()


if __name__ == "__main__":
    pathlib.Path(sys.argv[1]).write_text(table(), "utf-8")
