"""How foreign values are shown in messages."""

from __future__ import annotations

import reprlib

# What a reader sees of it; the whole is never echoed.
_SHOWN_CHARACTERS = 60

_short = reprlib.Repr()


def safe_repr(value: object) -> str:
    """Show a value at a length, and a depth, that cannot be abused."""
    text = truncate(value if isinstance(value, str) else _short.repr(value), _SHOWN_CHARACTERS)
    if text.isprintable():
        return text
    # As Python writes them: what a terminal would act on, and what no file can hold.
    return truncate(repr(text)[1:-1], _SHOWN_CHARACTERS)


def escape_surrogates(text: str) -> str:
    """Escape the halves of surrogate pairs: a log that is a file cannot write them."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def truncate(text: str, length: int = 200) -> str:
    """Cut a text down to a length that a person reads."""
    return text if len(text) <= length else text[: length - 1] + "…"
