"""Attributes of dataclasses that msgspec would leave out: defaults, and those that raise."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, Final

import msgspec

# These hold no dataclasses.
_PLAIN: Final = frozenset({int, float, str, bool, type(None), bytes, bytearray})

# How deep containers are looked into.
_DEPTH: Final = 4


def check_attributes(value: Any, depth: int = _DEPTH) -> None:
    """Complete dataclasses with their defaults; raise what reading an attribute raises.

    msgspec leaves both out silently.

    Of a list only dataclasses at its beginning are followed by a look at the others: a list of
    numbers costs nothing.
    """
    kind = type(value)
    if kind in _PLAIN or not depth:
        return
    if dataclasses.is_dataclass(kind):
        _check_fields(value, depth)
    elif isinstance(value, msgspec.Struct):
        for name in kind.__struct_fields__:
            check_attributes(getattr(value, name), depth - 1)
    elif kind is dict:
        _check_items(value.values(), depth)
    elif kind in (list, tuple, set, frozenset):
        _check_items(value, depth)


def _check_items(items: Iterable[Any], depth: int) -> None:
    for item in items:
        if type(item) in _PLAIN:
            return
        check_attributes(item, depth - 1)


def _check_fields(value: Any, depth: int) -> None:
    own = getattr(value, "__dict__", None)
    for field in dataclasses.fields(value):
        name = field.name
        attribute = getattr(value, name)
        if own is not None and name not in own:
            # A default that msgspec left to the class when it decoded the object.
            object.__setattr__(value, name, attribute)
        check_attributes(attribute, depth - 1)
