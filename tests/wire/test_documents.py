from __future__ import annotations

import itertools
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kn_sock._wire import documents as documents_module
from kn_sock._wire.documents import DocumentFramer
from kn_sock._wire.framing import PREFIX_BYTES, OverlongLine

LIMIT = 1024
BOM = b"\xef\xbb\xbf"

pure = settings(derandomize=True, deadline=None)


def seen(events: list[Any]) -> list[tuple[str, bytes]]:
    return [
        ("overlong", event.prefix) if isinstance(event, OverlongLine) else ("line", bytes(event))
        for event in events
    ]


def framed(*chunks: bytes, limit: int = LIMIT) -> list[tuple[str, bytes]]:
    framer = DocumentFramer(limit)
    return [one for chunk in chunks for one in seen(framer.feed(chunk))]


def lines(*wanted: bytes) -> list[tuple[str, bytes]]:
    return [("line", line) for line in wanted]


def in_chunks(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def one_by_one(data: bytes) -> list[bytes]:
    return in_chunks(data, 1)


# --- documents ------------------------------------------------------------------------------------


@pytest.mark.parametrize("between", [b"", b"\n", b"\r\n", b" ", b"\t\n \r\n", b"\0", b"\n\n\0 "])
def test_finds_documents_whatever_blanks_are_between_them(between: bytes) -> None:
    documents = [b'{"id":1}', b"[]", b"{}", b"[1,[2]]"]
    stream = between + between.join(documents) + between
    assert framed(stream) == lines(*documents)
    assert framed(*one_by_one(stream)) == lines(*documents)


def test_hands_on_a_document_as_soon_as_its_last_bracket_is_there() -> None:
    framer = DocumentFramer(LIMIT)
    assert framer.feed(b'{"a": [1, {') == []
    assert framer.feed(b"}]") == []
    assert seen(framer.feed(b"}")) == lines(b'{"a": [1, {}]}')


def test_hands_on_a_document_of_several_lines_as_it_came() -> None:
    document = b'{\r\n  "id": 1,\r\n\r\n  "params": [\n    1\n  ]\r\n}'
    assert framed(document + b"[]") == lines(document, b"[]")
    assert framed(*one_by_one(document + b"[]")) == lines(document, b"[]")


@pytest.mark.parametrize(
    "text",
    [
        rb'"}"',
        rb'"]][["',
        rb'"{"',
        rb'"\"}"',
        rb'"\\"',
        rb'"\\\"]\\"',
        rb'"\u007d}"',
        rb'"\n}"',
        '"é}€}𝄞]"'.encode(),
        b'"\r}"',
        b'"\0}"',
        b'""',
    ],
)
def test_looks_for_no_brackets_in_strings(text: bytes) -> None:
    for document in (b"[" + text + b"]", b"{" + text + b": [" + text + b"," + text + b"]}"):
        assert framed(document + b"{}") == lines(document, b"{}")
        assert framed(*one_by_one(document + b"{}")) == lines(document, b"{}")


@pytest.mark.parametrize("document", [b"[}", b"{]", b"[{]}", b"[[}{}]", b"[\\]", b"[nonsense]"])
def test_only_counts_brackets(document: bytes) -> None:
    assert framed(document + b"[]") == lines(document, b"[]")


def test_drops_a_byte_order_mark_at_the_start_alone() -> None:
    assert framed(BOM + b"{}" + BOM + b"[]\n{}") == lines(b"{}", BOM + b"[]", b"{}")
    assert framed(*one_by_one(BOM + b"{}")) == lines(b"{}")


# --- what is no document --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        b"garbage",
        b'"text" {"id":1}',
        b'x "{ \\" [',
        b"1",
        b",{}",
        b"POST /{} HTTP/1.1",
        b"\x16\x03\x01\x02\x00[{\xff",
        b"\xef",
        b"\x0b",
        b"a\rb",
    ],
)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_hands_on_a_line_that_begins_as_no_document_does(line: bytes, end: bytes) -> None:
    stream = b"{}" + line + end + b"[]"
    assert framed(stream) == lines(b"{}", line, b"[]")
    assert framed(*one_by_one(stream)) == lines(b"{}", line, b"[]")


