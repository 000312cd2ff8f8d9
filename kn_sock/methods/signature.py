"""One method: its signature, analysed once, its arguments, and where it runs.

Everything is decided when a method is registered, so that a call costs a comparison.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar, cast

import msgspec
from msgspec import UnsetType

from kn_sock._display import safe_repr, text_of, truncate
from kn_sock.errors import InvalidParams
from kn_sock.methods.conversion import Adapter, converter_of, is_unpacked, plain_kind
from kn_sock.methods.hints import Convert, UncheckableError

F = TypeVar("F", bound=Callable[..., Any])

_MARK: Final = "__kn_sock_runs_in__"

LOGIN_METHOD: Final = "rpc.login"

# No function is wrapped that often.
_MANY_LAYERS: Final = 100


def in_reactor(function: F) -> F:
    """Mark a function to run on the reactor's thread: it must not block."""
    return _marked(function, "reactor")


def in_thread(function: F) -> F:
    """Mark a function to run in the server's threads: it may block; it returns a plain value."""
    return _marked(function, "thread")


def _marked(function: F, mark: str) -> F:
    target: Any = function
    if isinstance(function, types.MethodType):
        # The function is shared by all objects of the class, and so would be the mark.
        target = functools.partial(function)
    setattr(getattr(target, "__func__", target), _MARK, mark)
    return cast(F, target)


class Method:
    """One callable, with its signature.

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
        "_text",
        "_unpacked",
        "function",
        "kinds",
        "most",
        "name",
        "on_reactor",
        "required",
        "signature",
        "unchecked",
    )

    def __init__(
        self, name: str, function: Callable[..., Any], *, forbid_unknown_fields: bool = True
    ) -> None:
        self.name = name
        self.function = function
        layers = _layers_of(function)
        self.signature = _signature_of(function, layers[-1])
        self._text = truncate(f"{name}{_text_of(self.signature)}")
        self.on_reactor = _runs_on_reactor(name, layers, self.signature)
        #: Sentences about annotations that cannot be checked, and what to write instead.
        self.unchecked: list[str] = []
        self._convert = self._converters(Adapter(forbids_unknown_fields=forbid_unknown_fields))
        # The name of a parameter ``**kwargs: Unpack[...]``, whose dict is converted as a whole.
        self._unpacked = {
            one.name
            for one in (self.signature.parameters.values() if self.signature is not None else ())
            if is_unpacked(one)
        }
        # For positional arguments alone: the least and the most of them; -1 if counting them is not
        # enough to bind them.
        self._positional: list[Callable[[Any], Any] | None] = []
        self.required = 0
        self.most = -1
        # For named arguments alone: all names, the required ones, and those that are passed on by
        # position.
        self._names: frozenset[str] | None = None
        self._needed: frozenset[str] = frozenset()
        self._ordered: list[str] = []
        if self.signature is not None:
            self._learn_positions(self.signature)
            self._learn_names(self.signature)
        #: The types of positional arguments that need no conversion; ``None`` if none needs any.
        self.kinds = [plain_kind(one) for one in self._positional] if self._positional else None

    def _converters(self, adapter: Adapter) -> dict[str, Convert]:
        found = {}
        for parameter in self.signature.parameters.values() if self.signature is not None else ():
            try:
                convert = converter_of(parameter, adapter)
            except UncheckableError as problem:
                self.unchecked.append(
                    f"{self.name}: the annotation of {parameter.name} cannot be checked, and any "
                    f"value passes: {problem}"
                )
            else:
                if convert is not None:
                    found[parameter.name] = convert
        return found

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
        if self._unpacked:
            # Its dict may have to have members.
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
        """Bind the arguments of a request to the signature, and convert those that are annotated.

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
        """Return named arguments that are known to fit, by position as far as possible."""
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
        """Check and convert positional arguments, whose number is known to fit.

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
        for name in self._unpacked:
            bound.arguments.setdefault(name, {})
        for name, value in bound.arguments.items():
            convert = self._convert.get(name)
            if convert is None:
                continue
            kind = self.signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                value = tuple(self._converted(convert, one, name) for one in value)
            elif kind is inspect.Parameter.VAR_KEYWORD and name not in self._unpacked:
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
        except BaseException as problem:
            # Of any kind: a dataclass may validate itself.
            raise _unfit(f"{self}: {safe_repr(parameter)}", problem) from None

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"<Method {self} {'on the reactor' if self.on_reactor else 'in a thread'}>"


def _unfit(place: str, problem: BaseException) -> InvalidParams:
    """Return the error for an argument that is not of its type."""
    error = InvalidParams(f"{place}: {truncate(text_of(problem))}")
    if not isinstance(problem, msgspec.ValidationError) or problem.__cause__ is not None:
        # The application's own text, which a server may keep from its callers.
        error.hidden_text = f"{place}: the value was refused"
    return error


class _Default:
    def __repr__(self) -> str:
        return "…"


_DEFAULT: Final = _Default()


def _text_of(signature: inspect.Signature | None) -> str:
    """Return the text of a signature for errors; it does not show the values of defaults."""
    if signature is None:
        return "(…)"
    parameters = [
        parameter if parameter.default is parameter.empty else parameter.replace(default=_DEFAULT)
        for parameter in signature.parameters.values()
    ]
    try:
        return str(signature.replace(parameters=parameters))
    except Exception:
        # The annotations are the application's objects.
        return "(…)"


def _layers_of(function: Any) -> list[Any]:
    """Return a callable and what it wraps, from the outermost to the function inside."""
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
    scope = _scope_of(target)
    parameters = [
        parameter.replace(annotation=_evaluated(parameter.annotation, scope))
        for parameter in signature.parameters.values()
    ]
    result = _evaluated(signature.return_annotation, scope)
    return signature.replace(parameters=parameters, return_annotation=result)


def _scope_of(target: Any) -> dict[str, Any]:
    """Return the names that a function's annotations may use: its globals and its closure."""
    scope = getattr(target, "__globals__", {})
    cells = getattr(target, "__closure__", None) or ()
    if not cells:
        return scope
    inner = {}
    for name, cell in zip(target.__code__.co_freevars, cells, strict=False):
        with contextlib.suppress(ValueError):
            # An empty cell: the name is not bound yet.
            inner[name] = cell.cell_contents
    return {**scope, **inner}


