"""One line to typed messages and back, in three dialects.

This is the only module that names a JSON library. msgspec does the work: it decodes straight into
`Message` in one pass. What it refuses although it is JSON (escaped lone surrogates, keys that are
not strings, integers beyond its range) goes through the standard library's ``json``, off the hot
path, so that what can be sent does not depend on which of the two did it.

Spec: JSON-RPC 2.0 sections 4 to 6, JSON-RPC 1.0, and kn-sock 0.3.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import marshal
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from kn_sock._display import safe_repr, truncate
from kn_sock._wire.framing import Line
from kn_sock.errors import ErrorCode, InternalError, InvalidRequest, ParseError, RPCError

Dialect: TypeAlias = Literal["2.0", "1.0", "kn-sock"]
DIALECTS: Final[tuple[Dialect, ...]] = ("2.0", "1.0", "kn-sock")

# An integer or a string as it came; a fraction as its own text, so that the echo is exact.
RequestId: TypeAlias = int | str | Raw | None

UNREADABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError)
_UNENCODABLE: Final = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError)


class Message(Struct, gc=False):
    """One JSON object of the wire, request or reply, as it was decoded.

    The collector does not look at it: nothing that a method gets leads back to it, so that it is
    part of no cycle.
    """

    jsonrpc: Any = UNSET
    id: int | str | UnsetType | None = UNSET
    method: str | UnsetType = UNSET
    params: list[Any] | dict[str, Any] | UnsetType | None = UNSET
    kwargs: dict[str, Any] | UnsetType | None = UNSET
    result: Any = UNSET
    error: Any = UNSET
    # Beside the specification, as members that other servers ignore.
    timeout: Any = UNSET
    traceparent: Any = UNSET


class _IdAlone(Struct):
    id: Raw


class Success(Struct, gc=False):
    """A successful reply of the 2.0 dialect, about to be encoded."""

    jsonrpc: Literal["2.0"]
    id: Any
    result: Any


class _Failure(Struct):
    jsonrpc: Literal["2.0"]
    id: Any
    error: Any


class _PairReply(Struct):
    id: Any
    result: Any
    error: Any


class _PlainSuccess(Struct):
    result: Any


class _PlainFailure(Struct):
    error: str


class _ErrorObject(Struct, omit_defaults=True):
    code: int
    message: str
    data: Any = None


class _Request(Struct, omit_defaults=True):
    # The id stands early, so that the peer can name the call even when the line is too long for it.
    jsonrpc: str | UnsetType = UNSET
    id: int | UnsetType | None = UNSET
    method: str | UnsetType = UNSET
    params: Sequence[Any] | Mapping[str, Any] | UnsetType = UNSET
    kwargs: Mapping[str, Any] | UnsetType = UNSET
    timeout: float | UnsetType = UNSET
    traceparent: str | UnsetType = UNSET


class _PairRequest(Struct):
    id: int | None
    method: str
    params: Sequence[Any]


class _PlainRequest(Struct):
    method: str
    params: Sequence[Any]
    kwargs: Mapping[str, Any]


_encode_lines = msgspec.json.Encoder().encode_lines
_encode_members = msgspec.json.Encoder().encode
_anything = msgspec.json.Decoder()
_members = msgspec.json.Decoder(list[Raw])
_id_alone = msgspec.json.Decoder(_IdAlone)

decode_message = msgspec.json.Decoder(Message).decode
_decode_messages = msgspec.json.Decoder(list[Message]).decode


# --- bytes in -----------------------------------------------------------------------------------


class NoMessageError(Exception):
    """A line that is no message, with what is needed to answer it."""

    def __init__(
        self, error: RPCError, dialect: Dialect = "2.0", request_id: RequestId = None
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.dialect = dialect
        self.request_id = request_id


# A member of a batch: what it is, or why it is nothing; an empty list for one that is a batch.
Member: TypeAlias = Message | NoMessageError | list[Any]

# From here on a line is looked at before it is decoded; a shorter one takes no time to speak of.
LONG_BYTES: Final = 16 * 1024


def decode_long(line: Line) -> Message:
    """Do what `decode_message` does, in less time where a line is long and odd.

    Raises:
        What `decode_message` raises.
    """
    with _no_collection():
        return _decoder_for(line)(line)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
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


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a JSON number")
    return value


_decode_slow_floats: Final = msgspec.json.Decoder(Message, float_hook=_finite).decode
_anything_slow: Final = msgspec.json.Decoder(float_hook=_finite)


def _decoder_for(line: Line) -> Callable[[Line | Raw], Message]:
    return _decode_slow_floats if _has_slow_floats(line) else decode_message


def _has_slow_floats(line: Line) -> bool:
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


def decode_unusual(
    line: Line | Raw, most: int = sys.maxsize, problem: BaseException | None = None
) -> Message | list[Member]:
    """Read what `decode_message` refused, as a batch or a fractional id; or say what is wrong.

    Args:
        line: the line.
        most: the most members of a batch that are of interest; where it has more, some of them may
            be left out, and all may be empty.
        problem: what `decode_message` raised, where that is known.

    Returns:
        A message, or the members of a batch.

    Raises:
        NoMessageError: it is not JSON, or JSON that is no message.
    """
    try:
        with _no_collection():
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
    """Read the members of an array, each once.

    Raises:
        One of `UNREADABLE`: the array is not JSON, in any of its members.
    """
    # Where it is cut into members, nobody looks whether their texts are UTF-8.
    text = str(line, "utf-8")
    try:
        parts = _parts_of(line, most)
    except UNREADABLE as problem:
        if not _is_for_surrogates(problem, line):
            raise
        parts = _members_of(text, most)
    if len(parts) > most:
        return [[]] * len(parts)
    decode = _decoder_for(line)
    members = [_member_of(part, decode) for part in parts]
    for member in members:
        if isinstance(member, NoMessageError) and isinstance(member.error, ParseError):
            # What is wrong with it, and where, counted from the beginning of the line.
            _decode_any(line)
            break
    return members


_BRACKET: Final = ord("[")

# A batch that is no longer, and has no more braces than so many times the members that it may have,
# is decoded at once. Where that fails it takes twice as long.
_QUICK_BATCH_BYTES: Final = 256 * 1024
_QUICK_BATCH_BRACES: Final = 4


def decode_batch(line: Line, most: int) -> list[Message] | None:
    """Read a batch all whose members are messages; ``None`` where it is not certainly one."""
    if (
        line[0] != _BRACKET
        or len(line) > _QUICK_BATCH_BYTES
        or line.count(b"{") > _QUICK_BATCH_BRACES * most
        or (len(line) >= LONG_BYTES and _has_slow_floats(line))
    ):
        return None
    try:
        with _no_collection():
            messages = _decode_messages(line)
    except UNREADABLE:
        return None
    return messages if 0 < len(messages) <= most else None


# Past that, a server's own option allows for so many.
_MOST_FIELDS_BITS: Final = 16


def _parts_of(line: Line, most: int) -> list[Raw]:
    """Cut an array into its members, or more of them than *most*, without a look at the others."""
    if most.bit_length() > _MOST_FIELDS_BITS or line.count(b",") < most:
        return _members.decode(line)
    # What is beyond the last field of a struct is passed over, and nothing is made of it.
    parts = msgspec.structs.astuple(_first_members(most.bit_length()).decode(line))
    return [part for part in parts if part is not None]


@functools.lru_cache(maxsize=_MOST_FIELDS_BITS)
def _first_members(bits: int) -> Any:
    """Build what decodes an array up to a number of members, the power of two."""
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
    """Decode JSON of any kind; *problem* is what was found in it before."""
    data = line if isinstance(line, (bytes, bytearray)) else bytes(line)
    if problem is None or isinstance(problem, msgspec.ValidationError):
        try:
            return (_anything_slow if _has_slow_floats(data) else _anything).decode(data)
        except UNREADABLE as found:
            problem = found
    if not _is_for_surrogates(problem, data):
        raise problem
    # Other JSON libraries read and write them.
    parse_float = _finite if _may_be_infinite(data) else None
    return json.loads(data.decode("utf-8"), parse_float=parse_float, parse_constant=_finite)


_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


def _is_for_surrogates(problem: BaseException, data: Line) -> bool:
    """Tell whether msgspec may have given up at an escaped lone surrogate, and at nothing else."""
    return type(problem) is msgspec.DecodeError and _SURROGATE.search(data) is not None


def _may_be_infinite(data: Line) -> bool:
    """Tell whether there may be a number beyond a double's range, which json takes for infinity."""
    digits = data.translate(_ONE_DIGIT, b"+")
    return digits.rfind(b"e000") >= 0 or _MANY_DIGITS in digits


