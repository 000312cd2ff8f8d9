"""The error that a caller gets for an exception, and one more exception like another.

Spec: JSON-RPC 2.0, section 5.1.
"""

from __future__ import annotations

import copy
import math
from typing import Any, TypeVar

from kn_sock._display import text_of
from kn_sock.errors import RemoteError, RPCError

E = TypeVar("E", bound=BaseException)


def another(error: E) -> E:
    """Return an exception like this one, for one more call that fails with it.

    Each has a traceback and notes of its own: those of other threads would grow into a shared one.
    """
    try:
        copied = copy.copy(error)
    except Exception:
        # A class of others, which cannot be copied.
        return error
    vars(copied).pop("__notes__", None)
    copied.__cause__ = error.__cause__
    copied.__context__ = error.__context__
    return copied


def describe_exception(exception: BaseException) -> RPCError:
    """Return the error that the caller of a function gets for an exception.

    An `RPCError` is returned unchanged. Any other exception becomes -32000 with its text, or its
    type's name if it has none, and the builtin type that it derives from.
    """
    if isinstance(exception, RPCError):
        return exception
    kind = type(exception)
    data = {"type": kind.__qualname__}
    if kind.__module__ != "builtins":
        # Even if it is only Exception: a class of the application's may be called as a
        # builtin is, and is none.
        bases = (base.__name__ for base in kind.__mro__ if base.__module__ == "builtins")
        data["builtin"] = next(bases)
    text = text_of(exception)
    data.update(_arguments_of(exception, text))
    return RemoteError(text or kind.__name__, data)


# What a text of these shows are the arguments; of another class it may be chosen to hide them.
_PLAIN_TEXTS = (BaseException.__str__, OSError.__str__, KeyError.__str__)
_PLAIN_ARGUMENTS = (str, int, float, bool, type(None))
_MOST_CHARACTERS = 1000


def _arguments_of(exception: BaseException, text: str) -> dict[str, Any]:
    """Return the arguments of an exception, if its text is not all that there is of them."""
    args = exception.args
    if (
        not args
        or args == (text,)
        or type(exception).__str__ not in _PLAIN_TEXTS
        or not all(type(each) in _PLAIN_ARGUMENTS for each in args)
        or len(text) > _MOST_CHARACTERS
        or any(isinstance(each, float) and not math.isfinite(each) for each in args)
    ):
        return {}
    found: dict[str, Any] = {"args": [*args]}
    if isinstance(exception, OSError) and isinstance(exception.filename, str):
        found["filename"] = exception.filename
    return found


def share_details(error: RPCError, exception: BaseException, depth: int = 3) -> None:
    """Add the notes and the cause of an exception to the error that a caller gets for it."""
    notes = getattr(exception, "__notes__", None)
    if isinstance(notes, list) and notes:
        error.data["notes"] = [note for note in notes if isinstance(note, str)]
    cause = exception.__cause__
    if cause is not None and depth:
        described = describe_exception(cause)
        if isinstance(described.data, dict):
            share_details(described, cause, depth - 1)
        error.data["cause"] = {"message": str(described), "data": described.data}
