"""What msgspec, ``json`` and the garbage collector do badly, and what is done about it.

Numbers that msgspec decodes slowly, escaped lone surrogates that it refuses, NaN and the infinities
that it writes as null, and the collector, which runs while a long line is decoded.
"""

from __future__ import annotations

import contextlib
import gc
import json
import marshal
import math
import os
import re
import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

import msgspec

from kn_sock._wire.framing import Line


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """Keep the garbage collector from running while many objects are made, all of them in use.

    It would look through them over and over. From Python 3.12 on it waits by itself.
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
    """Turn the collector on in a process that was forked while another thread had it off here."""
    global _is_collection_off
    if _is_collection_off:
        gc.enable()
        _is_collection_off = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_collect_in_child)

# Numbers of which msgspec takes ten microseconds for each: those near the ends of a double's range.
# Python's own conversion takes less than one, and ten times as long as msgspec does for all others.
_SLOW_FLOAT: Final = re.compile(rb"\d[eE][+-]?\d{3}")

_MANY_SLOW_FLOATS: Final = 100

# For all digits 0, for E e; and no signs. So that a search for a few bytes finds them all.
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
    """Tell whether a byte is in a line half as many times as is too much; as fast as it is read."""
    place = -1
    for _ in range(_MANY_SLOW_FLOATS // 2):
        place = line.find(byte, place + 1)
        if place < 0:
            return False
    return True


_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


def may_be_lone_surrogate(problem: BaseException, data: Line) -> bool:
    """Tell whether msgspec may have given up at an escaped lone surrogate, and at nothing else."""
    return type(problem) is msgspec.DecodeError and _SURROGATE.search(data) is not None


def may_overflow(data: Line) -> bool:
    """Tell whether there may be a number beyond a double's range, which json takes for infinity."""
    digits = data.translate(_ONE_DIGIT, b"+")
    return digits.rfind(b"e000") >= 0 or _MANY_DIGITS in digits


_MANY_DIGITS: Final = b"0" * 309

# Such a number as marshal writes it: a g, then eight bytes, the exponent in the last two.
_NOT_FINITE: Final = re.compile(rb"g.{6}[\xf0-\xff][\x7f\xff]", re.DOTALL)

# The last version of its format in which everything is written out where it stands.
_MARSHAL_VERSION: Final = 2


def may_hold_nan(value: Any) -> bool:
    """Tell whether there may be a NaN or an infinity in a value; other numbers may look like one.

    marshal goes through builtin types, and takes no others, in a fifth of the time of json.
    """
    try:
        return _NOT_FINITE.search(marshal.dumps(value, _MARSHAL_VERSION)) is not None
    except ValueError:
        return True


def dumps(value: Any) -> bytes:
    with contextlib.suppress(TypeError):
        # Keys too: json takes nothing but strings and the like for those.
        value = msgspec.to_builtins(value, str_keys=True)
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), default=msgspec.to_builtins)
    return text.encode("ascii")