_MANY_DIGITS: Final = b"0" * 309


def _reason(problem: BaseException) -> str:
    if isinstance(problem, RecursionError):
        return "it is nested too deeply"
    return safe_repr(str(problem).removeprefix("JSON is malformed: "))


_scan = json.JSONDecoder().raw_decode

_FIRST_MEMBER: Final = re.compile(r"[ \t\r\n]*\[[ \t\r\n]*(\][ \t\r\n]*\Z)?")
_AFTER_MEMBER: Final = re.compile(r"[ \t\r\n]*(?:,[ \t\r\n]*|(\])[ \t\r\n]*\Z)")


def _members_of(text: str, most: int) -> list[Raw]:
    """Cut an array into the texts of its members, up to one too many.

    Raises:
        ValueError, RecursionError: it is not JSON, as far as it was read.
    """
    members: list[Raw] = []
    place = _FIRST_MEMBER.match(text)
    while place is not None and not place[1] and len(members) <= most:
        _, end = _scan(text, place.end())
        members.append(Raw(text[place.end() : end].encode("utf-8")))
        place = _AFTER_MEMBER.match(text, end)
    if place is None:
        raise ValueError(f"expected a comma or the end of the array (character {end})")
    return members


# The types that each member of a message may have, and how to say so.
_MEMBER_TYPES: Final[dict[str, tuple[tuple[type, ...], str]]] = {
    "method": ((str,), "a string"),
    "params": ((list, dict, type(None)), "an array or an object"),
    "kwargs": ((dict, type(None)), "an object"),
}


