"""Converters of arguments: annotations, adapted so that msgspec checks all that can be checked.

What msgspec cannot express, such as a union of two dataclasses, a deque or a field that is an
``InitVar``, is replaced by a marker class, whose converter ``decode_custom`` calls. What cannot be
checked at all raises `UncheckableError`, whose text says what to write instead.
"""

from __future__ import annotations

import collections
import collections.abc as abc
import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, Final

import msgspec
import typing_extensions
from msgspec import ValidationError

from kn_sock.methods.classes import (
    adapt_dataclass,
    adapt_named_tuple,
    adapt_struct,
    adapt_typed_dict,
    refuse_unknown,
    unknown_fields_check,
)
from kn_sock.methods.hints import (
    WRAPPERS,
    Convert,
    Marker,
    UncheckableError,
    decode_custom,
    marker,
    unwrapped,
)

_ANYTHING: Final = (Any, object, typing_extensions.Any)

_LISTS: Final = frozenset(
    {list, abc.Sequence, abc.MutableSequence, abc.Collection, abc.Iterable, abc.Reversible}
)
_SETS: Final = frozenset({set, abc.Set, abc.MutableSet})
_DICTS: Final = frozenset({dict, abc.Mapping, abc.MutableMapping})

# Those that msgspec knows.
_NATIVE: Final = frozenset(
    {list, tuple, set, frozenset, dict, abc.Sequence, abc.MutableSequence, abc.Collection, abc.Set,
     abc.MutableSet, abc.Mapping, abc.MutableMapping}
)  # fmt: skip

# Containers that are made of a list or of a dict.
_OF_LISTS: Final[dict[Any, Convert]] = {collections.deque: collections.deque, abc.Iterator: iter}
_OF_DICTS: Final[dict[Any, Convert]] = {
    collections.OrderedDict: collections.OrderedDict,
    collections.defaultdict: lambda found: collections.defaultdict(None, found),
    collections.Counter: collections.Counter,
}

_CONTAINERS: Final = _NATIVE | _LISTS | _SETS | _DICTS | _OF_LISTS.keys() | _OF_DICTS.keys()

_UNIONS: Final = (typing.Union, types.UnionType)


# Longer lists are converted in slices of as many items: threads take turns between them.
_SLICE: Final = 1000


def _in_slices(convert: Convert) -> Convert:
    """Return a function that converts a long list piece by piece."""

    def convert_list(value: Any) -> Any:
        if type(value) is not list or len(value) <= _SLICE:
            return convert(value)
        found: list[Any] = []
        try:
            for start in range(0, len(value), _SLICE):
                found += convert(value[start : start + _SLICE])
        except ValidationError:
            # Its text has the place within the slice.
            return convert(value)
        return found

    return convert_list


