"""Messages to lines. This is the only module in which a message is encoded.

msgspec encodes what it can, in one pass. What it refuses although it has a JSON form (lone
surrogates, integers beyond 64 bits, keys that are not strings) goes through ``json``, so that what
can be sent does not depend on which of the two encodes it. The forms of the messages are those of
`dialects`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, Raw, Struct

from kn_sock._display import truncate
from kn_sock._wire.attributes import check_attributes
from kn_sock._wire.forms import check_keys, dumps, json_form
from kn_sock._wire.quirks import may_hold_nan
from kn_sock.errors import ErrorCode, InternalError, RPCError, text_of


class Success(Struct, gc=False):
    """A successful reply of the 2.0 dialect, about to be encoded."""

    jsonrpc: Literal["2.0"]
    id: Any
    result: Any


encode_lines = msgspec.json.Encoder(enc_hook=json_form).encode_lines

_encode_members = msgspec.json.Encoder(enc_hook=json_form).encode

UNENCODABLE: Final = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError)

_NEVER_NAN: Final = frozenset({int, str, bool, type(None)})


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
    return line


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


def encode_reply(message: Struct, result: Any) -> bytes:
    """Encode a successful reply with its newline.

    Raises:
        InternalError: the result has no JSON form; the text names the reason.
    """
    if type(result) in _NEVER_NAN:
        # The common case, without another call.
        try:
            return encode_lines([message])
        except UNENCODABLE:
            pass
    try:
        check_attributes(result)
        return _encode(message, result)
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

# Escaped, a string takes six times its length at most.
_SHORT: Final = 1000

#: Longer than any line with a plain result, and with as long an id as can be read.
PLAIN_BYTES: Final = 16 * 1024


def is_plain(result: Any) -> bool:
    """Whether a result is certain to be encodable, in a line of at most `PLAIN_BYTES`."""
    kind = type(result)
    if kind is int:
        return bool(LEAST_INT <= result <= MOST_INT)
    if kind is str:
        return len(result) <= _SHORT and result.isascii()
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


def reply_too_long(size: int, limit: int) -> RPCError:
    """Return the error that replaces a reply longer than the limit."""
    return RPCError(
        ErrorCode.REPLY_TOO_LONG,
        f"the reply has {size:,} bytes, more than max_line_bytes ({limit:,}); ask for less",
    )