def _message_from(value: dict[str, Any], line: Line | Raw) -> Message:
    """Check the members one by one, to name the one that is wrong."""
    dialect = _dialect_of(value)
    request_id = value.get("id", UNSET)
    if isinstance(request_id, float):
        request_id = _fraction_of(line)
    elif isinstance(request_id, (bool, list, dict)) or not _is_utf8(request_id):
        error = InvalidRequest("id must be a string, a number or null")
        raise NoMessageError(error, dialect)
    for name, (types, wanted) in _MEMBER_TYPES.items():
        if name in value and not isinstance(value[name], types):
            error = InvalidRequest(f"{name} must be {wanted}, not {safe_repr(value[name])}")
            raise NoMessageError(error, dialect, None if request_id is UNSET else request_id)
    known = {name: value[name] for name in Message.__struct_fields__ if name in value}
    return Message(**{**known, "id": request_id})


def _dialect_of(members: Mapping[str, Any]) -> Dialect:
    """Tell the dialect of a message by the members that it has."""
    if "jsonrpc" in members or "method" not in members:
        return "2.0"
    return "1.0" if "id" in members else "kn-sock"


def _fraction_of(line: Line | Raw) -> Raw:
    """Find the text of an id that is a fraction, for its echo to be exact."""
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


class Head(NamedTuple):
    """What the beginning of a line tells of a message that cannot be read as a whole."""

    request_id: RequestId | UnsetType
    dialect: Dialect
    is_reply: bool


def read_head(prefix: bytes) -> Head:
    """Read the first members of a message, as far as they are there."""
    text = prefix.decode("utf-8", "replace").lstrip()
    members: dict[str, Any] = {}
    names: list[str] = []
    if text.startswith("{"):
        _read_members(text[1:], names, members)
    elif text.startswith("["):
        # A batch: what it is can be told by its first member, whose id is not the batch's.
        _read_members(text[1:].lstrip().removeprefix("{"), names, {})
    is_reply = "method" not in names and "params" not in names
    is_reply = is_reply and ("result" in names or "error" in names)
    request_id = members.get("id", UNSET)
    if isinstance(request_id, (bool, float, list, dict)) or "\ufffd" in str(request_id):
        request_id = UNSET
    dialect: Dialect = "1.0" if "id" in members and "jsonrpc" not in members else "2.0"
    return Head(request_id, dialect, is_reply)


