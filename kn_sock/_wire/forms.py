"""The JSON forms of values that msgspec has none for: arguments and results alike.

A subclass has the form of its builtin type; a path that of its text; a deque, a range and other
collections that of a list or a dict; a scalar of numpy that of its Python value.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import decimal
import json
import math
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Set
from pathlib import PurePath
from typing import Any, Final

import msgspec


def _plain_datetime(value: datetime.datetime) -> datetime.datetime:
    return datetime.datetime(
        *(value.year, value.month, value.day, value.hour, value.minute, value.second),
        value.microsecond,
        value.tzinfo,
        fold=value.fold,
    )


def _plain_time(value: datetime.time) -> datetime.time:
    return datetime.time(
        *(value.hour, value.minute, value.second, value.microsecond, value.tzinfo), fold=value.fold
    )


# In this order: a datetime is a date.
_FORMS: Final[list[tuple[type[Any] | tuple[type[Any], ...], Callable[[Any], Any]]]] = [
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    ((bytes, bytearray), lambda value: bytes(memoryview(value))),
    (datetime.datetime, _plain_datetime),
    (datetime.date, lambda value: datetime.date(value.year, value.month, value.day)),
    (datetime.time, _plain_time),
    (
        datetime.timedelta,
        lambda value: datetime.timedelta(value.days, value.seconds, value.microseconds),
    ),
    (decimal.Decimal, decimal.Decimal),
    (uuid.UUID, lambda value: uuid.UUID(int=value.int)),
    (PurePath, str),
    (Mapping, dict),
    ((deque, range, list, tuple, Set), list),
]


def json_form(value: Any) -> Any:
    """Return the form of a value that msgspec cannot encode.

    Raises:
        TypeError: there is none.
    """
    if value is None or isinstance(value, bool):
        # As a key: msgspec has forms for them elsewhere.
        return json.dumps(value)
    for kind, form in _FORMS:
        if isinstance(value, kind):
            return form(value)
    kind = type(value)
    if kind.__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        return value.item()
    raise TypeError(f"a value of the type {kind.__name__} has no JSON form")


def check_keys(value: Any) -> None:
    """Raise ``ValueError`` if a key is NaN or infinite: msgspec writes it as a text."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(key, float) and not math.isfinite(key):
                raise ValueError(f"the key {key!r} has no JSON form")
            check_keys(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            check_keys(inner)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            check_keys(getattr(value, field.name, None))
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            check_keys(getattr(value, name))


def _to_builtins(value: Any) -> Any:
    return msgspec.to_builtins(value, enc_hook=json_form)


def dumps(value: Any) -> bytes:
    """Encode by ``json`` what msgspec refuses although it has a form."""
    check_keys(value)
    with contextlib.suppress(TypeError):
        # Keys too: json takes nothing but strings and the like for those.
        value = msgspec.to_builtins(value, str_keys=True, enc_hook=json_form)
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), default=_to_builtins)
    return text.encode("ascii")