@pytest.mark.parametrize("bad", [b"x", b'["'])
def test_drops_one_carriage_return_before_a_newline(bad: bytes) -> None:
    stream = bad + b"\r\r\n" + bad + b"\r\n{}\r\n"
    wanted = lines(bad + b"\r", bad, b"{}")
    assert framed(stream) == wanted
    assert framed(*one_by_one(stream)) == wanted
    assert framed(bad, b"\r\r\n") == lines(bad + b"\r")
    assert framed(stream + b"[" + b"1" * LIMIT + b"]")[:3] == wanted


def test_keeps_an_unfinished_line_until_its_newline_comes() -> None:
    assert framed(b"POST / HTTP/1.1") == []
    assert framed(b"POST / HT", b"TP/1.1\r", b"\n") == lines(b"POST / HTTP/1.1")


def test_hands_on_a_closing_bracket_that_closes_nothing_and_reads_on() -> None:
    assert framed(b"{}}[]") == lines(b"{}", b"}", b"[]")
    assert framed(b"]garbage\n[]") == lines(b"]", b"garbage", b"[]")


def test_hands_on_one_of_many_brackets_that_close_nothing() -> None:
    stream = b"]" * 50 + b"\n}\0]{}]]"
    assert framed(stream) == lines(b"]", b"{}", b"]")
    assert framed(*one_by_one(stream)) == lines(b"]", b"{}", b"]")


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("bad", [b'{"a', b'["', b'[["a", "{}', b'{"a\\'])
def test_a_newline_in_a_string_ends_the_document_there(bad: bytes, end: bytes) -> None:
    wanted = lines(bad, b'{"b":1}')
    assert framed(bad + end + b'{"b":1}') == wanted
    assert framed(*one_by_one(bad + end + b'{"b":1}')) == wanted


def test_reads_on_after_many_broken_strings() -> None:
    assert framed(b'["\n' * 50 + b'["x"]' + b'["\n' * 50) == lines(
        *[b'["'] * 50, b'["x"]', *[b'["'] * 50
    )


# --- limits ---------------------------------------------------------------------------------------


def test_takes_a_document_of_just_the_limit() -> None:
    document = b"[" + b"1" * (LIMIT - 2) + b"]"
    assert framed(document + b"[]") == lines(document, b"[]")
    assert framed(*one_by_one(document + b"[]")) == lines(document, b"[]")


def test_reports_a_document_that_is_one_byte_too_long() -> None:
    document = b"[" + b"1" * (LIMIT - 1) + b"]"
    wanted = [("overlong", document[:PREFIX_BYTES]), *lines(b"[]")]
    assert framed(document + b"[]") == wanted
    assert framed(*one_by_one(document + b"[]")) == wanted


def test_reports_an_overlong_document_before_its_end_has_come() -> None:
    framer = DocumentFramer(LIMIT)
    assert seen(framer.feed(b"[" + b"1" * (LIMIT + 1))) == [("overlong", b"[" + b"1" * 511)]
    assert framer.feed(b"[" * 5000) == []


@pytest.mark.parametrize("size", [1, 7, 1000, 100_000])
def test_skips_an_overlong_document_to_its_own_end(size: int) -> None:
    document = b'[{"a": "]' + b'\\"]}' * 1000 + b'"}, [[' + b"[]," * 1000 + b"\n\n 5]]]"
    stream = b'{"b":1}' + document + b'{"c":1}' + document + b"[]"
    overlong = ("overlong", document[:PREFIX_BYTES])
    assert framed(*in_chunks(stream, size)) == [
        *lines(b'{"b":1}'),
        overlong,
        *lines(b'{"c":1}'),
        overlong,
        *lines(b"[]"),
    ]


def test_skips_an_overlong_document_to_a_newline_in_one_of_its_strings() -> None:
    events = framed(b"[" * 3000, b'"', b"x\n[]")
    assert events == [("overlong", b"[" * PREFIX_BYTES), *lines(b"[]")]


def test_reports_an_overlong_line_once_and_reads_on_after_it() -> None:
    events = framed(b"x" * 3000, b"[" * 3000, b"z\n[]")
    assert events == [("overlong", b"x" * PREFIX_BYTES), *lines(b"[]")]


def peak_of_feeding(framer: DocumentFramer, chunk: bytes, times: int) -> int:
    tracemalloc.start()
    try:
        for _ in range(times):
            framer.feed(chunk)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return peak