def _read_members(text: str, names: list[str], members: dict[str, Any]) -> None:
    """Read names and values up to where the text ends; the last name may lack its value."""
    try:
        while True:
            text = text.lstrip(" \t\r\n,")
            name, end = _scan(text)
            text = text[end:].lstrip()
            if not isinstance(name, str) or not text.startswith(":"):
                return
            names.append(name)
            text = text[1:].lstrip()
            value, end = _scan(text)
            text = text[end:]
            # Where no comma follows it may not be the whole value, or no JSON.
            if not text.lstrip().startswith(","):
                return
            members[name] = value
    except (ValueError, RecursionError):
        return


_HTTP_METHODS: Final = b"GET|HEAD|POST|PUT|DELETE|CONNECT|OPTIONS|TRACE|PATCH|PRI"
_HTTP_REQUEST: Final = re.compile(b"(%b) " % _HTTP_METHODS)


# A record of TLS: a handshake (0x16) or an alert (0x15), then the major version.
_TLS_RECORD: Final = re.compile(rb"[\x15\x16]\x03")

# Enough of a connection's first bytes to tell what it speaks.
FIRST_BYTES: Final = 8


def other_protocol(start: bytes) -> str | None:
    """Name the protocol that a connection's first bytes are of, if it is one that is known.

    No JSON begins as HTTP and TLS do.
    """
    if _TLS_RECORD.match(start):
        return "TLS"
    return "HTTP" if _HTTP_REQUEST.match(start) else None


# --- bytes out ----------------------------------------------------------------------------------


def _dumps(value: Any) -> bytes:
    with contextlib.suppress(TypeError):
        # Keys too: json takes nothing but strings and the like for those.
        value = msgspec.to_builtins(value, str_keys=True)
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), default=msgspec.to_builtins)
    return text.encode("ascii")


_NEVER_NAN: Final = frozenset({int, str, bool, type(None)})


def _encode(message: Struct, payload: Any) -> bytes:
    """Encode one message with its newline; *payload* is the part of it that a caller supplied.

    Raises:
        One of `_UNENCODABLE`.
    """
    try:
        line = _encode_lines([message])
    except _UNENCODABLE:
        members = [
            b'"%b":%b' % (name.encode(), bytes(value) if isinstance(value, Raw) else _dumps(value))
            for name, value in msgspec.structs.asdict(message).items()
            if value is not UNSET
        ]
        return b"{%b}\n" % b",".join(members)
    # msgspec writes NaN and the infinities as null. Where the line has no null, there was none.
    # Few long lines hold the letter, and to look for a letter takes a tenth of the time.
    if (
        0x75 in line
        and b"null" in line
        and type(payload) not in _NEVER_NAN
        and _may_hold_nan(payload)
    ):
        _dumps(payload)
    return line


# Such a number as marshal writes it: a g, then eight bytes, the exponent in the last two.
_NOT_FINITE: Final = re.compile(rb"g.{6}[\xf0-\xff][\x7f\xff]", re.DOTALL)
# The last version of its format in which everything is written out where it stands.
_MARSHAL_VERSION: Final = 2


def _may_hold_nan(value: Any) -> bool:
    """Tell whether there may be a NaN or an infinity in a value; other numbers may look like one.

    marshal goes through builtin types, and takes no others, in a fifth of the time of json.
    """
    try:
        return _NOT_FINITE.search(marshal.dumps(value, _MARSHAL_VERSION)) is not None
    except ValueError:
        return True


