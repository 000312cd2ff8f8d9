"""Messages to lines. This is the only module in which a message is encoded.

msgspec encodes what it can, in one pass. What it refuses although it has a JSON form (lone
surrogates, integers beyond 64 bits, keys that are not strings) goes through ``json``, so that what
can be sent does not depend on which of the two encodes it. The forms of the messages are those of
`dialects`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, Raw, Struct

from kn_sock._display import text_of, truncate
from kn_sock._wire.attributes import check_attributes
from kn_sock._wire.forms import check_keys, dumps, json_form
from kn_sock._wire.quirks import may_hold_nan
from kn_sock.errors import ErrorCode, InternalError, RPCError


class Success(Struct, gc=False):
    """A successful reply of the 2.0 dialect, about to be encoded."""

    jsonrpc: Literal["2.0"]
    id: Any
    result: Any


encode_lines = msgspec.json.Encoder(enc_hook=json_form).encode_lines

_encode_members = msgspec.json.Encoder(enc_hook=json_form).encode

UNENCODABLE: Final = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError)

_NEVER_NAN: Final = frozenset({int, str, bool, type(None), Raw})


def _encode_odd(message: Struct) -> bytes:
    """Encode a message that msgspec refused, member by member, with its newline.

    Raises:
        One of `UNENCODABLE`: it has no JSON form.
    """
    members = [
        b'"%b":%b' % (name.encode(), bytes(value) if isinstance(value, Raw) else dumps(value))
        for name, value in msgspec.structs.asdict(message).items()
        if value is not UNSET
    ]
    return b"{%b}\n" % b",".join(members)


def _encode(message: Struct, payload: Any) -> bytes:
    """Encode a message with its newline; *payload* is the part that the application supplied.

    Raises:
        One of `UNENCODABLE`: it has no JSON form, or holds a NaN or an infinity.
    """
    try:
        line = encode_lines([message])
    except UNENCODABLE:
        return _encode_odd(message)
    _check_finite(line, payload)
    return line


def _check_finite(line: bytes, payload: Any) -> None:
    """Raise ``ValueError`` if a NaN or an infinity became something else in a line."""
    # msgspec writes NaN and the infinities as null: a line without null had none. Few long lines
    # hold its letter, and looking for a letter takes a tenth of the time.
    if (
        0x75 in line
        and b"null" in line
        and type(payload) not in _NEVER_NAN
        and may_hold_nan(payload)
    ):
        dumps(payload)
    if b'nan":' in line or b'inf":' in line:
        check_keys(payload)


def encode_arguments(
    message: Struct, method: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> bytes:
    """Encode a request with its newline.

    Raises:
        TypeError: an argument has a type without a JSON form.
        ValueError: an argument is NaN or infinite, refers to itself, or is nested too deeply.
    """
    try:
        return _encode(message, (args, kwargs))
    except RecursionError:
        raise ValueError(
            f"an argument of {method} is nested too deeply, or refers to itself"
        ) from None
    except UNENCODABLE as problem:
        kind = TypeError if isinstance(problem, TypeError) else ValueError
        raise kind(f"an argument of {method} cannot be sent as JSON: {problem}") from None


def encode_reply(message: Any, result: Any, limit: int = sys.maxsize) -> bytes:
    """Encode a successful reply with its newline.

    Args:
        message: the reply; a long result of it is replaced.
        result: its result.
        limit: how many bytes it may have; a longer one is not always refused here.

    Raises:
        InternalError: the result has no JSON form; the text names the reason.
        RPCError: it is certain to exceed the limit; not all of it was encoded.
    """
    kind = type(result)
    if kind in _NEVER_NAN:
        if kind is str and len(result) > limit:
            raise reply_too_long(None, limit)
        # The common case, without another call.
        try:
            return encode_lines([message])
        except UNENCODABLE:
            pass
    try:
        if has_many_items(result):
            message.result = Raw(_encode_in_slices(result, limit))
            return encode_lines([message])
        check_attributes(result)
        return _encode(message, result)
    except _TooLongError:
        raise reply_too_long(None, limit) from None
    except RecursionError:
        raise InternalError("the result is nested too deeply, or refers to itself") from None
    except BaseException as problem:
        # Of any kind: encoding runs code of the result's types.
        raise InternalError(f"the result cannot be sent as JSON: {text_of(problem)}") from None


def encode_failure(message: Struct, error: RPCError) -> bytes | RPCError:
    """Encode a failed reply with its newline.

    Returns:
        The line; or the error to send instead, if this one has no JSON form: whatever a method
        raised, its caller gets an answer.
    """
    try:
        return _encode(message, error.data)
    except BaseException:
        # Of any kind: encoding runs code of the types of its data.
        text = text_of(error)
        if error.data is not None and type(error.code) is int:
            return RPCError(error.code, text)
        return InternalError(truncate(text))


# Within these bounds an integer is encoded in one go.
LEAST_INT: Final = -(2**63)

MOST_INT: Final = 2**64 - 1

#: Escaped, a string takes six times its length at most.
SHORT_TEXT: Final = 1000

#: Longer than any line with a plain result, and with as long an id as can be read.
PLAIN_BYTES: Final = 16 * 1024


def is_plain(result: Any) -> bool:
    """Whether a result is certain to be encodable, in a line of at most `PLAIN_BYTES`."""
    kind = type(result)
    if kind is int:
        return bool(LEAST_INT <= result <= MOST_INT)
    if kind is str:
        return len(result) <= SHORT_TEXT and result.isascii()
    if kind is float:
        return math.isfinite(result)
    return kind is bool or result is None


def encode_plain(replies: list[Success]) -> bytes:
    """Encode replies whose ids are integers and whose results are plain, each with its newline."""
    try:
        return encode_lines(replies)
    except UNENCODABLE:
        # An id may have more than 64 bits.
        return b"".join([encode_reply(reply, reply.result) for reply in replies])


def encode_plain_members(replies: list[Success]) -> bytes:
    """Encode such replies as members of a batch, with a comma between them."""
    try:
        return _encode_members(replies)[1:-1]
    except UNENCODABLE:
        return encode_plain(replies)[:-1].replace(b"\n", b",")


def reply_too_long(size: int | None, limit: int) -> RPCError:
    """Return the error that replaces a reply longer than the limit; its size may be unknown."""
    bytes_of_it = "more bytes than" if size is None else f"{size:,} bytes, more than"
    return RPCError(
        ErrorCode.REPLY_TOO_LONG,
        f"the reply has {bytes_of_it} max_line_bytes ({limit:,}); ask for less",
        {"maybe_executed": True},
    )


# --- long results, in slices: threads take turns between them, and it ends at the limit -----------

# Containers of more items are encoded in slices of as many.
_SLICE: Final = 1000


class _TooLongError(Exception):
    """More was encoded than may be sent."""


def has_many_items(value: Any) -> bool:
    """Whether a result is encoded in slices: it is a large list or dict, or a dict of such."""
    kind = type(value)
    if kind is list or kind is tuple:
        return len(value) > _SLICE
    return kind is dict and (len(value) > _SLICE or any(map(_is_large, value.values())))


def _is_large(value: Any) -> bool:
    return type(value) in (list, tuple, dict) and len(value) > _SLICE


def _encode_in_slices(value: Any, limit: int) -> bytes:
    """Encode a value piece by piece.

    Raises:
        _TooLongError: it has more than *limit* bytes.
        One of `UNENCODABLE`: it has no JSON form.
    """
    pieces = []
    for piece in _slices(value):
        pieces.append(piece)
        limit -= len(piece)
        if limit < 0:
            raise _TooLongError
    return b"".join(pieces)


def _slices(value: Any) -> Iterator[bytes]:
    if type(value) is not dict:
        for start in range(0, len(value), _SLICE):
            yield b"," if start else b"["
            yield _encode_value(list(value[start : start + _SLICE]))[1:-1]
        yield b"]"
        return
    items = list(value.items())
    start, opening = 0, b"{"
    while start < len(items):
        yield opening
        opening = b","
        key, inner = items[start]
        if _is_large(inner):
            yield _encode_value({key: 0})[1:-2]
            yield from _slices(inner)
            start += 1
            continue
        end = start + 1
        while end < min(len(items), start + _SLICE) and not _is_large(items[end][1]):
            end += 1
        yield _encode_value(dict(items[start:end]))[1:-1]
        start = end
    yield b"}"


def _encode_value(value: Any) -> bytes:
    check_attributes(value)
    try:
        data = encode_lines([value])[:-1]
    except UNENCODABLE:
        return dumps(value)
    _check_finite(data, value)
    return data
