"""Random, mutated and generated lines find no exception; a little of it here, more in the soak."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kn_sock._wire.framing import LineFramer
from kn_sock._wire.session import Session
from tests.faults import fuzz


@pytest.fixture
def checker() -> fuzz.Checker:
    return fuzz.Checker()


def test_mutated_lines_find_no_exception() -> None:
    said = fuzz.run_by_chance(5_000, seconds=60.0, seed=1)
    assert "5,0" in said


def test_what_is_mutated_is_right_as_it_is(checker: fuzz.Checker) -> None:
    for seed in fuzz.seeds():
        checker.check(seed)
    assert checker.lines > 300


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["2.0", "1.0", "f", "$/cancelRequest", "rpc.ping", 2**64, -1, 1, 2, 1.0]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["id", "code", "message", "data", "x"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)
MEMBERS = [
    "jsonrpc",
    "id",
    "method",
    "params",
    "kwargs",
    "result",
    "error",
    "timeout",
    "traceparent",
]
MESSAGE = st.fixed_dictionaries({}, optional=dict.fromkeys(MEMBERS, ANYTHING)) | (
    st.fixed_dictionaries(
        {"jsonrpc": st.just("2.0"), "method": st.text(max_size=5)},
        optional={name: ANYTHING for name in MEMBERS if name not in ("jsonrpc", "method")},
    )
)
BATCH = st.lists(MESSAGE | ANYTHING, max_size=6)
LINE = (MESSAGE | BATCH | ANYTHING).map(json.dumps).map(str.encode) | st.binary(max_size=50)
CUT_LINE = st.tuples(LINE, st.integers(0, 200)).map(lambda both: both[0][: both[1]])


@given(st.lists(LINE | CUT_LINE, max_size=5), st.sampled_from([b"\n", b"\r\n", b"", b"\n\n", b" "]))
def test_lines_that_are_generated_find_no_exception(lines: list[bytes], between: bytes) -> None:
    fuzz.Checker().check(between.join(lines) + b"\n")


@given(st.binary(max_size=200))
def test_bytes_find_no_exception(data: bytes) -> None:
    fuzz.Checker().check(data)


# --- that it would find one -----------------------------------------------------------------------


def test_a_wrong_split_is_found(checker: fuzz.Checker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LineFramer, "_check", lambda self, lines: lines)
    with pytest.raises(AssertionError, match="newlines"):
        checker.check(b"a\r\n\n")


def test_an_exception_is_found_and_made_short(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    received = Session.receive

    def receive(self: Session[Any], line: bytes) -> Any:
        if b"$" in line:
            raise KeyError("the id")
        return received(self, line)

    monkeypatch.setattr(Session, "receive", receive)
    with pytest.raises(KeyError):
        fuzz.run_by_chance(100_000, seconds=60.0, seed=1)
    printed = capsys.readouterr().err
    assert "KeyError: 'the id'" in printed
    (found,) = tmp_path.iterdir()
    assert found.read_bytes().strip() == b"$"


def test_a_batch_that_is_not_answered_is_found(
    checker: fuzz.Checker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "refuse", lambda self, request, error: None)
    with pytest.raises(AssertionError, match="never answered"):
        checker.check(b'[{"jsonrpc":"2.0","id":1,"method":"f"}]\n')
