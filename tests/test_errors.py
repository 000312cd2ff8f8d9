from __future__ import annotations

import builtins
import copy
import errno
import json
import pickle
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from kn_sock import errors
from kn_sock._exceptions import another, describe_exception, share_details
from kn_sock._wire.decoding import error_from_wire
from kn_sock.errors import (
    CallCancelled,
    CallTimeout,
    ConnectFailed,
    ConnectionLost,
    ConnectRefused,
    ErrorCode,
    InternalError,
    InvalidParams,
    InvalidRequest,
    KnSockError,
    MethodNotFound,
    ParseError,
    RemoteError,
    RPCError,
    rpc_error,
)

BUILTIN_ERRORS = sorted(
    {
        kind
        for kind in vars(builtins).values()
        if isinstance(kind, type)
        and issubclass(kind, Exception)
        and kind is not Exception
        and not issubclass(kind, (StopIteration, StopAsyncIteration))
        and not kind.__name__.endswith("ExceptionGroup")
    },
    key=lambda kind: kind.__name__,
)


def remote(type_name: str, message: str = "it broke", **data: Any) -> RPCError:
    return rpc_error(ErrorCode.FUNCTION_RAISED, message, {"type": type_name, **data})


def over_the_wire(exception: BaseException) -> RPCError:
    described = describe_exception(exception)
    return error_from_wire(
        {"code": described.code, "message": described.message, "data": described.data}
    )


# --- the tree -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "bases"),
    [
        (RPCError, [KnSockError]),
        (RemoteError, [RPCError]),
        (ParseError, [RPCError]),
        (InvalidRequest, [RPCError]),
        (MethodNotFound, [RPCError]),
        (InvalidParams, [RPCError]),
        (InternalError, [RPCError]),
        (CallTimeout, [KnSockError, TimeoutError]),
        (ConnectionLost, [KnSockError, ConnectionError]),
        (CallCancelled, [KnSockError]),
        (ConnectFailed, [KnSockError, OSError]),
        (ConnectRefused, [ConnectFailed, ConnectionRefusedError]),
    ],
)
def test_an_error_is_of_the_types_that_callers_catch(
    kind: type[Exception], bases: list[type[Exception]]
) -> None:
    for base in bases:
        assert issubclass(kind, base)
    assert kind.__name__ in errors.__all__


def test_an_error_from_the_peer_is_no_builtin_error() -> None:
    assert not issubclass(RPCError, (OSError, ValueError, LookupError))
    assert not issubclass(CallCancelled, OSError)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (-32700, ParseError),
        (-32600, InvalidRequest),
        (-32601, MethodNotFound),
        (-32602, InvalidParams),
        (-32603, InternalError),
        (-32000, RemoteError),
        (-32001, RPCError),
        (-32800, RPCError),
        (1, RPCError),
        (0, RPCError),
        (-(10**30), RPCError),
    ],
)
def test_a_code_has_its_class(code: int, kind: type[RPCError]) -> None:
    error = error_from_wire({"code": code, "message": "no", "data": [1]})
    assert type(error) is kind
    assert (error.code, error.message, error.data, str(error)) == (code, "no", [1], "no")


def test_a_standard_error_is_built_from_its_message() -> None:
    error = InvalidParams("add takes two numbers")
    assert (error.code, error.data) == (-32602, None)
    assert type(error.code) is int


# --- what a function raised -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [ValueError, ZeroDivisionError, KeyError, FileNotFoundError, UnicodeDecodeError, TimeoutError],
)
def test_a_remote_error_is_caught_as_the_builtin_that_was_raised(kind: type[Exception]) -> None:
    error = remote(kind.__name__)
    with pytest.raises(kind) as raised:
        raise error
    assert isinstance(raised.value, RemoteError)
    assert str(raised.value) == "it broke"


@pytest.mark.parametrize("kind", BUILTIN_ERRORS, ids=lambda kind: kind.__name__)
def test_every_builtin_error_can_be_rebuilt_and_shown(kind: type[Exception]) -> None:
    error = remote(kind.__name__, "")
    assert isinstance(error, kind)
    assert isinstance(error, RemoteError)
    assert str(error) == ""
    assert repr(error)
    try:
        raise error
    except kind as caught:
        safe_repr = "".join(traceback.format_exception(caught))
    assert f"Remote{kind.__name__}" in safe_repr


def test_a_type_that_derives_from_a_builtin_one_is_caught_as_that() -> None:
    class OutOfStock(LookupError):
        """An error of the application's own."""

    error = over_the_wire(OutOfStock("no pears"))
    assert isinstance(error, LookupError)
    assert isinstance(error, RemoteError)
    assert str(error) == "no pears"
    assert error.type_name is not None
    assert error.type_name.endswith("OutOfStock")


