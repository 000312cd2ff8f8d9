"""One line to typed messages and back, in three dialects.

This is the only module that names a JSON library. msgspec does the work: it decodes straight into
`Message` in one pass. What it refuses although it is JSON (escaped lone surrogates, keys that are
not strings, integers beyond its range) goes through the standard library's ``json``, off the hot
path, so that what can be sent does not depend on which of the two did it.

Spec: JSON-RPC 2.0 sections 4 to 6, JSON-RPC 1.0, and kn-sock 0.3.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from kn_sock._framing import Line, OverlongLine
from kn_sock.errors import ErrorCode, InternalError, InvalidRequest, ParseError, RPCError

Dialect: TypeAlias = Literal["2.0", "1.0", "kn-sock"]
DIALECTS: Final[tuple[Dialect, ...]] = ("2.0", "1.0", "kn-sock")

# An integer or a string as it came; a fraction as its own text, so that the echo is exact.
RequestId: TypeAlias = int | str | Raw | None

# What a reader sees of something that came from the peer; the whole is never echoed.
_SHOWN_CHARACTERS = 60
_short = reprlib.Repr()

UNREADABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError)
_UNENCODABLE: Final = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError)


class Message(Struct):
    """One JSON object of the wire, request or reply, as it was decoded."""

    jsonrpc: Any = UNSET
    id: int | str | UnsetType | None = UNSET
    method: str | UnsetType = UNSET
    params: list[Any] | dict[str, Any] | UnsetType | None = UNSET
    kwargs: dict[str, Any] | UnsetType | None = UNSET
    result: Any = UNSET
    error: Any = UNSET


class _IdAlone(Struct):
    id: Raw


class _Success(Struct):
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


class _PairRequest(Struct):
    id: int | None
    method: str
    params: Sequence[Any]


class _PlainRequest(Struct):
    method: str
    params: Sequence[Any]
    kwargs: Mapping[str, Any]


_encode_lines = msgspec.json.Encoder().encode_lines
_anything = msgspec.json.Decoder()
_members = msgspec.json.Decoder(list[Raw])
_id_alone = msgspec.json.Decoder(_IdAlone)

decode_message = msgspec.json.Decoder(Message).decode


def shown(value: object) -> str:
    """Show something that came from the peer, at a length that cannot be abused."""
    text = value if isinstance(value, str) else _short.repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


# --- bytes in -----------------------------------------------------------------------------------


def decode_unusual(line: Line | Raw) -> Message | list[Raw]:
    """Read what `decode_message` refused, as a batch or a fractional id; or say what is wrong.

    Returns:
        A message, or the members of a batch, each still to be decoded.

    Raises:
        ParseError: it is not JSON.
        InvalidRequest: it is JSON that is no message. ``request_id`` on the exception is the id to
            answer with.
    """
    try:
        value = _decode_any(line)
    except UNREADABLE as problem:
        raise ParseError(f"this line is not JSON: {_reason(problem)}") from None
    if isinstance(value, list):
        try:
            return _members.decode(line)
        except UNREADABLE:
            return [Raw(_dumps(member)) for member in value]
    if not isinstance(value, dict):
        raise InvalidRequest(f"a message is a JSON object, not {shown(value)}")
    return _message_from(value, line)


def _decode_any(line: Line | Raw) -> Any:
    try:
        return _anything.decode(line)
    except UNREADABLE:
        data = bytes(line)
        if b"\\u" not in data:
            raise
        # msgspec refuses an escaped lone surrogate, which other JSON libraries read and write.
        return json.loads(data.decode("utf-8"), parse_float=_finite, parse_constant=_finite)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a JSON number")
    return value


def _reason(problem: BaseException) -> str:
    if isinstance(problem, RecursionError):
        return "it is nested too deeply"
    return shown(str(problem).removeprefix("JSON is malformed: "))


def _message_from(value: dict[str, Any], line: Line | Raw) -> Message:
    """Check the members one by one, to name the one that is wrong."""
    request_id = value.get("id", UNSET)
    if isinstance(request_id, float):
        try:
            request_id = Raw(bytes(_id_alone.decode(line).id))
        except UNREADABLE:
            request_id = Raw(_dumps(request_id))
    elif request_id is not UNSET and (
        isinstance(request_id, (bool, list, dict)) or not _is_utf8(request_id)
    ):
        raise invalid_request("id must be a string, a number or null", None)
    known = None if request_id is UNSET else request_id
    method = value.get("method", UNSET)
    if method is not UNSET and not isinstance(method, str):
        raise invalid_request(f"method must be a string, not {shown(method)}", known)
    params = value.get("params", UNSET)
    if params is not UNSET and not isinstance(params, (list, dict, type(None))):
        raise invalid_request(f"params must be an array or an object, not {shown(params)}", known)
    kwargs = value.get("kwargs", UNSET)
    if kwargs is not UNSET and not isinstance(kwargs, (dict, type(None))):
        raise invalid_request(f"kwargs must be an object, not {shown(kwargs)}", known)
    return Message(
        jsonrpc=value.get("jsonrpc", UNSET),
        id=request_id,
        method=method,
        params=params,
        kwargs=kwargs,
        result=value.get("result", UNSET),
        error=value.get("error", UNSET),
    )


def _is_utf8(value: object) -> bool:
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return False
    return True


def invalid_request(message: str, request_id: RequestId) -> InvalidRequest:
    """Build the error for a message that is none, with the id that its reply carries."""
    error = InvalidRequest(message)
    error.request_id = request_id  # type: ignore[attr-defined]  # ours alone, read in _session
    return error


_LEADING_ID = re.compile(
    rb'\A\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)"id"\s*:\s*(-?\d{1,18}|"[^"\\]{0,99}")\s*,'
)


def leading_id(prefix: bytes) -> RequestId | UnsetType:
    """Find the id in the beginning of a line too long to read; ``UNSET`` where it is not there."""
    found = _LEADING_ID.match(prefix)
    if found is None:
        return UNSET
    try:
        value: RequestId = _anything.decode(found[1])
    except UNREADABLE:
        return UNSET
    return value


_HTTP_METHODS: Final = b"GET|HEAD|POST|PUT|DELETE|CONNECT|OPTIONS|TRACE|PATCH|PRI"
_HTTP_REQUEST: Final = re.compile(b"(%b) " % _HTTP_METHODS)


def speaks_http(line: Line | OverlongLine) -> bool:
    """Tell whether a connection's first line is that of an HTTP request, as no JSON begins."""
    start = line.prefix if isinstance(line, OverlongLine) else line
    return _HTTP_REQUEST.match(start) is not None


