"""Converters from annotations: check a JSON value against a type, and convert it."""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import msgspec

if typing.TYPE_CHECKING:
    import inspect

# Exact values of these pass without a question asked.
_PLAIN_TYPES: Final = frozenset({int, float, str, bool})


def converter_of(parameter: inspect.Parameter) -> Callable[[Any], Any] | None:
    """Build what checks and converts one argument; ``None`` if it passes unchanged."""
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
    complete = _completer_of(msgspec.inspect.type_info(annotation), {})
    if complete is None:
        return convert

    def convert_and_complete(value: Any) -> Any:
        converted = convert(value)
        complete(converted)
        return converted

    return convert_and_complete


def plain_kind(convert: Callable[[Any], Any] | None) -> type | None:
    """Return the JSON type whose values a converter passes unchanged, if any."""
    if isinstance(convert, functools.partial) and convert.func is _convert_plain:
        kind: type = convert.args[0]
        return kind
    return None


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


# What gives dataclasses their own copy of the defaults that were not in the message: msgspec leaves
# them to the class, and then leaves them out when it encodes the object.
Completer: TypeAlias = Callable[[Any], object]


def _completer_of(info: Any, known: dict[Any, Completer]) -> Completer | None:
    """Build the function that completes values of a type; ``None`` if nothing is to complete.

    It looks at nothing but what may hold a dataclass: a long list of numbers is not walked.
    """
    if not _holds_dataclass(info, set()):
        return None
    if hasattr(info, "fields"):
        return _completer_of_fields(info, known)
    parts = [part for one in _parts_of(info) if (part := _completer_of(one, known)) is not None]

    def complete(value: Any) -> None:
        if isinstance(value, dict):
            value = value.values()
        elif not isinstance(value, (list, tuple, set, frozenset)):
            # One of a union's.
            value = (value,)
        for one in value:
            for part in parts:
                part(one)

    return complete


def _completer_of_fields(info: Any, known: dict[Any, Completer]) -> Completer:
    if info.cls in known:
        return known[info.cls]
    fields: list[tuple[str, Completer]] = []

    def complete(value: Any) -> None:
        if not isinstance(value, info.cls):
            return
        if dataclasses.is_dataclass(value):
            own = getattr(value, "__dict__", None)
            for field in dataclasses.fields(value) if own is not None else ():
                if own is not None and field.name not in own:
                    object.__setattr__(value, field.name, getattr(value, field.name))
        for name, part in fields:
            part(getattr(value, name))

    # Known before its fields are looked at: a type may hold itself.
    known[info.cls] = complete
    for field in info.fields:
        part = _completer_of(field.type, known)
        if part is not None:
            fields.append((field.name, part))
    return complete


def is_convertible(annotation: Any) -> bool:
    """Whether JSON values can be checked against a type: not for ``Any`` or other classes."""
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
    """Return the arguments of a container's type or a union."""
    parts = [getattr(info, name, None) for name in ("item_type", "key_type", "value_type")]
    parts += getattr(info, "types", None) or getattr(info, "item_types", None) or ()
    return [part for part in parts if part is not None]
