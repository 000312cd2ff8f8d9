"""What msgspec, ``json`` and the garbage collector do badly, and what is done about it.

Numbers that msgspec decodes slowly, escaped lone surrogates that it refuses, NaN and the infinities
that it writes as null, and the collector, which runs while a long line is decoded.
"""

from __future__ import annotations

import contextlib
import gc
import marshal
import math
import os
import re
import sys
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from kn_sock._wire.framing import Line


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """Pause the garbage collector while many objects are made, all of them in use.

    It would traverse them over and over. From Python 3.12 on it waits by itself.
    """
    if sys.version_info >= (3, 12) or not gc.isenabled():
        yield
        return
    global _is_collection_off
    try:
        _is_collection_off = True
        gc.disable()
        yield
    finally:
        gc.enable()
        _is_collection_off = False


_is_collection_off = False


def _collect_in_child() -> None:
    """Enable the collector in a process that was forked while another thread had it disabled."""
    global _is_collection_off
    if _is_collection_off:
        gc.enable()
        _is_collection_off = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_collect_in_child)

# Numbers near the ends of a double's range take msgspec ten microseconds each. Python's own
# conversion takes less than one, but ten times as long as msgspec for all other numbers.
_SLOW_FLOAT: Final = re.compile(rb"\d[eE][+-]?\d{3}")

_MANY_SLOW_FLOATS: Final = 100

# All digits become 0 and E becomes e, so that one search finds all such numbers.
_ONE_DIGIT: Final = bytes.maketrans(b"123456789E", b"000000000e")


def finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a JSON number")
    return value


def has_slow_floats(line: Line) -> bool:
    # One value has no comma after it; and each such number has a letter, of either size.
    if not _has_many(line, b",") or not (_has_many(line, b"e") or _has_many(line, b"E")):
        return False
    # From the end, as then the rarest of the bytes is looked for first.
    if line.translate(_ONE_DIGIT, b"+-").rfind(b"e000") < 0:
        return False
    found = islice(_SLOW_FLOAT.finditer(line), _MANY_SLOW_FLOATS)
    return sum(1 for _ in found) == _MANY_SLOW_FLOATS


def _has_many(line: Line, byte: bytes) -> bool:
    """Whether a byte occurs often enough for slow floats to matter; as fast as the line is read."""
    place = -1
    for _ in range(_MANY_SLOW_FLOATS // 2):
        place = line.find(byte, place + 1)
        if place < 0:
            return False
    return True


_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


def may_be_lone_surrogate(problem: BaseException, data: Line) -> bool:
    """Whether msgspec may have failed at an escaped lone surrogate, and at nothing else."""
    return type(problem) is msgspec.DecodeError and _SURROGATE.search(data) is not None


def may_overflow(data: Line) -> bool:
    """Whether there may be a number beyond the range of a double, which json reads as infinity."""
    digits = data.translate(_ONE_DIGIT, b"+")
    return digits.rfind(b"e000") >= 0 or _MANY_DIGITS in digits


_MANY_DIGITS: Final = b"0" * 309

# A NaN or an infinity as marshal writes it: a g, then eight bytes, the exponent in the last two.
_NOT_FINITE: Final = re.compile(rb"g.{6}[\xf0-\xff][\x7f\xff]", re.DOTALL)

# The last version of the format without references.
_MARSHAL_VERSION: Final = 2


def may_hold_nan(value: Any) -> bool:
    """Whether a value may hold a NaN or an infinity; false positives are possible.

    marshal traverses builtin types, and no others, in a fifth of the time of json.
    """
    try:
        return _NOT_FINITE.search(marshal.dumps(value, _MARSHAL_VERSION)) is not None
    except ValueError:
        return True
