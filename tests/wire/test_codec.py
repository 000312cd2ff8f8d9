from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import gc
import json
import math
import os
import sys
import tracemalloc
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from kn_sock._display import safe_repr
from kn_sock._wire import decoding, encoding
from kn_sock._wire.decoding import (
    LONG_BYTES,
    NoMessageError,
    decode_long,
    decode_message,
    decode_unusual,
)
from kn_sock._wire.dialects import DIALECTS
from kn_sock._wire.events import Answered, Failed, Refusal, Request
from kn_sock._wire.heads import read_head
from kn_sock._wire.messages import Message
from kn_sock._wire.requests import RequestEncoder
from kn_sock._wire.session import Session
from kn_sock.errors import InternalError, InvalidRequest, ParseError, RPCError

pure = settings(derandomize=True, deadline=None)


@dataclasses.dataclass
class Point:
    x: int
    tag: Any = None


class Pixel(msgspec.Struct):
    x: int
    tag: Any = None


class Color(enum.Enum):
    RED = "red"


def result_of(line: bytes) -> Any:
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    return json.loads(line)["result"]


def sent(value: object) -> Any:
    return result_of(DIALECTS["2.0"].encode_result(1, value))


# --- requests out ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "args", "kwargs", "wanted"),
    [
        ("2.0", (), {}, b'{"jsonrpc":"2.0","id":7,"method":"f"}\n'),
        ("2.0", (1, "a"), {}, b'{"jsonrpc":"2.0","id":7,"method":"f","params":[1,"a"]}\n'),
        ("2.0", (), {"a": 1}, b'{"jsonrpc":"2.0","id":7,"method":"f","params":{"a":1}}\n'),
        (
            "2.0",
            (1,),
            {"a": 2},
            b'{"jsonrpc":"2.0","id":7,"method":"f","params":[1],"kwargs":{"a":2}}\n',
        ),
        ("1.0", (), {}, b'{"id":7,"method":"f","params":[]}\n'),
        ("1.0", (None,), {}, b'{"id":7,"method":"f","params":[null]}\n'),
        ("kn-sock", (), {}, b'{"method":"f","params":[],"kwargs":{}}\n'),
        ("kn-sock", (1,), {"a": 2}, b'{"method":"f","params":[1],"kwargs":{"a":2}}\n'),
    ],
)
def test_writes_a_request_in_its_dialect(
    dialect: str, args: Sequence[Any], kwargs: Mapping[str, Any], wanted: bytes
) -> None:
    assert DIALECTS[dialect].encode_request(7, "f", args, kwargs) == wanted


def test_has_no_place_for_named_arguments_in_1_0() -> None:
    with pytest.raises(TypeError, match="no named arguments"):
        DIALECTS["1.0"].encode_request(1, "f", (), {"a": 1})


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("value", [object(), {1, object()}, {(1, 2): 3}, 1j, iter(())])
def test_an_argument_of_a_type_without_json_form_is_a_type_error(
    dialect: str, value: object
) -> None:
    with pytest.raises(TypeError, match="an argument of f cannot be sent as JSON"):
        DIALECTS[dialect].encode_request(1, "f", (value,), {})


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, [None, -math.inf], {"a": {"b": math.nan}}, Point(1, math.nan), 10**5000],
    ids=["NaN", "inf", "-inf", "nested", "in a dataclass", "5000 digits"],
)
def test_an_argument_without_json_form_is_a_value_error(dialect: str, value: object) -> None:
    with pytest.raises(ValueError, match="an argument of f cannot be sent as JSON"):
        DIALECTS[dialect].encode_request(1, "f", (value,), {})


def test_finds_a_nan_among_the_named_arguments() -> None:
    with pytest.raises(ValueError, match="an argument of f"):
        DIALECTS["2.0"].encode_request(1, "f", (1,), {"a": math.nan})


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def test_an_argument_nested_too_deeply_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="an argument of f"):
        DIALECTS["2.0"].encode_request(1, "f", (nested(200_000),), {})


def test_an_argument_that_holds_itself_is_a_value_error() -> None:
    value: dict[str, Any] = {}
    value["self"] = value
    with pytest.raises(ValueError, match="an argument of f"):
        DIALECTS["2.0"].encode_request(1, "f", (value,), {})


