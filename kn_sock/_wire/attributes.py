"""Attributes that msgspec would leave out: those of a dataclass that cannot be read."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterable
from functools import lru_cache
from typing import Any, Final

# These hold no dataclasses.
_PLAIN: Final = frozenset({int, float, str, bool, type(None), bytes, bytearray})

# How deep containers are looked into.
_DEPTH: Final = 4


def check_attributes(value: Any, depth: int = _DEPTH) -> None:
    """Raise what reading an attribute of a dataclass raises; msgspec leaves it out silently.

    Of a list only dataclasses at its beginning are followed by a look at the others: a list of
    numbers costs nothing.
    """
    kind = type(value)
    if kind in _PLAIN or not depth:
        return
    if dataclasses.is_dataclass(kind):
        _check_fields(value, kind, depth)
    elif kind is dict:
        _check_items(value.values(), depth)
    elif kind in (list, tuple, set, frozenset):
        _check_items(value, depth)


def _check_items(items: Iterable[Any], depth: int) -> None:
    for item in items:
        if type(item) in _PLAIN:
            return
        check_attributes(item, depth - 1)


@lru_cache(maxsize=1024)
def _names_of(kind: Hashable) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))  # type: ignore[arg-type]  # a dataclass


def _check_fields(value: Any, kind: type[Any], depth: int) -> None:
    for name in _names_of(kind):
        check_attributes(getattr(value, name), depth - 1)
