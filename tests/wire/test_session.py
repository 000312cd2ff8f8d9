from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from kn_sock._wire.dialects import DIALECTS
from kn_sock._wire.events import (
    Answered,
    Cancel,
    Failed,
    ProtocolViolation,
    Refusal,
    Request,
    Role,
    Stray,
    UnmatchedError,
)
from kn_sock._wire.framing import PREFIX_BYTES, OverlongLine
from kn_sock._wire.requests import RequestEncoder
from kn_sock._wire.session import Session
from kn_sock.errors import (
    ErrorCode,
    InternalError,
    InvalidParams,
    MethodNotFound,
    RemoteError,
    RPCError,
)

HOSTILE_LINES = sorted((Path(__file__).parents[1] / "data" / "hostile").iterdir())
LIMIT = 1024
CODES = {int(code) for code in ErrorCode}

pure = settings(derandomize=True, deadline=None)


# --- a server of six methods, without any I/O -----------------------------------------------------


def subtract(minuend: int, subtrahend: int) -> int:
    return minuend - subtrahend


def total(*numbers: int) -> int:
    return sum(numbers)


def ignore(*_: object) -> None:
    return None


METHODS: dict[str, Callable[..., Any]] = {
    "subtract": subtract,
    "sum": total,
    "update": ignore,
    "notify_hello": ignore,
    "notify_sum": ignore,
    "get_data": lambda: ["hello", 5],
    "echo": lambda value: value,
    "factorial": math.factorial,
}


def dispatched(session: Session[Any], request: Request) -> bytes | None:
    method = METHODS.get(request.method)
    if method is None:
        return session.refuse(request, MethodNotFound(f"{request.method} is not there"))
    params = request.params or []
    named = params if isinstance(params, dict) else {}
    args = params if isinstance(params, list) else []
    try:
        return session.answer(request, method(*args, **named, **(request.kwargs or {})))
    except InternalError as error:
        return session.refuse(request, error)
    except TypeError as error:
        return session.refuse(request, InvalidParams(str(error)))


def events_of(received: Any) -> list[Any]:
    if received is None:
        return []
    return received if isinstance(received, list) else [received]


def served(line: bytes, session: Session[Any] | None = None) -> bytes:
    """Give all the bytes that a server writes for a line."""
    if session is None:
        session = Session()
    written = []
    for event in events_of(session.receive(line)):
        if isinstance(event, Refusal):
            written.append(event.line)
        elif isinstance(event, Request):
            written.append(dispatched(session, event) or b"")
    return b"".join(written)


def reply(line: bytes, session: Session[Any] | None = None) -> Any:
    written = served(line, session)
    if not written:
        return None
    assert written.endswith(b"\n")
    assert written.count(b"\n") == 1
    return json.loads(written)


def without_text(message: Any) -> Any:
    """Take out what the specification leaves open: the sentence in an error."""
    if isinstance(message, list):
        return [without_text(one) for one in message]
    if isinstance(message, dict) and isinstance(message.get("error"), dict):
        assert message["error"]["message"]
        return {**message, "error": message["error"]["code"]}
    return message


def success(request_id: Any, result: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "result": result}


def failure(request_id: Any, code: int) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "error": code}


def one_request(session: Session[Any], line: bytes) -> Request:
    event = session.receive(line)
    assert isinstance(event, Request)
    return event


# --- JSON-RPC 2.0, section 7 ----------------------------------------------------------------------

SECTION_7: list[tuple[str, bytes, Any]] = [
    (
        "positional",
        b'{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}',
        success(1, 19),
    ),
    (
        "positional swapped",
        b'{"jsonrpc": "2.0", "method": "subtract", "params": [23, 42], "id": 2}',
        success(2, -19),
    ),
    (
        "named",
        b'{"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42},'
        b' "id": 3}',
        success(3, 19),
    ),
    (
        "named swapped",
        b'{"jsonrpc": "2.0", "method": "subtract", "params": {"minuend": 42, "subtrahend": 23},'
        b' "id": 4}',
        success(4, 19),
    ),
    ("notification", b'{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}', None),
    ("notification of nothing", b'{"jsonrpc": "2.0", "method": "foobar"}', None),
    (
        "no such method",
        b'{"jsonrpc": "2.0", "method": "foobar", "id": "1"}',
        failure("1", -32601),
    ),
    (
        "invalid JSON",
        b'{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]',
        failure(None, -32700),
    ),
    (
        "invalid request",
        b'{"jsonrpc": "2.0", "method": 1, "params": "bar"}',
        failure(None, -32600),
    ),
    (
        "batch of invalid JSON",
        b'[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},'
        b' {"jsonrpc": "2.0", "method"]',
        failure(None, -32700),
    ),
    ("empty batch", b"[]", failure(None, -32600)),
    ("batch of one invalid", b"[1]", [failure(None, -32600)]),
    ("batch of three invalid", b"[1,2,3]", [failure(None, -32600)] * 3),
    (
        "batch",
        b'[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},'
        b' {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},'
        b' {"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},'
        b' {"foo": "boo"},'
        b' {"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},'
        b' {"jsonrpc": "2.0", "method": "get_data", "id": "9"}]',
        [
            success("1", 7),
            success("2", 19),
            failure(None, -32600),
            failure("5", -32601),
            success("9", ["hello", 5]),
        ],
    ),
    (
        "batch of notifications",
        b'[{"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]},'
        b' {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}]',
        None,
    ),
]


def in_any_order(message: Any) -> Any:
    return sorted(message, key=repr) if isinstance(message, list) else message


@pytest.mark.parametrize(
    ("line", "wanted"), [one[1:] for one in SECTION_7], ids=[one[0] for one in SECTION_7]
)
def test_answers_the_examples_of_the_specification(line: bytes, wanted: Any) -> None:
    assert in_any_order(without_text(reply(line))) == in_any_order(wanted)


# --- ids ------------------------------------------------------------------------------------------

IDS = [
    b"0",
    b"-1",
    b'""',
    b"0.5",
    b"1.50",
    b"1.0",
    b"1e2",
    b"-0.0",
    b"0.1000000000000000055",
    b"18446744073709551616",
    b"-9223372036854775809",
    b"9" * 4000,
    b"null",
    b'"x"',
    b'"1"',
    b'"\xc3\xa9\xe2\x82\xac"',
]


@pytest.mark.parametrize("request_id", IDS)
def test_echoes_an_id_exactly(request_id: bytes) -> None:
    line = b'{"jsonrpc":"2.0","method":"echo","params":[1],"id":%b}' % request_id
    assert served(line) == b'{"jsonrpc":"2.0","id":%b,"result":1}\n' % request_id


@pytest.mark.parametrize("request_id", IDS)
def test_echoes_the_id_of_a_bad_request_exactly(request_id: bytes) -> None:
    line = b'{"jsonrpc":"2.0","method":5,"id":%b}' % request_id
    assert served(line).startswith(b'{"jsonrpc":"2.0","id":%b,"error":' % request_id)


@pytest.mark.parametrize("request_id", [b"1.50", b"1e2", b"0.1000000000000000055"])
@pytest.mark.parametrize("value", [b'"\\ud800"', b"[18446744073709551616,null]"])
def test_echoes_a_fractional_id_exactly_whatever_the_result(
    request_id: bytes, value: bytes
) -> None:
    line = b'{"jsonrpc":"2.0","method":"echo","params":[%b],"id":%b}' % (value, request_id)
    assert served(line).startswith(b'{"jsonrpc":"2.0","id":%b,"result":' % request_id)


