"""The exceptions, the error codes, and the error that a caller gets for an exception.

Everything here is plain data: what an error is called, not where it is raised. Nothing from Twisted
belongs here; the modules at the rim attach Twisted's own error as the ``__cause__``.
"""

from __future__ import annotations

import builtins
import enum
import errno as errno_module
import os
from collections.abc import Mapping
from typing import Any

__all__ = [
    "CallCancelled",
    "CallTimeout",
    "ConnectFailed",
    "ConnectRefused",
    "ConnectionLost",
    "ErrorCode",
    "ForkedError",
    "InternalError",
    "InvalidParams",
    "InvalidRequest",
    "KnSockError",
    "LoginFailed",
    "MethodNotFound",
    "NotAuthenticated",
    "ParseError",
    "RPCError",
    "RemoteError",
]


class ErrorCode(enum.IntEnum):
    """The codes that kn_sock puts on the wire.

    Spec: JSON-RPC 2.0, section 5.1 (-32700 and -32600 to -32603); the rest are from the ranges that
    the section leaves to implementations.
    """

    PARSE_ERROR = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL_ERROR = -32603
    FUNCTION_RAISED = -32000
    DEADLINE_PASSED = -32001
    NOT_AUTHENTICATED = -32002
    REQUEST_TOO_LONG = -32007
    REPLY_TOO_LONG = -32008
    SERVER_BUSY = -32009
    BATCH_TOO_LARGE = -32010
    CANCELLED = -32800


class KnSockError(Exception):
    """The base of every exception that kn_sock raises for what happens on a connection.

    Attributes:
        maybe_executed: whether the method may have been run; if not, to try again is safe.
    """

    maybe_executed: bool = True


# The method was not run, whatever it is.
_NEVER_RUN = frozenset(
    {
        ErrorCode.PARSE_ERROR,
        ErrorCode.INVALID_REQUEST,
        ErrorCode.METHOD_NOT_FOUND,
        ErrorCode.INVALID_PARAMS,
        ErrorCode.NOT_AUTHENTICATED,
        ErrorCode.REQUEST_TOO_LONG,
        ErrorCode.SERVER_BUSY,
        ErrorCode.BATCH_TOO_LARGE,
    }
)
_TOLD_BY_DATA = (ErrorCode.DEADLINE_PASSED, ErrorCode.REPLY_TOO_LONG)


class RPCError(KnSockError):
    """The peer answered with an error. Raised by a method, it is the error that the caller gets.

    Args:
        code: the JSON-RPC error code, an integer. From -32768 to -32000 it is reserved.
        message: one sentence; the text of the exception.
        data: anything JSON can hold, or ``None`` for no ``data`` member.

    Spec: JSON-RPC 2.0, section 5.1.
    """

    # What a subclass has whose own __init__ does not call this one.
    code: int = ErrorCode.FUNCTION_RAISED
    message: str = ""
    data: Any = None

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        Exception.__init__(self, message)
        self.code = int(code)
        self.message = message
        self.data = data

    def __str__(self) -> str:
        return str(self.message)

    @property
    def maybe_executed(self) -> bool:  # type: ignore[override]  # follows from the code
        """Whether the method may have been run: ``False`` if trying again is safe."""
        if self.code in _TOLD_BY_DATA and isinstance(self.data, Mapping):
            return self.data.get("maybe_executed") is not False
        return self.code not in _NEVER_RUN

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (type(self), self.args, self.__dict__)


class _StandardError(RPCError):
    """An error with one code: built from a message alone."""

    standard_code: ErrorCode

    def __init__(self, message: str, data: Any = None) -> None:
        super().__init__(self.standard_code, message, data)


class ParseError(_StandardError):
    """The line is not JSON (-32700)."""

    standard_code = ErrorCode.PARSE_ERROR


class InvalidRequest(_StandardError):
    """The line is JSON, and not a request (-32600)."""

    standard_code = ErrorCode.INVALID_REQUEST


class MethodNotFound(_StandardError):
    """No method has this name (-32601)."""

    standard_code = ErrorCode.METHOD_NOT_FOUND


class InvalidParams(_StandardError):
    """The arguments do not fit the method; it was not called (-32602)."""

    standard_code = ErrorCode.INVALID_PARAMS
    # What is sent in place of a text that a server hides from its callers.
    hidden_text: str | None = None


class InternalError(_StandardError):
    """The call could not be carried out, through no fault of the caller (-32603)."""

    standard_code = ErrorCode.INTERNAL_ERROR


class NotAuthenticated(_StandardError):
    """The server wants a login first, or refused the one that was tried (-32002)."""

    standard_code = ErrorCode.NOT_AUTHENTICATED


