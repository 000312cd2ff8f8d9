"""How values that came from elsewhere are shown in messages."""

from __future__ import annotations

import reprlib

# What a reader sees of it; the whole is never echoed.
_SHOWN_CHARACTERS = 60

_short = reprlib.Repr()


def shown(value: object) -> str:
    """Show a value at a length, and a depth, that cannot be abused."""
    text = value if isinstance(value, str) else _short.repr(value)
    return cut(text, _SHOWN_CHARACTERS)


def cut(text: str, length: int = 200) -> str:
    """Cut a text down to a length that a person reads."""
    return text if len(text) <= length else text[: length - 1] + "…"