def test_echoes_a_fractional_id_exactly_in_a_batch_with_a_lone_surrogate() -> None:
    line = b'[{"jsonrpc":"2.0","method":"echo","params":["\\ud800"],"id":1.50}]'
    assert served(line).startswith(b'[{"jsonrpc":"2.0","id":1.50,"result":')


@pytest.mark.parametrize("text", ['a"b\\c/\n\t', "\x00\x1f", "é€😀", "</script>"])
def test_echoes_an_id_with_escapes_as_the_same_text(text: str) -> None:
    request = {"jsonrpc": "2.0", "method": "echo", "params": [1], "id": text}
    assert reply(json.dumps(request).encode()) == success(text, 1)
    assert reply(json.dumps(request, ensure_ascii=False).encode()) == success(text, 1)


@pytest.mark.parametrize("request_id", [b"true", b"false", b"[]", b"[1]", b"{}", b'"\\ud800"'])
def test_refuses_an_id_of_any_other_type(request_id: bytes) -> None:
    line = b'{"jsonrpc":"2.0","method":"echo","params":[1],"id":%b}' % request_id
    assert without_text(reply(line)) == failure(None, -32600)


def test_answers_both_of_two_requests_with_one_id() -> None:
    session: Session[Any] = Session()
    line = b'{"jsonrpc":"2.0","method":"echo","params":[%b],"id":1}'
    first, second = (one_request(session, line % value) for value in (b"1", b"2"))
    assert dispatched(session, second) == b'{"jsonrpc":"2.0","id":1,"result":2}\n'
    assert dispatched(session, first) == b'{"jsonrpc":"2.0","id":1,"result":1}\n'


# --- requests -------------------------------------------------------------------------------------


def test_takes_null_params_for_none() -> None:
    assert reply(b'{"jsonrpc":"2.0","method":"get_data","params":null,"id":1}') == success(
        1, ["hello", 5]
    )


def test_takes_kwargs_beside_params() -> None:
    line = b'{"jsonrpc":"2.0","method":"subtract","params":[9],"kwargs":{"subtrahend":2},"id":1}'
    assert reply(line) == success(1, 7)


def test_a_null_id_is_a_request_in_2_0_and_a_notification_in_1_0() -> None:
    assert reply(b'{"jsonrpc":"2.0","method":"echo","params":[1],"id":null}') == success(None, 1)
    assert reply(b'{"method":"echo","params":[1],"id":null}') is None


def test_never_answers_a_notification_that_fails() -> None:
    assert served(b'{"jsonrpc":"2.0","method":"echo","params":[]}') == b""
    assert served(b'[{"jsonrpc":"2.0","method":"nothing_of_the_kind"}]') == b""


def test_ignores_members_that_it_does_not_know() -> None:
    line = b'{"jsonrpc":"2.0","method":"echo","params":[1],"id":1,"trace":{"a":[null]}}'
    assert reply(line) == success(1, 1)


@pytest.mark.parametrize("jsonrpc", [b"2.0", b"null", b'"1.0"', b'"2"', b'["2.0"]', b"{}"])
def test_refuses_another_version(jsonrpc: bytes) -> None:
    line = b'{"jsonrpc":%b,"method":"echo","params":[1],"id":7}' % jsonrpc
    assert without_text(reply(line)) == failure(7, -32600)


def test_a_cancellation_names_its_call() -> None:
    line = b'{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":"x"}}'
    assert Session[Any]().receive(line) == Cancel("x")
    assert Session[Any]().receive(b"[%b]" % line) == [Cancel("x")]


def test_a_cancellation_that_wants_a_reply_is_a_request() -> None:
    line = b'{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":"x"},"id":1}'
    assert isinstance(Session[Any]().receive(line), Request)


def test_echoes_big_integers_exactly() -> None:
    line = b'{"jsonrpc":"2.0","method":"factorial","params":[100],"id":1}'
    assert reply(line) == success(1, math.factorial(100))
    value = -(2**200)
    line = b'{"jsonrpc":"2.0","method":"echo","params":[%d],"id":1}' % value
    assert reply(line) == success(1, value)


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\udc00\ud800"])
def test_echoes_lone_surrogates(text: str) -> None:
    line = json.dumps({"jsonrpc": "2.0", "method": "echo", "params": [text], "id": 1}).encode()
    assert reply(line) == success(1, text)


def test_takes_a_method_name_with_a_lone_surrogate() -> None:
    line = b'{"jsonrpc":"2.0","method":"\\ud800","id":1}'
    assert without_text(reply(line)) == failure(1, -32601)


@pytest.mark.parametrize("value", [math.nan, math.inf, [-math.inf], {"a": [math.nan, None]}])
def test_a_result_that_json_cannot_hold_is_an_error(value: object) -> None:
    session: Session[Any] = Session()
    request = one_request(session, b'{"jsonrpc":"2.0","method":"f","id":1}')
    with pytest.raises(InternalError):
        session.answer(request, value)
    refused = session.refuse(request, InternalError("no"))
    assert refused is not None
    assert without_text(json.loads(refused)) == failure(1, -32603)


def test_a_result_of_5000_digits_is_an_error() -> None:
    session: Session[Any] = Session()
    request = one_request(session, b'{"jsonrpc":"2.0","method":"f","id":1}')
    with pytest.raises(InternalError, match="4300"):
        session.answer(request, 10**5000)


def test_a_result_that_holds_itself_is_an_error() -> None:
    session: Session[Any] = Session()
    request = one_request(session, b'{"jsonrpc":"2.0","method":"f","id":1}')
    value: list[Any] = []
    value.append(value)
    with pytest.raises(InternalError, match=r"refers to itself|[Cc]ircular"):
        session.answer(request, value)


def test_a_request_of_5000_digits_is_refused() -> None:
    line = b'{"jsonrpc":"2.0","method":"echo","params":[%b],"id":1}' % (b"9" * 5000)
    assert reply(line)["error"]["code"] == -32700


# --- the older dialects ---------------------------------------------------------------------------


def test_answers_a_1_0_request_with_all_three_members() -> None:
    line = b'{"method":"echo","params":[1],"id":0}'
    assert served(line) == b'{"id":0,"result":1,"error":null}\n'


def test_answers_a_failed_1_0_request_with_a_string() -> None:
    answer = reply(b'{"method":"nothing","params":[],"id":"a"}')
    assert answer == {"id": "a", "result": None, "error": "nothing is not there"}


def test_answers_a_0_3_request_with_one_member() -> None:
    line = b'{"method":"subtract","params":[5],"kwargs":{"subtrahend":3}}'
    assert served(line) == b'{"result":2}\n'
    assert served(b'{"method":"echo","params":[null],"kwargs":{}}') == b'{"result":null}\n'
    assert served(b'{"method":"nothing","params":[],"kwargs":{}}') == (
        b'{"error":"nothing is not there"}\n'
    )