class Adapter:
    """Adapts annotations.

    Args:
        forbids_unknown_fields: whether objects may have no fields but those of their dataclass.
    """

    def __init__(self, *, forbids_unknown_fields: bool = True) -> None:
        self.forbids_unknown_fields = forbids_unknown_fields
        # Dataclasses whose fields are adapted now: one may hold itself.
        self.known: dict[Any, Any] = {}

    def converter(self, annotation: Any) -> Convert:
        """Return the function that checks and converts values.

        Raises:
            UncheckableError: the annotation cannot be checked.
        """
        return self.converter_of(self.adapt(annotation))

    def adapt(self, annotation: Any) -> Any:
        """Return an annotation that msgspec supports, with markers for the parts it does not.

        Raises:
            UncheckableError: the annotation, or a part of it, cannot be checked.
        """
        if annotation is None or annotation is type(None):
            return None
        if any(annotation is one for one in _ANYTHING):
            return Any
        if isinstance(annotation, (str, typing.ForwardRef)):
            name = getattr(annotation, "__forward_arg__", annotation)
            raise UncheckableError(
                f"{name} is not found when the program runs; import or define it at the top of "
                "its module, outside of TYPE_CHECKING"
            )
        if isinstance(annotation, (typing.TypeVar, typing_extensions.TypeVar)):
            return self.adapt(annotation.__bound__) if annotation.__bound__ is not None else Any
        if hasattr(annotation, "__supertype__"):
            return self.adapt(annotation.__supertype__)
        if hasattr(annotation, "__value__"):
            return self.adapt(annotation.__value__)
        origin = typing_extensions.get_origin(annotation)
        if origin is None:
            return self._adapt_class(annotation, annotation, ())
        return self._adapt_generic(annotation, origin, typing_extensions.get_args(annotation))

    def _adapt_generic(self, annotation: Any, origin: Any, args: tuple[Any, ...]) -> Any:
        if origin in (typing.Annotated, typing_extensions.Annotated):
            return self._annotated(args[0], args[1:])
        if origin in _UNIONS:
            return self._union([self.adapt(one) for one in args])
        if origin in WRAPPERS:
            return self.adapt(args[0])
        if origin in (typing.Literal, typing_extensions.Literal):
            return self._literal(annotation, args)
        return self._adapt_class(annotation, origin, args)

    # --- containers and classes -------------------------------------------------------------------

    def _adapt_class(self, annotation: Any, origin: Any, args: tuple[Any, ...]) -> Any:
        if origin not in _CONTAINERS:
            return self._adapt_named(annotation, origin, args)
        inner = [... if one is ... else self.adapt(one) for one in args if one != ()]
        is_native = origin in _NATIVE and inner == [unwrapped(one) for one in args]
        if is_native:
            return annotation
        if origin is tuple:
            return _generic(tuple, *inner)
        if origin in _LISTS:
            return _generic(list, *(inner or [Any]))
        if origin in _SETS or origin is frozenset:
            return _generic(frozenset if origin is frozenset else set, *(inner or [Any]))
        if origin in _DICTS:
            return _generic(dict, *(inner or [Any, Any]))
        if origin in _OF_LISTS:
            return self._made_of(_generic(list, *(inner or [Any])), _OF_LISTS[origin])
        if origin is collections.Counter:
            inner = [*(inner or [Any]), int]
        return self._made_of(_generic(dict, *(inner or [Any, Any])), _OF_DICTS[origin])

    def _adapt_named(self, annotation: Any, origin: Any, args: tuple[Any, ...]) -> Any:
        if not isinstance(origin, type):
            raise UncheckableError(_foreign(annotation))
        if dataclasses.is_dataclass(origin):
            return adapt_dataclass(self, annotation, origin, args)
        if typing_extensions.is_typeddict(origin):
            return adapt_typed_dict(self, origin)
        if issubclass(origin, tuple) and hasattr(origin, "_fields"):
            return adapt_named_tuple(self, origin)
        if issubclass(origin, msgspec.Struct):
            return adapt_struct(self, annotation, origin)
        return self._plain_class(annotation, origin)

    def _made_of(self, items: Any, make: Convert) -> Any:
        convert = self.converter_of(items)
        return marker(lambda value: make(convert(value)))

    def converter_of(self, adapted: Any) -> Convert:
        """Return the function that checks and converts values to an adapted annotation."""
        check = unknown_fields_check(adapted, {}) if self.forbids_unknown_fields else None

        def convert(value: Any) -> Any:
            if check is not None:
                check(value)
            return msgspec.convert(value, adapted, str_keys=True, dec_hook=decode_custom)

        return _in_slices(convert) if typing_extensions.get_origin(adapted) in _LISTS else convert

    @staticmethod
    def _plain_class(annotation: Any, origin: type[Any]) -> Any:
        if issubclass(origin, PurePath):
            return origin
        try:
            info = msgspec.inspect.type_info(annotation)
        except Exception as problem:
            raise UncheckableError(str(problem)) from None
        if isinstance(info, msgspec.inspect.CustomType):
            raise UncheckableError(_foreign(annotation))
        return annotation

    @staticmethod
    def _literal(annotation: Any, values: tuple[Any, ...]) -> Any:
        try:
            msgspec.inspect.type_info(annotation)
            # msgspec takes 1 for True, and True for 1.
            if not any(isinstance(value, bool) for value in values):
                return annotation
        except TypeError:
            pass

        def convert(value: Any) -> Any:
            for one in values:
                if type(one) is type(value) and one == value:
                    return one
            raise ValidationError(f"Invalid value {value!r:.60}")

        return marker(convert)

    # --- unions and constraints -------------------------------------------------------------------

    def _union(self, members: Sequence[Any]) -> Any:
        union = _generic(typing.Union, *members)
        try:
            msgspec.inspect.type_info(union)
        except TypeError:
            return self._union_in_order(members)
        # A custom type would get whatever the other members refuse.
        others = [one for one in members if one is not None]
        if len(others) > 1 and any(isinstance(one, Marker) or _is_path(one) for one in others):
            return self._union_in_order(members)
        return union

    def _union_in_order(self, members: Sequence[Any]) -> Any:
        converters = [self.converter_of(one) for one in members]

        def convert(value: Any) -> Any:
            problems = []
            for one in converters:
                try:
                    return one(value)
                except ValidationError as problem:
                    problems.append(str(problem))
            raise ValidationError(f"no type of the union fits: {'; '.join(problems)}")

        return marker(convert)

    def _annotated(self, annotation: Any, metadata: tuple[Any, ...]) -> Any:
        adapted = self.adapt(annotation)
        limits = tuple(one for one in metadata if isinstance(one, msgspec.Meta))
        if not limits:
            return adapted
        if typing_extensions.get_origin(adapted) not in _UNIONS:
            limited = _limited(adapted, limits)
            if limited is None:
                raise UncheckableError(f"its constraints do not apply to {annotation!r:.60}")
            return limited
        # A constraint holds for those members of a union that it is for.
        members = typing_extensions.get_args(adapted)
        limited_members = [_limited(one, limits) for one in members]
        if not any(one is not None for one in limited_members):
            raise UncheckableError(f"its constraints do not apply to {annotation!r:.60}")
        pairs = zip(members, limited_members, strict=True)
        return self._union([plain if limited is None else limited for plain, limited in pairs])


