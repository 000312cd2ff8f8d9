"""Interceptors: functions of the application's around each call, at either end.

An interceptor is ``async def trace(call, proceed)``. It runs code before and after ``await
proceed()``, and what it returns is the result of the call.
"""

from __future__ import annotations

import types
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

from twisted.internet.defer import Deferred, fail, succeed

#: Continues with the next interceptor or the method; its result can be awaited.
Proceed: TypeAlias = "Callable[[], Deferred[Any]]"

#: ``async def``, or a function that returns a Deferred, another awaitable or a plain value.
Interceptor: TypeAlias = Callable[[Any, Proceed], Any]


def around(
    interceptors: Sequence[Interceptor], call: Any, innermost: Proceed, depth: int = 0
) -> Deferred[Any]:
    """Run interceptors, the first one outermost, around *innermost*.

    Returns:
        A Deferred with what the first one returns, or raises. Cancelling it cancels what the
        innermost one waits for.
    """
    if depth == len(interceptors):
        return innermost()
    proceed = partial(around, interceptors, call, innermost, depth + 1)
    try:
        result = interceptors[depth](call, proceed)
    except BaseException:
        return fail()
    return as_deferred(result)


def as_deferred(result: Any) -> Deferred[Any]:
    """Return a Deferred for the result of a function."""
    if isinstance(result, Deferred):
        return result
    if isinstance(result, types.CoroutineType):
        return Deferred.fromCoroutine(result)
    if hasattr(type(result), "__await__"):
        return Deferred.fromCoroutine(_awaited(result))
    return succeed(result)


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