@pytest.mark.parametrize(
    ("line", "members"),
    [
        (b'{"method":5,"params":[],"kwargs":{}}', {"error"}),
        (b'{"method":"f","params":"x","kwargs":{}}', {"error"}),
        (b'{"method":"f","params":[],"kwargs":[]}', {"error"}),
        (b'{"id":3,"method":5,"params":[]}', {"id", "result", "error"}),
        (b'{"id":3,"method":"f","params":"x"}', {"id", "result", "error"}),
    ],
)
def test_refuses_a_bad_request_in_its_own_dialect(line: bytes, members: set[str]) -> None:
    answer = reply(line)
    assert set(answer) == members
    assert isinstance(answer["error"], str)
    assert answer.get("id", 3) == 3


def test_refuses_the_older_dialects_in_a_batch() -> None:
    answer = reply(b'[{"method":"f","params":[],"kwargs":{}},{"method":"f","params":[],"id":3}]')
    assert without_text(answer) == [failure(None, -32600), failure(3, -32600)]


# --- replies to calls of ours ---------------------------------------------------------------------


@pytest.fixture
def session() -> Session[str]:
    session: Session[str] = Session()
    for name in ("one", "two"):
        request_id, _ = session.encoder.encode_call(name, (), {})
        session.register(request_id, name)
    return session


@pytest.fixture
def plain_session() -> Session[str]:
    session: Session[str] = Session(RequestEncoder(DIALECTS["kn-sock"]))
    for name in ("one", "two"):
        request_id, _ = session.encoder.encode_call(name, (), {})
        session.register(request_id, name)
    return session


def test_a_reply_answers_its_call(session: Session[str]) -> None:
    assert session.receive(b'{"jsonrpc":"2.0","id":2,"result":[5]}') == Answered("two", [5])
    assert session.pending == {1: "one"}


def test_replies_may_come_in_any_order(session: Session[str]) -> None:
    assert session.receive(b'{"jsonrpc":"2.0","id":2,"result":2}') == Answered("two", 2)
    assert session.receive(b'{"jsonrpc":"2.0","id":1,"result":1}') == Answered("one", 1)


@pytest.mark.parametrize("reply_id", [b"true", b"1.0", b'"1"', b"1e0", b"[1]", b'{"id":1}'])
@pytest.mark.parametrize("outcome", [b'"result":5', b'"error":{"code":1,"message":"x"}'])
def test_only_the_very_id_answers_a_call(
    session: Session[str], reply_id: bytes, outcome: bytes
) -> None:
    event = session.receive(b'{"jsonrpc":"2.0","id":%b,%b}' % (reply_id, outcome))
    assert isinstance(event, (ProtocolViolation, UnmatchedError, Refusal))
    assert session.pending == {1: "one", 2: "two"}


def test_ignores_a_late_reply(session: Session[str]) -> None:
    session.discard(1, was_sent=True)
    assert session.receive(b'{"jsonrpc":"2.0","id":1,"result":5}') is None
    assert session.receive(b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}}') is None


def test_ignores_a_second_reply(session: Session[str]) -> None:
    line = b'{"jsonrpc":"2.0","id":1,"result":5}'
    assert session.receive(line) == Answered("one", 5)
    assert session.receive(line) is None


def test_a_late_reply_in_a_batch_leaves_the_others(session: Session[str]) -> None:
    session.discard(1, was_sent=True)
    line = b'[{"jsonrpc":"2.0","id":1,"result":1},{"jsonrpc":"2.0","id":2,"result":2}]'
    assert session.receive(line) == [Answered("two", 2)]


@pytest.mark.parametrize("reply_id", [b"0", b"3", b"-1", b"99999999999999999999"])
def test_a_reply_to_a_call_never_made_is_a_violation(
    session: Session[str], reply_id: bytes
) -> None:
    line = b'{"jsonrpc":"2.0","id":%b,"result":5}' % reply_id
    assert isinstance(session.receive(line), ProtocolViolation)


def test_a_reply_before_any_call_is_a_violation() -> None:
    assert isinstance(
        Session[Any]().receive(b'{"jsonrpc":"2.0","id":1,"result":5}'), ProtocolViolation
    )


def test_a_reply_without_id_is_a_violation(session: Session[str]) -> None:
    event = session.receive(b'{"result":5}')
    assert isinstance(event, ProtocolViolation)
    assert 'dialect="kn-sock"' in event.reason


def test_an_error_reply_fails_its_call(session: Session[str]) -> None:
    line = b'{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no","data":[7]}}'
    event = session.receive(line)
    assert isinstance(event, Failed)
    assert event.pending == "one"
    assert isinstance(event.error, MethodNotFound)
    assert (event.error.code, str(event.error), event.error.data) == (-32601, "no", [7])


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (b'"it broke"', "it broke"),
        (b'{"code":5,"message":"it broke"}', "it broke"),
        (b"42", "42"),
        (b'["it","broke"]', "broke"),
        (b"false", "False"),
        (b'{"reason":"it broke"}', "it broke"),
        (b'{"code":"x","message":["it broke"]}', "it broke"),
        (b'""', ""),
    ],
)
def test_takes_an_error_of_any_shape(session: Session[str], error: bytes, text: str) -> None:
    event = session.receive(b'{"jsonrpc":"2.0","id":1,"error":%b}' % error)
    assert isinstance(event, Failed)
    assert event.pending == "one"
    assert text in str(event.error)


def test_takes_the_pairs_of_1_0(session: Session[str]) -> None:
    assert session.receive(b'{"id":1,"result":5,"error":null}') == Answered("one", 5)
    event = session.receive(b'{"id":2,"result":null,"error":"it broke"}')
    assert isinstance(event, Failed)
    assert str(event.error) == "it broke"


def test_an_error_outweighs_a_result(session: Session[str]) -> None:
    event = session.receive(b'{"id":1,"result":5,"error":"it broke"}')
    assert isinstance(event, Failed)


def test_a_null_result_is_a_result(session: Session[str]) -> None:
    assert session.receive(b'{"jsonrpc":"2.0","id":1,"result":null}') == Answered("one", None)
    assert session.receive(b'{"id":2,"result":null,"error":null}') == Answered("two", None)


@pytest.mark.parametrize("rest", [b"", b',"error":null'])
def test_a_reply_with_neither_result_nor_error_fails_its_call(
    session: Session[str], rest: bytes
) -> None:
    event = session.receive(b'{"jsonrpc":"2.0","id":1%b}' % rest)
    assert isinstance(event, Failed)
    assert event.pending == "one"
    assert session.pending == {2: "two"}


@pytest.mark.parametrize(
    "result",
    [
        {"error": "x"},
        {"jsonrpc": "2.0", "id": 2, "result": 5},
        {"id": 2, "result": None, "error": {"code": 1, "message": "x"}},
        {"method": "f", "params": []},
        [{"jsonrpc": "2.0", "id": 2, "result": 5}],
    ],
)
def test_a_result_that_looks_like_a_message_passes_untouched(
    session: Session[str], result: Any
) -> None:
    line = json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}).encode()
    assert session.receive(line) == Answered("one", result)
    assert session.pending == {2: "two"}


def test_an_error_without_id_is_a_complaint(session: Session[str]) -> None:
    line = b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"what?"}}'
    event = session.receive(line)
    assert isinstance(event, UnmatchedError)
    assert event.error.code == -32700
    assert len(session.pending) == 2


