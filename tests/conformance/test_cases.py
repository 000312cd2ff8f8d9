from __future__ import annotations

from typing import Any

import pytest

from kn_sock.conformance import Case, Exchange, read_groups
from kn_sock.conformance._cases import are_replies, is_reply, matches, parse

PROBE = "=== A group\n--> 1\n<-- 1\n"


def read_case(text: str) -> Case:
    ((group,),) = (read_groups(PROBE + text),)
    (case,) = group.cases
    return case


def test_the_file_has_every_group() -> None:
    groups = read_groups()
    assert [group.name for group in groups] == [
        "JSON-RPC 2.0",
        "JSON-RPC 1.0",
        "kn-sock 0.3",
        "kn_sock's own promises",
    ]
    assert all(group.probe.expected for group in groups)


def test_the_file_has_every_section_of_the_specification_that_says_what_a_server_does() -> None:
    sections = {case.section for case in read_groups()[0].cases}
    assert sections == {"4", "4.1", "4.2", "5", "5.1", "6", "7", "8"}


def test_a_case_is_what_is_sent_and_what_is_expected() -> None:
    case = read_case('[4.1] a name\n--> {"a": 1}\n<-- {"b": [1.50, 2]}\n')
    assert (case.section, case.name, case.title) == ("4.1", "a name", "[4.1] a name")
    assert case.exchanges == (Exchange(b'{"a": 1}\n', (parse(b'{"b": [1.50, 2]}'),)),)
    assert (case.is_closed, case.in_order) == (False, False)


def test_lines_and_bytes_are_sent_together() -> None:
    case = read_case("[a] b\n--> żółw\n-b> b'x\\xff' + b'ab' * 3\n-x>\n")
    assert case.exchanges == (Exchange("żółw\n".encode() + b"x\xffababab", (), True),)


def test_what_is_sent_after_a_reply_waits_for_it() -> None:
    case = read_case("[a] b\n--> 1\n<-- 2\n<-- 3\n--> 4\n")
    assert case.exchanges == (Exchange(b"1\n", (2, 3)), Exchange(b"4\n", ()))
    assert case.sent == b"1\n4\n"


def test_a_case_may_end_the_connection_and_keep_an_order() -> None:
    case = read_case("[a] b\nin order\n--> 1\n<-x\n")
    assert (case.is_closed, case.in_order) == (True, True)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[a] b\n<-- 1\n[a] c\n", "line 6: nothing is sent before this line, in 'b'"),
        ("[a] b\n--> 1\n[a] b\n--> 1\n[a] c", r"line 8: \[a\] b is there twice"),
        ("[a] b\n--> 1\n<-- nonsense\n", "line 6: Expecting value"),
        ("[a] b\n-b> 'text'\n", "line 5: only bytes literals are sent"),
        ("[a] b\n-b> print(b'a')\n", "line 5: only bytes literals are sent"),
        ("[a] b\n-b> b'a\n", "line 5: "),
        ("[a] b\nwhatever\n", "line 5: this begins like nothing that there is: 'whatever'"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read_groups(PROBE + text)


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        (b"1", b"1"),
        (b"1.50", b"1.5"),
        (b"18446744073709551616", b"18446744073709551616"),
        (b'{"a": 1, "b": 2}', b'{"b": 2, "a": 1}'),
        (b'"<text>"', b'""'),
        (b'"<integer>"', b"-5"),
        (b'"<any>"', b"null"),
        (b'"<not null>"', b"0"),
        (b'"<7 or null>"', b"7"),
        (b'"<7 or null>"', b"null"),
        (b'{"code": 1, "message": "<text>"}', b'{"code": 1, "message": "", "data": [1]}'),
    ],
)
def test_a_value_matches(pattern: bytes, value: bytes) -> None:
    assert matches(parse(pattern), parse(value))


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        (b"1", b"2"),
        (b"1", b"true"),
        (b"1", b"1.0"),
        (b"1", b'"1"'),
        (b"0", b"false"),
        (b"null", b"false"),
        (b"1.5", b"1.4999999999999999999999"),
        (b"18446744073709551616", b"18446744073709551617"),
        (b"18446744073709551616", b"1.8446744073709552e19"),
        (b"[1, 2]", b"[2, 1]"),
        (b"[1]", b"[1, 1]"),
        (b'{"a": 1}', b'{"a": 1, "b": null}'),
        (b'{"a": 1, "b": null}', b'{"a": 1}'),
        (b'{"a": 1}', b'{"a": 1, "data": 1}'),
        (b'"<text>"', b"5"),
        (b'"<integer>"', b"true"),
        (b'"<integer>"', b"1.0"),
        (b'"<not null>"', b"null"),
        (b'"<not -32602>"', b"-32602"),
        (b'"<7 or null>"', b"8"),
        (b'"<7 or null>"', b'"7"'),
        (b'{"code": 1, "message": "<text>"}', b'{"code": 1, "message": null}'),
        (b'{"code": 1, "message": "<text>"}', b'{"code": 1, "message": "", "more": 1}'),
    ],
)
def test_a_value_does_not_match(pattern: bytes, value: bytes) -> None:
    assert not matches(parse(pattern), parse(value))


@pytest.mark.parametrize(
    "line", [b"NaN", b"[-Infinity]", b'{"a": 1, "a": 1}', b'"\xff"', b"{", b"1 2"]
)
def test_a_reply_that_is_not_json_cannot_be_read(line: bytes) -> None:
    with pytest.raises(ValueError):
        parse(line)


@pytest.mark.parametrize(
    ("expected", "replies", "agrees"),
    [
        ([], [], True),
        ([1], [], False),
        ([], [1], False),
        ([1, 2], [2, 1], True),
        ([1, 1], [1, 2], False),
        # The first reply fits both patterns: which is whose shows only at the second.
        (["<any>", 1], [1, 2], True),
        (["<any>", 1], [2, 3], False),
    ],
)
def test_replies_come_in_any_order(expected: list[Any], replies: list[Any], agrees: bool) -> None:
    assert are_replies(expected, replies) is agrees
    assert is_reply(expected, replies) is agrees