def _generic(origin: Any, *args: Any) -> Any:
    """Subscript a type at run time."""
    return origin[args if len(args) != 1 else args[0]] if args else origin


def _foreign(annotation: Any) -> str:
    name = getattr(annotation, "__name__", None) or repr(annotation)
    return (
        f"{name} has no JSON form; write a dataclass, a TypedDict or a type of the standard "
        "library, or Any if every value may pass"
    )


def _is_path(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, PurePath)


def _limited(adapted: Any, limits: tuple[Any, ...]) -> Any:
    """Return an annotation with constraints; ``None`` if they do not apply to it."""
    limited = _generic(typing.Annotated, adapted, *limits)
    try:
        msgspec.inspect.type_info(limited)
    except TypeError:
        return None
    return limited


# --- parameters -----------------------------------------------------------------------------------

# Exact values of these pass without a question asked.
_PLAIN_TYPES: Final = frozenset({int, float, str, bool})

_UNPACK: Final = (getattr(typing, "Unpack", typing_extensions.Unpack), typing_extensions.Unpack)


def converter_of(parameter: inspect.Parameter, adapter: Adapter) -> Convert | None:
    """Build the function that checks and converts one argument; ``None`` if any value passes.

    For a ``**kwargs: Unpack[...]`` it converts the dict of all of them.

    Raises:
        UncheckableError: the annotation cannot be checked.
    """
    annotation = parameter.annotation
    if annotation is parameter.empty:
        return None
    if typing_extensions.get_origin(annotation) in _UNPACK:
        return _unpacked(parameter, adapter)
    if parameter.default is None:
        annotation = typing.Optional[annotation]  # noqa: UP045  # strings have no |
    if any(annotation is one for one in _PLAIN_TYPES):
        return functools.partial(_convert_plain, annotation)
    adapted = adapter.adapt(annotation)
    return None if adapted is Any else adapter.converter_of(adapted)


def is_unpacked(parameter: inspect.Parameter) -> bool:
    """Whether a parameter is ``**kwargs: Unpack[...]``."""
    return (
        parameter.kind is parameter.VAR_KEYWORD
        and typing_extensions.get_origin(parameter.annotation) in _UNPACK
    )


def _unpacked(parameter: inspect.Parameter, adapter: Adapter) -> Convert:
    (kind,) = typing_extensions.get_args(parameter.annotation)
    if parameter.kind is not parameter.VAR_KEYWORD or not typing_extensions.is_typeddict(kind):
        raise UncheckableError("Unpack[...] is checked for **kwargs and a TypedDict alone")
    convert = adapter.converter(kind)
    names = frozenset(kind.__required_keys__ | kind.__optional_keys__)

    def convert_all(value: Any) -> Any:
        refuse_unknown(value, names)
        return convert(value)

    return convert_all


def plain_kind(convert: Convert | None) -> type | None:
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


def is_convertible(annotation: Any) -> bool:
    """Whether JSON values can be checked against a type: not for ``Any`` or other classes."""
    try:
        return Adapter().adapt(annotation) is not Any
    except UncheckableError:
        return False
