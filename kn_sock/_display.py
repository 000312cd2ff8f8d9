"""How foreign values are shown in messages and in log lines."""

from __future__ import annotations

import reprlib

# A reader sees so much of a value; the whole is never echoed.
_SHOWN_CHARACTERS = 60

_short = reprlib.Repr()


def safe_repr(value: object) -> str:
    """Show a value at a length, and a depth, that cannot be abused. Never raises."""
    if isinstance(value, str):
        text = truncate(value, _SHOWN_CHARACTERS)
    else:
        try:
            text = truncate(_short.repr(value), _SHOWN_CHARACTERS)
        except BaseException:
            # Its own __repr__ may raise anything.
            text = f"<{type(value).__name__}>"
    if text.isprintable():
        return text
    # As Python writes them: characters that a terminal would act on, or that no file can hold.
    return truncate(repr(text)[1:-1], _SHOWN_CHARACTERS)


def escape_control(text: str, length: int, *, keeps_newlines: bool = False) -> str:
    """Cut a text, and escape the characters that a terminal acts on or that split log lines."""
    text = truncate(text, length)
    if text.isprintable():
        return text
    return "".join(
        one
        if one.isprintable() or (keeps_newlines and one == "\n")
        else one.encode("unicode_escape").decode("ascii")
        for one in text
    )


def truncate(text: str, length: int = 200) -> str:
    """Cut a text down to a length that a person reads."""
    return text if len(text) <= length else text[: length - 1] + "…"


def text_of(exception: BaseException) -> str:
    """Return the text of an exception, or its type's name if that cannot be had. Never raises."""
    try:
        return str(exception)
    except BaseException:
        # Its own __str__ may raise anything, SystemExit too.
        return type(exception).__name__
