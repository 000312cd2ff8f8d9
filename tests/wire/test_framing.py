from __future__ import annotations

import itertools
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kn_sock._wire.documents import DocumentFramer
from kn_sock._wire.framing import PREFIX_BYTES, Framer, LineFramer, OverlongLine

LIMIT = 1024
BOM = b"\xef\xbb\xbf"

pure = settings(derandomize=True, deadline=None)


def seen(events: list[Any]) -> list[tuple[str, bytes]]:
    return [
        ("overlong", event.prefix) if isinstance(event, OverlongLine) else ("line", bytes(event))
        for event in events
    ]


def framed(*chunks: bytes, limit: int = LIMIT) -> list[tuple[str, bytes]]:
    framer = LineFramer(limit)
    return [one for chunk in chunks for one in seen(framer.feed(chunk))]


def lines(*wanted: bytes) -> list[tuple[str, bytes]]:
    return [("line", line) for line in wanted]


def one_by_one(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


class CountingBytearray(bytearray):
    """Adds up how many bytes are touched when a line is put together."""

    touched = 0

    def __iadd__(self, other: Any) -> CountingBytearray:
        CountingBytearray.touched += len(other)
        super().__iadd__(other)
        return self

    def _count_all(self) -> None:
        CountingBytearray.touched += len(self)

    def __add__(self, other: Any) -> bytearray:
        self._count_all()
        return super().__add__(other)

    def __contains__(self, key: Any) -> bool:
        self._count_all()
        return super().__contains__(key)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            CountingBytearray.touched += len(range(*key.indices(len(self))))
        return super().__getitem__(key)

    def __bytes__(self) -> bytes:
        self._count_all()
        return bytes(memoryview(self))

    def find(self, *args: Any) -> int:
        self._count_all()
        return super().find(*args)

    def split(self, *args: Any) -> list[bytearray]:
        self._count_all()
        return super().split(*args)

    def partition(self, sep: Any) -> tuple[bytearray, bytearray, bytearray]:
        self._count_all()
        return super().partition(sep)

    def strip(self, *args: Any) -> bytearray:
        self._count_all()
        return super().strip(*args)


def test_splits_at_newlines() -> None:
    assert framed(b"one\ntwo\n") == lines(b"one", b"two")


def test_keeps_an_unfinished_line_until_its_end_comes() -> None:
    assert framed(b"on", b"", b"e") == []
    assert framed(b"on", b"", b"e", b"\nt", b"wo\n") == lines(b"one", b"two")


def test_drops_one_carriage_return_before_a_newline() -> None:
    assert framed(b"one\r\ntwo\n") == lines(b"one", b"two")
    assert framed(b"one\r\r\n") == lines(b"one\r")


def test_keeps_a_carriage_return_inside_a_line() -> None:
    assert framed(b"a\rb\n") == lines(b"a\rb")


def test_drops_a_carriage_return_that_comes_apart_from_its_newline() -> None:
    assert framed(b"one\r", b"\ntwo", b"\r\n") == lines(b"one", b"two")


@pytest.mark.parametrize("chunks", [(b"\n\r\n\n",), (b"\r", b"\n", b"\n")])
def test_ignores_empty_lines(chunks: tuple[bytes, ...]) -> None:
    assert framed(*chunks, b"x\n") == lines(b"x")


def test_hands_on_lines_of_mere_spaces() -> None:
    assert framed(b"  \n") == lines(b"  ")


def test_drops_a_byte_order_mark_at_the_start() -> None:
    assert framed(BOM + b"one\n" + BOM + b"two\n") == lines(b"one", BOM + b"two")


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_drops_a_byte_order_mark_that_comes_in_pieces(cut: int) -> None:
    assert framed(b"", BOM[:cut], BOM[cut:] + b"one\n") == lines(b"one")
    assert framed(*one_by_one(BOM + b"one\n")) == lines(b"one")


def test_drops_only_one_byte_order_mark() -> None:
    assert framed(BOM + BOM + b"\n") == lines(BOM)


def test_keeps_what_only_begins_like_a_byte_order_mark() -> None:
    assert framed(BOM[:1], b"x\n") == lines(BOM[:1] + b"x")
    assert framed(BOM[:2] + b"\n") == lines(BOM[:2])


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_takes_a_line_of_just_the_limit(end: bytes) -> None:
    line = b"x" * LIMIT
    assert framed(line + end) == lines(line)
    assert framed(*one_by_one(line + end)) == lines(line)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_reports_a_line_that_is_one_byte_too_long(end: bytes) -> None:
    line = b"x" * (LIMIT + 1)
    overlong = [("overlong", line[:PREFIX_BYTES])]
    assert framed(line + end) == overlong
    assert framed(*one_by_one(line + end)) == overlong


def test_does_not_count_a_byte_order_mark_to_the_line() -> None:
    line = b"x" * LIMIT
    assert framed(BOM + line + b"\n") == lines(line)


def test_reports_an_overlong_line_before_its_end_has_come() -> None:
    assert framed(b"x" * (LIMIT + 2)) == [("overlong", b"x" * PREFIX_BYTES)]


def test_reports_an_overlong_line_once_and_reads_on_after_it() -> None:
    events = framed(b"x" * 3000, b"y" * 3000, b"z\none\n", b"two\n")
    assert events == [("overlong", b"x" * PREFIX_BYTES), *lines(b"one", b"two")]


def test_reads_on_after_overlong_lines_in_one_chunk() -> None:
    events = framed(b"one\n" + b"x" * 3000 + b"\ntwo\n" + b"y" * 3000 + b"\nthree\n")
    assert events == [
        ("line", b"one"),
        ("overlong", b"x" * PREFIX_BYTES),
        ("line", b"two"),
        ("overlong", b"y" * PREFIX_BYTES),
        ("line", b"three"),
    ]


def test_takes_the_end_of_an_overlong_line_for_no_line() -> None:
    assert framed(b"x" * 3000, b"\n") == [("overlong", b"x" * PREFIX_BYTES)]
    assert framed(b"x" * 3000, b"\r\n\n") == [("overlong", b"x" * PREFIX_BYTES)]


def test_holds_no_more_of_an_endless_line_than_the_limit() -> None:
    limit = 64 * 1024
    chunk = b"x" * (16 * 1024)
    framer = LineFramer(limit)
    tracemalloc.start()
    try:
        for _ in range(1000):
            framer.feed(chunk)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * limit


@pytest.mark.parametrize(
    ("data", "unfinished"),
    [
        (b"", False),
        (b"one\n", False),
        (b"one\n\r", False),
        (b"one", True),
        (b"one\ntw", True),
        (b"x" * 5000, True),
        (b"x" * 5000 + b"\n", False),
    ],
)
def test_tells_whether_a_line_is_unfinished(data: bytes, unfinished: bool) -> None:
    framer = LineFramer(LIMIT)
    framer.feed(data)
    assert framer.unfinished is unfinished


@pytest.mark.parametrize("size", [1, 7, 64])
@pytest.mark.parametrize(
    ("kind", "start", "end"), [(LineFramer, b"x", b"\n"), (DocumentFramer, b"[", b"")]
)
def test_touches_each_byte_of_a_line_a_bounded_number_of_times(
    kind: type[Framer], start: bytes, end: bytes, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kn_sock._wire.framing.bytearray", CountingBytearray, raising=False)
    total = 64 * 1024
    line = start + b"x" * (total - 2) + b"]"
    data = line + end
    framer = kind(total)
    CountingBytearray.touched = 0
    chunks = (data[at : at + size] for at in range(0, len(data), size))
    events = [one for chunk in chunks for one in framer.feed(chunk)]
    assert seen(events) == lines(line)
    assert total <= CountingBytearray.touched <= 4 * total


# Pieces that meet every special case, so that a random join of them does too.
pieces = st.one_of(
    st.sampled_from(
        [b"\n", b"\r", b"\r\n", b"\n\n", BOM, BOM[:1], BOM[1:], b" ", b"{}", b'{"id":1}\n']
    ),
    st.binary(max_size=20),
    st.builds(
        lambda byte, count: byte * count,
        st.sampled_from([b"x", b"\r", b"\xef"]),
        st.integers(LIMIT - 3, LIMIT + 4),
    ),
)
streams = st.lists(pieces, max_size=12).map(b"".join)


@st.composite
def chunked_streams(draw: st.DrawFn) -> list[bytes]:
    stream = draw(streams)
    near = [at for edge in (LIMIT, stream.find(b"\n")) for at in range(edge - 2, edge + 4)]
    places = st.one_of(st.integers(0, len(stream)), st.sampled_from(near))
    cuts = sorted(
        {0, len(stream), *draw(st.lists(places, max_size=10))} & {*range(len(stream) + 1)}
    )
    return [stream[start:end] for start, end in itertools.pairwise(cuts)]


@pure
@given(chunked_streams())
def test_any_chunking_gives_the_same_events(chunks: list[bytes]) -> None:
    assert framed(*chunks) == framed(b"".join(chunks))


@settings(pure, max_examples=30)
@given(streams)
def test_single_bytes_give_the_same_events(stream: bytes) -> None:
    assert framed(*one_by_one(stream)) == framed(stream)


@pure
@given(chunked_streams())
def test_agrees_with_a_plain_split_of_the_whole(chunks: list[bytes]) -> None:
    stream = b"".join(chunks).removeprefix(BOM)
    wanted = []
    *whole, rest = stream.split(b"\n")
    for line in whole:
        line = line.removesuffix(b"\r")
        if line:
            too_long = len(line) > LIMIT
            wanted.append(("overlong", line[:PREFIX_BYTES]) if too_long else ("line", line))
    if len(rest) > LIMIT + 1:
        wanted.append(("overlong", rest[:PREFIX_BYTES]))
    assert framed(*chunks) == wanted