def test_a_method_name_may_hold_anything() -> None:
    for name in ("", "a.b", 'quote"', "é", "\ud800", "line\nbreak"):
        line = DIALECTS["2.0"].encode_request(1, name, (), {})
        assert line.count(b"\n") == 1
        assert json.loads(line)["method"] == name


# --- results and errors out -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "wanted"),
    [
        ("2.0", b'{"jsonrpc":"2.0","id":7,"result":null}\n'),
        ("1.0", b'{"id":7,"result":null,"error":null}\n'),
        ("kn-sock", b'{"result":null}\n'),
    ],
)
def test_writes_a_null_result_in_its_dialect(dialect: str, wanted: bytes) -> None:
    assert DIALECTS[dialect].encode_result(7, None) == wanted


@pytest.mark.parametrize(
    ("dialect", "wanted"),
    [
        (
            "2.0",
            b'{"jsonrpc":"2.0","id":7,"error":{"code":-5,"message":"no","data":[1]}}\n',
        ),
        ("1.0", b'{"id":7,"result":null,"error":"no"}\n'),
        ("kn-sock", b'{"error":"no"}\n'),
    ],
)
def test_writes_an_error_in_its_dialect(dialect: str, wanted: bytes) -> None:
    assert DIALECTS[dialect].encode_error(7, RPCError(-5, "no", [1])) == wanted


def test_writes_no_data_where_there_is_none() -> None:
    assert DIALECTS["2.0"].encode_error(None, RPCError(-5, "no")) == (
        b'{"jsonrpc":"2.0","id":null,"error":{"code":-5,"message":"no"}}\n'
    )


@pytest.mark.parametrize(
    "data",
    [object(), math.nan, 10**5000, {(1, 2): 3}, nested(200_000)],
    ids=["object", "NaN", "5000 digits", "tuple as key", "deep"],
)
def test_leaves_out_data_without_json_form(data: object) -> None:
    assert DIALECTS["2.0"].encode_error(7, RPCError(-5, "no", data)) == (
        b'{"jsonrpc":"2.0","id":7,"error":{"code":-5,"message":"no"}}\n'
    )


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_error_may_speak_of_lone_surrogates(dialect: str) -> None:
    line = DIALECTS[dialect].encode_error(7, RPCError(-5, "no \ud800", "\udfff"))
    error = json.loads(line)["error"]
    assert error == (
        {"code": -5, "message": "no \ud800", "data": "\udfff"} if dialect == "2.0" else "no \ud800"
    )


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_error_whose_code_cannot_be_written_is_sent_all_the_same(dialect: str) -> None:
    try:
        line = DIALECTS[dialect].encode_error(7, RPCError(10**5000, "no"))
    except RecursionError:
        # Its traceback would take minutes to show.
        line = b'{"error":null}'
    assert "no" in str(json.loads(line)["error"])


