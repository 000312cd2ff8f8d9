"""Random and mutated lines over framing, codec and session: whatever comes, no exception.

``python -m tests.faults.fuzz --lines 1000000`` mutates by chance, and keeps what has an outcome
that was not seen before. ``--seconds`` ends it earlier. What fails is printed, made as short as it
can be, and written to a file. `tests.faults.fuzz_guided` checks the same.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import UNSET

from kn_sock._wire.decoding import UNREADABLE, decode_message
from kn_sock._wire.dialects import DIALECTS
from kn_sock._wire.documents import DocumentFramer
from kn_sock._wire.events import (
    Answered,
    Cancel,
    Failed,
    ProtocolViolation,
    Refusal,
    Request,
    UnmatchedError,
)
from kn_sock._wire.framing import Framer, LineFramer, OverlongLine
from kn_sock._wire.messages import Message
from kn_sock._wire.requests import RequestEncoder
from kn_sock._wire.session import Session
from kn_sock._wire.weight import has_more_containers, pack, structure_of, unpack
from kn_sock.conformance._cases import read_groups
from kn_sock.errors import ErrorCode, MethodNotFound, RPCError

HOSTILE = Path(__file__).resolve().parent.parent / "data" / "hostile"

# Shorter than in life, so that what is too long is seen; longer than what is kept of that.
MAX_LINE_BYTES = 700

CODES = {int(code) for code in ErrorCode}


def seeds() -> list[bytes]:
    """Every hostile line, and all that the conformance cases send."""
    lines = [path.read_bytes() for path in sorted(HOSTILE.iterdir())]
    cases = [case.sent for group in read_groups() for case in group.cases]
    return [seed for seed in lines + cases if len(seed) < 4096]


# --- what has to hold -----------------------------------------------------------------------------


class Checker:
    """Puts bytes through all of it, and raises ``AssertionError`` where something is wrong."""

    def __init__(self) -> None:
        self.lines = 0

    def check(self, data: bytes) -> set[Any]:
        """Check; return what kinds of outcome there were."""
        number = zlib.crc32(data)
        seen: set[Any] = set()
        lines = in_pieces(LineFramer(MAX_LINE_BYTES), data, number)
        assert shape(lines) == shape(naive_lines(data)), "not split at its newlines"
        documents = in_pieces(DocumentFramer(MAX_LINE_BYTES), data, number)
        whole = DocumentFramer(MAX_LINE_BYTES).feed(data)
        assert shape(documents) == shape(whole), "documents depend on how the stream is cut"
        # The same line again is not counted again.
        self.lines += len({str(one) for one in shape(lines)})
        for place, line in enumerate([*lines, *documents]):
            session = busy_session(sorted(DIALECTS)[(number + place) % len(DIALECTS)])
            if isinstance(line, OverlongLine):
                received: Any = session.receive_overlong(line)
            else:
                compare_with_json(bytes(line))
                compare_weight(bytes(line))
                received = session.receive(line)
            seen.add(check_outcome(session, received))
        seen.add((len(lines) > 2, len(documents) > len(lines)))
        return seen


def in_pieces(framer: Framer, data: bytes, number: int) -> list[Any]:
    """Feed a framer, cut at places that depend on a number."""
    chance = random.Random(number)
    found: list[Any] = []
    at = 0
    # What is long is not cut into its bytes every time: that takes its time.
    sizes = (1, 2, 7, 64, 1000) if len(data) < 300 or not number % 8 else (64, 300, 1000)
    while at < len(data):
        size = chance.choice(sizes)
        found += framer.feed(data[at : at + size])
        at += size
    return found


def naive_lines(data: bytes) -> list[Any]:
    """Split as the documentation says, with no thought of speed or memory."""
    *lines, rest = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    found: list[Any] = []
    for line in lines:
        line = line.removesuffix(b"\r")
        if len(line) > MAX_LINE_BYTES:
            found.append(OverlongLine(line))
        elif line:
            found.append(line)
    if len(rest) > MAX_LINE_BYTES + 1:
        found.append(OverlongLine(rest))
    return found


def shape(lines: list[Any]) -> list[Any]:
    return [("long", one.prefix) if isinstance(one, OverlongLine) else bytes(one) for one in lines]


def compare_with_json(line: bytes) -> None:
    """Hold what was decoded against the standard library, where both accept it."""
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=refuse, parse_float=finite)
    except (ValueError, RecursionError):
        return
    try:
        message = decode_message(line)
    except UNREADABLE:
        return
    assert isinstance(value, dict), "no object, and decoded as one"
    for name in Message.__struct_fields__:
        decoded, wanted = getattr(message, name), value.get(name, UNSET)
        assert same(decoded, wanted), f"{name} is {decoded!r}, and by json {wanted!r}"


def compare_weight(line: bytes) -> None:
    """Hold what a line is said to cost against what the standard library makes of it."""
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=refuse, object_pairs_hook=Pairs)
    except (ValueError, RecursionError):
        return
    containers = containers_of(value)
    found = structure_of(line)
    assert found.containers >= containers, "fewer containers than there are"
    assert not has_more_containers(line, found, containers), "more containers than there are"
    if containers:
        assert has_more_containers(line, found, containers - 1), "not all containers"
    try:
        packed = pack([value], UNSET)
    except ValueError:
        return
    assert unpack(packed) == ([value], UNSET), "not what was packed"


class Pairs(list[Any]):
    """The members of an object, with those that have the same name."""


def containers_of(value: Any) -> int:
    """Count as ``max_containers`` does, by a walk through the values."""
    containers = commas = 0
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, Pairs):
            containers += 1 + len(one)
            commas += max(0, len(one) - 1)
            left += [inner for _, inner in one]
        elif isinstance(one, list):
            containers += 1
            commas += max(0, len(one) - 1)
            left += one
    return containers + commas // 4


def refuse(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("beyond a double")
    return value


def same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def busy_session(dialect: str) -> Session[int]:
    session: Session[int] = Session(
        RequestEncoder(DIALECTS[dialect]), max_line_bytes=2000, max_batch=20
    )
    for _ in range(2):
        call_id, _line = session.encoder.encode_call("f", (), {})
        session.register(call_id, call_id)
    return session


def check_outcome(session: Session[int], received: Any) -> Any:
    """Check what a line was taken for; return what kind of thing that was."""
    events = received if isinstance(received, list) else [received] if received else []
    kinds: list[Any] = []
    for event in events:
        kind: Any = type(event).__name__
        if isinstance(event, Refusal):
            kind = check_reply(event.line)
        elif isinstance(event, Request):
            kind = (kind, event.dialect.name, event.expects_reply, type(event.params).__name__)
            if len(kinds) % 2:
                line = session.answer(event, ["a result", event.params or None])
            else:
                line = session.refuse(event, MethodNotFound("there is no such method"))
            if line is not None:
                check_reply(line)
        elif isinstance(event, (Failed, UnmatchedError)):
            assert isinstance(event.error, RPCError)
            kind = (kind, event.error.code if event.error.code in CODES else 0)
            json.dumps(str(event.error))
        elif isinstance(event, ProtocolViolation):
            assert event.reason
        else:
            assert isinstance(event, (Answered, Cancel)), event
        kinds.append(kind)
    batches = [event.batch for event in events if isinstance(event, Request) and event.batch]
    assert all(batch.awaited == 0 for batch in batches), "a batch is never answered"
    return tuple(sorted(set(map(str, kinds))))


def check_reply(line: bytes) -> str:
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    answer = json.loads(line, parse_constant=refuse)
    found = []
    for one in answer if isinstance(answer, list) else [answer]:
        assert "result" in one or one["error"] is not None
        error = one.get("error")
        if isinstance(error, dict):
            assert error["code"] in CODES
            assert 0 < len(error["message"]) <= 300
            found.append(str(error["code"]))
        else:
            assert error is None or 0 < len(error) <= 300
            found.append(type(error).__name__)
    return " ".join(sorted(set(found)))


# --- by chance ------------------------------------------------------------------------------------

TOKENS = [
    *b'{ } [ ] : , " \\ \x00 \xff \xed\xa0\x80 \xef\xbb\xbf \r\n \n \r'.split(b" "),
    *b"null true false 0 -0 1 1.0 1e5 1E400 1e-400 NaN Infinity 18446744073709551616".split(),
    *b'"id" "id":1 "id":0 "id":null "id":1.50 "id":true "id":"x" "id":[1] "id":{}'.split(),
    *b'"jsonrpc":"2.0" "jsonrpc":"1.0" "jsonrpc":2.0 "method":"f" "method":1 "params":[]'.split(),
    *b'"params":{} "params":null "kwargs":{} "kwargs":[] "result":1 "result":null'.split(),
    *b'"error":null "error":"x" "error":{"code":-32700,"message":"x"} "error":[]'.split(),
    *b'"method":"$/cancelRequest","params":{"id":1} "timeout":1 "timeout":-1 "timeout":"x"'.split(
        b" "
    ),
    *b'"\\ud800" "\\u0000" \\u00e9 \xc3\xa9 "traceparent":"00-0-0-00" GET content-length:'.split(),
    b"[" * 300,
    b'{"a":' * 100,
    b"9" * 400,
    b"9" * 4500,
    b"x" * MAX_LINE_BYTES,
    b'{"jsonrpc":"2.0","id":1,"method":"f"}\n',
    b'[{"jsonrpc":"2.0","id":1,"method":"f"},1]\n',
]


class Mutations:
    """Makes inputs, one of another, and keeps those that did something new."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._corpus = [*seeds(), b""]
        self._seen: set[Any] = set()

    def inputs(self) -> Iterator[bytes]:
        chance = self._chance
        while True:
            if chance.random() < 0.05:
                yield chance.randbytes(chance.randrange(60)) + b"\n"
                continue
            data = bytearray(chance.choice(self._corpus))
            for _ in range(chance.choice((1, 1, 1, 2, 3, 5, 10))):
                self._mutate(data)
            if not data.endswith(b"\n"):
                data += b"\n"
            yield bytes(data[:6000])

    def _mutate(self, data: bytearray) -> None:
        chance = self._chance
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.choice((1, 1, 2, 4, 16, 100)))
        kind = chance.randrange(7)
        if kind == 0 and at < len(data):
            data[at] = chance.randrange(256)
        elif kind == 1:
            del data[at:end]
        elif kind == 2:
            data[at:at] = chance.choice(TOKENS)
        elif kind == 3:
            data[at:end] = chance.choice(TOKENS)
        elif kind == 4:
            data[at:at] = data[at:end] * chance.choice((1, 2, 30))
        elif kind == 5:
            other = chance.choice(self._corpus)
            start = chance.randrange(len(other) + 1)
            data[at:end] = other[start : start + chance.randrange(200)]
        elif at < len(data):
            data[at] ^= 1 << chance.randrange(8)

    def note(self, data: bytes, seen: set[Any]) -> None:
        if not seen <= self._seen:
            self._seen |= seen
            self._corpus.append(data)

    @property
    def outcomes(self) -> int:
        return len(self._seen)