def test_replies_may_come_as_a_batch(session: Session[str]) -> None:
    line = b'[{"jsonrpc":"2.0","id":2,"result":2},{"jsonrpc":"2.0","id":1,"error":"x"}]'
    first, second = events_of(session.receive(line))
    assert first == Answered("two", 2)
    assert isinstance(second, Failed)


def test_takes_a_batch_of_replies_as_large_as_what_it_asked() -> None:
    session: Session[int] = Session(max_batch=2)
    for _ in range(5):
        request_id, _line = session.encoder.encode_call("f", (), {})
        session.register(request_id, request_id)
    line = json.dumps([success(number, number) for number in range(1, 6)]).encode()
    assert session.receive(line) == [Answered(number, number) for number in range(1, 6)]


def test_takes_big_integers_and_lone_surrogates_in_a_reply(session: Session[str]) -> None:
    big = math.factorial(100)
    assert session.receive(b'{"jsonrpc":"2.0","id":1,"result":%d}' % big) == Answered("one", big)
    line = b'{"jsonrpc":"2.0","id":2,"result":"\\ud800"}'
    assert session.receive(line) == Answered("two", "\ud800")


@pytest.mark.parametrize(
    "result",
    [b"9" * 5000, b"[" * 100_000 + b"]" * 100_000, b"NaN", b'"\xff"', b"1e999"],
    ids=["huge integer", "deep", "NaN", "bad UTF-8", "beyond double"],
)
def test_a_reply_that_cannot_be_read_leaves_no_call_waiting_for_ever(
    session: Session[str], result: bytes
) -> None:
    event = session.receive(b'{"jsonrpc":"2.0","id":1,"result":%b}' % result)
    assert isinstance(event, (Failed, ProtocolViolation))
    if isinstance(event, Failed):
        assert event.pending == "one"


def test_gives_all_pending_calls_in_order_when_the_connection_is_lost(
    session: Session[str],
) -> None:
    assert session.take_all_pending() == ["one", "two"]
    assert session.take_all_pending() == []
    assert session.receive(b'{"jsonrpc":"2.0","id":1,"result":5}') is None


def test_ids_taken_out_of_order_are_all_known() -> None:
    session: Session[str] = Session()
    (first, _), (second, _) = (
        session.encoder.encode_call("a", (), {}),
        session.encoder.encode_call("b", (), {}),
    )
    session.register(second, "b")
    session.register(first, "a")
    session.discard(first, was_sent=True)
    assert session.receive(b'{"jsonrpc":"2.0","id":%d,"result":1}' % first) is None
    assert session.receive(b'{"jsonrpc":"2.0","id":%d,"result":2}' % second) == Answered("b", 2)


def test_ids_go_on_over_connections_that_share_them() -> None:
    ids = iter(range(5, 100))
    writer = RequestEncoder(ids=ids)
    new: Session[str] = Session(writer)
    old_id, _ = writer.encode_call("f", (), {})
    new_id, _ = writer.encode_call("f", (), {})
    new.register(new_id, "new")
    assert (old_id, new_id) == (5, 6)
    assert isinstance(new.receive(b'{"jsonrpc":"2.0","id":5,"result":1}'), ProtocolViolation)
    assert new.pending == {6: "new"}


# --- replies of kn-sock 0.3 -----------------------------------------------------------------------


def test_replies_of_0_3_answer_in_order(plain_session: Session[str]) -> None:
    assert plain_session.receive(b'{"result": 1}') == Answered("one", 1)
    event = plain_session.receive(b'{"error": "it broke"}')
    assert isinstance(event, Failed)
    assert event.pending == "two"
    assert isinstance(event.error, RemoteError)
    assert str(event.error) == "it broke"


def test_the_late_reply_of_0_3_is_not_taken_for_the_next(plain_session: Session[str]) -> None:
    plain_session.discard(1, was_sent=True)
    assert plain_session.receive(b'{"result": 1}') is None
    assert plain_session.receive(b'{"result": 2}') == Answered("two", 2)


def test_a_0_3_call_that_was_never_sent_has_no_reply(plain_session: Session[str]) -> None:
    plain_session.discard(1, was_sent=False)
    assert plain_session.receive(b'{"result": 2}') == Answered("two", 2)


def test_a_reply_of_0_3_too_many_is_a_violation(plain_session: Session[str]) -> None:
    plain_session.receive(b'{"result": 1}')
    plain_session.receive(b'{"result": 2}')
    assert isinstance(plain_session.receive(b'{"result": 3}'), ProtocolViolation)


@pytest.mark.parametrize(
    "line",
    [
        b'{"result": NaN}',
        b'{"result": %b}' % (b"9" * 5000),
        b'{"result": %b}' % (b"[" * 100_000 + b"]" * 100_000),
        b'{"result": "\xff"}',
        b"{}",
        b"null",
        b"[]",
        b"what?",
        b'{"jsonrpc":"2.0","id":null,"error":{"code":-32007,"message":"too long"}}',
        b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"what?"}}',
    ],
    ids=[
        "NaN",
        "huge integer",
        "deep",
        "bad UTF-8",
        "no members",
        "null",
        "empty array",
        "no JSON",
        "refused as too long",
        "refused as no JSON",
    ],
)
def test_a_strange_reply_of_0_3_is_not_passed_over(
    plain_session: Session[str], line: bytes
) -> None:
    # Each line from such a peer answers one call: to pass over one would give every later call the
    # reply of the call before it, and to answer it would have the peer send one more.
    event = plain_session.receive(line)
    assert isinstance(event, (Failed, ProtocolViolation))
    if isinstance(event, Failed):
        assert event.pending == "one"
        assert plain_session.receive(b'{"result": 2}') == Answered("two", 2)


# --- calls out ------------------------------------------------------------------------------------


def test_writes_calls_with_increasing_ids() -> None:
    session: Session[Any] = Session()
    assert session.encoder.encode_call("f", (1,), {}) == (
        1,
        b'{"jsonrpc":"2.0","id":1,"method":"f","params":[1]}\n',
    )
    assert session.encoder.encode_call("f", (), {}) == (
        2,
        b'{"jsonrpc":"2.0","id":2,"method":"f"}\n',
    )


def test_writes_notifications_without_an_id() -> None:
    assert Session[Any]().encoder.encode_notification("f", (1,), {}) == (
        b'{"jsonrpc":"2.0","method":"f","params":[1]}\n'
    )
    assert Session[Any](RequestEncoder(DIALECTS["1.0"])).encoder.encode_notification(
        "f", (1,), {}
    ) == (b'{"id":null,"method":"f","params":[1]}\n')
    with pytest.raises(TypeError, match="no notifications"):
        Session[Any](RequestEncoder(DIALECTS["kn-sock"])).encoder.encode_notification("f", (1,), {})


def test_writes_a_cancellation_only_where_the_peer_knows_it() -> None:
    assert Session[Any]().encoder.encode_cancel(7) == (
        b'{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":7}}\n'
    )
    assert Session[Any](RequestEncoder(DIALECTS["1.0"])).encoder.encode_cancel(7) is None
    assert Session[Any](RequestEncoder(DIALECTS["kn-sock"])).encoder.encode_cancel(7) is None


def test_writes_a_batch_as_one_line() -> None:
    session: Session[Any] = Session()
    _, call = session.encoder.encode_call("echo", ("\n",), {})
    line = session.encoder.encode_batch(
        [call, session.encoder.encode_notification("update", (), {})]
    )
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert reply(line) == [success(1, "\n")]