@pytest.mark.parametrize("unit", [b"[", b"[]", b'"', b"\\", b"x"])
def test_holds_no_more_of_an_endless_document_than_the_limit(unit: bytes) -> None:
    limit = 64 * 1024
    framer = DocumentFramer(limit)
    framer.feed(b"[[")
    assert peak_of_feeding(framer, unit * (2000 // len(unit)), 300) < 4 * limit


@pytest.mark.parametrize("unit", [b"[", b'["'])
def test_needs_little_memory_to_look_through_a_long_chunk(unit: bytes) -> None:
    chunk = unit * (2 * 1024 * 1024 // len(unit))
    assert peak_of_feeding(DocumentFramer(LIMIT), chunk, 1) < 3 * len(chunk)


@pytest.mark.parametrize(
    ("data", "unfinished"),
    [
        (b"", False),
        (b"{}", False),
        (b"{}\r\n\0 ", False),
        (b"]", False),
        (b"{", True),
        (b"[[]", True),
        (b"{}[", True),
        (b'["', True),
        (b'["\\', True),
        (b'["\n', False),
        (b"garbage", True),
        (b"garbage\n", False),
        (b"[" * 5000, True),
        (b"[" * 5000 + b"]" * 5000, False),
    ],
)
def test_tells_whether_a_document_is_unfinished(data: bytes, unfinished: bool) -> None:
    framer = DocumentFramer(LIMIT)
    framer.feed(data)
    assert framer.unfinished is unfinished


# --- linear in time -------------------------------------------------------------------------------


class Work:
    """Adds up how many bytes are looked at when strings and the ends of documents are sought."""

    def __init__(self) -> None:
        self.bytes = 0

    def split(self, data: bytes) -> list[Any]:
        self.bytes += len(data)
        return STRING.split(data)


STRING = documents_module._STRING


class CountingDepths(list[int]):
    """Adds up how many places a search goes through."""

    work: Work

    def index(self, value: int, /, *bounds: Any) -> int:
        found = super().index(value, *bounds)
        self.work.bytes += found + 1 - bounds[0]
        return found


@pytest.mark.parametrize("size", [1, 7, 1000, 64 * 1024, 1024 * 1024])
@pytest.mark.parametrize(
    ("first", "unit"),
    [
        (b"", b"[]"),
        (b"", b"{[],[]}"),
        (b"", b"["),
        (b"[", b"[]"),
        (b"[", b"]["),
        (b'["', b'\\"'),
        (b'["', b"\\"),
        (b'["', b"x"),
        (b"", b'["\n'),
        (b"", b'["\n[]'),
        (b"", b'[""]'),
        (b"", b"x\n"),
        (b"", b'x"\n'),
        (b"", b'[x"\n]'),
        (b"x", b'"[]'),
        (b"", b"]"),
        (b"", b"]x\n"),
    ],
)
def test_looks_at_each_byte_a_bounded_number_of_times(
    first: bytes, unit: bytes, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work()
    measured = documents_module._Outline.depths

    def depths(outline: Any) -> CountingDepths:
        counting = CountingDepths(measured(outline))
        counting.work = work
        return counting

    monkeypatch.setattr("kn_sock._wire.documents._STRING", work)
    monkeypatch.setattr("kn_sock._wire.documents._Outline.depths", depths)
    # Longer than the chunk, or at least long; single bytes take their time.
    stream = first + unit * (min(10_000 * size, 100_000) // len(unit))
    framer = DocumentFramer(10 * len(stream))
    for chunk in in_chunks(stream, size):
        framer.feed(chunk)
    # Each chunk is looked at with up to two bytes before and one behind it.
    assert len(stream) <= work.bytes <= 2 * len(stream) + 4 * (len(stream) // size + 2)


# --- any stream, any chunking ---------------------------------------------------------------------


def modelled(stream: bytes) -> list[tuple[str, bytes]]:
    """Go through a whole stream byte by byte, the plain way."""
    stream = stream.removeprefix(BOM)
    events: list[tuple[str, bytes]] = []
    begin = depth = 0
    state = "between"
    is_astray = False

    def end(piece: bytes) -> None:
        events.append(
            ("line", piece) if len(piece) <= LIMIT else ("overlong", piece[:PREFIX_BYTES])
        )

    for at, byte in enumerate(stream):
        one = bytes([byte])
        if state == "between":
            if one in b" \t\r\n\0":
                continue
            begin = at
            if one in b"]}":
                if not is_astray:
                    end(one)
                is_astray = True
                continue
            is_astray = False
            depth = 1
            state = "document" if one in b"[{" else "line"
        elif state == "line" or (one == b"\n" and state in ("string", "escape")):
            if one == b"\n":
                end(stream[begin:at].removesuffix(b"\r"))
                state = "between"
        elif state == "escape":
            state = "string"
        elif state == "string":
            state = {b"\\": "escape", b'"': "document"}.get(one, state)
        elif one == b'"':
            state = "string"
        elif one in b"[{":
            depth += 1
        elif one in b"]}":
            depth -= 1
            if depth == 0:
                end(stream[begin : at + 1])
                state = "between"
    rest = b"" if state == "between" else stream[begin:]
    if len(rest) - (state == "escape") > LIMIT + 1:
        end(rest)
    return events


# Pieces that meet every special case, so that a random join of them does too.
pieces = st.one_of(
    st.sampled_from(
        [
            *(
                b"\n",
                b"\r",
                b"\r\n",
                b"\r\r\n",
                b" ",
                b"\0",
                BOM,
                BOM[:1],
                BOM[1:],
                b"x",
                b",",
                b"\\",
                b'"',
            ),
            *(b"[", b"]", b"{", b"}", b"[]", b"{}", b'{"id":1}\n', b'["}"]', b'["\\"]"]', b'"\n'),
            "é".encode(),
        ]
    ),
    st.binary(max_size=20),
    st.builds(
        lambda byte, count: byte * count,
        st.sampled_from([b"x", b"\r", b"\xef", b"[", b"]", b'"', b"\\", b"[]"]),
        st.integers(LIMIT - 3, LIMIT + 4),
    ),
)
streams = st.lists(pieces, max_size=30).map(b"".join)


@st.composite
def chunked(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> list[bytes]:
    stream = draw(whole)
    edges = (LIMIT, stream.find(b"\n"), stream.find(b'"'), stream.find(b"\\"), stream.find(b"]"))
    near = [at for edge in edges for at in range(edge - 2, edge + 4)]
    places = st.one_of(st.integers(0, len(stream)), st.sampled_from(near))
    cuts = sorted(
        {0, len(stream), *draw(st.lists(places, max_size=10))} & {*range(len(stream) + 1)}
    )
    return [stream[start:end] for start, end in itertools.pairwise(cuts)]


@settings(pure, max_examples=300)
@given(chunked(streams))
def test_any_chunking_gives_the_same_events(chunks: list[bytes]) -> None:
    assert framed(*chunks) == framed(b"".join(chunks))


@settings(pure, max_examples=30)
@given(streams)
def test_single_bytes_give_the_same_events(stream: bytes) -> None:
    assert framed(*one_by_one(stream)) == framed(stream)


@settings(pure, max_examples=300)
@given(chunked(streams))
def test_agrees_with_going_through_byte_by_byte(chunks: list[bytes]) -> None:
    assert framed(*chunks) == modelled(b"".join(chunks))


texts = st.text(max_size=8) | st.text(st.sampled_from('[]{}"\\\n\u2028é'), max_size=8)
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)
documents = st.builds(
    lambda value, indent, ensure_ascii: json.dumps(
        value if isinstance(value, (list, dict)) else [value],
        indent=indent,
        ensure_ascii=ensure_ascii,
    ).encode("utf-8", "surrogatepass"),
    values,
    st.sampled_from([None, 2, "\t"]),
    st.booleans(),
)


@pure
@given(
    st.lists(st.tuples(st.text(" \t\r\n\0", max_size=3), documents), max_size=6), st.integers(1, 50)
)
def test_any_documents_come_back_whatever_blanks_are_between_them(
    given_documents: list[tuple[str, bytes]], size: int
) -> None:
    stream = b"".join(blanks.encode() + document for blanks, document in given_documents)
    wanted = lines(*[document for _, document in given_documents])
    assert framed(stream, limit=1_000_000) == wanted
    assert framed(*in_chunks(stream, size), limit=1_000_000) == wanted
