"""Annotations that are classes with fields: dataclasses, typed dicts, named tuples and structs."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Hashable, Mapping, Sequence, Set
from typing import Any, Final, Protocol

import msgspec
import typing_extensions
from msgspec import ValidationError

from kn_sock.methods.hints import (
    Convert,
    UncheckableError,
    hints_of,
    marker,
    required_of,
    type_name,
    unwrapped,
)


class Adapts(Protocol):
    """What adapts the annotations of the fields; see `Adapter`."""

    forbids_unknown_fields: bool
    known: dict[Any, Any]

    def adapt(self, annotation: Any) -> Any:
        """Return an annotation that msgspec supports."""

    def converter_of(self, adapted: Any) -> Convert:
        """Return the converter of an adapted annotation."""


def adapt_dataclass(
    adapter: Adapts, annotation: Any, kind: type[Any], args: tuple[Any, ...]
) -> Any:
    """Adapt a dataclass: unchanged if msgspec supports all of it, else a marker."""
    if annotation in adapter.known:
        return adapter.known[annotation]
    hints = hints_of(kind, args)
    fields = {one.name: hints[one.name] for one in dataclasses.fields(kind) if one.init}
    init_vars = {
        name: one.type for name, one in hints.items() if isinstance(one, dataclasses.InitVar)
    }
    # As if msgspec could do it all: a class that refers to itself is no reason against that.
    adapter.known[annotation] = annotation
    try:
        adapted = {name: adapter.adapt(one) for name, one in fields.items()}
        if not init_vars and adapted == {name: unwrapped(one) for name, one in fields.items()}:
            return _checked(annotation)
        own = adapter.known[annotation] = marker(lambda value: convert(value))
        adapted = {name: adapter.adapt(one) for name, one in (fields | init_vars).items()}
    finally:
        del adapter.known[annotation]
    convert = _object_converter(adapter, kind, adapted, required_of(kind, init_vars))
    return own


def _checked(annotation: Any) -> Any:
    try:
        msgspec.inspect.type_info(annotation)
    except Exception as problem:
        raise UncheckableError(str(problem)) from None
    return annotation


def _object_converter(
    adapter: Adapts, make: Callable[..., Any], adapted: Mapping[str, Any], required: frozenset[str]
) -> Convert:
    """Return a converter of objects, field by field."""
    converters = {name: adapter.converter_of(one) for name, one in adapted.items()}
    forbids = adapter.forbids_unknown_fields and make is not dict

    def convert(value: Any) -> Any:
        if type(value) is not dict:
            raise ValidationError(f"Expected `object`, got `{type_name(value)}`")
        for name in required:
            if name not in value:
                raise ValidationError(f"Object missing required field `{name}`")
        if forbids:
            refuse_unknown(value, converters.keys())
        return make(**{name: one(value[name]) for name, one in converters.items() if name in value})

    return convert


def adapt_typed_dict(adapter: Adapts, kind: Any) -> Any:
    """Adapt a typed dict, likewise."""
    hints = hints_of(kind, ())
    adapted = {name: adapter.adapt(one) for name, one in hints.items()}
    plain = {name: unwrapped(one) for name, one in hints.items()}
    if adapted == plain:
        return _checked(kind)
    return marker(_object_converter(adapter, dict, adapted, frozenset(kind.__required_keys__)))


def adapt_named_tuple(adapter: Adapts, kind: Any) -> Any:
    """Adapt a named tuple, likewise."""
    hints = hints_of(kind, ())
    adapted = {name: adapter.adapt(hints.get(name, Any)) for name in kind._fields}
    if adapted == hints:
        return _checked(kind)
    converters = [adapter.converter_of(one) for one in adapted.values()]
    least = len(converters) - len(kind._field_defaults)

    def convert(value: Any) -> Any:
        if type(value) is not list or not least <= len(value) <= len(converters):
            raise ValidationError(f"Expected `array` of length {least} to {len(converters)}")
        return kind(*[one(item) for one, item in zip(converters, value, strict=False)])

    return marker(convert)


def adapt_struct(adapter: Adapts, annotation: Any, kind: type[msgspec.Struct]) -> Any:
    """Return a struct unchanged, if msgspec supports all of it."""
    if annotation in adapter.known:
        return annotation
    adapter.known[annotation] = annotation
    try:
        for field in msgspec.structs.fields(kind):
            if adapter.adapt(field.type) != unwrapped(field.type):
                raise UncheckableError(
                    f"its field {field.name} is of a type that msgspec cannot check; make it a "
                    "dataclass"
                )
    except NameError as problem:
        raise UncheckableError(str(problem)) from None
    finally:
        del adapter.known[annotation]
    return _checked(annotation)


# --- unknown fields: msgspec ignores them ---------------------------------------------------------

_UNIONS: Final = (typing.Union, types.UnionType)


def refuse_unknown(value: dict[Any, Any], names: Set[str]) -> None:
    """Raise if an object has a field of another name."""
    if not value.keys() <= names:
        unknown = next(name for name in value if name not in names)
        raise ValidationError(f"Object contains unknown field `{str(unknown)[:60]}`")


def unknown_fields_check(annotation: Any, known: dict[Any, Any]) -> Convert | None:
    """Return a function that raises if an object has fields that its dataclass has not.

    msgspec ignores them. ``None`` if there is no dataclass in the annotation.
    """
    if isinstance(annotation, Hashable) and annotation in known:
        return lambda value: known[annotation](value)
    origin = typing_extensions.get_origin(annotation) or annotation
    args = typing_extensions.get_args(annotation)
    if isinstance(origin, type) and dataclasses.is_dataclass(origin):
        return _object_check(annotation, origin, args, known)
    if origin is dict:
        part = unknown_fields_check(args[1], known) if args else None
        return None if part is None else lambda value: _check_each(value, dict, part)
    parts = [
        part
        for one in args
        if one is not ... and (part := unknown_fields_check(one, known)) is not None
    ]
    if not parts:
        return None
    if origin in _UNIONS or origin is typing.Annotated:
        return lambda value: [part(value) for part in parts]
    if origin is tuple and args[-1] is not ...:
        every = [unknown_fields_check(one, known) for one in args]
        return lambda value: _check_places(value, every)
    return lambda value: _check_each(value, list, parts[0])


def _check_each(value: Any, kind: type[Any], part: Convert) -> None:
    if type(value) is kind:
        for item in value.values() if kind is dict else value:
            part(item)


def _check_places(value: Any, parts: Sequence[Convert | None]) -> None:
    if type(value) is list:
        for part, item in zip(parts, value, strict=False):
            if part is not None:
                part(item)


def _object_check(
    annotation: Any, kind: type[Any], args: tuple[Any, ...], known: dict[Any, Any]
) -> Convert:
    hints = hints_of(kind, args)
    names = frozenset(field.name for field in dataclasses.fields(kind) if field.init)
    parts: list[tuple[str, Convert]] = []

    def check(value: Any) -> None:
        if type(value) is dict:
            refuse_unknown(value, names)
            for name, part in parts:
                if name in value:
                    part(value[name])

    # Known before its fields are looked at: a class may hold itself.
    known[annotation] = check
    for name in names:
        part = unknown_fields_check(hints[name], known)
        if part is not None:
            parts.append((name, part))
    return check
