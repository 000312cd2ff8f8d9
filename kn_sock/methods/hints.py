"""The annotations of classes, and marker classes for annotations that msgspec does not know."""

from __future__ import annotations

import dataclasses
import sys
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import typing_extensions
from msgspec import ValidationError

Convert: TypeAlias = Callable[[Any], Any]


class UncheckableError(TypeError):
    """No value can be checked against an annotation; the text says why, and what to write."""


class Marker(type):
    """The type of marker classes."""

    # msgspec checks that a custom decoder returned an instance.
    def __instancecheck__(cls, instance: Any) -> bool:
        return True


def marker(convert: Convert) -> Any:
    """Make a class that stands for an annotation in what msgspec is given."""
    return Marker("Marker", (), {"convert": staticmethod(convert)})


def decode_custom(kind: Any, value: Any) -> Any:
    """Convert a value to a type that msgspec does not know."""
    if isinstance(kind, Marker):
        return kind.convert(value)  # type: ignore[attr-defined]  # every marker has it
    if not isinstance(value, str):
        raise ValidationError(f"Expected `str`, got `{type_name(value)}`")
    # Adapter lets no other class through but paths.
    return kind(value)


def type_name(value: Any) -> str:
    """Name the JSON type of a value, as msgspec's errors do."""
    names = {dict: "object", list: "array", type(None): "null"}
    return names.get(type(value), type(value).__name__)


WRAPPERS: Final = frozenset(
    getattr(module, name)
    for module in (typing, typing_extensions)
    for name in ("Required", "NotRequired", "ReadOnly", "Final", "ClassVar")
    if hasattr(module, name)
)


def hints_of(kind: type[Any], args: tuple[Any, ...]) -> dict[str, Any]:
    """Return the annotations of a class, with its type parameters replaced."""
    try:
        hints = _evaluated(kind)
    except Exception as problem:
        raise UncheckableError(
            f"{problem} in {kind.__name__}; import or define it at the top of its module, outside "
            "of TYPE_CHECKING"
        ) from None
    parameters = getattr(kind, "__parameters__", ())
    if not parameters:
        return hints
    values = dict(zip(parameters, args, strict=False))
    return {name: _substituted(one, values) for name, one in hints.items()}


def _evaluated(kind: type[Any]) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        return typing_extensions.get_type_hints(kind, include_extras=True)
    # Python 3.10 takes no InitVar where the annotations of a module are texts.
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        annotations = dict(vars(base).get("__annotations__", {}))
        for name, text in list(annotations.items()):
            if isinstance(text, str) and "InitVar[" in text:
                names = vars(sys.modules[base.__module__])
                # The class's own module wrote it.
                found[name] = eval(text, names, dict(vars(base)))  # noqa: S307
                del annotations[name]
        bare = {"__annotations__": annotations, "__module__": base.__module__}
        rest = type(base.__name__, (), bare)
        found.update(typing_extensions.get_type_hints(rest, include_extras=True))
    return found


def _substituted(annotation: Any, values: Mapping[Any, Any]) -> Any:
    if isinstance(annotation, typing.TypeVar) and annotation in values:
        return values[annotation]
    parameters = getattr(annotation, "__parameters__", ())
    if not parameters:
        return annotation
    return annotation[tuple(values.get(one, Any) for one in parameters)]


def required_of(kind: type[Any], init_vars: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of the fields that have no default."""
    missing = dataclasses.MISSING
    names = {
        field.name
        for field in dataclasses.fields(kind)
        if field.init and field.default is missing and field.default_factory is missing
    }
    return frozenset(names | {name for name in init_vars if not hasattr(kind, name)})


def unwrapped(annotation: Any) -> Any:
    """Return an annotation without qualifiers such as ``Required``, and None for its type."""
    while typing_extensions.get_origin(annotation) in WRAPPERS:
        (annotation,) = typing_extensions.get_args(annotation)
    return None if annotation is type(None) else annotation
