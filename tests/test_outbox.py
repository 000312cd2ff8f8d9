from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.task import Clock

from kn_sock._outbox import Outbox, Turn


class FakeTransport:
    """Keeps what was written, piece by piece."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.on_write: Callable[[], object] = lambda: None

    def write(self, data: bytes) -> None:
        self.pieces.append(data)
        self.on_write()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def turn(clock: Clock) -> Turn:
    return Turn(clock)


@pytest.fixture
def transport() -> FakeTransport:
    return FakeTransport()


@pytest.fixture
def outbox(transport: FakeTransport, turn: Turn) -> Outbox:
    return Outbox(transport.write, turn)


def test_writes_at_the_end_of_the_turn(
    outbox: Outbox, transport: FakeTransport, clock: Clock
) -> None:
    outbox.put(b"one\n")
    assert transport.pieces == []
    clock.advance(0)
    assert transport.pieces == [b"one\n"]
    assert clock.getDelayedCalls() == []


def test_writes_what_one_turn_gathered_in_one_piece(
    outbox: Outbox, transport: FakeTransport, clock: Clock
) -> None:
    for line in (b"one\n", b"two\n", b"three\n"):
        outbox.put(line)
    assert len(clock.getDelayedCalls()) == 1
    clock.advance(0)
    assert transport.pieces == [b"one\ntwo\nthree\n"]


def test_writes_again_in_a_later_turn(
    outbox: Outbox, transport: FakeTransport, clock: Clock
) -> None:
    outbox.put(b"one\n")
    clock.advance(0)
    outbox.put(b"two\n")
    clock.advance(0)
    assert transport.pieces == [b"one\n", b"two\n"]


def test_writes_once_to_each_of_several(clock: Clock, turn: Turn) -> None:
    transports = [FakeTransport() for _ in range(3)]
    outboxes = [Outbox(transport.write, turn) for transport in transports]
    for outbox in [*outboxes, *outboxes]:
        outbox.put(b"x\n")
    assert len(clock.getDelayedCalls()) == 1
    clock.advance(0)
    assert [transport.pieces for transport in transports] == [[b"x\nx\n"]] * 3


def test_a_held_turn_writes_when_it_is_released(
    outbox: Outbox, transport: FakeTransport, turn: Turn, clock: Clock
) -> None:
    turn.hold()
    outbox.put(b"one\n")
    outbox.put(b"two\n")
    assert clock.getDelayedCalls() == []
    assert transport.pieces == []
    turn.release()
    assert transport.pieces == [b"one\ntwo\n"]
    assert clock.getDelayedCalls() == []


def test_only_the_outermost_release_writes(
    outbox: Outbox, transport: FakeTransport, turn: Turn
) -> None:
    turn.hold()
    turn.hold()
    outbox.put(b"one\n")
    turn.release()
    assert transport.pieces == []
    turn.release()
    assert transport.pieces == [b"one\n"]


def test_a_release_writes_what_was_put_before_the_hold(
    outbox: Outbox, transport: FakeTransport, turn: Turn, clock: Clock
) -> None:
    outbox.put(b"one\n")
    turn.hold()
    outbox.put(b"two\n")
    turn.release()
    assert transport.pieces == [b"one\ntwo\n"]
    assert clock.getDelayedCalls() == []


def test_a_release_of_nothing_writes_nothing(
    transport: FakeTransport, turn: Turn, clock: Clock
) -> None:
    turn.hold()
    turn.release()
    turn.flush()
    assert transport.pieces == []
    assert clock.getDelayedCalls() == []


def test_a_flush_writes_at_once_and_only_once(
    outbox: Outbox, transport: FakeTransport, turn: Turn, clock: Clock
) -> None:
    outbox.put(b"one\n")
    turn.flush()
    turn.flush()
    outbox.flush()
    assert transport.pieces == [b"one\n"]
    assert clock.getDelayedCalls() == []


def test_an_outbox_can_be_flushed_alone(
    outbox: Outbox, transport: FakeTransport, turn: Turn, clock: Clock
) -> None:
    other_transport = FakeTransport()
    other = Outbox(other_transport.write, turn)
    outbox.put(b"one\n")
    other.put(b"x\n")
    outbox.flush()
    assert (transport.pieces, other_transport.pieces) == ([b"one\n"], [])
    outbox.put(b"two\n")
    clock.advance(0)
    assert (transport.pieces, other_transport.pieces) == ([b"one\n", b"two\n"], [b"x\n"])


def test_what_a_write_puts_in_is_written_too(
    outbox: Outbox, transport: FakeTransport, clock: Clock
) -> None:
    def put_more() -> None:
        if len(transport.pieces) == 1:
            outbox.put(b"two\n")

    transport.on_write = put_more
    outbox.put(b"one\n")
    clock.advance(0)
    clock.advance(0)
    assert transport.pieces == [b"one\n", b"two\n"]


def test_one_transport_that_fails_does_not_silence_the_others(
    turn: Turn, clock: Clock, logged_errors: Any
) -> None:
    def fail(data: bytes) -> None:
        raise OSError("gone")

    good = FakeTransport()
    bad_box, good_box = Outbox(fail, turn), Outbox(good.write, turn)
    bad_box.put(b"x\n")
    good_box.put(b"one\n")
    clock.advance(0)
    good_box.put(b"two\n")
    clock.advance(0)
    assert b"".join(good.pieces) == b"one\ntwo\n"
    assert len(logged_errors.claim()) == 1


# --- taking lines back ----------------------------------------------------------------------------


def test_takes_a_line_back_that_waits(
    outbox: Outbox, transport: FakeTransport, clock: Clock
) -> None:
    outbox.put(b"one\n")
    number = outbox.put(b"two\n")
    outbox.put(b"three\n")
    assert outbox.withdraw(number)
    clock.advance(0)
    assert transport.pieces == [b"one\nthree\n"]


def test_takes_no_line_back_that_was_written(
    outbox: Outbox, transport: FakeTransport, clock: Clock
) -> None:
    number = outbox.put(b"one\n")
    clock.advance(0)
    later = outbox.put(b"two\n")
    assert not outbox.withdraw(number)
    assert outbox.withdraw(later)
    clock.advance(0)
    assert b"".join(transport.pieces) == b"one\n"


def test_tells_which_lines_wait(outbox: Outbox, clock: Clock) -> None:
    numbers = [outbox.put(b"x\n") for _ in range(3)]
    assert len(set(numbers)) == 3
    assert all(map(outbox.is_waiting, numbers))
    clock.advance(0)
    assert not any(map(outbox.is_waiting, numbers))
    assert outbox.is_waiting(outbox.put(b"y\n"))


def test_numbers_stay_right_when_a_write_puts_in_more(
    outbox: Outbox, transport: FakeTransport, clock: Clock
) -> None:
    numbers: list[int] = []

    def put_more() -> None:
        if not numbers:
            numbers.append(outbox.put(b"two\n"))

    transport.on_write = put_more
    first = outbox.put(b"one\n")
    clock.advance(0)
    assert numbers == [first + 1]
