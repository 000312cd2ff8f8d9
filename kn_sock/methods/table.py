"""What can be called: names to callables, signatures analysed once, arguments bound and converted.

Everything is decided when a method is registered, so that a call costs a look-up and a comparison.
Where a method runs is decided here too; running it is `_serving`'s. A method is looked up in the
table by its whole name and never by ``getattr``: what was not registered cannot be called.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeVar, cast

from msgspec import UnsetType

from kn_sock._display import safe_repr, truncate
from kn_sock.errors import InvalidParams
from kn_sock.methods.conversion import converter_of, plain_kind

__all__ = ["Functions", "Method", "MethodTable", "in_reactor", "in_thread"]

F = TypeVar("F", bound=Callable[..., Any])

_MARK: Final = "__kn_sock_runs_in__"
_RESERVED: Final = ("rpc.", "$/")

LOGIN_METHOD: Final = "rpc.login"

# No function is wrapped that often.
_MANY_LAYERS: Final = 100


def in_reactor(function: F) -> F:
    """Mark a function to run on the reactor's thread: it must not block, may return a Deferred."""
    return _marked(function, "reactor")


def in_thread(function: F) -> F:
    """Mark a function to run in the server's threads: it may block, returns a plain value."""
    return _marked(function, "thread")


def _marked(function: F, mark: str) -> F:
    target: Any = function
    if isinstance(function, types.MethodType):
        # Its function is shared by every object of the class, and so is what is set on it.
        target = functools.partial(function)
    setattr(getattr(target, "__func__", target), _MARK, mark)
    return cast(F, target)


class Method:
    """One callable, and what is known of it.

    Attributes:
        name: the name that callers use.
        function: the callable.
        on_reactor: whether it runs on the reactor's thread rather than in the pool.
        signature: its signature, or ``None`` for a builtin that has none.
    """

    __slots__ = (
        "_convert",
        "_names",
        "_needed",
        "_ordered",
        "_positional",
        "function",
        "kinds",
        "most",
        "name",
        "on_reactor",
        "required",
        "signature",
    )

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self.function = function
        layers = _layers_of(function)
        self.signature = _signature_of(function, layers[-1])
        self.on_reactor = _runs_on_reactor(name, layers, self.signature)
        self._convert = {
            parameter.name: convert
            for parameter in (self.signature.parameters.values() if self.signature else ())
            if (convert := converter_of(parameter)) is not None
        }
        # What can be bound by counting: positions alone, nothing named that has to be given. At
        # least and at most so many; -1 where counting does not do.
        self._positional: list[Callable[[Any], Any] | None] = []
        self.required = 0
        self.most = -1
        # What can be bound by comparing names: those that there are, those that have to be given,
        # and those that are passed on by position.
        self._names: frozenset[str] | None = None
        self._needed: frozenset[str] = frozenset()
        self._ordered: list[str] = []
        if self.signature is not None:
            self._learn_positions(self.signature)
            self._learn_names(self.signature)
        #: The types of arguments by position that pass as they are; ``None`` where all do.
        self.kinds = [plain_kind(one) for one in self._positional] if self._positional else None

    def _learn_positions(self, signature: inspect.Signature) -> None:
        for parameter in signature.parameters.values():
            convert = self._convert.get(parameter.name)
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                self._positional.append(convert)
                if parameter.default is parameter.empty:
                    self.required += 1
            elif parameter.kind is parameter.VAR_POSITIONAL:
                if convert is not None:
                    return
                self.most = sys.maxsize
            elif parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
                self.most = -1
                return
        if self.most < 0:
            self.most = len(self._positional)
        if not any(self._positional):
            self._positional = []

    def _learn_names(self, signature: inspect.Signature) -> None:
        parameters = signature.parameters.values()
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        if any(parameter.kind not in named for parameter in parameters):
            return
        self._names = frozenset(signature.parameters)
        self._needed = frozenset(
            parameter.name for parameter in parameters if parameter.default is parameter.empty
        )
        self._ordered = [
            parameter.name
            for parameter in parameters
            if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        ]

    def bind(
        self,
        params: Sequence[Any] | dict[str, Any] | UnsetType | None,
        kwargs: dict[str, Any] | UnsetType | None,
    ) -> tuple[Sequence[Any], dict[str, Any] | None]:
        """Fit the arguments of a request to the signature, converting those that are annotated.

        Returns:
            The positional and the named arguments of the call.

        Raises:
            InvalidParams: they do not fit; the text says which, and shows the signature.
        """
        if type(params) is list and not kwargs and self.required <= len(params) <= self.most:
            if self._positional:
                return self.convert(params), None
            return params, None
        if not params and not kwargs and self.required == 0 <= self.most:
            return (), None
        args: Sequence[Any] = ()
        named: dict[str, Any] = dict(kwargs) if kwargs else {}
        if isinstance(params, dict):
            if named:
                raise InvalidParams(
                    f"{self}: kwargs go with an array of params, not with an object"
                )
            named = params
            if self._names is not None and self._needed <= named.keys() <= self._names:
                return self._bind_names(named)
        elif params:
            args = params
        if self.signature is None:
            return args, named
        return self._bind_slowly(args, named)

    def _bind_names(self, named: dict[str, Any]) -> tuple[list[Any], dict[str, Any] | None]:
        """Pass names that are known to fit, by position as far as they follow one another."""
        convert = self._convert
        if convert:
            named = {
                name: self._converted(convert[name], value, name) if name in convert else value
                for name, value in named.items()
            }
        args = []
        for name in self._ordered:
            if name not in named:
                break
            args.append(named[name])
        if len(args) == len(named):
            return args, None
        passed = set(self._ordered[: len(args)])
        return args, {name: value for name, value in named.items() if name not in passed}

    def convert(self, params: list[Any]) -> list[Any]:
        """Check and convert arguments by position, of which there are neither too few nor too many.

        Raises:
            InvalidParams: one of them is not of its type.
        """
        converters = self._positional
        for index, value in enumerate(params[: len(converters)]):
            convert = converters[index]
            if convert is not None:
                params[index] = self._converted(convert, value, self._position_name(index))
        return params

    def _position_name(self, index: int) -> str:
        assert self.signature is not None
        return list(self.signature.parameters)[index]

    def _bind_slowly(
        self, args: Sequence[Any], named: dict[str, Any]
    ) -> tuple[Sequence[Any], dict[str, Any]]:
        assert self.signature is not None
        try:
            bound = self.signature.bind(*args, **named)
        except TypeError as problem:
            raise InvalidParams(f"{self}: {truncate(str(problem))}") from None
        for name, value in bound.arguments.items():
            convert = self._convert.get(name)
            if convert is None:
                continue
            kind = self.signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                value = tuple(self._converted(convert, one, name) for one in value)
            elif kind is inspect.Parameter.VAR_KEYWORD:
                value = {key: self._converted(convert, one, key) for key, one in value.items()}
            else:
                value = self._converted(convert, value, name)
            bound.arguments[name] = value
        return bound.args, bound.kwargs

    def _converted(self, convert: Callable[[Any], Any], value: Any, parameter: str) -> Any:
        try:
            return convert(value)
        except RecursionError:
            raise InvalidParams(f"{self}: {parameter} is nested too deeply") from None
        except Exception as problem:
            # Of any kind: a dataclass may check itself as it is made.
            raise InvalidParams(
                f"{self}: {safe_repr(parameter)}: {truncate(str(problem))}"
            ) from None

    def __str__(self) -> str:
        return truncate(f"{self.name}{self.signature if self.signature is not None else '(…)'}")

    def __repr__(self) -> str:
        return f"<Method {self} {'on the reactor' if self.on_reactor else 'in a thread'}>"


