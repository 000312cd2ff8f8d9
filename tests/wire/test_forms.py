"""One rule for arguments and results, whatever stands beside a value."""

from __future__ import annotations

import collections
import csv
import dataclasses
import datetime
import decimal
import io
import json
import pathlib
import sys
import types
import uuid
from typing import Any

import pytest

from kn_sock._wire.dialects import DIALECTS
from kn_sock.errors import InternalError


class Text(str):
    pass


class Whole(int):
    pass


class Fraction(float):
    pass


class Octets(bytes):
    pass


class Moment(datetime.datetime):
    pass


class Day(datetime.date):
    pass


class Amount(decimal.Decimal):
    pass


class Many(list):  # type: ignore[type-arg]  # as its users write it
    pass


class Names(dict):  # type: ignore[type-arg]  # likewise
    pass


@dataclasses.dataclass
class Holder:
    value: Any


Scalar = type("float32", (), {"__module__": "numpy", "ndim": 0, "item": lambda self: 1.5})

FORMS: list[tuple[str, Any, Any]] = [
    ("a subclass of str", Text("a"), "a"),
    ("a subclass of int", Whole(3), 3),
    ("a subclass of float", Fraction(1.5), 1.5),
    ("a subclass of bytes", Octets(b"a"), "YQ=="),
    ("a subclass of datetime", Moment(2026, 1, 2, 3, 4, 5), "2026-01-02T03:04:05"),
    ("a subclass of date", Day(2026, 1, 2), "2026-01-02"),
    ("a subclass of Decimal", Amount("1.50"), "1.50"),
    ("a subclass of list", Many([1]), [1]),
    ("a subclass of dict", Names(a=1), {"a": 1}),
    ("Path", pathlib.PurePosixPath("/tmp/a"), "/tmp/a"),  # not used
    ("deque", collections.deque([1, 2]), [1, 2]),
    ("range", range(3), [0, 1, 2]),
    ("OrderedDict", collections.OrderedDict(a=1), {"a": 1}),
    ("mappingproxy", types.MappingProxyType({"a": 1}), {"a": 1}),
    ("UUID", uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    ("a scalar of numpy", Scalar(), 1.5),
    ("an integer of 100 digits", 10**99, 10**99),
    ("a lone surrogate", "\ud800", "\ud800"),
    ("keys that are dates", {datetime.date(2026, 1, 2): 1}, {"2026-01-02": 1}),
    ("keys that are integers", {1: 2}, {"1": 2}),
]
ODD: list[tuple[str, Any]] = [
    ("an object", object()),
    ("a complex number", 1j),
    ("NaN", float("nan")),
    ("infinity", float("inf")),
    ("a key that is NaN", {float("nan"): 1}),
    ("a key that is infinite", {"a": {float("-inf"): 1}}),
]
# What stands beside a value does not matter.
NEIGHBOURS: list[Any] = [1, Text("b"), {datetime.date(2026, 1, 2): 1}, 10**30, "\ud800", None]


def sent(value: Any) -> Any:
    line = DIALECTS["2.0"].encode_request(1, "f", [value], {})
    return json.loads(line)["params"][0]


def answered(value: Any) -> Any:
    return json.loads(DIALECTS["2.0"].encode_result(1, value))["result"]


@pytest.mark.parametrize("way", [sent, answered])
@pytest.mark.parametrize(("name", "value", "wanted"), FORMS, ids=[one[0] for one in FORMS])
def test_a_value_has_its_form_whatever_stands_beside_it(
    name: str, value: Any, wanted: Any, way: Any
) -> None:
    assert way(value) == wanted
    for neighbour in NEIGHBOURS:
        assert way([value, neighbour])[0] == wanted
        assert way({"a": neighbour, "b": value})["b"] == wanted
        assert way([{"deep": [neighbour, value]}])[0]["deep"][1] == wanted
    assert way(Holder(value)) == {"value": wanted}


@pytest.mark.parametrize(("name", "value"), ODD, ids=[one[0] for one in ODD])
def test_a_value_without_a_form_is_refused_whatever_stands_beside_it(name: str, value: Any) -> None:
    for whole in (value, [value], *([one, value] for one in NEIGHBOURS), Holder(value)):
        with pytest.raises((TypeError, ValueError)):
            sent(whole)
        with pytest.raises(InternalError, match="the result cannot be sent as JSON"):
            answered(whole)


def table() -> str:
    """Return the table of the documentation as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["Value", "Sent as"])
    for name, _, wanted in FORMS:
        shown = json.dumps(wanted) if len(json.dumps(wanted)) < 50 else "the same number"
        writer.writerow([name, f"``{shown}``" if shown != "the same number" else shown])
    for name, _ in ODD:
        writer.writerow([name, "refused"])
    return out.getvalue()


def test_the_table_of_the_documentation_is_this_one() -> None:
    written = pathlib.Path(__file__).parents[2] / "docs" / "forms.csv"
    assert written.read_text("utf-8") == table(), (
        "renew it: python -m tests.wire.test_forms docs/forms.csv"
    )


if __name__ == "__main__":
    pathlib.Path(sys.argv[1]).write_text(table(), "utf-8")