# --- bytes out ----------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """Turn one value that ``json`` does not know into values that it does."""
    return json.loads(bytes(value)) if isinstance(value, Raw) else msgspec.to_builtins(value)


def _dumps(value: Any) -> bytes:
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), default=_plain)
    return text.encode("ascii")


_NEVER_NAN: Final = frozenset({int, str, bool, type(None)})


def _encode(message: Struct, payload: Any) -> bytes:
    """Encode one message with its newline; *payload* is the part of it that a caller supplied.

    Raises:
        One of `_UNENCODABLE`.
    """
    try:
        line = _encode_lines((message,))
    except _UNENCODABLE:
        members = msgspec.structs.asdict(message).items()
        return _dumps({name: value for name, value in members if value is not UNSET}) + b"\n"
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
) -> bytes:
    """Encode a request, or with no id a notification, with its newline.

    Raises:
        TypeError: an argument has a type that JSON has no form for, or the dialect no place.
        ValueError: an argument is NaN or infinite, refers to itself, or is too deeply nested.
    """
    message: Struct
    if dialect == "2.0":
        message = _Request("2.0", UNSET if request_id is None else request_id, method)
        if args:
            message.params = args
            if kwargs:
                message.kwargs = kwargs
        elif kwargs:
            message.params = kwargs
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
        message = _Success("2.0", request_id, result)
        if type(result) in _NEVER_NAN:
            # The common case, without another call.
            try:
                return _encode_lines((message,))
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


def encode_error(dialect: Dialect, request_id: RequestId | UnsetType, error: RPCError) -> bytes:
    """Encode a failed reply with its newline; in the older dialects the error is its text alone.

    An error whose ``data`` has no JSON form is sent without it.
    """
    message: Struct
    if dialect == "2.0":
        message = _Failure("2.0", request_id, _ErrorObject(error.code, error.message, error.data))
    elif dialect == "1.0":
        message = _PairReply(request_id, None, error.message)
    else:
        message = _PlainFailure(error.message)
    try:
        return _encode(message, error.data)
    except _UNENCODABLE:
        return encode_error(dialect, request_id, RPCError(error.code, str(error.message)))


def reply_too_long(size: int, limit: int) -> RPCError:
    """Build the error that stands for a reply that is longer than a line may be."""
    return RPCError(
        ErrorCode.REPLY_TOO_LONG,
        f"the reply has {size:,} bytes, more than max_line_bytes ({limit:,}); ask for less",
    )
