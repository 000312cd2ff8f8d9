"""One line to typed messages and back, in three dialects.

This is the only module that names a JSON library. msgspec does the work: it decodes straight into
`Message` in one pass. What it refuses although it is JSON (escaped lone surrogates, keys that are
not strings, integers beyond its range) goes through the standard library's ``json``, off the hot
path, so that what can be sent does not depend on which of the two did it.

Spec: JSON-RPC 2.0 sections 4 to 6, JSON-RPC 1.0, and kn-sock 0.3.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from kn_sock._framing import Line
from kn_sock._text import cut, shown
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
decode_messages = msgspec.json.Decoder(list[Message]).decode


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


def decode_unusual(line: Line | Raw, most: int = sys.maxsize) -> Message | list[Raw]:
    """Read what `decode_message` refused, as a batch or a fractional id; or say what is wrong.

    Args:
        line: the line.
        most: the most members of a batch that are of interest; where it has more, some of them may
            be left out.

    Returns:
        A message, or the members of a batch, each still to be decoded.

    Raises:
        NoMessageError: it is not JSON, or JSON that is no message.
    """
    try:
        value = _decode_any(line)
    except UNREADABLE as problem:
        raise NoMessageError(ParseError(f"this line is not JSON: {_reason(problem)}")) from None
    if isinstance(value, list):
        try:
            return _members.decode(line)
        except UNREADABLE:
            return _members_of(bytes(line).decode("utf-8"), most)
    if not isinstance(value, dict):
        raise NoMessageError(InvalidRequest(f"a message is a JSON object, not {shown(value)}"))
    return _message_from(value, line)


# What a number beyond the range of a double has to hold; json would take it for infinity.
_HUGE_NUMBER: Final = re.compile(rb"[eE]\+?\d{3}|\d{309}")


def _decode_any(line: Line | Raw) -> Any:
    try:
        return _anything.decode(line)
    except UNREADABLE:
        data = bytes(line)
        if b"\\u" not in data:
            raise
        # msgspec refuses an escaped lone surrogate, which other JSON libraries read and write.
        may_be_infinite = _HUGE_NUMBER.search(data) is not None
        parse_float = _finite if may_be_infinite else None
        return json.loads(data.decode("utf-8"), parse_float=parse_float, parse_constant=_finite)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a JSON number")
    return value


def _reason(problem: BaseException) -> str:
    if isinstance(problem, RecursionError):
        return "it is nested too deeply"
    return shown(str(problem).removeprefix("JSON is malformed: "))


_scan = json.JSONDecoder().raw_decode

_BETWEEN_MEMBERS: Final = re.compile(r"[ \t\r\n,]*")


def _members_of(text: str, most: int) -> list[Raw]:
    """Cut an array, which is known to be one, into the texts of its members, up to one too many."""
    members: list[Raw] = []
    index = text.index("[") + 1
    while True:
        space = _BETWEEN_MEMBERS.match(text, index)
        index = space.end() if space is not None else index
        if text[index] == "]" or len(members) > most:
            return members
        _, end = _scan(text, index)
        members.append(Raw(text[index:end].encode("utf-8")))
        index = end


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
            error = InvalidRequest(f"{name} must be {wanted}, not {shown(value[name])}")
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
    if b"null" in line and type(payload) not in _NEVER_NAN:
        _dumps(payload)
    return line


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
        without = RPCError(error.code, text) if error.data is not None else InternalError(cut(text))
        return encode_error(dialect, request_id, without)


def reply_too_long(size: int, limit: int) -> RPCError:
    """Build the error that stands for a reply that is longer than a line may be."""
    return RPCError(
        ErrorCode.REPLY_TOO_LONG,
        f"the reply has {size:,} bytes, more than max_line_bytes ({limit:,}); ask for less",
    )
