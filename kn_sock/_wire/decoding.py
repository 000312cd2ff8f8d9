"""Lines to messages, and errors for lines that are none.

msgspec decodes a line straight into `Message`, in one pass. What it refuses although it is JSON
(escaped lone surrogates, numbers beyond a double's range) is decoded by ``json``.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec
from msgspec import UNSET, Raw, Struct

from kn_sock._display import safe_repr
from kn_sock._wire.dialects import JSONRPC_2, Dialect, dialect_of
from kn_sock._wire.messages import Message, RequestId
from kn_sock._wire.quirks import (
    collection_paused,
    finite_float,
    has_slow_floats,
    may_be_lone_surrogate,
    may_overflow,
)
from kn_sock.errors import ErrorCode, InvalidRequest, ParseError, RemoteError, RPCError, rpc_error

if TYPE_CHECKING:
    from kn_sock._wire.framing import Line

UNREADABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError)


class _IdAlone(Struct):
    id: Raw


_anything = msgspec.json.Decoder()

_members = msgspec.json.Decoder(list[Raw])

_id_alone = msgspec.json.Decoder(_IdAlone)

decode_message = msgspec.json.Decoder(Message).decode

_decode_messages = msgspec.json.Decoder(list[Message]).decode


class NoMessageError(Exception):
    """A line that is not a message, and how to answer it; a malformed reply is not answered."""

    def __init__(
        self,
        error: RPCError,
        dialect: Dialect = JSONRPC_2,
        request_id: RequestId = None,
        *,
        is_reply: bool = False,
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.dialect = dialect
        self.request_id = request_id
        self.is_reply = is_reply


# A member of a batch: a message, an error, or an empty list for a nested batch.
Member: TypeAlias = Message | NoMessageError | list[Any]

# Lines of at least this length are inspected before they are decoded.
LONG_BYTES: Final = 16 * 1024


def decode_long(line: Line) -> Message:
    """Do what `decode_message` does, faster for long lines with odd contents.

    Raises:
        What `decode_message` raises.
    """
    with collection_paused():
        return _decoder_for(line)(line)


_decode_slow_floats: Final = msgspec.json.Decoder(Message, float_hook=finite_float).decode

_anything_slow: Final = msgspec.json.Decoder(float_hook=finite_float)


def _decoder_for(line: Line) -> Callable[[Line | Raw], Message]:
    return _decode_slow_floats if has_slow_floats(line) else decode_message


def decode_unusual(
    line: Line | Raw, most: int = sys.maxsize, problem: BaseException | None = None
) -> Message | list[Member]:
    """Decode what `decode_message` refused, such as a batch or a fractional id.

    Args:
        line: the line.
        most: the most members that a batch may have; of a larger one, members may be missing or
            empty.
        problem: the exception that `decode_message` raised, if known.

    Returns:
        A message, or the members of a batch.

    Raises:
        NoMessageError: it is not JSON, or JSON that is no message.
    """
    try:
        with collection_paused():
            if isinstance(line, (bytes, bytearray)) and _ARRAY.match(line):
                return _batch_of(line, most)
            value = _decode_any(line, problem)
    except UNREADABLE as found:
        raise NoMessageError(ParseError(f"this line is not JSON: {_reason(found)}")) from None
    if isinstance(value, list):
        return []
    if not isinstance(value, dict):
        raise NoMessageError(InvalidRequest(f"a message is a JSON object, not {safe_repr(value)}"))
    return _message_from(value, line)


_ARRAY: Final = re.compile(rb"[ \t\r\n]*\[")


def _batch_of(line: Line, most: int) -> list[Member]:
    """Decode the members of an array, each once.

    Raises:
        One of `UNREADABLE`: the array is not JSON, in any of its members.
    """
    # Splitting it into members does not check that they are UTF-8.
    text = str(line, "utf-8")
    try:
        parts = _parts_of(line, most)
    except UNREADABLE as problem:
        if not may_be_lone_surrogate(problem, line):
            raise
        parts = _members_of(text, most)
    if len(parts) > most:
        return [[]] * len(parts)
    decode = _decoder_for(line)
    members = [_member_of(part, decode) for part in parts]
    for member in members:
        if isinstance(member, NoMessageError) and isinstance(member.error, ParseError):
            # Raises the error with its position in the whole line.
            _decode_any(line)
            break
    return members


_BRACKET: Final = ord("[")

# A batch within these limits is decoded in one go. If that fails, decoding takes twice as long.
_QUICK_BATCH_BYTES: Final = 256 * 1024

_QUICK_BATCH_BRACES: Final = 4


def decode_batch(line: Line, most: int) -> list[Message] | None:
    """Decode a batch of messages; ``None`` if the line is not certainly one."""
    if (
        line[0] != _BRACKET
        or len(line) > _QUICK_BATCH_BYTES
        or line.count(b"{") > _QUICK_BATCH_BRACES * most
        or (len(line) >= LONG_BYTES and has_slow_floats(line))
    ):
        return None
    try:
        with collection_paused():
            messages = _decode_messages(line)
    except UNREADABLE:
        return None
    return messages if 0 < len(messages) <= most else None


# Only a server whose options allow larger batches exceeds it.
_MOST_FIELDS_BITS: Final = 16


def _parts_of(line: Line, most: int) -> list[Raw]:
    """Split an array into its members, or at least *most* + 1 of them."""
    if most.bit_length() > _MOST_FIELDS_BITS or line.count(b",") < most:
        return _members.decode(line)
    # Array items beyond the last field of the struct are skipped.
    parts = msgspec.structs.astuple(_first_members(most.bit_length()).decode(line))
    return [part for part in parts if part is not None]


@functools.lru_cache(maxsize=_MOST_FIELDS_BITS)
def _first_members(bits: int) -> Any:
    """Return a decoder for the first 2 ** *bits* members of an array."""
    names = [f"member_{number}" for number in range(1 << bits)]
    return msgspec.json.Decoder(
        msgspec.defstruct("FirstMembers", [(name, Raw, None) for name in names], array_like=True)
    )


def _member_of(part: Raw, decode: Callable[[Raw], Message]) -> Member:
    try:
        return decode(part)
    except UNREADABLE as problem:
        try:
            return decode_unusual(part, problem=problem)
        except NoMessageError as found:
            return found


def _decode_any(line: Line | Raw, problem: BaseException | None = None) -> Any:
    """Decode any JSON; *problem* is the exception of an earlier attempt."""
    data = line if isinstance(line, (bytes, bytearray)) else bytes(line)
    if problem is None or isinstance(problem, msgspec.ValidationError):
        try:
            return (_anything_slow if has_slow_floats(data) else _anything).decode(data)
        except UNREADABLE as found:
            problem = found
    if not may_be_lone_surrogate(problem, data):
        raise problem
    # Other JSON libraries accept lone surrogates.
    parse_float = finite_float if may_overflow(data) else None
    return json.loads(data.decode("utf-8"), parse_float=parse_float, parse_constant=finite_float)


def _reason(problem: BaseException) -> str:
    if isinstance(problem, RecursionError):
        return "it is nested too deeply"
    return safe_repr(str(problem).removeprefix("JSON is malformed: "))


scan_value = json.JSONDecoder().raw_decode

_FIRST_MEMBER: Final = re.compile(r"[ \t\r\n]*\[[ \t\r\n]*(\][ \t\r\n]*\Z)?")

_AFTER_MEMBER: Final = re.compile(r"[ \t\r\n]*(?:,[ \t\r\n]*|(\])[ \t\r\n]*\Z)")


def _members_of(text: str, most: int) -> list[Raw]:
    """Split an array into the texts of its members, at most one more than *most*.

    Raises:
        ValueError, RecursionError: it is not JSON, as far as it was read.
    """
    members: list[Raw] = []
    place = _FIRST_MEMBER.match(text)
    while place is not None and not place[1] and len(members) <= most:
        _, end = scan_value(text, place.end())
        members.append(Raw(text[place.end() : end].encode("utf-8")))
        place = _AFTER_MEMBER.match(text, end)
    if place is None:
        raise ValueError(f"expected a comma or the end of the array (character {end})")
    return members


# The types that each member of a message may have, and their names in errors.
_MEMBER_TYPES: Final[dict[str, tuple[tuple[type, ...], str]]] = {
    "method": ((str,), "a string"),
    "params": ((list, dict, type(None)), "an array or an object"),
    "kwargs": ((dict, type(None)), "an object"),
}


def _message_from(value: dict[str, Any], line: Line | Raw) -> Message:
    """Check the members one by one, to name the wrong one."""
    dialect = dialect_of(value)
    is_reply = "method" not in value and ("result" in value or "error" in value)
    request_id = value.get("id", UNSET)
    if isinstance(request_id, float):
        request_id = _fraction_of(line)
    elif isinstance(request_id, (bool, list, dict)) or not _is_utf8(request_id):
        error = InvalidRequest("id must be a string, a number or null")
        raise NoMessageError(error, dialect, is_reply=is_reply)
    for name, (types, wanted) in _MEMBER_TYPES.items():
        if name in value and not isinstance(value[name], types):
            error = InvalidRequest(f"{name} must be {wanted}, not {safe_repr(value[name])}")
            raise NoMessageError(error, dialect, None if request_id is UNSET else request_id)
    known = {name: value[name] for name in Message.__struct_fields__ if name in value}
    return Message(**{**known, "id": request_id})


def _fraction_of(line: Line | Raw) -> Raw:
    """Return the text of a fractional id, so that its echo is exact."""
    try:
        return Raw(bytes(_id_alone.decode(line).id))
    except UNREADABLE:
        text: str = json.loads(bytes(line).decode("utf-8"), parse_float=str)["id"]
        return Raw(text.encode("ascii"))


def _is_utf8(value: object) -> bool:
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return False
    return True


def error_from_wire(error: Any) -> RPCError:
    """Return the exception for the ``error`` member of a reply.

    An object is an error object of JSON-RPC 2.0. A string is the text of a remote exception, as in
    JSON-RPC 1.0 and kn-sock 0.3. Anything else is shown as it is.
    """
    if isinstance(error, str):
        return RemoteError(error)
    if not isinstance(error, Mapping):
        return RPCError(
            ErrorCode.FUNCTION_RAISED, f"the peer answered with the error {safe_repr(error)}", error
        )
    code = error.get("code")
    message = error.get("message")
    data = error.get("data")
    if type(code) is not int:
        code = ErrorCode.FUNCTION_RAISED
    if not isinstance(message, str):
        message = f"the peer answered with an error without a message: {safe_repr(dict(error))}"
    return rpc_error(int(code), message, data)


def time_limit_of(timeout: Any) -> float | None:
    """Return the seconds that a caller waits; ``None`` if the member is not a number."""
    if type(timeout) not in (int, float):
        return None
    try:
        return float(timeout)
    except OverflowError:
        # Longer than any clock counts.
        return None