class RemoteError(RPCError):
    """The remote function raised an exception.

    The text is the remote exception's text and nothing else. If the remote exception was of a
    builtin type, or derived from one, this is an instance of that type too: ``except ValueError``
    works as it would on a local call. No other type is looked up, imported or unpickled.

    Attributes:
        type_name: the name of the remote exception's type, or ``None`` if the peer's dialect
            has no place for it.
        remote_traceback: the remote traceback as text, or ``None`` unless the server shares it.

    Of a builtin type, ``args`` are those of the remote exception if they are numbers and texts, and
    an ``OSError`` has ``errno``, ``strerror`` and ``filename``. A server that shares tracebacks
    shares ``__notes__`` and the ``__cause__`` as well.
    """

    def __init__(self, message: str, data: Any = None, *, code: int = ErrorCode.FUNCTION_RAISED):
        RPCError.__init__(self, code, message, data)
        details = data if isinstance(data, Mapping) else {}
        self.type_name: str | None = _text_or_none(details.get("type"))
        self.remote_traceback: str | None = _text_or_none(details.get("traceback"))
        self._restore(details)

    def _restore(self, details: Mapping[str, Any]) -> None:
        """Set what ``except`` clauses look at, and what a traceback shows."""
        args = details.get("args")
        if isinstance(args, list):
            self.args = tuple(args)
        if isinstance(self, OSError):
            number, text = [*self.args, None, None][:2]
            if type(number) is int and isinstance(text, str):
                self.errno, self.strerror = number, text
                self.filename = _text_or_none(details.get("filename"))
        notes = details.get("notes")
        if isinstance(notes, list):
            self.__notes__ = [note for note in notes if isinstance(note, str)]
        cause = details.get("cause")
        if isinstance(cause, Mapping) and isinstance(cause.get("message"), str):
            self.__cause__ = _remote_error(
                ErrorCode.FUNCTION_RAISED, cause["message"], cause.get("data")
            )

    def __reduce__(self) -> tuple[Any, ...]:
        if type(self) not in _remote_kinds.values():
            return super().__reduce__()
        # Made as it was needed, the class has no place to be imported from.
        return _remote_error, (self.code, self.message, self.data)


class CallTimeout(KnSockError, TimeoutError):
    """No reply came in time.

    Attributes:
        maybe_executed: ``False`` when the request was never written, so that trying again is safe.
    """

    def __init__(self, message: str, *, maybe_executed: bool = True) -> None:
        Exception.__init__(self, message)
        self.maybe_executed = maybe_executed

    def __str__(self) -> str:
        return str(self.args[0])


class ConnectionLost(KnSockError, ConnectionError):
    """The connection ended before the reply came.

    Attributes:
        maybe_executed: ``False`` when the request was never written, so that trying again is safe.
    """

    def __init__(self, message: str, *, maybe_executed: bool = True) -> None:
        Exception.__init__(self, message)
        self.maybe_executed = maybe_executed

    def __str__(self) -> str:
        return str(self.args[0])


class CallCancelled(KnSockError):
    """This side cancelled the call before the reply came."""


class ConnectFailed(KnSockError, OSError):
    """No connection could be made: a name not found, a refusal, a timeout.

    Attributes:
        errno: the operating system's number for it, or ``None``.
        maybe_executed: ``False``: a call that fails with it was never written.
    """

    maybe_executed = False

    def __init__(self, message: str, number: int | None = None) -> None:
        Exception.__init__(self, message)
        self.errno = number
        self.strerror = os.strerror(number) if number is not None else message

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.errno)


class ConnectRefused(ConnectFailed, ConnectionRefusedError):
    """Nothing listens at that address. Also the builtin ``ConnectionRefusedError``."""

    def __init__(self, message: str, number: int | None = errno_module.ECONNREFUSED) -> None:
        super().__init__(message, number)


class SocketNotFound(ConnectFailed, FileNotFoundError):
    """There is no Unix socket of that path. Also the builtin ``FileNotFoundError``."""

    def __init__(self, message: str, number: int | None = errno_module.ENOENT) -> None:
        super().__init__(message, number)


class LoginFailed(ConnectFailed):
    """The server answered, and refused the login or has none; the ``__cause__`` is its answer.

    Its text never has the password or the token in it.
    """


class ForkedError(KnSockError, RuntimeError):
    """A client that was made before ``fork()`` was used in the child process; it makes its own."""

    #: Of the child's call, nothing was written.
    maybe_executed = False


_STANDARD: dict[int, type[_StandardError]] = {
    int(kind.standard_code): kind
    for kind in (
        *(ParseError, InvalidRequest, MethodNotFound, InvalidParams, InternalError),
        NotAuthenticated,
    )
}

# Not rebuilt at the caller's: the first three would end the caller's loop or generator, and an
# exception group cannot be built from a text.
_NOT_REBUILT = (StopIteration, StopAsyncIteration, GeneratorExit)
_GROUP = getattr(builtins, "BaseExceptionGroup", ())

_remote_kinds: dict[str, type[RemoteError]] = {}


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _builtin_exception(name: object) -> type[Exception] | None:
    found = getattr(builtins, name, None) if isinstance(name, str) else None
    if not isinstance(found, type) or not issubclass(found, Exception):
        return None
    if found is Exception or issubclass(found, _NOT_REBUILT) or issubclass(found, _GROUP):
        return None
    return found


def _remote_kind(data: Any) -> type[RemoteError]:
    """Find the class that is both a RemoteError and the builtin exception that *data* names."""
    if not isinstance(data, Mapping):
        return RemoteError
    found = _builtin_exception(data["builtin"] if "builtin" in data else data.get("type"))
    if found is None:
        return RemoteError
    kind = _remote_kinds.get(found.__name__)
    if kind is None:
        kind = type(f"Remote{found.__name__}", (RemoteError, found), {"__module__": __name__})
        _remote_kinds[found.__name__] = kind
    return kind


def _rebuilt(kind: type[RPCError], args: tuple[Any, ...], state: dict[str, Any]) -> RPCError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    return error


def _remote_error(code: int, message: str, data: Any) -> RemoteError:
    return _remote_kind(data)(message, data, code=code)


def rpc_error(code: int, message: str, data: Any = None) -> RPCError:
    """Build the exception that stands for an error object: of its code's class, if it has one."""
    if code == ErrorCode.FUNCTION_RAISED:
        return _remote_error(code, message, data)
    standard = _STANDARD.get(code)
    if standard is not None:
        return standard(message, data)
    return RPCError(code, message, data)