@pytest.mark.parametrize("dialect", ["1.0", "kn-sock"])
def test_writes_no_batch_in_the_older_dialects(dialect: str) -> None:
    with pytest.raises(TypeError, match="no batches"):
        RequestEncoder(DIALECTS[dialect]).encode_batch([])


# --- batches --------------------------------------------------------------------------------------


def member(request_id: int, method: str = "echo", *params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}


def test_a_batch_is_answered_when_its_last_member_is() -> None:
    session: Session[Any] = Session()
    line = json.dumps([member(1), member(2), member(3)]).encode()
    first, second, third = events_of(session.receive(line))
    assert session.answer(third, "c") is None
    assert session.refuse(first, RPCError(-32800, "cancelled")) is None
    written = session.answer(second, "b")
    assert written is not None
    assert without_text(json.loads(written)) == [
        success(3, "c"),
        failure(1, -32800),
        success(2, "b"),
    ]


def test_a_bad_member_does_not_lose_the_good_ones() -> None:
    line = json.dumps([member(1, "echo", "x"), 5, member(2, "echo", "y")]).encode()
    answer = without_text(reply(line))
    assert in_any_order(answer) == in_any_order(
        [success(1, "x"), failure(None, -32600), success(2, "y")]
    )


def test_a_batch_in_a_batch_is_one_bad_member() -> None:
    line = json.dumps([[member(1)], member(2, "echo", 5)]).encode()
    assert in_any_order(without_text(reply(line))) == in_any_order(
        [failure(None, -32600), success(2, 5)]
    )


def test_a_result_without_json_form_does_not_hold_up_its_batch() -> None:
    session: Session[Any] = Session()
    first, second = events_of(session.receive(json.dumps([member(1), member(2)]).encode()))
    with pytest.raises(InternalError):
        session.answer(first, math.nan)
    assert session.refuse(first, InternalError("no")) is None
    assert session.answer(second, 2) is not None


def test_a_batch_of_the_limit_is_taken_and_a_larger_one_refused() -> None:
    session: Session[Any] = Session(max_batch=3)
    assert len(reply(json.dumps([member(1, "echo", 1)] * 3).encode(), session)) == 3
    answer = reply(json.dumps([member(1, "echo", 1)] * 4).encode(), session)
    assert without_text(answer) == failure(None, -32010)


def test_the_replies_of_a_batch_stay_within_the_longest_line() -> None:
    session: Session[Any] = Session(max_line_bytes=LIMIT)
    line = json.dumps([member(1, "echo", "x" * 700), member(2, "echo", "y" * 700)]).encode()
    written = served(line, session)
    assert len(written) <= LIMIT
    assert without_text(json.loads(written)) == [success(1, "x" * 700), failure(2, -32008)]


@pytest.mark.parametrize(
    "batch",
    [
        [1] * 400,
        [member(1, "no")] * 18,
        [member(1, "echo", "x" * 600), *[1] * 10],
    ],
    ids=["bad members", "unknown methods", "one long and many bad"],
)
def test_a_batch_of_errors_stays_within_the_longest_line(batch: list[Any]) -> None:
    written = served(
        json.dumps(batch, separators=(",", ":")).encode(), Session(max_line_bytes=LIMIT)
    )
    assert len(written) <= LIMIT
    assert json.loads(written)


def test_a_batch_of_very_many_members_is_refused_in_one_go() -> None:
    for first in (b"1", b'"\\ud800"'):
        line = b"[" + first + b",1" * 500_000 + b"]"
        event = Session[Any]().receive(line)
        assert isinstance(event, Refusal)
        assert without_text(json.loads(event.line)) == failure(None, -32010)


# --- lines that are too long ----------------------------------------------------------------------


def overlong(start: bytes) -> OverlongLine:
    return OverlongLine(start + b"x" * (PREFIX_BYTES + 1))


def test_a_reply_of_just_the_longest_line_is_sent() -> None:
    session: Session[Any] = Session(max_line_bytes=LIMIT)
    room = LIMIT - len(b'{"jsonrpc":"2.0","id":1,"result":""}\n')
    request = one_request(session, b'{"jsonrpc":"2.0","id":1,"method":"f"}')
    assert session.answer(request, "x" * room) == (
        b'{"jsonrpc":"2.0","id":1,"result":"%b"}\n' % (b"x" * room)
    )


@pytest.mark.parametrize(
    ("line", "members"),
    [
        (b'{"jsonrpc":"2.0","id":1,"method":"f"}', {"jsonrpc", "id", "error"}),
        (b'{"id":1,"method":"f","params":[]}', {"id", "result", "error"}),
        (b'{"method":"f","params":[],"kwargs":{}}', {"error"}),
    ],
)
def test_a_reply_that_is_too_long_is_an_error_in_its_dialect(
    line: bytes, members: set[str]
) -> None:
    session: Session[Any] = Session(max_line_bytes=LIMIT)
    written = session.answer(one_request(session, line), "x" * LIMIT)
    assert written is not None
    assert len(written) <= LIMIT
    answer = json.loads(written)
    assert set(answer) == members
    assert answer.get("id", 1) == 1
    assert "max_line_bytes (1,024)" in str(answer["error"])


def test_an_error_that_is_too_long_is_cut_down() -> None:
    session: Session[Any] = Session(max_line_bytes=LIMIT)
    request = one_request(session, b'{"jsonrpc":"2.0","id":1,"method":"f"}')
    written = session.refuse(request, RemoteError("x" * 5000))
    assert written is not None
    assert len(written) <= LIMIT
    assert json.loads(written)["error"]["code"] == -32008


def test_a_reply_with_a_long_id_stays_within_the_longest_line() -> None:
    session: Session[Any] = Session(max_line_bytes=LIMIT)
    line = b'{"jsonrpc":"2.0","method":"f","id":"%b"}' % (b"i" * 980)
    written = session.answer(one_request(session, line), "x" * LIMIT)
    assert written is not None
    assert len(written) <= LIMIT


def test_a_request_that_is_too_long_is_answered_with_its_id() -> None:
    for request_id in (b"7", b'"seven"', b"0", b"-7"):
        start = b'{"jsonrpc":"2.0","id":%b,"method":"echo","params":["' % request_id
        event = Session[Any]().receive_overlong(overlong(start))
        assert isinstance(event, Refusal)
        assert without_text(json.loads(event.line)) == failure(json.loads(request_id), -32007)


def test_a_long_1_0_request_is_answered_in_its_dialect() -> None:
    _, line = Session[Any](RequestEncoder(DIALECTS["1.0"])).encoder.encode_call(
        "echo", ("x" * 600,), {}
    )
    event = Session[Any]().receive_overlong(OverlongLine(line))
    assert isinstance(event, Refusal)
    answer = json.loads(event.line)
    assert answer["id"] == 1
    assert isinstance(answer["error"], str)


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b'{"method":"echo","params":["',
        b'{"jsonrpc":"2.0","method":"echo","params":["',
        b'{"jsonrpc":"2.0","id":01,"method":"',
        b'{"jsonrpc":"2.0","id":"\xff","method":"',
        b'[{"jsonrpc":"2.0","id":7,"method":"echo","params":["',
        b"GET / HTTP/1.1 ",
    ],
)
def test_a_line_too_long_to_know_its_id_is_answered_with_null(start: bytes) -> None:
    event = Session[Any]().receive_overlong(overlong(start))
    assert isinstance(event, Refusal)
    assert without_text(json.loads(event.line)) == failure(None, -32007)