@pytest.mark.parametrize(
    "name",
    [
        "SystemExit",
        "KeyboardInterrupt",
        "GeneratorExit",
        "StopIteration",
        "StopAsyncIteration",
        "BaseException",
        "Exception",
        "ExceptionGroup",
        "BaseExceptionGroup",
        "eval",
        "object",
        "type",
        "print",
        "int",
        "None",
        "__import__",
        "__name__",
        "os.error",
        "kn_sock.errors.CallTimeout",
        "CallTimeout",
        "",
        "\ud800",
    ],
)
def test_no_other_name_is_looked_up(name: str) -> None:
    for data in ({"type": name}, {"type": "X", "builtin": name}):
        error = rpc_error(ErrorCode.FUNCTION_RAISED, "it broke", data)
        assert type(error) is RemoteError


@pytest.mark.parametrize(
    "data", [None, "ValueError", ["ValueError"], 5, {}, {"type": ["ValueError"]}, {"type": None}]
)
def test_data_of_any_shape_gives_a_remote_error(data: Any) -> None:
    error = rpc_error(ErrorCode.FUNCTION_RAISED, "it broke", data)
    assert type(error) is RemoteError
    assert error.data == data
    assert error.type_name is None
    assert error.remote_traceback is None


def test_only_the_code_of_a_raised_function_gives_a_builtin_error() -> None:
    assert type(rpc_error(-32603, "no", {"type": "ValueError"})) is InternalError
    assert type(rpc_error(5, "no", {"type": "ValueError"})) is RPCError


def test_an_error_of_the_applications_is_not_taken_for_the_builtin_of_its_name() -> None:
    kind = type("TimeoutError", (Exception,), {"__qualname__": "TimeoutError"})
    error = over_the_wire(kind("too slow"))
    assert not isinstance(error, TimeoutError)
    assert isinstance(error, RemoteError)
    assert error.type_name == "TimeoutError"


def test_the_same_type_gives_the_same_class() -> None:
    assert type(remote("ValueError")) is type(remote("ValueError"))
    assert type(remote("IOError")) is type(remote("OSError"))


def test_carries_the_remote_traceback_where_it_is_shared() -> None:
    error = remote("ValueError", traceback="line 1")
    assert isinstance(error, RemoteError)
    assert error.remote_traceback == "line 1"
    assert str(error) == "it broke"


@pytest.mark.parametrize(
    ("exception", "text"),
    [
        (ValueError("Division by zero is not allowed"), "Division by zero is not allowed"),
        (ZeroDivisionError(), "ZeroDivisionError"),
        (AssertionError(""), "AssertionError"),
        (KeyError("k"), "'k'"),
        (ValueError("a", 1), "('a', 1)"),
        (ValueError("\ud800"), "\ud800"),
        (FileNotFoundError(2, "No such file", "x"), "[Errno 2] No such file: 'x'"),
        (CallTimeout("no reply"), "no reply"),
    ],
    ids=repr,
)
def test_the_text_is_the_exceptions_and_nothing_else(exception: Exception, text: str) -> None:
    error = over_the_wire(exception)
    assert str(error) == text
    assert error.code == -32000
    builtin = next(kind for kind in type(exception).__mro__ if kind.__module__ == "builtins")
    assert isinstance(error, builtin)


