"""The functions that the cases call: ``twistd -n knsock --funcs kn_sock.conformance.FUNCS``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred

__all__ = ["FUNCS"]


def subtract(minuend: Any, subtrahend: Any) -> Any:
    """Subtract two numbers."""
    return minuend - subtrahend


def update(*values: Any) -> None:
    """Do nothing."""


def add_up(*values: Any) -> Any:
    """Add numbers up."""
    return sum(values)


def get_data() -> list[Any]:
    """Return ``["hello", 5]``."""
    return ["hello", 5]


def echo(value: Any) -> Any:
    """Return the argument."""
    return value


def length(value: Any) -> int:
    """Count the members of an array or an object, or the characters of a text."""
    return len(value)


def repeat(text: str, times: int) -> str:
    """Return a text repeated."""
    return text * times


def is_odd(value: int) -> bool:
    """Return whether an integer of any size is odd."""
    return value % 2 == 1


def not_a_number() -> float:
    """Return a value without a JSON form."""
    return float("nan")


def fail(text: str) -> None:
    """Raise an exception with a text."""
    raise ValueError(text)


def fail_inside() -> None:
    """Raise the exception that Python has for wrong arguments, from within a right call."""
    subtract(1)  # type: ignore[call-arg]  # that is the point


def wait() -> Deferred[Any]:
    """Wait until the call is cancelled."""
    return Deferred()


FUNCS: Final[dict[str, Callable[..., Any]]] = {
    "subtract": subtract,
    "update": update,
    "sum": add_up,
    "notify_hello": update,
    "notify_sum": update,
    "get_data": get_data,
    "echo": echo,
    "length": length,
    "repeat": repeat,
    "is_odd": is_odd,
    "not_a_number": not_a_number,
    "fail": fail,
    "fail_inside": fail_inside,
    "wait": wait,
}