@pytest.mark.parametrize("dialect", ["1.0", "kn-sock"])
def test_the_error_of_the_older_dialects_is_a_string(dialect: str) -> None:
    error = RPCError(-5, ["not", "a", "text"])  # type: ignore[arg-type]  # as a method might
    assert isinstance(json.loads(DIALECTS[dialect].encode_error(7, error))["error"], str)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ((1, (2,)), [1, [2]]),
        ({3}, [3]),
        (frozenset({3}), [3]),
        (b"hi", "aGk="),
        (bytearray(b"hi"), "aGk="),
        (decimal.Decimal("1.10"), "1.10"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (datetime.date(2024, 2, 29), "2024-02-29"),
        (datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.timezone.utc), "2024-02-29T12:00:00Z"),
        (Color.RED, "red"),
        (Point(1), {"x": 1, "tag": None}),
        (Pixel(1), {"x": 1, "tag": None}),
        ({1: 2}, {"1": 2}),
        ({1.5: 2}, {"1.5": 2}),
        ({True: 1}, {"true": 1}),
        (2**63, 2**63),
        (-(2**64), -(2**64)),
        (math.factorial(100), math.factorial(100)),
        ("é€😀\u2028", "é€😀\u2028"),
        ("\ud800", "\ud800"),
        ("a\nb", "a\nb"),
    ],
    ids=repr,
)
class TestResults:
    """Results of the types that a method may return; what stands beside them changes nothing."""

    def test_is_sent(self, value: Any, wanted: Any) -> None:
        assert sent(value) == wanted

    def test_is_sent_beside_null(self, value: Any, wanted: Any) -> None:
        assert sent([value, None]) == [wanted, None]

    def test_is_sent_beside_a_lone_surrogate(self, value: Any, wanted: Any) -> None:
        assert sent([value, "\udc00"]) == [wanted, "\udc00"]

    def test_is_sent_beside_a_huge_integer(self, value: Any, wanted: Any) -> None:
        assert sent({"a": value, "b": 2**70}) == {"a": wanted, "b": 2**70}

    def test_is_sent_inside_a_dataclass(self, value: Any, wanted: Any) -> None:
        assert sent(Point(1, value)) == {"x": 1, "tag": wanted}
        assert sent(Pixel(1, [value, "\ud800"])) == {"x": 1, "tag": [wanted, "\ud800"]}


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (datetime.date(2024, 2, 29), "2024-02-29"),
        (Color.RED, "red"),
        (7, "7"),
        ("k", "k"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("value", [1, None, "\ud800", 2**70], ids=repr)
def test_a_key_is_sent_whatever_its_value(key: Any, text: str, value: Any) -> None:
    assert sent({key: value}) == {text: value}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_number_that_json_cannot_hold_is_never_a_silent_null(dialect: str, value: float) -> None:
    for result in (value, [value], {"a": (value, None)}, Point(1, value), Pixel(1, {"a": value})):
        with pytest.raises(InternalError, match="the result cannot be sent as JSON"):
            DIALECTS[dialect].encode_result(1, result)


def test_a_text_that_says_null_is_no_null() -> None:
    assert sent(["null", None, {"null": None}]) == ["null", None, {"null": None}]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "around",
    [
        lambda value: (value, None),
        lambda value: {"a": {"b": [value]}, "c": None},
        lambda value: [b"", bytearray(b"x"), 2**70, "g", True, None, {value}],
        lambda value: [None, Point(1, value)],
        lambda value: [None, nested(100), value],
    ],
)
def test_finds_what_is_not_finite_wherever_it_stands(
    around: Callable[[float], Any], value: float
) -> None:
    with pytest.raises(InternalError, match="the result cannot be sent as JSON"):
        DIALECTS["kn-sock"].encode_result(1, around(value))


def test_a_number_that_looks_like_a_nan_to_a_search_is_sent() -> None:
    # Eight bytes each, one of which is the letter that stands before a number.
    value = [sys.float_info.max, -sys.float_info.max, *map(float, range(0x6700, 0x6800)), None]
    assert sent(value) == value
    text = "g" + "\x7f" * 20 + "ÿ" * 20
    assert sent([text, None]) == [text, None]


def test_looks_for_nan_beside_null_without_writing_it_all_once_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encoding, "dumps", pytest.fail)
    for value in ([1, None, "a"], {"a": None, "b": [0.5, 2**40]}, ((), {1: None}), {"x": [None]}):
        assert DIALECTS["2.0"].encode_result(1, value)


@pytest.mark.parametrize("value", [object(), [object()], {(1, 2): 3}, 1j, print, iter(())])
def test_a_result_without_json_form_is_an_internal_error(value: object) -> None:
    with pytest.raises(InternalError, match="the result cannot be sent as JSON"):
        DIALECTS["2.0"].encode_result(1, value)


def test_a_result_nested_too_deeply_is_an_internal_error() -> None:
    with pytest.raises(InternalError, match="nested too deeply"):
        DIALECTS["2.0"].encode_result(1, nested(200_000))


# --- bytes in -------------------------------------------------------------------------------------


def test_tells_a_member_that_is_null_from_one_that_is_missing() -> None:
    message = decode_message(b'{"id":null,"result":null,"error":null}')
    assert (message.id, message.result, message.error) == (None, None, None)
    message = decode_message(b"{}")
    assert (message.id, message.result, message.error) == (UNSET, UNSET, UNSET)


def test_the_last_of_equal_names_counts() -> None:
    assert decode_message(b'{"id":1,"method":"f","id":2,"method":"g"}') == Message(id=2, method="g")
    unusual = decode_unusual(b'{"id":true,"method":5,"id":2,"method":"g"}')
    assert unusual == Message(id=2, method="g")


@pytest.mark.parametrize("text", [b"0.5", b"1.0", b"1.50", b"1e2", b"-1E+2", b"1e-400"])
def test_keeps_a_fractional_id_as_its_text(text: bytes) -> None:
    message = decode_unusual(b'{"id":%b,"method":"f"}' % text)
    assert isinstance(message, Message)
    assert isinstance(message.id, Raw)
    assert bytes(message.id) == text