def test_an_exception_whose_text_cannot_be_had_gives_its_type() -> None:
    class Silent(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert str(over_the_wire(Silent())) == "Silent"


def test_the_error_that_a_function_chose_passes_as_it_is() -> None:
    for chosen in (RPCError(7, "no", [1]), InvalidParams("no"), remote("ValueError")):
        assert describe_exception(chosen) is chosen


# --- what a peer puts into "error" ----------------------------------------------------------------


def test_a_string_is_what_the_function_raised() -> None:
    error = error_from_wire("it broke")
    assert type(error) is RemoteError
    assert (str(error), error.code, error.data) == ("it broke", -32000, None)


@pytest.mark.parametrize("value", [42, 1.5, True, ["a", 1], []])
def test_an_error_that_is_no_object_is_shown(value: Any) -> None:
    error = error_from_wire(value)
    assert repr(value) in str(error)
    assert error.data == value


@pytest.mark.parametrize("code", [None, "5", 1.0, True, [5]])
def test_a_code_that_is_no_integer_counts_as_raised(code: Any) -> None:
    error = error_from_wire({"code": code, "message": "it broke"})
    assert type(error) is RemoteError
    assert (error.code, str(error)) == (-32000, "it broke")


@pytest.mark.parametrize("message", [None, 5, ["it broke"]])
def test_an_error_object_without_a_text_is_shown(message: Any) -> None:
    error = error_from_wire({"code": 5, "message": message})
    assert error.code == 5
    assert "without a message" in str(error)
    assert repr(message) in str(error)


@pytest.mark.parametrize("error", [["x" * 100_000], {"code": 5, "message": ["x" * 100_000]}])
def test_a_strange_error_is_shown_at_a_length_that_can_be_read(error: Any) -> None:
    assert len(str(error_from_wire(error))) < 500


# --- what survives --------------------------------------------------------------------------------


class OwnError(RPCError):
    """What an application derives for itself."""

    def __init__(self) -> None:
        super().__init__(17, "own")


SAMPLES: list[KnSockError] = [
    KnSockError("text"),
    RPCError(5, "text", {"a": [1]}),
    RPCError(-32000, "text"),
    RPCError(-32601, "text"),
    OwnError(),
    ParseError("text"),
    InvalidRequest("text", [1]),
    MethodNotFound("text"),
    InvalidParams("text"),
    InternalError("text"),
    RemoteError("text"),
    RemoteError("text", {"type": "Own", "traceback": "line"}),
    RemoteError("text", {"type": "ValueError"}, code=5),
    remote("ValueError"),
    remote("KeyError", traceback="line"),
    remote("FileNotFoundError"),
    remote("UnicodeDecodeError"),
    remote("SystemExit"),
    CallTimeout("text"),
    CallTimeout("text", maybe_executed=False),
    ConnectionLost("text"),
    ConnectionLost("text", maybe_executed=False),
    CallCancelled("text"),
    ConnectFailed("text"),
    ConnectFailed("text", errno.EHOSTUNREACH),
    ConnectRefused("text"),
    ConnectRefused("text", errno.ENOENT),
    ConnectRefused("text", None),
]


def pickled(error: KnSockError) -> Any:
    return pickle.loads(pickle.dumps(error))


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("copied", [pickled, copy.copy, copy.deepcopy])
def test_an_error_survives_a_copy(error: KnSockError, copied: Callable[..., Any]) -> None:
    other = copied(error)
    assert type(other) is type(error)
    assert str(other) == str(error)
    assert other.args == error.args
    for name in ("code", "message", "data", "type_name", "remote_traceback", "maybe_executed"):
        assert getattr(other, name, None) == getattr(error, name, None)
    for name in ("errno", "strerror"):
        assert getattr(other, name, None) == getattr(error, name, None)


def test_a_copied_remote_error_is_still_caught_as_its_builtin() -> None:
    with pytest.raises(KeyError):
        raise pickled(remote("KeyError"))


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_the_text_of_an_error_is_its_message(error: KnSockError) -> None:
    assert str(error) == error.args[0]
    assert str(error) in ("text", "own", "it broke")


def test_a_failed_connection_has_the_number_and_text_of_the_system() -> None:
    error = ConnectFailed("no way to x", errno.EHOSTUNREACH)
    assert error.errno == errno.EHOSTUNREACH
    assert error.strerror
    assert str(error) == "no way to x"
    assert ConnectFailed("no such name").errno is None
    assert ConnectRefused("nobody there").errno == errno.ECONNREFUSED


def test_tells_whether_a_call_may_have_been_run() -> None:
    for kind in (CallTimeout, ConnectionLost):
        assert kind("text").maybe_executed
        assert not kind("text", maybe_executed=False).maybe_executed


def test_every_code_has_its_place_on_the_wire() -> None:
    assert {code.name: int(code) for code in ErrorCode} == {
        "PARSE_ERROR": -32700,
        "INVALID_REQUEST": -32600,
        "METHOD_NOT_FOUND": -32601,
        "INVALID_PARAMS": -32602,
        "INTERNAL_ERROR": -32603,
        "FUNCTION_RAISED": -32000,
        "DEADLINE_PASSED": -32001,
        "NOT_AUTHENTICATED": -32002,
        "REQUEST_TOO_LONG": -32007,
        "REPLY_TOO_LONG": -32008,
        "SERVER_BUSY": -32009,
        "BATCH_TOO_LARGE": -32010,
        "CANCELLED": -32800,
    }


def test_an_error_that_is_raised_in_two_threads_has_two_tracebacks() -> None:
    error = ConnectFailed("cannot connect to a:1: no answer", 110)
    error.__cause__ = ValueError("the cause")
    error.__notes__ = ["a note"]
    other = another(error)
    assert type(other) is ConnectFailed
    assert (str(other), other.errno, other.__cause__) == (str(error), 110, error.__cause__)
    with pytest.raises(ConnectFailed):
        raise error
    assert other.__traceback__ is None
    assert not hasattr(other, "__notes__")


# --- what except clauses look at ------------------------------------------------------------------


def at_the_caller(raised: BaseException, *, shares: bool = False) -> Any:
    """What a caller gets, over the wire."""
    error = describe_exception(raised)
    if shares:
        share_details(error, raised)
    data = json.loads(json.dumps(error.data))
    return errors.rpc_error(error.code, str(error), data)


def test_an_os_error_has_the_number_the_text_and_the_file() -> None:
    raised = FileNotFoundError(2, "No such file or directory", "/tmp/a")
    error = at_the_caller(raised)
    with pytest.raises(FileNotFoundError):
        raise error
    assert (error.errno, error.strerror, error.filename) == (
        *(errno.ENOENT, "No such file or directory"),
        "/tmp/a",
    )
    assert str(error) == str(raised)
    assert error.args == raised.args


@pytest.mark.parametrize(
    ("raised", "args"),
    [
        (KeyError("k"), ("k",)),
        (KeyError(7), (7,)),
        (ValueError("text", 1, None), ("text", 1, None)),
        (ValueError("text"), ("text",)),
        (ValueError(), ("ValueError",)),
        (OSError("no number"), ("no number",)),
        # What has no place in JSON, or is long, stays where it is.
        (ValueError("text", object()), None),
        (KeyError(float("inf")), None),
        (KeyError("x" * 2000), None),
    ],
)
def test_arguments_are_those_of_the_remote_exception(raised: Exception, args: Any) -> None:
    error = at_the_caller(raised)
    assert str(error) == (str(raised) or type(raised).__name__)
    assert error.args == ((str(raised),) if args is None else args)
    for copied in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (str(copied), copied.args) == (str(error), error.args)


def test_arguments_that_a_text_hides_are_not_sent() -> None:
    class Discreet(ValueError):
        def __str__(self) -> str:
            return "no"

    assert at_the_caller(Discreet("secret", 1)).args == ("no",)


def test_notes_and_causes_are_there_where_the_server_shares_them() -> None:
    raised = ValueError("outer")
    raised.__notes__ = ["a note"]
    raised.__cause__ = KeyError("inner")
    raised.__cause__.__cause__ = OSError(5, "innermost")
    error = at_the_caller(raised, shares=True)
    assert error.__notes__ == ["a note"]
    assert isinstance(error.__cause__, KeyError)
    assert error.__cause__.args == ("inner",)
    assert isinstance(error.__cause__.__cause__, OSError)
    assert error.__cause__.__cause__.errno == 5
    hidden = at_the_caller(raised)
    assert hidden.__cause__ is None
    assert not hasattr(hidden, "__notes__")


@pytest.mark.parametrize(
    "data",
    [
        {"type": "OSError", "args": 7, "filename": 7},
        {"type": "OSError", "args": [], "notes": 7, "cause": 7},
        {"type": "OSError", "args": ["a", 2], "notes": [7, "n"], "cause": {"message": 7}},
        {"type": "KeyError", "args": [[]], "cause": {"message": "m", "data": 7}},
    ],
)
def test_details_of_any_shape_give_an_error(data: Any) -> None:
    assert str(errors.rpc_error(-32000, "text", data)) == "text"


# --- whether trying again is safe -----------------------------------------------------------------


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_tells_whether_the_method_may_have_been_run(code: ErrorCode) -> None:
    run = {
        *(ErrorCode.INTERNAL_ERROR, ErrorCode.FUNCTION_RAISED, ErrorCode.CANCELLED),
        *(ErrorCode.DEADLINE_PASSED, ErrorCode.REPLY_TOO_LONG),
    }
    assert errors.rpc_error(code, "text").maybe_executed is (code in run)


def test_the_data_of_a_passed_deadline_says_whether_the_method_was_run() -> None:
    code = ErrorCode.DEADLINE_PASSED
    assert errors.rpc_error(code, "text", {"maybe_executed": False}).maybe_executed is False
    assert errors.rpc_error(code, "text", {"maybe_executed": True}).maybe_executed is True
    # Of any other code the data is the application's.
    assert errors.rpc_error(7, "text", {"maybe_executed": False}).maybe_executed is True


def test_every_error_tells_whether_the_method_may_have_been_run() -> None:
    kinds = [getattr(errors, name) for name in errors.__all__ if name != "ErrorCode"]
    for kind in kinds:
        error = kind(7, "text") if kind is RPCError else kind("text")
        assert isinstance(error.maybe_executed, bool)