def _layers_of(function: Any) -> list[Any]:
    """Give a callable and what it wraps, from the outermost to the function inside."""
    layers = [function]
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif hasattr(function, "__func__"):
            function = function.__func__
        elif not isinstance(function, type) and not inspect.isroutine(function):
            function = type(function).__call__
        else:
            return layers
        if function in layers or len(layers) > _MANY_LAYERS:
            return layers
        layers.append(function)


def _signature_of(function: Callable[..., Any], target: Any) -> inspect.Signature | None:
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):
        return None
    scope = getattr(target, "__globals__", {})
    parameters = [
        parameter.replace(annotation=_evaluated(parameter.annotation, scope))
        for parameter in signature.parameters.values()
    ]
    result = _evaluated(signature.return_annotation, scope)
    return signature.replace(parameters=parameters, return_annotation=result)


def _evaluated(annotation: Any, scope: dict[str, Any]) -> Any:
    """Resolve an annotation that is a string; one that cannot be resolved stays as it is."""
    if not isinstance(annotation, str):
        return annotation
    try:
        # The text is the server's own source, as typing.get_type_hints would evaluate it too; one
        # by one, so that a name imported for the type checker alone does not cost the others their
        # type.
        found = eval(annotation, scope)  # noqa: S307  # see above
    except Exception:
        return annotation
    # Quoted, and made a string once more by the future import.
    return _evaluated(found, scope) if isinstance(found, str) and found != annotation else found


def _runs_on_reactor(name: str, layers: list[Any], signature: inspect.Signature | None) -> bool:
    is_async = any(inspect.iscoroutinefunction(layer) for layer in layers)
    marks = [mark for layer in layers if (mark := getattr(layer, _MARK, None)) is not None]
    if is_async and marks and marks[0] == "thread":
        raise TypeError(f"{name} is async and cannot run in a thread; remove @in_thread")
    if marks:
        return bool(marks[0] == "reactor")
    return is_async or (signature is not None and _is_deferred(signature.return_annotation))


def _is_deferred(annotation: Any) -> bool:
    """Tell a Deferred's annotation by name: this module does not need Twisted to be importable."""
    if isinstance(annotation, str):
        return annotation.split("[")[0].rpartition(".")[2] == "Deferred"
    kind = typing.get_origin(annotation) or annotation
    if getattr(kind, "__module__", "") != "twisted.internet.defer":
        return False
    return getattr(kind, "__name__", "") == "Deferred"


class MethodTable(Mapping[str, Method]):
    """The methods that a server offers, by name.

    Args:
        source: where the first methods come from, as for `add`.
        prefix: what to put before their names, as for `add`.

    A table is a mapping of names to `Method` objects, and may be given wherever functions are
    wanted.
    """

    def __init__(self, source: Functions | None = None, *, prefix: str = "") -> None:
        self._methods: dict[str, Method] = {}
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
        self._methods[name] = Method(name, function)

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