@pytest.mark.parametrize(
    "start",
    [
        b'{"jsonrpc":"2.0","id":1,"params":{"result":"',
        b'{"jsonrpc":"2.0","id":1,"params":["\\"error\\"","error","',
    ],
)
def test_a_long_request_that_speaks_of_results_is_a_request(
    session: Session[str], start: bytes
) -> None:
    assert isinstance(session.receive_overlong(overlong(start)), Refusal)
    assert session.pending == {1: "one", 2: "two"}


@pytest.mark.parametrize(
    "start",
    [
        b'{"jsonrpc":"2.0","id":1,"result":"',
        b'{"jsonrpc": "2.0", "id": 1, "result": "',
        b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"',
        b'{"jsonrpc":"2.0","id":1,"result":{"method":"',
        b'{"jsonrpc":"2.0","id":1,"result":["method","',
        b'{"id":1,"result":"',
        b'{"id":1,"result":null,"error":"',
        b'{"id": 1, "jsonrpc": "2.0", "result": "',
    ],
)
def test_a_reply_that_is_too_long_to_read_fails_its_call(
    session: Session[str], start: bytes
) -> None:
    event = session.receive_overlong(overlong(start))
    assert isinstance(event, Failed)
    assert event.pending == "one"
    assert event.error.code == ErrorCode.REPLY_TOO_LONG
    assert session.pending == {2: "two"}


def test_a_late_reply_that_is_too_long_is_ignored(session: Session[str]) -> None:
    session.discard(1, was_sent=True)
    assert session.receive_overlong(overlong(b'{"jsonrpc":"2.0","id":1,"result":"')) is None
    assert session.pending == {2: "two"}


def test_a_long_reply_to_no_call_is_a_violation(session: Session[str]) -> None:
    for start in (b'{"jsonrpc":"2.0","id":9,"result":"', b'[{"jsonrpc":"2.0","id":1,"result":"'):
        assert isinstance(session.receive_overlong(overlong(start)), ProtocolViolation)


def test_a_long_reply_of_0_3_fails_the_call_whose_turn_it_is(plain_session: Session[str]) -> None:
    event = plain_session.receive_overlong(overlong(b'{"result": "'))
    assert isinstance(event, Failed)
    assert event.pending == "one"
    assert plain_session.receive(b'{"result": 2}') == Answered("two", 2)


def test_a_late_long_reply_of_0_3_is_ignored(plain_session: Session[str]) -> None:
    plain_session.discard(1, was_sent=True)
    assert plain_session.receive_overlong(overlong(b'{"result": "')) is None
    assert plain_session.receive(b'{"result": 2}') == Answered("two", 2)


# --- whatever bytes arrive ------------------------------------------------------------------------


def check_reply(line: bytes) -> None:
    """Hold a line that goes out against all that may be said there."""
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    answer = json.loads(line, parse_constant=pytest.fail)
    for one in answer if isinstance(answer, list) else [answer]:
        assert ("error" in one and one["error"] is not None) or "result" in one
        error = one.get("error")
        if isinstance(error, dict):
            assert error["code"] in CODES
            assert 0 < len(error["message"]) <= 300
        else:
            assert error is None or 0 < len(error) <= 300


def check_request(session: Session[Any], request: Request) -> None:
    assert isinstance(request.method, str)
    assert request.params is UNSET or isinstance(request.params, (list, dict, type(None)))
    assert request.kwargs is UNSET or isinstance(request.kwargs, (dict, type(None)))
    assert request.dialect in DIALECTS.values()
    written = session.refuse(request, MethodNotFound("no such method"))
    if not request.expects_reply:
        assert written is None
    elif request.batch is None:
        assert written is not None
    if written is not None:
        check_reply(written)


def check_outcome(session: Session[Any], received: Any) -> None:
    events = events_of(received)
    for event in events:
        assert isinstance(
            event, (Request, Cancel, Answered, Failed, Refusal, UnmatchedError, ProtocolViolation)
        )
        if isinstance(event, Refusal):
            check_reply(event.line)
        elif isinstance(event, Request):
            check_request(session, event)
        elif isinstance(event, (Failed, UnmatchedError)):
            assert isinstance(event.error, RPCError)
            assert isinstance(str(event.error), str)
        elif isinstance(event, ProtocolViolation):
            assert event.reason
    batches = [event.batch for event in events if isinstance(event, Request) and event.batch]
    assert all(batch.awaited == 0 for batch in batches)


def busy_session(dialect: str) -> Session[int]:
    session: Session[int] = Session(RequestEncoder(DIALECTS[dialect]))
    for _ in range(2):
        request_id, _line = session.encoder.encode_call("f", (), {})
        session.register(request_id, request_id)
    return session


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("path", HOSTILE_LINES, ids=lambda path: path.stem)
def test_a_hostile_line_has_a_documented_outcome(path: Path, dialect: str) -> None:
    line = path.read_bytes().removesuffix(b"\n")
    assert b"\n" not in line
    session = busy_session(dialect)
    check_outcome(session, session.receive(line))


@pytest.mark.parametrize("path", HOSTILE_LINES, ids=lambda path: path.stem)
def test_a_hostile_line_answers_no_call(path: Path) -> None:
    session = busy_session("2.0")
    for event in events_of(session.receive(path.read_bytes().removesuffix(b"\n"))):
        assert not isinstance(event, Answered)
    assert list(session.pending) == [1, 2] or path.stem == "object_id_alone"


@pytest.mark.parametrize("path", HOSTILE_LINES, ids=lambda path: path.stem)
def test_a_line_is_read_alike_as_bytes_and_as_bytearray(path: Path) -> None:
    line = path.read_bytes().removesuffix(b"\n")
    outcomes = [summary(Session[Any]().receive(kind(line))) for kind in (bytes, bytearray)]
    assert outcomes[0] == outcomes[1]


def summary(received: Any) -> Any:
    if isinstance(received, list):
        return [summary(one) for one in received]
    if isinstance(received, Refusal):
        answer = without_text(json.loads(received.line))
        if isinstance(answer, list):
            return [(one["error"], one["id"]) for one in answer]
        return (answer["error"], answer["id"]) if "id" in answer else "a 0.3 error"
    return type(received).__name__