def encode_request(
    dialect: Dialect,
    request_id: int | None,
    method: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    timeout: float | None = None,
    traceparent: str | None = None,
) -> bytes:
    """Encode a request, or with no id a notification, with its newline.

    The last two are for the 2.0 dialect alone, and left out of the others.

    Raises:
        TypeError: an argument has a type that JSON has no form for, or the dialect no place.
        ValueError: an argument is NaN or infinite, refers to itself, or is too deeply nested.
    """
    message: Struct
    if dialect == "2.0":
        known_id = UNSET if request_id is None else request_id
        # A call without arguments has no params, as some servers never answer an empty list.
        message = _Request("2.0", known_id, method, args or kwargs or UNSET)
        if args and kwargs:
            message.kwargs = kwargs
        if timeout is not None:
            message.timeout = timeout
        if traceparent is not None:
            message.traceparent = traceparent
        try:
            line = _encode_lines([message])
            # The common case, without another call. To look for a letter of null, of which few
            # lines have any, takes a tenth of the time that it takes to look for the word.
            if 0x75 not in line or line.find(b"null") < 0:
                return line
        except _UNENCODABLE:
            pass
    elif dialect == "1.0":
        if kwargs:
            raise TypeError("JSON-RPC 1.0 has no named arguments; pass them by position")
        message = _PairRequest(request_id, method, args)
    else:
        message = _PlainRequest(method, args, kwargs)
    try:
        return _encode(message, (args, kwargs))
    except RecursionError:
        raise ValueError(
            f"an argument of {method} is nested too deeply, or refers to itself"
        ) from None
    except _UNENCODABLE as problem:
        kind = TypeError if isinstance(problem, TypeError) else ValueError
        raise kind(f"an argument of {method} cannot be sent as JSON: {problem}") from None


def encode_result(dialect: Dialect, request_id: RequestId | UnsetType, result: Any) -> bytes:
    """Encode a successful reply with its newline.

    Raises:
        InternalError: the result has no JSON form; the text says what it was.
    """
    message: Struct
    if dialect == "2.0":
        message = Success("2.0", request_id, result)
        if type(result) in _NEVER_NAN:
            # The common case, without another call.
            try:
                return _encode_lines([message])
            except _UNENCODABLE:
                pass
    elif dialect == "1.0":
        message = _PairReply(request_id, result, None)
    else:
        message = _PlainSuccess(result)
    try:
        return _encode(message, result)
    except RecursionError:
        raise InternalError("the result is nested too deeply, or refers to itself") from None
    except _UNENCODABLE as problem:
        raise InternalError(f"the result cannot be sent as JSON: {problem}") from None


# Within these bounds an integer is encoded in one go.
LEAST_INT: Final = -(2**63)
MOST_INT: Final = 2**64 - 1

# Escaped, a string takes six times its length at most.
_SHORT: Final = 1000

#: Longer than any line with a plain result, and with as long an id as can be read.
PLAIN_BYTES: Final = 16 * 1024


def is_plain(result: Any) -> bool:
    """Tell whether a result is certain to be encoded, in a line of no more than `PLAIN_BYTES`."""
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
        return _encode_lines(replies)
    except _UNENCODABLE:
        # An id may have more than 64 bits.
        return b"".join([encode_result("2.0", reply.id, reply.result) for reply in replies])


def encode_plain_members(replies: list[Success]) -> bytes:
    """Encode such replies as members of a batch, with a comma between them."""
    try:
        return _encode_members(replies)[1:-1]
    except _UNENCODABLE:
        return encode_plain(replies)[:-1].replace(b"\n", b",")


def _text_of(error: RPCError) -> str:
    try:
        return str(error)
    except Exception:
        # A class of the application's, which says it in a way of its own.
        return type(error).__name__


def encode_error(dialect: Dialect, request_id: RequestId | UnsetType, error: RPCError) -> bytes:
    """Encode a failed reply with its newline; in the older dialects the error is its text alone.

    An error whose ``data`` has no JSON form is sent without it.
    """
    message: Struct
    text = _text_of(error)
    if dialect == "2.0":
        message = _Failure("2.0", request_id, _ErrorObject(error.code, text, error.data))
    elif dialect == "1.0":
        message = _PairReply(request_id, None, text)
    else:
        message = _PlainFailure(text)
    try:
        return _encode(message, error.data)
    except _UNENCODABLE:
        # Whatever a method raised, its caller gets an answer.
        without = (
            RPCError(error.code, text) if error.data is not None else InternalError(truncate(text))
        )
        return encode_error(dialect, request_id, without)


def reply_too_long(size: int, limit: int) -> RPCError:
    """Build the error that stands for a reply that is longer than a line may be."""
    return RPCError(
        ErrorCode.REPLY_TOO_LONG,
        f"the reply has {size:,} bytes, more than max_line_bytes ({limit:,}); ask for less",
    )
