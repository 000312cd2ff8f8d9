"""The methods that every server has: ``rpc.ping`` and ``rpc.discover``.

Spec: JSON-RPC 2.0, section 4 (names that begin with ``rpc.`` are reserved for such as these); the
document is OpenRPC 1.3's.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import msgspec

from kn_sock.methods import Method, in_reactor, is_convertible


def standard_methods(methods: Mapping[str, Method], version: str) -> dict[str, Method]:
    """Build ``rpc.ping`` and ``rpc.discover`` for a server with these methods."""

    @in_reactor
    def ping() -> str:
        """Answer "pong": the connection and the server are alive."""
        return "pong"

    @in_reactor
    def discover() -> dict[str, Any]:
        """Describe the methods as an OpenRPC document."""
        return {
            "openrpc": "1.3.2",
            "info": {"title": "kn_sock", "version": version},
            "methods": [_described(method) for method in methods.values()],
        }

    return {
        name: Method(name, function)
        for name, function in (("rpc.ping", ping), ("rpc.discover", discover))
    }


def _described(method: Method) -> dict[str, Any]:
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
                "schema": _schema(parameter.annotation),
            }
            for parameter in method.signature.parameters.values()
        ]
        returns = method.signature.return_annotation
    described["result"] = {"name": "result", "schema": _schema(returns)}
    return described


def _schema(annotation: Any) -> Any:
    """Give the JSON schema of an annotation; that of anything where it has none."""
    if annotation is inspect.Parameter.empty or not is_convertible(annotation):
        return {}
    try:
        return msgspec.json.schema(annotation)
    except Exception:
        # A type that can be checked and not described: the method is listed all the same.
        return {}