NOT_JSON = (-32700, None)
NO_REQUEST = (-32600, None)
NO_REQUEST_1 = (-32600, 1)
OUTCOMES: list[tuple[Any, str]] = [
    (
        NOT_JSON,
        """
        array_nested_deeply array_nested_deeply_and_open batch_member_huge_integer
        batch_nested_deeply batch_open batch_trailing_comma bom_alone bom_before
        bom_inside content_length_header http_get http_header id_bare_word
        id_beyond_double id_empty id_huge_integer id_leading_zero id_nan
        integer_alone_huge line_latin1 line_utf16 method_bad_utf8 nul_after nul_alone
        nul_in_string number_hexadecimal number_open_fraction number_plus_sign
        object_comment object_nested_deeply object_open object_single_quotes
        object_trailing_comma object_unquoted_names objects_two_on_a_line
        params_beyond_double params_beyond_double_and_surrogate params_huge_integer
        params_huge_integer_and_surrogate params_infinity params_lone_surrogate_raw
        params_nan params_nan_and_surrogate params_nested_deeply params_overlong_utf8
        params_truncated_utf8 pretty_printed_first_line string_bad_escape
        string_short_unicode_escape surrogate_and_nested_deeply tab_in_string
        tls_client_hello unknown_member_nested_deeply
        """,
    ),
    (
        NO_REQUEST_1,
        """
        jsonrpc_array jsonrpc_null jsonrpc_number jsonrpc_one jsonrpc_other kwargs_array
        kwargs_false kwargs_string method_array method_array_of_500 method_null
        method_number method_object method_true params_number params_string
        params_string_long params_true
        """,
    ),
    (
        NO_REQUEST,
        """
        batch_empty id_array id_array_deep id_false id_lone_surrogate id_object id_true
        id_twice object_empty object_jsonrpc_alone value_null value_number
        value_number_negative_zero value_string value_string_long value_true
        """,
    ),
    (
        "Request",
        """
        cancel_as_request carriage_return_inside heavy_floats heavy_in_strings heavy_lists
        heavy_members heavy_nested_lists heavy_objects heavy_plain_lists heavy_rows
        heavy_short_texts heavy_token id_fraction_long id_string_long
        method_dunder method_empty method_lone_surrogate method_long
        method_reserved_unknown method_twice name_bad_utf8 name_escaped
        params_lone_surrogate params_name_lone_surrogate
        """,
    ),
    (
        "ProtocolViolation",
        """
        reply_error_null_alone reply_error_plain_with_escapes reply_id_fraction
        reply_id_missing reply_id_null reply_id_string reply_id_true reply_never_asked
        """,
    ),
    (
        "Cancel",
        """
        cancel_id_array cancel_id_object cancel_params_array cancel_without_params
        """,
    ),
    (
        [[NO_REQUEST]],
        """
        batch_of_batch batch_of_empty_batch batch_of_plain_requests
        """,
    ),
    (
        "a 0.3 error",
        """
        plain_kwargs_array plain_method_number plain_params_string
        """,
    ),
    (
        "UnmatchedError",
        """
        reply_error_code_huge reply_error_code_string reply_error_nested
        reply_error_with_escapes
        """,
    ),
    (
        ["Request"],
        """
        batch_member_id_object batch_member_lone_surrogate
        """,
    ),
    ([[NO_REQUEST, NO_REQUEST]], "batch_of_nulls"),
    ([[NO_REQUEST, NO_REQUEST, NO_REQUEST]], "batch_of_numbers"),
    ([[NO_REQUEST_1]], "batch_of_pair_requests"),
    (["Request", "Request"], "batch_same_id_twice heavy_batch_with_a_key_inside"),
    (["Request"] * 13, "heavy_batch_of_discover"),
    ((-32010, None), "batch_too_large"),
    ((-32600, 7), "object_id_alone"),
    (["ProtocolViolation", "ProtocolViolation"], "reply_batch_never_asked"),
    ("NoneType", "spaces_alone"),
]


@pytest.mark.parametrize("path", HOSTILE_LINES, ids=lambda path: path.stem)
def test_a_hostile_line_has_its_outcome(path: Path) -> None:
    received = Session[Any]().receive(path.read_bytes().removesuffix(b"\n"))
    wanted = [outcome for outcome, names in OUTCOMES if path.stem in names.split()]
    assert [summary(received)] == wanted


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","id":9,"method":%b}',
        b'{"jsonrpc":"2.0","id":9,"method":"f","params":%b}',
        b'{"jsonrpc":"2.0","id":9,"method":"f","kwargs":%b}',
        b'{"jsonrpc":"2.0","id":%b,"method":"f"}',
        b'{"jsonrpc":%b,"id":9,"method":"f"}',
        b'{"method":%b,"params":[],"kwargs":{}}',
        b'{"jsonrpc":"2.0","id":1,"error":%b}',
        b'{"jsonrpc":"2.0","id":1,"error":{"code":%b}}',
        b'{"jsonrpc":"2.0","id":null,"error":%b}',
        b'{"jsonrpc":"2.0","id":1,"result":%b}',
        b'{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":%b}}',
        b'[{"jsonrpc":"2.0","id":9,"method":%b}]',
        b'[{"jsonrpc":"2.0","id":1,"error":%b}]',
        b'{"jsonrpc":"2.0","id":9,"method":"\\ud800","params":%b}',
        b"%b",
    ],
)
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_nesting_of_any_depth_has_a_documented_outcome(
    line: bytes, opening: bytes, closing: bytes
) -> None:
    def nested(depth: int) -> bytes:
        return line % (opening * depth + b"1" + closing * depth)

    def is_too_deep(depth: int) -> bool:
        received = busy_session("2.0").receive(opening * depth + b"1" + closing * depth)
        return b"nested too deeply" in getattr(received, "line", b"")

    low, high = 1, 200_000
    assert is_too_deep(high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_too_deep(middle) else (middle, high)
    # What reads a line and what speaks of it may give up at depths a little apart.
    for depth in range(max(1, high - 12), high + 4):
        session = busy_session("2.0")
        check_outcome(session, session.receive(nested(depth)))


VALID = [
    b'{"jsonrpc":"2.0","id":1,"method":"f","params":[1,"a",null,{"b":[0.5,true]}]}',
    b'{"jsonrpc":"2.0","id":"x","method":"f","params":{"a":1,"b":"\\ud83d\\ude00"}}',
    b'{"jsonrpc":"2.0","method":"f","params":[1],"kwargs":{"a":-1e5}}',
    b'{"jsonrpc":"2.0","id":1.50,"method":"\\ud800","params":null}',
    b'{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":1}}',
    b'{"method":"f","params":[1],"id":7}',
    b'{"method":"f","params":[1],"kwargs":{"a":1}}',
    b'{"jsonrpc":"2.0","id":1,"result":{"a":[1,2]}}',
    b'{"jsonrpc":"2.0","id":2,"error":{"code":-32000,"message":"x","data":{"type":"KeyError"}}}',
    b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"x"}}',
    b'{"id":2,"result":null,"error":"x"}',
    b'{"result":1}',
    b'{"error":"x"}',
    b'[{"jsonrpc":"2.0","id":1,"method":"f"},{"jsonrpc":"2.0","method":"g"},1]',
    b'[{"jsonrpc":"2.0","id":1,"result":1},{"jsonrpc":"2.0","id":2,"result":2}]',
]

splices = st.one_of(
    st.sampled_from(
        [
            b"",
            b"null",
            b"true",
            b"NaN",
            b"1e999",
            b"9" * 5000,
            b'"\\ud800"',
            b"[[[[",
            b"{}",
            b"\xff",
        ]
    ),
    st.sampled_from([b'"id":1,', b'"method":"f",', b'"result":1,', b'"error":2,', b'"params":5,']),
    st.sampled_from([bytes([byte]) for byte in b'{}[],:"\\0129.-eEtfn \t\r\0']),
    st.binary(max_size=3),
)


@st.composite
def mutated_lines(draw: st.DrawFn) -> bytes:
    line = draw(st.sampled_from(VALID))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(line)))
        end = draw(st.integers(start, min(len(line), start + draw(st.sampled_from([0, 1, 8, 40])))))
        line = line[:start] + draw(splices) + line[end:]
    return line.replace(b"\n", b" ")