def run_by_chance(lines: int, seconds: float, seed: int) -> str:
    """Run until so many lines were checked, or the time is over; say what was done."""
    checker, mutations = Checker(), Mutations(seed)
    ends = time.monotonic() + seconds
    inputs = 0
    for data in mutations.inputs():
        inputs += 1
        try:
            mutations.note(data, checker.check(data))
        except BaseException as problem:
            report(data, problem)
            raise
        if checker.lines >= lines or (inputs % 100 == 0 and time.monotonic() > ends):
            break
    return (
        f"by chance, seed {seed}: {checker.lines:,} lines in {inputs:,} inputs, "
        f"{mutations.outcomes:,} kinds of outcome, no exception"
    )


# --- what fails -----------------------------------------------------------------------------------


def report(data: bytes, problem: BaseException) -> None:
    """Write down the shortest input that still fails in the same way."""
    kind = type(problem)
    size = max(1, len(data) // 2)
    while size:
        at = 0
        while at < len(data):
            shorter = data[:at] + data[at + size :]
            if fails_with(shorter, kind):
                data = shorter
            else:
                at += size
        size //= 2
    with tempfile.NamedTemporaryFile(prefix="crash-", suffix=".line", delete=False) as file:
        file.write(data)
    print(f"{kind.__name__}: {problem}\n  {data!r}\n  is in {file.name}", file=sys.stderr)


def fails_with(data: bytes, kind: type[BaseException]) -> bool:
    try:
        Checker().check(data)
    except kind:
        return True
    except BaseException:
        return False
    return False


def arguments(text: str | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    given = arguments(__doc__)
    before = time.monotonic()
    print(run_by_chance(given.lines, given.seconds, given.seed))
    print(f"{time.monotonic() - before:.0f} s")


if __name__ == "__main__":
    main()
