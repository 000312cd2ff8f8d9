"""Interceptors that the tests of both ends use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from kn_sock import RPCError


def fails() -> None:
    raise ValueError("no luck")


async def passes(call: Any, proceed: Any) -> Any:
    return await proceed()


def passes_plainly(call: Any, proceed: Any) -> Deferred[Any]:
    result: Deferred[Any] = proceed()
    return result


def watching(seen: list[Any], look: Callable[[Any], Any] = lambda call: call.method) -> Any:
    """Note of each call what *look* finds."""

    def watches(call: Any, proceed: Any) -> Any:
        seen.append(look(call))
        return proceed()

    return watches


def catching(seen: list[Any], kind: type[BaseException], look: Callable[[Any], Any] = type) -> Any:
    """Note what *look* finds in the exceptions of a kind, and raise them again."""

    async def catches(call: Any, proceed: Any) -> Any:
        try:
            return await proceed()
        except kind as problem:
            seen.append(look(problem))
            raise

    return catches


def waiting(gate: Deferred[Any], args: tuple[Any, ...] | None = None) -> Any:
    """Wait for a Deferred before each call, or before those with these arguments."""

    async def waits(call: Any, proceed: Any) -> Any:
        if args is None or tuple(call.args) == args:
            await gate
        return await proceed()

    return waits


def refusing(refused: Callable[[Any], bool] = lambda _: True) -> Any:
    """Refuse all calls, or some of them."""

    async def refuses(call: Any, proceed: Any) -> Any:
        if refused(call):
            raise RPCError(403, "not from here", {"seconds": 3})
        return await proceed()

    return refuses


def ordered(seen: list[str], *names: str) -> list[Any]:
    """Interceptors that note when they begin and end."""

    def named(name: str) -> Any:
        async def interceptor(call: Any, proceed: Any) -> Any:
            seen.append(f"before {name}")
            result = await proceed()
            seen.append(f"after {name}")
            return result

        return interceptor

    return [named(name) for name in names]