dialects = st.sampled_from(sorted(DIALECTS))


@settings(pure, max_examples=500)
@given(mutated_lines(), dialects)
def test_a_mutated_line_has_a_documented_outcome(line: bytes, dialect: str) -> None:
    session = busy_session(dialect)
    check_outcome(session, session.receive(line))


@pure
@given(st.binary(), dialects)
def test_random_bytes_have_a_documented_outcome(line: bytes, dialect: str) -> None:
    session = busy_session(dialect)
    check_outcome(session, session.receive(line))


@pure
@given(st.one_of(st.binary(), mutated_lines()), dialects)
def test_a_random_overlong_line_has_a_documented_outcome(line: bytes, dialect: str) -> None:
    session = busy_session(dialect)
    check_outcome(session, session.receive_overlong(OverlongLine(line)))


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
odd_messages = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.just("2.0") | json_values,
        "id": st.sampled_from([1, 2, 3, None, True, 1.0, "1"]) | json_values,
        "method": st.just("f") | json_values,
        "params": json_values,
        "kwargs": json_values,
        "result": json_values,
        "error": json_values,
    },
)


@settings(pure, max_examples=300)
@given(odd_messages | st.lists(odd_messages, max_size=3), dialects)
def test_a_message_of_any_members_has_a_documented_outcome(message: Any, dialect: str) -> None:
    session = busy_session(dialect)
    check_outcome(session, session.receive(json.dumps(message).encode()))


# --- two ends at random ---------------------------------------------------------------------------


class FakeEnd:
    """One end of a wire in memory, and what became of each of its calls."""

    def __init__(self, dialect: str) -> None:
        self.session: Session[int] = Session(RequestEncoder(DIALECTS[dialect]))
        self.inbox: deque[bytes] = deque()
        self.requests: deque[Request] = deque()
        self.made: dict[int, Any] = {}
        self.ended: list[int] = []
        self.peer: FakeEnd

    def call(self, token: int) -> bytes:
        request_id, line = self.session.encoder.encode_call("echo", (token,), {})
        self.session.register(request_id, request_id)
        self.made[request_id] = token
        return line

    def send(self, line: bytes | None) -> None:
        if line is not None:
            self.peer.inbox.append(line)

    def forget(self, request_id: int) -> None:
        if request_id in self.session.pending:
            self.session.discard(request_id, was_sent=True)
            self.ended.append(request_id)
            self.send(self.session.encoder.encode_cancel(request_id))

    def lose(self) -> None:
        self.ended += self.session.take_all_pending()
        self.requests.clear()

    def deliver(self, *, again: bool = False) -> None:
        line = self.inbox[0] if again else self.inbox.popleft()
        for event in events_of(self.session.receive(line.removesuffix(b"\n"))):
            if isinstance(event, Request):
                self.requests.append(event)
            elif isinstance(event, Answered):
                assert event.result == self.made[event.pending]
                self.ended.append(event.pending)
            elif isinstance(event, Failed):
                assert str(event.error) == f"no {self.made[event.pending]}"
                self.ended.append(event.pending)
            else:
                assert isinstance(event, Cancel)

    def respond(self, index: int, *, well: bool) -> None:
        request = self.requests[index]
        del self.requests[index]
        assert isinstance(request.params, list)
        (token,) = request.params
        if well:
            self.send(self.session.answer(request, token))
        else:
            self.send(self.session.refuse(request, RemoteError(f"no {token}")))


ACTIONS = ["call", "call", "notify", "batch", "deliver", "deliver", "answer", "answer", "error"]
ACTIONS += ["forget", "again", "lose"]


def act(draw: Callable[[st.SearchStrategy[Any]], Any], end: FakeEnd, token: int) -> None:
    dialect = end.session.dialect.name
    action = draw(st.sampled_from(ACTIONS))
    if action == "call":
        end.send(end.call(token))
    elif action == "notify" and dialect != "kn-sock":
        end.send(end.session.encoder.encode_notification("echo", (token,), {}))
    elif action == "batch" and dialect == "2.0":
        lines = [end.call(token * 10 + index) for index in range(draw(st.integers(1, 3)))]
        lines.append(end.session.encoder.encode_notification("echo", (token,), {}))
        end.send(end.session.encoder.encode_batch(lines))
    elif action == "deliver" and end.inbox:
        end.deliver()
    elif action == "again" and end.inbox and dialect != "kn-sock":
        end.deliver(again=True)
    elif action in ("answer", "error") and end.requests:
        # A peer that sends no ids is answered in the order in which it asked.
        last = 0 if dialect == "kn-sock" else len(end.requests) - 1
        end.respond(draw(st.integers(0, last)), well=action == "answer")
    elif action == "forget" and end.session.pending:
        end.forget(draw(st.sampled_from(list(end.session.pending))))
    elif action == "lose" and dialect != "kn-sock" and draw(st.integers(0, 3)) == 0:
        end.lose()


@settings(pure, max_examples=300)
@given(st.data(), dialects, st.integers(1, 60))
def test_every_call_between_two_ends_ends_once(
    data: st.DataObject, dialect: str, steps: int
) -> None:
    left, right = FakeEnd(dialect), FakeEnd(dialect)
    left.peer, right.peer = right, left
    ends = [left, right]
    for token in range(steps):
        act(data.draw, data.draw(st.sampled_from(ends)), token)
    while any(end.inbox or end.requests for end in ends):
        for end in ends:
            while end.inbox:
                end.deliver()
            while end.requests:
                end.respond(0, well=True)
    for end in ends:
        end.lose()
        assert sorted(end.ended) == sorted(end.made)


# --- roles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","id":1,"result":1}',
        b'{"jsonrpc":"2.0","id":true,"result":1}',
        b'{"result":1}',
        b'{"id":[],"error":1}',
    ],
)
def test_a_reply_that_belongs_to_no_call_is_a_stray_at_a_server_and_a_violation_at_a_client(
    line: bytes,
) -> None:
    assert isinstance(Session[Any](role=Role.SERVER).receive(line), Stray)
    for role in (Role.CALLER, Role.PEER):
        assert isinstance(Session[Any](role=role).receive(line), ProtocolViolation)
    events = Session[Any](role=Role.SERVER).receive(b"[" + line + b"]")
    assert isinstance(events, list)
    assert [type(event) for event in events] == [Stray]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"-ERR unknown command\r", "-ERR unknown command"),
        (b"220 mail.example.com ESMTP", "220 mail.example.com ESMTP"),
        (b"3", "3"),
        (b"\x1b[2J", r"\x1b[2J"),
    ],
)
def test_a_client_without_functions_does_not_answer_what_it_cannot_read(
    line: bytes, shown: str
) -> None:
    event = Session[Any](role=Role.CALLER).receive(line)
    assert isinstance(event, ProtocolViolation)
    assert event.reason.startswith(f"the peer answered '{shown}")
    assert event.reason.endswith("': is this a JSON-RPC server?")
    assert isinstance(Session[Any](role=Role.PEER).receive(line), Refusal)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("line", [b" ", b"\t\r", b"\r\r"])
def test_white_space_is_a_blank_line_at_both_ends(role: Role, line: bytes) -> None:
    assert Session[Any](role=role).receive(line) is None
