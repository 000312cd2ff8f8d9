"""Annotations to converters: JSON values checked against a type, and made values of it."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any, Final

import msgspec

# Exact values of these pass without a question asked.
_PLAIN_TYPES: Final = frozenset({int, float, str, bool})


def converter_of(parameter: inspect.Parameter) -> Callable[[Any], Any] | None:
    """Build what checks and converts one argument; ``None`` where it passes as it comes."""
    annotation = parameter.annotation
    if (
        annotation is parameter.empty
        or isinstance(annotation, str)
        or not is_convertible(annotation)
    ):
        return None
    if parameter.default is None:
        annotation = typing.Optional[annotation]  # noqa: UP045  # strings have no |
    if annotation in _PLAIN_TYPES:
        return functools.partial(_convert_plain, annotation)
    convert = functools.partial(msgspec.convert, type=annotation, str_keys=True)
    if _holds_dataclass(msgspec.inspect.type_info(annotation), set()):
        return lambda value: _completed(convert(value))
    return convert


def _convert_plain(kind: type, value: Any) -> Any:
    # An int is a float to Python's type checkers, and stays what it is, as in a local call.
    if type(value) is kind or (kind is float and type(value) is int):
        return value
    return msgspec.convert(value, kind)


def _holds_dataclass(info: Any, seen: set[Any]) -> bool:
    kind = getattr(info, "cls", None)
    if isinstance(info, msgspec.inspect.DataclassType):
        return True
    if kind in seen:
        return False
    if kind is not None:
        seen.add(kind)
    inner = [field.type for field in getattr(info, "fields", ())]
    return any(_holds_dataclass(one, seen) for one in (*inner, *_parts_of(info)))


def _completed(value: Any) -> Any:
    """Give dataclasses their own copy of the defaults that were not in the message.

    msgspec leaves them to the class, and then leaves them out when it encodes the object.
    """
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            own = getattr(value, field.name)
            if field.name not in getattr(value, "__dict__", (field.name,)):
                object.__setattr__(value, field.name, own)
            _completed(own)
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            _completed(getattr(value, name))
    elif isinstance(value, dict):
        for one in value.values():
            _completed(one)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for one in value:
            _completed(one)
    return value


def is_convertible(annotation: Any) -> bool:
    """Tell whether JSON values can be checked against a type: not for ``Any`` or other classes."""
    try:
        info = msgspec.inspect.type_info(annotation)
    except Exception:
        return False
    return not isinstance(info, msgspec.inspect.AnyType) and not _is_foreign(info)


def _is_foreign(info: Any) -> bool:
    if isinstance(info, msgspec.inspect.CustomType):
        return True
    return any(_is_foreign(one) for one in _parts_of(info))


def _parts_of(info: Any) -> list[Any]:
    """Give what a container's type, or a union, is made of."""
    parts = [getattr(info, name, None) for name in ("item_type", "key_type", "value_type")]
    parts += getattr(info, "types", None) or getattr(info, "item_types", None) or ()
    return [part for part in parts if part is not None]
