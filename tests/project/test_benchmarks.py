"""The benchmarks: the load generator counts right, the yardstick answers, the report adds up."""

from __future__ import annotations

import csv
import json
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.protocol import Factory
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread

from benchmarks import report
from benchmarks.bare import BareClient, BareServer
from benchmarks.figures import Figures
from benchmarks.load import Load, Outcome, WrongReply, burst, churn, load_of, percentiles, run
from benchmarks.targets import EVERY_PEER, TARGETS, Target
from benchmarks.wires import WIRES
from benchmarks.workloads import WORKLOADS

Address = tuple[str, int]


def divide(a: float, b: float) -> float:
    return a / b


class Counted(Factory):
    """Serves `add` and counts its calls; others give results that are not right."""

    noisy = False

    def __init__(self) -> None:
        self.calls = 0

        class Server(BareServer):
            methods = {"add": self.add, "echo": lambda value: value, "turn": self.turn}  # noqa: RUF012

        self.protocol = Server

    def add(self, a: int, b: int) -> int:
        self.calls += 1
        return a + b

    def turn(self, a: int, b: int) -> int:
        """Give what is right at first, and something else from the tenth call on."""
        self.calls += 1
        return a + b if self.calls < 10 else -(a + b)


@pytest.fixture
def counted() -> Counted:
    return Counted()


@pytest_twisted.async_yield_fixture
async def address(counted: Counted) -> AsyncIterator[Address]:
    any_reactor: Any = reactor
    port = any_reactor.listenTCP(0, counted, interface="127.0.0.1")
    yield ("127.0.0.1", port.getHost().port)
    await port.stopListening()


async def ran(load: Load, address: Address) -> Outcome:
    """Run a load for no time at all: until its least is answered."""
    outcome: Outcome = await deferToThread(run, load, address, 0.0)
    return outcome


@pytest_twisted.ensureDeferred
async def test_one_call_at_a_time_is_counted_exactly(counted: Counted, address: Address) -> None:
    outcome = await ran(load_of("2.0", "add", [1, 2], 3, least=50), address)
    assert outcome.count == counted.calls == 50
    assert outcome.rate == 50 / outcome.seconds
    assert 0 < outcome.latencies[50] <= outcome.latencies[100] <= outcome.seconds


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(("connections", "in_flight"), [(1, 100), (4, 25), (20, 1)])
async def test_everything_sent_is_answered_and_nothing_is_counted_twice(
    counted: Counted, address: Address, connections: int, in_flight: int
) -> None:
    load = load_of("2.0", "add", [1, 2], 3, connections=connections, in_flight=in_flight, least=500)
    outcome = await ran(load, address)
    # Several connections make a call each before it begins; what is in flight when the time is
    # over is answered, and not counted.
    before = connections if connections > 1 else 0
    assert outcome.count >= 500
    assert outcome.count <= counted.calls - before <= outcome.count + connections * in_flight
    # But it is work of the server.
    assert outcome.answered == counted.calls - before


@pytest_twisted.ensureDeferred
async def test_the_calls_of_a_batch_are_counted_each(counted: Counted, address: Address) -> None:
    outcome = await ran(load_of("2.0", "add", [1, 2], 3, batch=20, least=3), address)
    assert outcome.count == outcome.answered == counted.calls == 60


class Shuffling(BareServer):
    """Answers the members of batches in another order each time."""

    methods = {"add": lambda a, b: a + b}  # noqa: RUF012
    times = 0

    def connectionMade(self) -> None:
        super().connectionMade()
        transport: Any = self.transport
        write = transport.write

        def turned(data: bytes) -> None:
            replies = json.loads(data)
            Shuffling.times += 1
            place = Shuffling.times % len(replies)
            members = [*replies[place:], *replies[:place]]
            write(json.dumps(members, separators=(",", ":")).encode() + b"\n")

        transport.write = turned


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("connections", [1, 3])
async def test_the_replies_to_a_batch_may_come_in_any_order(connections: int) -> None:
    any_reactor: Any = reactor
    port = any_reactor.listenTCP(0, Factory.forProtocol(Shuffling), interface="127.0.0.1")
    load = load_of("2.0", "add", [1, 2], 3, connections=connections, batch=5, least=10)
    try:
        outcome = await ran(load, ("127.0.0.1", port.getHost().port))
    finally:
        await port.stopListening()
    assert outcome.count >= 50


