"""The methods that every server has: ``rpc.ping`` and ``rpc.discover``.

Spec: JSON-RPC 2.0, section 4 (names that begin with ``rpc.`` are reserved for such as these); the
document is OpenRPC 1.3's.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import msgspec

from kn_sock.methods.conversion import is_convertible
from kn_sock.methods.signature import Method, in_reactor

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def standard_methods(methods: Mapping[str, Method], version: str) -> dict[str, Method]:
    """Build ``rpc.ping`` and ``rpc.discover`` for a server with these methods."""

    @in_reactor
    def ping() -> str:
        """Answer "pong": the connection and the server are alive."""
        return "pong"

    described: list[Method] = []
    document: list[msgspec.Raw] = []

    @in_reactor
    def discover() -> Any:
        """Describe the methods as an OpenRPC document."""
        # Made when it is first asked for, as it takes long, and encoded once.
        if not document or described != [*methods.values()]:
            described[:] = methods.values()
            schemas = Schemas(methods.values())
            found = {
                "openrpc": "1.3.2",
                "info": {"title": "kn_sock", "version": version},
                "methods": [_described(method, schemas) for method in methods.values()],
                "components": {"schemas": schemas.components},
            }
            document[:] = [msgspec.Raw(msgspec.json.encode(found))]
        return document[0]

    return {
        name: Method(name, function)
        for name, function in (("rpc.ping", ping), ("rpc.discover", discover))
    }


class Schemas:
    """The JSON schemas of the annotations of some methods.

    Attributes:
        components: those that are referred to by name.
    """

    def __init__(self, methods: Iterable[Method]) -> None:
        annotations = {
            _key(annotation): annotation
            for method in methods
            if method.signature is not None
            for annotation in (
                *(parameter.annotation for parameter in method.signature.parameters.values()),
                method.signature.return_annotation,
            )
        }
        described = {
            key: annotation
            for key, annotation in annotations.items()
            if _can_be_described(annotation)
        }
        schemas, self.components = msgspec.json.schema_components(
            described.values(), ref_template="#/components/schemas/{name}"
        )
        self._schemas = dict(zip(described, schemas, strict=True))

    def of(self, annotation: Any) -> Any:
        """Return the schema of an annotation; the empty one if it has none."""
        return self._schemas.get(_key(annotation), {})


def _key(annotation: Any) -> Any:
    """Return what stands for an annotation in a dict: itself, or its identity."""
    try:
        hash(annotation)
    except TypeError:
        return id(annotation)
    return annotation


def _can_be_described(annotation: Any) -> bool:
    if annotation is inspect.Parameter.empty or not is_convertible(annotation):
        return False
    try:
        msgspec.json.schema(annotation)
    except Exception:
        # A type that can be checked and not described: the method is listed all the same.
        return False
    return True


def _described(method: Method, schemas: Schemas) -> dict[str, Any]:
    described: dict[str, Any] = {"name": method.name, "params": []}
    documentation = inspect.getdoc(method.function)
    if documentation:
        described["summary"] = documentation.splitlines()[0]
        described["description"] = documentation
    returns: Any = Any
    if method.signature is not None:
        described["params"] = [
            {
                "name": parameter.name,
                "required": parameter.default is parameter.empty
                and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD),
                "schema": schemas.of(parameter.annotation),
            }
            for parameter in method.signature.parameters.values()
        ]
        returns = method.signature.return_annotation
    described["result"] = {"name": "result", "schema": schemas.of(returns)}
    return described