def _evaluated(annotation: Any, scope: dict[str, Any]) -> Any:
    """Evaluate an annotation that is a string; return it unchanged if that fails."""
    if not isinstance(annotation, str):
        return annotation
    try:
        # The text is the server's own source; typing.get_type_hints would evaluate it as well. One
        # by one, so that a name that is imported only for the type checker does not affect others.
        found = eval(annotation, scope)  # noqa: S307  # see above
    except Exception:
        return annotation
    # Quoted, and made a string once more by the future import.
    return _evaluated(found, scope) if isinstance(found, str) and found != annotation else found


def _runs_on_reactor(name: str, layers: list[Any], signature: inspect.Signature | None) -> bool:
    # A wrapper decides where it runs, not the function that it wraps.
    is_async = any(inspect.iscoroutinefunction(layer) for layer in _own_layers(layers))
    marks = [mark for layer in layers if (mark := getattr(layer, _MARK, None)) is not None]
    if is_async and marks and marks[0] == "thread":
        raise TypeError(f"{name} is async and cannot run in a thread; remove @in_thread")
    if marks:
        return bool(marks[0] == "reactor")
    return is_async or (signature is not None and _is_deferred(signature.return_annotation))


def _own_layers(layers: list[Any]) -> list[Any]:
    """Return the layers down to the first function: those that partials and methods add."""
    for number, layer in enumerate(layers):
        if inspect.isfunction(layer):
            return layers[: number + 1]
    return layers


def _is_deferred(annotation: Any) -> bool:
    """Whether an annotation names a Deferred; by name, as this module does not import Twisted."""
    if isinstance(annotation, str):
        return annotation.split("[")[0].rpartition(".")[2] == "Deferred"
    kind = typing.get_origin(annotation) or annotation
    if getattr(kind, "__module__", "") != "twisted.internet.defer":
        return False
    return getattr(kind, "__name__", "") == "Deferred"
