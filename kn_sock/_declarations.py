"""How an option is declared: its check, its text form, and what is shown of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final


def check_count(name: str, value: object, *, least: int) -> None:
    """Raise unless *value* is a whole number of at least *least*."""
    if type(value) is not int:
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise unless *value* is one of these."""
    known = list(choices)
    if value not in known:
        raise ValueError(f"{name} must be {', '.join(known[:-1])} or {known[-1]}, not {value!r}")


def check_flag(name: str, value: object) -> None:
    """Raise unless *value* is true or false."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")


def check_functions(name: str, value: object) -> None:
    """Raise unless *value* is a list of what can be called."""
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{name} must be a list of functions, not {value!r:.60}")
    for each in value:
        if not callable(each):
            raise TypeError(f"{name} must be functions, and {each!r:.60} cannot be called")


def check_executor(value: object) -> None:
    """Raise unless *value* runs work in threads of this process, or is ``None``."""
    kinds = {kind.__name__ for kind in type(value).__mro__}
    is_one = callable(getattr(value, "submit", None)) and not isinstance(value, type)
    # A result of another process cannot be handed back to the call, and nothing would report it.
    if value is not None and (not is_one or "ProcessPoolExecutor" in kinds):
        raise TypeError(f"executor must be an Executor that has threads, not {value!r:.60}")


def check_seconds(name: str, value: object) -> None:
    """Raise unless *value* is a number of seconds, not negative, or ``None`` for no limit."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, or None for no limit, not {value!r}")
    # The comparison is written so that NaN fails it.
    if not value >= 0:
        raise ValueError(f"{name} must not be negative, not {value!r}")
    try:
        float(value)
    except OverflowError:
        # No clock can add it up: a call that had it would not even begin.
        raise ValueError(f"{name} is too large; None is for no limit") from None


#: How "no limit" is written on a command line.
NO_LIMIT = "none"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Declaration:
    """What is declared of an option, beside its name, type and default.

    Attributes:
        check: raises unless a value may be used; takes the name and the value.
        help: what the option does, in one line; shown by twistd and in the table of options.
        read: makes a value of the text on a command line; ``None`` for an option without a text
            form.
        flag: the name of its flag, if it is not the option's own; ``None`` if there is no flag.
        unit: what a number counts, such as ``"bytes"``.
        values: which values are possible, as text.
        default: the default as text, if it depends on the machine.
    """

    check: Callable[[str, Any], None]
    help: str
    read: Callable[[str], Any] | None = None
    flag: str | None = None
    unit: str = ""
    values: str = ""
    default: str = ""


def _declare(default: Any, declaration: Declaration) -> Any:
    metadata = {"declaration": declaration}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def count_option(
    default: Any,
    help_text: str,
    *,
    least: int,
    unit: str,
    default_text: str = "",
    may_be_none: bool = False,
) -> Any:
    """Declare a whole number; ``None`` is for no limit if it may be, or is the default."""
    may_be_none = may_be_none or default is None

    def check(name: str, value: object) -> None:
        if value is not None or not may_be_none:
            check_count(name, value, least=least)

    def read(text: str) -> int | None:
        if may_be_none and text == NO_LIMIT:
            return None
        try:
            return int(text)
        except ValueError:
            raise ValueError(f"must be a whole number{_OR_NONE * may_be_none}") from None

    values = f"at least {least:,}"
    return _declare(
        default,
        Declaration(
            check=check, help=help_text, read=read, unit=unit, values=values, default=default_text
        ),
    )


_OR_NONE: Final = f", or {NO_LIMIT} for no limit"


def seconds_option(default: float | None, help_text: str) -> Any:
    def read(text: str) -> float | None:
        try:
            return None if text == NO_LIMIT else float(text)
        except ValueError:
            raise ValueError(f"must be a number of seconds{_OR_NONE}") from None

    return _declare(
        default,
        Declaration(
            check=check_seconds, help=help_text, read=read, unit="seconds", values="at least 0"
        ),
    )


def switch_option(default: bool, help_text: str) -> Any:
    def read(text: str) -> bool:
        if text not in ("yes", "no"):
            raise ValueError("must be yes or no")
        return text == "yes"

    return _declare(default, Declaration(check=check_flag, help=help_text, read=read))


def choice_option(default: str, choices: Sequence[str], help_text: str) -> Any:
    def check(name: str, value: object) -> None:
        check_choice(name, value, choices)

    values = ", ".join(choices)
    return _declare(default, Declaration(check=check, help=help_text, read=str, values=values))


def object_option(
    default: Any,
    help_text: str,
    *,
    flag: str | None = None,
    check: Callable[[str, Any], None] = lambda name, value: None,
) -> Any:
    """Declare an option without a text form."""
    return _declare(default, Declaration(check=check, help=help_text, flag=flag))


def declarations(kind: type[Any]) -> dict[str, Declaration]:
    """Return what is declared of the options of a class, by name.

    Raises:
        TypeError: an option is not declared: no command line would have it, and nothing would
            check it.
    """
    found = {}
    for field in dataclasses.fields(kind):
        if "declaration" not in field.metadata:
            raise TypeError(f"{kind.__name__}.{field.name} is not declared as an option")
        found[field.name] = field.metadata["declaration"]
    return found
