from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.task import Clock

from kn_sock._io.outbox import Outbox, WriteCoalescer


class FakeTransport:
    """Keeps what was written, piece by piece."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.on_write: Callable[[], object] = lambda: None

    def write(self, data: bytes) -> None:
        self.pieces.append(data)
        self.on_write()


class World(Outbox):
    """An outbox, with the reactor, the transport and the turn that it depends on."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.turn = WriteCoalescer(self.clock)
        self.transport = FakeTransport()
        super().__init__(self.transport.write, self.turn)

    def end_turn(self) -> list[bytes]:
        """End the reactor's turn, and return all that was written so far."""
        self.clock.advance(0)
        return self.transport.pieces

    @property
    def is_quiet(self) -> bool:
        """Whether the reactor has nothing to do."""
        return not self.clock.getDelayedCalls()


@pytest.fixture
def outbox() -> World:
    return World()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def turn(clock: Clock) -> WriteCoalescer:
    return WriteCoalescer(clock)


# Each step, the pieces that it writes, and how many timers run after it.
SCRIPTS: dict[str, list[tuple[str, list[str], int]]] = {
    "at the end of the turn, in one piece": [
        ("put one", [], 1),
        ("put two", [], 1),
        ("put three", [], 1),
        ("turn", ["one two three"], 0),
    ],
    "again in a later turn": [
        ("put one", [], 1),
        ("turn", ["one"], 0),
        ("put two", [], 1),
        ("turn", ["two"], 0),
    ],
    "a held turn when it is released": [
        ("hold", [], 0),
        ("put one", [], 0),
        ("put two", [], 0),
        ("release", ["one two"], 0),
    ],
    "by the outermost release alone": [
        ("hold", [], 0),
        ("hold", [], 0),
        ("put one", [], 0),
        ("release", [], 0),
        ("release", ["one"], 0),
    ],
    "by a release what was put before the hold": [
        ("put one", [], 1),
        ("hold", [], 1),
        ("put two", [], 1),
        ("release", ["one two"], 0),
    ],
    "nothing if there is nothing": [("hold", [], 0), ("release", [], 0), ("flush", [], 0)],
    "at once and once by a flush": [
        ("put one", [], 1),
        ("flush", ["one"], 0),
        ("flush", [], 0),
        ("flush the outbox", [], 0),
    ],
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_writes(name: str, outbox: World) -> None:
    steps: dict[str, Callable[[], object]] = {
        "turn": lambda: outbox.clock.advance(0),
        "hold": outbox.turn.hold,
        "release": outbox.turn.release,
        "flush": outbox.turn.flush,
        "flush the outbox": outbox.flush,
    }
    for step, pieces, timers in SCRIPTS[name]:
        if step.startswith("put "):
            outbox.put(step[4:].encode() + b"\n")
        else:
            steps[step]()
        written = [piece.decode() for piece in outbox.transport.pieces]
        assert written == [piece.replace(" ", "\n") + "\n" for piece in pieces], step
        outbox.transport.pieces.clear()
        assert len(outbox.clock.getDelayedCalls()) == timers, step


def test_writes_once_to_each_of_several(clock: Clock, turn: WriteCoalescer) -> None:
    transports = [FakeTransport() for _ in range(3)]
    outboxes = [Outbox(transport.write, turn) for transport in transports]
    for outbox in [*outboxes, *outboxes]:
        outbox.put(b"x\n")
    assert len(clock.getDelayedCalls()) == 1
    clock.advance(0)
    assert [transport.pieces for transport in transports] == [[b"x\nx\n"]] * 3


def test_an_outbox_can_be_flushed_alone(outbox: World) -> None:
    other_transport = FakeTransport()
    other = Outbox(other_transport.write, outbox.turn)
    outbox.put(b"one\n")
    other.put(b"x\n")
    outbox.flush()
    assert (outbox.transport.pieces, other_transport.pieces) == ([b"one\n"], [])
    outbox.put(b"two\n")
    outbox.clock.advance(0)
    assert (outbox.transport.pieces, other_transport.pieces) == ([b"one\n", b"two\n"], [b"x\n"])


def test_what_a_write_puts_in_is_written_too(outbox: World) -> None:
    def put_more() -> None:
        if len(outbox.transport.pieces) == 1:
            outbox.put(b"two\n")

    outbox.transport.on_write = put_more
    outbox.put(b"one\n")
    outbox.clock.advance(0)
    assert outbox.end_turn() == [b"one\n", b"two\n"]


def test_one_transport_that_fails_does_not_silence_the_others(
    turn: WriteCoalescer, clock: Clock, logged_errors: Any
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


def test_takes_a_line_back_that_waits(outbox: World) -> None:
    outbox.put(b"one\n")
    number = outbox.put(b"two\n")
    outbox.put(b"three\n")
    assert outbox.withdraw(number)
    assert outbox.end_turn() == [b"one\nthree\n"]


def test_takes_no_line_back_that_was_written(outbox: World) -> None:
    number = outbox.put(b"one\n")
    outbox.clock.advance(0)
    later = outbox.put(b"two\n")
    assert not outbox.withdraw(number)
    assert outbox.withdraw(later)
    outbox.clock.advance(0)
    assert b"".join(outbox.transport.pieces) == b"one\n"


def test_tells_which_lines_wait(outbox: World) -> None:
    numbers = [outbox.put(b"x\n") for _ in range(3)]
    assert len(set(numbers)) == 3
    assert all(map(outbox.is_waiting, numbers))
    outbox.clock.advance(0)
    assert not any(map(outbox.is_waiting, numbers))
    assert outbox.is_waiting(outbox.put(b"y\n"))


def test_numbers_stay_right_when_a_write_puts_in_more(outbox: World) -> None:
    numbers: list[int] = []

    def put_more() -> None:
        if not numbers:
            numbers.append(outbox.put(b"two\n"))

    outbox.transport.on_write = put_more
    first = outbox.put(b"one\n")
    outbox.clock.advance(0)
    assert numbers == [first + 1]


# --- replies to what several connections sent -----------------------------------------------------


class Connections:
    """Connections that are read in turns, and answer each read with a line."""

    def __init__(self, count: int, turn: WriteCoalescer, clock: Clock) -> None:
        self.transports = [FakeTransport() for _ in range(count)]
        self._outboxes = [Outbox(transport.write, turn) for transport in self.transports]
        self._turn = turn
        self._clock = clock

    def read(self, number: int, *, takes: float = 0.0) -> None:
        now = self._clock.seconds()
        self._turn.begin_read(now)
        # The time passes without the reactor.
        self._clock.rightNow += takes
        self._outboxes[number].put(b"%d\n" % number)
        self._turn.end_read(self._outboxes[number], now)

    def read_all(self) -> None:
        for number in range(len(self.transports)):
            self.read(number)

    @property
    def written(self) -> list[int]:
        """How often each was written to."""
        return [len(transport.pieces) for transport in self.transports]


@pytest.mark.parametrize("count", [1, 2, 8])
def test_replies_of_few_connections_leave_at_once(
    count: int, turn: WriteCoalescer, clock: Clock
) -> None:
    few = Connections(count, turn, clock)
    for number in range(3):
        few.read_all()
        assert few.written == [number + 1] * count
    assert clock.getDelayedCalls() == []


def test_replies_of_many_connections_leave_together_when_the_turn_ends(
    turn: WriteCoalescer, clock: Clock
) -> None:
    many = Connections(50, turn, clock)
    for number in range(3):
        many.read_all()
        clock.advance(0)
        before = many.written
        assert before == [number + 1] * 50
        assert clock.getDelayedCalls() == []
    many.read_all()
    assert many.written == before


def test_one_of_many_that_is_read_again_is_answered_at_once(
    turn: WriteCoalescer, clock: Clock
) -> None:
    many = Connections(50, turn, clock)
    many.read_all()
    clock.advance(0)
    many.read(49)
    assert many.written[49] == 2
    many.read(3)
    assert many.written[3] == 1
    many.read(3)
    assert many.written[3] == 2


def test_replies_do_not_wait_for_the_slow_requests_of_many_others(
    turn: WriteCoalescer, clock: Clock
) -> None:
    many = Connections(50, turn, clock)
    many.read_all()
    clock.advance(0)
    many.read(1)
    many.read(2, takes=0.01)
    assert many.written[1] == 1
    # No later than when the next is read.
    many.read(3)
    assert many.written[1:4] == [2, 2, 1]
    clock.advance(0)
    assert many.written[3] == 2
    assert clock.getDelayedCalls() == []
