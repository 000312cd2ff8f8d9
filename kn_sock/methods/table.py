"""Tables of methods: names to callables.

A method is looked up by its whole name and never by ``getattr``: what was not registered cannot be
called.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias

from kn_sock.methods.signature import Method

_RESERVED: Final = ("rpc.", "$/")


class MethodTable(Mapping[str, Method]):
    """The methods that a server offers, by name.

    Args:
        source: where the first methods come from, as for `add`.
        prefix: what to put before their names, as for `add`.
        forbid_unknown_fields: whether an object has to have no fields but those of the dataclass
            that a parameter is annotated with.

    A table is a mapping of names to `Method` objects, and may be given wherever functions are
    wanted.
    """

    def __init__(
        self,
        source: Functions | None = None,
        *,
        prefix: str = "",
        forbid_unknown_fields: bool = True,
    ) -> None:
        self._methods: dict[str, Method] = {}
        #: Whether objects with unknown fields are refused.
        self.forbids_unknown_fields = forbid_unknown_fields
        #: Whether the log has the warnings about its annotations.
        self.has_been_warned_of = False
        if source is not None:
            self.add(source, prefix=prefix)

    def add(self, source: Functions, *, prefix: str = "") -> MethodTable:
        """Add the functions of a mapping, the public methods of an object, or a module's functions.

        Args:
            source: a mapping of names to callables, another table, a module (the functions in its
                ``__all__``, or else the public ones that it defines), or any object (its public
                methods). A class is not accepted: make an object of it.
            prefix: ``"calc"`` makes ``add`` callable as ``calc.add``; empty for none.

        Returns:
            The table itself, so that additions can be chained.

        Raises:
            TypeError: the source holds something that cannot be called, or is no source at all.
            ValueError: a name is taken, or reserved (``rpc.`` and ``$/`` begin reserved names).
        """
        for name, function in _functions_in(source):
            self._register(f"{prefix}.{name}" if prefix else name, function)
        return self

    def _register(self, name: str, function: Callable[..., Any]) -> None:
        if name.startswith(_RESERVED):
            raise ValueError(f"{name}: names that begin with rpc. or $/ are reserved; rename it")
        if name in self._methods:
            raise ValueError(f"{name} is there twice; give one of them a prefix")
        self._methods[name] = Method(
            name, function, forbid_unknown_fields=self.forbids_unknown_fields
        )

    @property
    def unchecked(self) -> list[str]:
        """Sentences about annotations that cannot be checked; any value passes for them."""
        return [text for method in self._methods.values() for text in method.unchecked]

    def __getitem__(self, name: str) -> Method:
        return self._methods[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._methods)

    def __len__(self) -> int:
        return len(self._methods)

    def __repr__(self) -> str:
        return f"<MethodTable of {', '.join(self) or 'nothing'}>"


Functions: TypeAlias = Mapping[str, Any] | MethodTable | types.ModuleType | object


def _functions_in(source: Functions) -> Iterator[tuple[str, Callable[..., Any]]]:
    if isinstance(source, MethodTable):
        yield from ((name, method.function) for name, method in source.items())
    elif isinstance(source, Mapping):
        yield from _functions_of_mapping(source)
    elif isinstance(source, types.ModuleType):
        yield from _functions_of_module(source)
    elif isinstance(source, type):
        raise TypeError(f"{source.__name__} is a class; pass an object of it: {source.__name__}()")
    elif inspect.isroutine(source) or isinstance(source, functools.partial):
        name = getattr(source, "__name__", "function")
        raise TypeError(f"one function needs a name to be called by: pass {{{name!r}: {name}}}")
    elif source is None or isinstance(source, (str, bytes, int, float, list, tuple, set)):
        raise TypeError(
            "functions come from a mapping of names to callables, a module, or an object with "
            f"methods, not from {source!r:.60}"
        )
    else:
        yield from _methods_of_object(source)


def _functions_of_mapping(source: Mapping[Any, Any]) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name, function in source.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"a method's name is a string, not {name!r:.60}")
        if not callable(function):
            raise TypeError(f"{name} is {function!r:.60}, which cannot be called")
        yield name, function


def _functions_of_module(module: types.ModuleType) -> Iterator[tuple[str, Callable[..., Any]]]:
    exported = getattr(module, "__all__", None)
    for name in exported if exported is not None else list(vars(module)):
        try:
            value = getattr(module, name)
        except AttributeError:
            raise TypeError(f"{module.__name__}.__all__ names {name}, which is not there") from None
        if not callable(value) or isinstance(value, type):
            continue
        defined_here = getattr(value, "__module__", None) == module.__name__
        if exported is not None or (defined_here and not name.startswith("_")):
            yield name, value


def _is_method(static: object) -> bool:
    if isinstance(static, (staticmethod, classmethod, functools.partialmethod)):
        return True
    # A cached_property is a routine to inspect, and cannot be called.
    return inspect.isroutine(static) and callable(static)


def _methods_of_object(source: object) -> Iterator[tuple[str, Callable[..., Any]]]:
    found = False
    for name in dir(source):
        static = inspect.getattr_static(source, name, None)
        # Properties are not touched: to read one could do anything.
        if name.startswith("_") or not _is_method(static):
            continue
        found = True
        yield name, getattr(source, name)
    if not found:
        raise TypeError(f"{source!r:.60} has no public methods to serve")