@pytest_twisted.ensureDeferred
async def test_a_long_text_comes_back(address: Address) -> None:
    text = "x" * 3_000_000
    outcome = await ran(load_of("2.0", "echo", [text], text, connections=2, least=3), address)
    assert outcome.count >= 3


@pytest_twisted.ensureDeferred
async def test_connections_made_for_one_call_are_counted(
    counted: Counted, address: Address
) -> None:
    load = load_of("2.0", "add", [1, 2], 3, least=5)
    outcome: Outcome = await deferToThread(churn, load, address, 0.0)
    assert outcome.count == counted.calls == 5


@pytest_twisted.ensureDeferred
async def test_a_burst_ends_when_every_connection_has_its_answer(
    counted: Counted, address: Address
) -> None:
    load = load_of("2.0", "add", [1, 2], 3, connections=20, least=20)
    outcome: Outcome = await deferToThread(burst, load, address)
    assert outcome.count == counted.calls == 20


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("method", "result"),
    [("add", 4), ("missing", 3), ("turn", 3)],
    ids=["another result", "an error", "errors after right ones"],
)
@pytest.mark.parametrize("connections", [1, 3])
async def test_wrong_answers_are_refused(
    address: Address, method: str, result: int, connections: int
) -> None:
    load = load_of("2.0", method, [1, 2], result, connections=connections, least=30)
    with pytest.raises(WrongReply):
        await ran(load, address)


class Dribbling(BareServer):
    """Sends its replies a byte in each turn of the reactor."""

    methods = {"add": lambda a, b: a + b}  # noqa: RUF012

    def connectionMade(self) -> None:
        super().connectionMade()
        any_reactor: Any = reactor
        unsent: deque[int] = deque()
        transport: Any = self.transport
        write = transport.write

        def send_one() -> None:
            write(bytes([unsent.popleft()]))
            if unsent:
                any_reactor.callLater(0, send_one)

        def send(data: bytes) -> None:
            unsent.extend(data)
            send_one()

        transport.write = send


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("connections", [1, 3])
async def test_a_reply_may_come_in_pieces(connections: int) -> None:
    counted = Factory.forProtocol(Dribbling)
    load = load_of("2.0", "add", [1, 2], 3, connections=connections, least=10)
    any_reactor: Any = reactor
    port = any_reactor.listenTCP(0, counted, interface="127.0.0.1")
    try:
        outcome = await ran(load, ("127.0.0.1", port.getHost().port))
    finally:
        await port.stopListening()
    assert outcome.count >= 10


@pytest.mark.parametrize(
    ("wire", "right", "wrong"),
    [
        ("2.0", b'{"jsonrpc":"2.0","id":1,"result":3}\n', b'{"id":1,"error":{"code":1}}\n'),
        ("2.0", b'[{"id":1,"result":3},{"id":2,"result":3}]\n', b'[{"id":1,"result":4}]\n'),
        ("kn-sock", b'{"result": 3}\n', b'{"error": "no"}\n'),
        ("netstring", b'24:{"result": 3, "id": 100},', b"5:wrong,"),
        (
            "amp",
            b"\0\x07_answer\0\x011\0\x06result\0\x013\0\0",
            b"\0\x06_error\0\x011\0\x0b_error_code\0\x07UNKNOWN\0\0",
        ),
        ("echo", b'{"method":"add","id":1}\n', b'{"result":3}\n'),
    ],
)
def test_a_wire_tells_right_from_wrong(wire: str, right: bytes, wrong: bytes) -> None:
    WIRES[wire].check(right, 3)
    assert right.count(WIRES[wire].mark) == 1
    with pytest.raises(WrongReply):
        WIRES[wire].check(wrong, 3)