def test_gives_the_members_of_a_batch_one_by_one() -> None:
    members = decode_unusual(b' [ {"id":1} , 5, [] ] ')
    assert isinstance(members, list)
    message, problem, batch = members
    assert (message, batch) == (Message(id=1), [])
    assert isinstance(problem, NoMessageError)
    assert isinstance(problem.error, InvalidRequest)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"what?", "not JSON"),
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'"\xff"', "not JSON"),
        (b'"\\ud800" x', "not JSON"),
        (b'["\\ud800",NaN]', "NaN is not a JSON number"),
        (b'["\\ud800",1e999]', "1e999 is not a JSON number"),
        (b"[" * 200_000, "nested too deeply"),
    ],
)
def test_says_why_a_line_is_not_json(line: bytes, text: str) -> None:
    with pytest.raises(NoMessageError, match=text) as raised:
        decode_unusual(line)
    assert isinstance(raised.value.error, ParseError)
    assert len(str(raised.value)) < 150


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"5", "a message is a JSON object, not 5"),
        (b'{"method":5}', "method must be a string, not 5"),
        (b'{"method":"f","params":5}', "params must be an array or an object, not 5"),
        (b'{"method":"f","kwargs":[]}', r"kwargs must be an object, not \[\]"),
        (b'{"method":"f","id":[]}', "id must be a string, a number or null"),
    ],
)
def test_says_why_a_message_is_none(line: bytes, text: str) -> None:
    with pytest.raises(NoMessageError, match=text) as raised:
        decode_unusual(line)
    assert isinstance(raised.value.error, InvalidRequest)


@pytest.mark.parametrize(
    "line",
    [
        b'{"method":"f","kwargs":"%b"}' % (b"x" * 5000),
        b'{"method":"f","params":"%b"}' % (b"x" * 5000),
        b'{"method":[%b0]}' % (b"0," * 2000),
        b'"%b"' % (b"x" * 5000),
    ],
    ids=["kwargs", "params", "method", "message"],
)
def test_shows_only_the_beginning_of_what_was_wrong(line: bytes) -> None:
    with pytest.raises(NoMessageError) as raised:
        decode_unusual(line)
    assert len(str(raised.value)) < 150


def test_shows_a_short_value_whole_and_a_long_one_cut() -> None:
    assert safe_repr("short") == "short"
    assert safe_repr([1]) == "[1]"
    assert len(safe_repr("x" * 1000)) == 60
    assert safe_repr("x" * 1000).endswith("…")


@pytest.mark.parametrize(
    ("prefix", "wanted"),
    [
        (b'{"jsonrpc":"2.0","id":7,"method"', 7),
        (b' { "jsonrpc" : "2.0" , "id" : -7 , "method"', -7),
        (b'{"jsonrpc":"2.0","id":"a b","result"', "a b"),
        (b'{"jsonrpc":"2.0","id":"\xc3\xa9",', "é"),
        (b'{"jsonrpc":"2.0","id":7.5,', UNSET),
        (b'{"jsonrpc":"2.0","id":07,', UNSET),
        (b'{"jsonrpc":"2.0","id":true,', UNSET),
        (b'{"jsonrpc":"2.0","id":"\xff",', UNSET),
        (b'{"jsonrpc":"2.0","id":"a\\"b",', 'a"b'),
        (b'{"jsonrpc":"2.0","id":12345', UNSET),
        (b'{"jsonrpc":"2.0","method":"f","id":7,', 7),
        (b'{\n  "jsonrpc": "2.0",\r\n  "id": 7,', 7),
        (b'["id":7,', UNSET),
        (b"", UNSET),
    ],
)
def test_finds_the_id_at_the_beginning_of_a_line(prefix: bytes, wanted: Any) -> None:
    assert read_head(prefix).request_id == wanted


# --- long lines -----------------------------------------------------------------------------------


