"""The dialects: what each can express, and the forms of its messages.

A dialect is one object. A new one is a class and a line in `DIALECTS`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeAlias

from msgspec import UNSET, Struct, UnsetType
from typing_extensions import override

from kn_sock._display import text_of
from kn_sock._wire.encoding import (
    UNENCODABLE,
    Success,
    encode_arguments,
    encode_failure,
    encode_lines,
    encode_reply,
)
from kn_sock.errors import RPCError

if TYPE_CHECKING:
    from kn_sock._wire.messages import RequestId

DialectName: TypeAlias = Literal["2.0", "1.0", "kn-sock"]


class Dialect:
    """One form of JSON-RPC.

    Attributes:
        name: its name, as callers write it.
        has_batches: whether several messages may form one.
        has_notifications: whether a request may ask for no reply.
        has_extensions: whether requests may carry members of our own, and calls may be cancelled.
        answers_in_order: whether replies have no ids, and come in the order of the requests.
        answers_notifications: whether peers answer a notification with a null id, against the rule.
    """

    name: ClassVar[str]
    has_batches: ClassVar[bool] = False
    has_notifications: ClassVar[bool] = True
    has_extensions: ClassVar[bool] = False
    answers_in_order: ClassVar[bool] = False
    answers_notifications: ClassVar[bool] = False

    def encode_request(
        self,
        request_id: int | None,
        method: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        timeout: float | None = None,
        traceparent: str | None = None,
    ) -> bytes:
        """Return a request, or with no id a notification, with its newline.

        *timeout* (seconds) and *traceparent* are left out by dialects without extensions.

        Raises:
            TypeError: an argument has a type without a JSON form, or the dialect cannot carry it.
            ValueError: an argument is NaN or infinite, refers to itself, or is nested too deeply.
        """
        raise NotImplementedError

    def encode_result(
        self, request_id: RequestId | UnsetType, result: Any, limit: int = sys.maxsize
    ) -> bytes:
        """Return a successful reply with its newline.

        Raises:
            InternalError: the result has no JSON form; the text names the reason.
            RPCError: it is certain to be longer than *limit* bytes; not all of it was encoded.
        """
        raise NotImplementedError

    def encode_error(self, request_id: RequestId | UnsetType, error: RPCError) -> bytes:
        """Return a failed reply with its newline. Never raises.

        An error whose ``data`` has no JSON form is sent without it.
        """
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<dialect {self.name}>"


class _Request(Struct, omit_defaults=True):
    # The id stands early, so that the peer can name the call even if the line is too long for it.
    jsonrpc: str | UnsetType = UNSET
    id: int | UnsetType | None = UNSET
    method: str | UnsetType = UNSET
    params: Sequence[Any] | Mapping[str, Any] | UnsetType = UNSET
    kwargs: Mapping[str, Any] | UnsetType = UNSET
    timeout: float | UnsetType = UNSET
    traceparent: str | UnsetType = UNSET


class _Failure(Struct):
    jsonrpc: Literal["2.0"]
    id: Any
    error: Any


class _ErrorObject(Struct, omit_defaults=True):
    code: int
    message: str
    data: Any = None


class JsonRpc2(Dialect):
    """JSON-RPC 2.0, with the extensions that other servers ignore.

    Spec: JSON-RPC 2.0, sections 4 to 6.
    """

    name = "2.0"
    has_batches = True
    has_extensions = True

    @override
    def encode_request(
        self,
        request_id: int | None,
        method: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        timeout: float | None = None,
        traceparent: str | None = None,
    ) -> bytes:
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
            line = encode_lines([message])
            # The common case, without another call. Looking for a letter of null, which few lines
            # have, takes a tenth of the time of looking for the word.
            if (
                (0x75 not in line or line.find(b"null") < 0)
                and b'nan":' not in line
                and b'inf":' not in line
            ):
                return line
        except UNENCODABLE:
            pass
        return encode_arguments(message, method, args, kwargs)

    @override
    def encode_result(
        self, request_id: RequestId | UnsetType, result: Any, limit: int = sys.maxsize
    ) -> bytes:
        return encode_reply(Success("2.0", request_id, result), result, limit)

    @override
    def encode_error(self, request_id: RequestId | UnsetType, error: RPCError) -> bytes:
        error_object = _ErrorObject(error.code, text_of(error), error.data)
        line = encode_failure(_Failure("2.0", request_id, error_object), error)
        return self.encode_error(request_id, line) if isinstance(line, RPCError) else line


class _PairRequest(Struct):
    id: int | None
    method: str
    params: Sequence[Any]


class _PairReply(Struct):
    id: Any
    result: Any
    error: Any


class JsonRpc1(Dialect):
    """JSON-RPC 1.0. The error is a string: Go's client closes the connection at anything else.

    Spec: JSON-RPC 1.0, section 1.
    """

    name = "1.0"
    # Section 1.3 forbids it; Go's servers do it.
    answers_notifications = True

    @override
    def encode_request(
        self,
        request_id: int | None,
        method: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        timeout: float | None = None,
        traceparent: str | None = None,
    ) -> bytes:
        if kwargs:
            raise TypeError("JSON-RPC 1.0 has no named arguments; pass them by position")
        return encode_arguments(_PairRequest(request_id, method, args), method, args, kwargs)

    @override
    def encode_result(
        self, request_id: RequestId | UnsetType, result: Any, limit: int = sys.maxsize
    ) -> bytes:
        return encode_reply(_PairReply(request_id, result, None), result, limit)

    @override
    def encode_error(self, request_id: RequestId | UnsetType, error: RPCError) -> bytes:
        line = encode_failure(_PairReply(request_id, None, text_of(error)), error)
        return self.encode_error(request_id, line) if isinstance(line, RPCError) else line


class _PlainRequest(Struct):
    method: str
    params: Sequence[Any]
    kwargs: Mapping[str, Any]


class _PlainSuccess(Struct):
    result: Any


class _PlainFailure(Struct):
    error: str


class KnSock03(Dialect):
    """The dialect of kn-sock 0.3: no ids, every request answered, in order."""

    name = "kn-sock"
    has_notifications = False
    answers_in_order = True

    @override
    def encode_request(
        self,
        request_id: int | None,
        method: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        timeout: float | None = None,
        traceparent: str | None = None,
    ) -> bytes:
        return encode_arguments(_PlainRequest(method, args, kwargs), method, args, kwargs)

    @override
    def encode_result(
        self, request_id: RequestId | UnsetType, result: Any, limit: int = sys.maxsize
    ) -> bytes:
        return encode_reply(_PlainSuccess(result), result, limit)

    @override
    def encode_error(self, request_id: RequestId | UnsetType, error: RPCError) -> bytes:
        line = encode_failure(_PlainFailure(text_of(error)), error)
        return self.encode_error(request_id, line) if isinstance(line, RPCError) else line


JSONRPC_2: Final = JsonRpc2()
JSONRPC_1: Final = JsonRpc1()
KN_SOCK: Final = KnSock03()

#: The dialects that a client may speak, by name.
DIALECTS: Final[dict[str, Dialect]] = {
    dialect.name: dialect for dialect in (JSONRPC_2, JSONRPC_1, KN_SOCK)
}


def dialect_named(name: object) -> Dialect:
    """Return the dialect of this name.

    Raises:
        ValueError: there is none; the text lists those that there are.
    """
    dialect = DIALECTS.get(name) if isinstance(name, str) else None
    if dialect is None:
        raise ValueError(f"dialect must be one of {', '.join(DIALECTS)}, not {name!r}")
    return dialect


def dialect_of(members: Mapping[str, Any]) -> Dialect:
    """Return the dialect of a message that has these members."""
    if "jsonrpc" in members or "method" not in members:
        return JSONRPC_2
    return JSONRPC_1 if "id" in members else KN_SOCK