def test_percentiles_count_every_reply() -> None:
    assert percentiles([(0.3, 1), (0.1, 98), (0.2, 1)]) == {50: 0.1, 90: 0.1, 99: 0.2, 100: 0.3}
    assert percentiles([]) == {}


# --- the yardstick
# ------------------------------------------------------------------------------------------


class Wire(StringTransport):
    """Takes what a TCP connection is told."""

    def setTcpNoDelay(self, enabled: bool) -> None:  # noqa: N802  # Twisted's
        assert enabled


class Pending:
    """Stands for a reactor: keeps what is to be called."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def callLater(self, seconds: float, call: Any) -> None:  # noqa: N802  # Twisted's
        assert seconds == 0
        self.calls.append(call)


@pytest.fixture
def bare() -> tuple[BareServer, Wire]:
    server, wire = BareServer(), Wire()
    server.methods = {"divide": divide}
    server.makeConnection(wire)
    return server, wire


@pytest.mark.parametrize(
    ("request_line", "reply"),
    [
        (
            '{"jsonrpc":"2.0","id":1,"method":"divide","params":[1,4]}',
            {"jsonrpc": "2.0", "id": 1, "result": 0.25},
        ),
        (
            '{"jsonrpc":"2.0","id":"a","method":"missing","params":[]}',
            {"jsonrpc": "2.0", "id": "a", "error": {"code": -32601}},
        ),
        (
            '{"jsonrpc":"2.0","id":2,"method":"divide","params":[1,0]}',
            {"jsonrpc": "2.0", "id": 2, "error": {"code": -32000}},
        ),
        ("nonsense", {"jsonrpc": "2.0", "id": None, "error": {"code": -32700}}),
    ],
)
def test_the_bare_server_answers(
    bare: tuple[BareServer, Wire], request_line: str, reply: dict[str, Any]
) -> None:
    server, wire = bare
    for byte in request_line.encode():
        server.dataReceived(bytes([byte]))
    assert wire.value() == b""
    server.dataReceived(b"\n")
    answer = json.loads(wire.value())
    if "error" in answer:
        assert answer["error"].pop("message")
    assert answer == reply


def test_the_bare_server_answers_one_read_with_one_write(bare: tuple[BareServer, Wire]) -> None:
    server, wire = bare
    writes: list[bytes] = []
    wire.write = writes.append  # type: ignore[method-assign]  # watched
    call = b'{"id":%d,"method":"divide","params":[1,4]}'
    server.dataReceived(call % 1 + b"\n[" + call % 2 + b"," + call % 3 + b"]\n" + call % 4)
    (written,) = writes
    first, batch = map(json.loads, written.splitlines())
    assert first["id"] == 1
    assert [each["id"] for each in batch] == [2, 3]


def test_the_bare_client_writes_the_calls_of_one_turn_together() -> None:
    turn, wire = Pending(), Wire()
    client = BareClient(turn)
    client.makeConnection(wire)
    results: list[Any] = []
    for number in (1, 2):
        client.call("divide", number, 4).addBoth(results.append)
    assert wire.value() == b""
    (flush,) = turn.calls
    flush()
    first, second = map(json.loads, wire.value().splitlines())
    client.dataReceived(b'{"id":%d,"error":{"code":1}}\n' % second["id"])
    client.dataReceived(b'{"id":%d,"result":0.25}\n' % first["id"])
    assert results[1] == 0.25
    assert results[0].check(RuntimeError)


# --- the report
# ------------------------------------------------------------------------------------------


def seen(workload: str, contender: str, number: int, count: int, **more: Any) -> dict[str, Any]:
    return {
        "workload": workload,
        "contender": contender,
        "pinning": "pinned",
        "round": number,
        "count": count,
        "seconds": 2.0,
        "cpu_seconds": 0.5,
        "server_cpu_seconds": 1.0,
        "latencies": {"50": 0.001, "99": 0.002, "100": 0.003},
        **more,
    }


SLICES = [
    # The machine was slow in the second round: what counts is the ratio within each.
    *(seen("1x1", "bare", number, count) for number, count in enumerate((200, 20, 200))),
    *(seen("1x1", "kn_sock reactor", number, count) for number, count in enumerate((180, 19, 150))),
    *(seen("1x1", "aiorpcX", number, count) for number, count in enumerate((90, 38, 100))),
    seen("stall-text", "kn_sock reactor", 0, 10, latencies={"50": 0.0, "99": 0.0, "100": 0.06}),
    seen("echo-1m", "kn_sock reactor", 0, 320),
    seen("echo-16m", "kn_sock reactor", 0, 10),
]
_BY_NAME = {workload.name: workload for workload in WORKLOADS}


def test_ratios_are_taken_within_a_round() -> None:
    figures = Figures(SLICES)
    workload = _BY_NAME["1x1"]
    assert figures.median(workload, "bare", "pinned") == 100.0
    assert figures.ratio(workload, "kn_sock reactor", "bare", "pinned") == 0.9
    assert figures.ratio(workload, "kn_sock thread", "bare", "pinned") is None
    assert figures.peers("1x1", "pinned") == ["aiorpcX"]


@pytest.mark.parametrize(
    ("target", "measured", "is_met"),
    [
        (Target("1x1", "kn_sock reactor", "bare", least=0.9), 0.9, True),
        (Target("1x1", "kn_sock reactor", "bare", least=0.95), 0.9, False),
        (Target("1x1", "kn_sock reactor", EVERY_PEER, least=1.5), 1.5, True),
        (Target("1x1", "aiorpcX", "bare", most=2.5, is_turned=True), 2.0, True),
        (Target("stall-text", "kn_sock reactor", most=50, scale=1000, unit="ms"), 60.0, False),
        (
            Target(
                *("echo-16m", "kn_sock reactor", "kn_sock reactor"),
                most=1.5,
                is_turned=True,
                than_workload="echo-1m",
                scale=1 / 16,
            ),
            2.0,
            False,
        ),
        (Target("1x1", "kn_sock thread", "bare", least=0.5), None, None),
        (Target("1x1", "kn_sock reactor", "bare", least=0.5, pinning="not pinned"), None, None),
    ],
)
def test_targets_are_judged(target: Target, measured: float | None, is_met: bool | None) -> None:
    judgement = Figures(SLICES).judge(target)
    assert judgement.is_met is is_met
    assert judgement.measured == ({} if measured is None else {"pinned": pytest.approx(measured)})


def test_the_report_says_what_was_seen(tmp_path: Path) -> None:
    about = {"versions": {"kn-sock 0.3.0": "0.3.0"}, "load_before": 0.0, "load_after": 0.0}
    words = ("commit", "python", "system", "processor", "cores", "rounds", "seconds")
    skipped = [{"contender": "aiorpcX", "workload": "batch", "reason": "it said no"}]
    report.write(
        {"about": about | dict.fromkeys(words, "-"), "slices": SLICES, "skipped": skipped}, tmp_path
    )

    def table(name: str) -> list[list[str]]:
        return list(csv.reader((tmp_path / f"{name}.csv").read_text("utf-8").splitlines()))

    head, *rows = table("load-pinned")
    at = head.index("1 × 1")
    assert {row[0]: row[at] for row in rows} == {
        "bare": "1.00",
        "kn_sock reactor": "0.90",
        "aiorpcX": "0.50",
    }
    assert table("spread")[1] == ["kn_sock reactor", "1 × 1", "0.75 to 0.95", "–"]
    assert table("left-out")[1:] == [["aiorpcX", "batch of 100", "it said no"]]
    assert table("lost")[1:] == [["–"] * 4]
    assert len(table("targets")[1:]) == len(TARGETS)
    assert table("targets")[1] == [
        "1 × 1",
        "kn_sock reactor",
        "bare",
        "at least 0.95",
        "0.90",
        "–",
        "no",
    ]
    drawing = ElementTree.parse(tmp_path / "load-pinned.svg").getroot()
    assert len(drawing.findall("{*}circle")) == 3