def request(*params: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":1,"method":"f","params":[%b]}' % b",".join(params)


SLOW_FLOATS = [
    *(b"1e300", b"-1E+300", b"1.5e-308", b"5e-324", b"1e-999", b"1.7976931348623157e308"),
    *(b"0e999", b"1e0300", b"0.1", b"1", b"12345678901234567890.5", b'"1e300"'),
]


def test_reads_numbers_near_the_ends_of_the_range_as_json_does() -> None:
    for times in (1, 1000):
        line = request(*SLOW_FLOATS * times)
        wanted = json.loads(line)["params"]
        assert decode_long(line).params == wanted
        assert decode_long(bytearray(line)).params == wanted
        (member,) = decode_unusual(b"[%b]" % line)  # type: ignore[misc]  # a batch
        assert isinstance(member, Message)
        assert member.params == wanted


@pytest.mark.parametrize("params", [[b"1e999"], [b"1e300"] * 1000 + [b"-1e999"]])
@pytest.mark.parametrize("form", [b"%b", b"[%b]", b'[%b,"\\ud800"]'], ids=["", "batch", "lone"])
def test_a_number_beyond_the_range_is_no_json(params: list[bytes], form: bytes) -> None:
    event = Session[Any]().receive(form % request(*params))
    assert isinstance(event, Refusal)
    assert json.loads(event.line)["error"]["code"] == -32700


def test_gives_many_numbers_near_the_ends_of_the_range_to_python(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Which msgspec takes ten microseconds for, each.
    monkeypatch.setattr(decoding, "decode_message", pytest.fail)
    assert decode_long(request(*[b"1e300"] * 1000)).params == [1e300] * 1000


@pytest.mark.parametrize("params", [[b"0.1"], [b"1e9"], [b'"ae123"'], [b"12", b'"e"'], [b"1e300"]])
def test_leaves_all_other_numbers_to_msgspec(
    params: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "_decode_slow_floats", pytest.fail)
    line = request(*params, *[b'"x"'] * 1000)
    assert decode_long(line) == decode_message(line)


@pytest.fixture
def collections() -> Iterator[list[str]]:
    """What the garbage collector did while the test ran."""
    seen: list[str] = []

    def note(phase: str, _: Mapping[str, int]) -> None:
        seen.append(phase)

    gc.collect()
    gc.callbacks.append(note)
    yield seen
    gc.callbacks.remove(note)


ARRAYS = b"[1]," * 50_000 + b"[1]"


@pytest.mark.parametrize(
    "line", [request(ARRAYS), b"[%b]" % request(ARRAYS), request(ARRAYS, b'"\\ud800"')]
)
def test_no_garbage_is_looked_for_while_a_long_line_is_read(
    line: bytes, collections: list[str]
) -> None:
    received = Session[Any]().receive(line)
    assert received is not None
    # What is made beside the line's own arrays is little.
    assert len(collections) <= 4


@pytest.mark.parametrize("line", [request(ARRAYS), request(ARRAYS) + b"x", b"[%b" % ARRAYS])
def test_the_garbage_collector_is_left_as_it_was(line: bytes) -> None:
    assert len(line) > LONG_BYTES
    Session[Any]().receive(line)
    assert gc.isenabled()
    gc.disable()
    try:
        Session[Any]().receive(line)
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork() here")
@pytest.mark.parametrize("is_wanted", [True, False])
def test_a_process_forked_while_a_long_line_is_read_has_its_garbage_collector(
    monkeypatch: pytest.MonkeyPatch, *, is_wanted: bool
) -> None:
    # As another thread may do it, at any moment; the child has that thread alone.
    found: list[int] = []

    def fork_and_decode(line: bytes) -> Message:
        child = os.fork()
        if not child:
            os._exit(int(gc.isenabled()))
        found.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        return decode_message(line)

    monkeypatch.setattr(decoding, "_decoder_for", lambda _: fork_and_decode)
    if not is_wanted:
        gc.disable()
    try:
        decode_long(request(ARRAYS))
        assert gc.isenabled() is is_wanted
    finally:
        gc.enable()
    assert found == [int(is_wanted)]


def test_what_is_no_json_is_found_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_anything", None)
    monkeypatch.setattr(json, "loads", None)
    for end in (b",]}", b'"\xff"]}', b"", b"nul]}", b"1e]}"):
        for text in (b"1", b'"\\u00e9"', b"[1]"):
            event = Session[Any]().receive(request(text)[:-2] + end)
            assert isinstance(event, Refusal)


def test_makes_nothing_of_a_batch_that_is_too_large() -> None:
    line = b"[" + b"{}," * 400_000 + b"{}]"
    decode_unusual(line, 1000)
    tracemalloc.start()
    try:
        found = decode_unusual(line, 1000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(found, list)
    assert len(found) > 1000
    assert peak < 2 * len(line)


@pytest.mark.parametrize("most", [1, 2, 3, 1000, 1023, 1024, 100_000])
@pytest.mark.parametrize("first", [b"{}", b'{"x":"\\ud800"}'], ids=["", "lone"])
def test_tells_a_batch_that_is_too_large_from_one_that_is_not(most: int, first: bytes) -> None:
    for count in (1, most - 1, most, most + 1, 2 * most + 3):
        found = decode_unusual(b"[" + b",".join([first, *[b"{}"] * (count - 1)]) + b"]", most)
        assert isinstance(found, list)
        assert (len(found) > most) is (count > most) or count == 0
        if 0 < count <= most:
            assert found == [Message()] * count


@pytest.mark.parametrize("end", [b"", b"x", b"]x", b",]", b",,1]", b" 1]", b"] ]", b":1]", b"}"])
@pytest.mark.parametrize("member", [b"1", b'"\\ud800"', b'{"x":"\\udc00"}'])
def test_a_batch_with_anything_odd_between_its_members_is_no_json(
    member: bytes, end: bytes
) -> None:
    with pytest.raises(NoMessageError, match="not JSON") as raised:
        decode_unusual(b"[" + member + end)
    assert isinstance(raised.value.error, ParseError)


@pytest.mark.parametrize(
    "member", [b'{"id":5,"method":"\xff"}', b'{"y":"\xff"}', b"1e999", b"9" * 5000, b"[1e999]"]
)
def test_a_batch_with_a_member_that_is_no_json_is_none(member: bytes) -> None:
    with pytest.raises(NoMessageError, match="not JSON") as raised:
        decode_unusual(b'[{"id":1},' + member + b"]")
    assert isinstance(raised.value.error, ParseError)


# --- there and back -------------------------------------------------------------------------------

surrogates = st.characters(categories=["Cs"])
texts = st.text(max_size=8) | st.text(st.characters() | surrogates, max_size=4)
big_integers = st.integers(-(10**300), 10**300)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | big_integers
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def same(left: Any, right: Any) -> bool:
    """Compare values and types, as 1 == 1.0 == True."""
    if type(left) is not type(right):
        return False
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    return bool(left == right)


@pure
@given(json_values, st.sampled_from(sorted(DIALECTS)))
def test_a_result_comes_back_as_it_went(value: Any, dialect: str) -> None:
    caller: Session[str] = Session(RequestEncoder(DIALECTS[dialect]))
    request_id, _ = caller.encoder.encode_call("f", (), {})
    caller.register(request_id, "call")
    event = caller.receive(DIALECTS[dialect].encode_result(request_id, value).removesuffix(b"\n"))
    assert isinstance(event, Answered)
    assert same(event.result, value)


@pure
@given(st.lists(json_values, max_size=3), st.dictionaries(texts, json_values, max_size=3))
def test_arguments_come_as_they_went(args: list[Any], kwargs: dict[str, Any]) -> None:
    for dialect in ("2.0", "kn-sock"):
        line = DIALECTS[dialect].encode_request(1, "f", args, kwargs)
        request = Session[Any]().receive(line.removesuffix(b"\n"))
        assert isinstance(request, Request)
        if dialect == "2.0" and kwargs and not args:
            assert same(request.params, kwargs)
        else:
            assert same(request.params or [], args)
            assert same(request.kwargs or {}, kwargs)


@pure
@given(st.integers(-(10**30), 10**30), texts, json_values)
def test_an_error_comes_back_as_it_went(code: int, message: str, data: Any) -> None:
    caller: Session[str] = Session()
    caller.register(1, "call")
    line = DIALECTS["2.0"].encode_error(1, RPCError(code, message, data))
    event = caller.receive(line.removesuffix(b"\n"))
    assert isinstance(event, Failed)
    assert (event.error.code, str(event.error)) == (code, message)
    assert same(event.error.data, data)


@pure
@given(json_values)
def test_what_is_written_is_one_line_of_plain_json(value: Any) -> None:
    line = DIALECTS["2.0"].encode_result(1, value)
    line.decode("utf-8")
    assert same(result_of(line), value)


def test_encoding_leaves_nothing_behind() -> None:
    def blocks_after(count: int) -> int:
        for _ in range(count):
            DIALECTS["2.0"].encode_result(1, None)
            DIALECTS["2.0"].encode_result(1, [1.5])
        gc.collect()
        return sys.getallocatedblocks()

    before = blocks_after(100)
    assert blocks_after(5000) - before < 1000
