"""What the examiner says of servers that do not do as they should."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineOnlyReceiver
from zope.interface import implementer

from kn_sock import ConnectFailed, RPCServerFactory
from kn_sock.conformance import FUNCS, Case, Examiner, Exchange, Finding, Group, Habits, read_groups
from kn_sock.testing import MemoryNetwork

PROBE = Exchange(b'{"id":"p","method":"echo"}\n', ({"id": "p", "result": 0},))
POLITE = Habits(speaks=True, goes_on=True, ends_politely=True)
RUDE = Habits(speaks=True, goes_on=True)
ONE_SHOT = Habits(speaks=True)

CALL = b'{"id":1,"method":"echo"}\n'
TWO_CALLS = CALL + b'{"id":2,"method":"echo"}\n'
NOTIFICATION = b'{"method":"update"}\n'


@implementer(IHalfCloseableProtocol)
class FakeServer(LineOnlyReceiver):
    """Answers each request with the result 0; subclasses get something wrong."""

    delimiter = b"\n"
    transport: Any

    def lineReceived(self, line: bytes) -> None:
        request = json.loads(line)
        if "id" in request:
            self.answer(request["id"])
        else:
            self.notified()

    def answer(self, request_id: Any) -> None:
        self.sendLine(json.dumps({"id": request_id, "result": 0}).encode())

    def notified(self) -> None:
        """Nothing, as it should be."""

    def readConnectionLost(self) -> None:
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Nothing."""


class Silent(FakeServer):
    def answer(self, request_id: Any) -> None:
        if request_id == "p":
            super().answer(request_id)


class Closing(FakeServer):
    def answer(self, request_id: Any) -> None:
        self.transport.loseConnection()


class OneShot(FakeServer):
    def answer(self, request_id: Any) -> None:
        super().answer(request_id)
        self.transport.loseConnection()


class WrongId(FakeServer):
    def answer(self, request_id: Any) -> None:
        super().answer("1" if request_id == 1 else request_id)


class NoJSON(FakeServer):
    def answer(self, request_id: Any) -> None:
        self.sendLine(b"{'id': 1, 'result': 0}")


class Twice(FakeServer):
    def answer(self, request_id: Any) -> None:
        super().answer(request_id)
        super().answer(request_id)


class AnswersNotifications(FakeServer):
    def notified(self) -> None:
        super().answer(None)


class LateAnswer(FakeServer):
    """Answers the notification after all."""

    def notified(self) -> None:
        self._late = True

    def readConnectionLost(self) -> None:
        if hasattr(self, "_late"):
            super().answer(None)
        super().readConnectionLost()


class NeverEnds(FakeServer):
    def readConnectionLost(self) -> None:
        """Nothing, though the peer waits for the end."""


class Backwards(FakeServer):
    """Answers the second call before the first."""

    def connectionMade(self) -> None:
        self._held: list[Any] = []

    def answer(self, request_id: Any) -> None:
        if request_id == 1:
            self._held.append(request_id)
            return
        for one in (request_id, *self._held):
            super().answer(one)
        self._held.clear()


def settle(network: MemoryNetwork, coroutine: Any) -> Any:
    outcome: list[Any] = []
    deferred = Deferred.fromCoroutine(coroutine)
    deferred.addBoth(outcome.append)
    network.pump()
    for _ in range(20):
        if outcome:
            return outcome[0]
        network.reactor.advance(5.0)
        network.pump()
    raise AssertionError("it never ends")


def examine(
    network: MemoryNetwork, server: type[FakeServer], case: Case, habits: Habits = POLITE
) -> Finding:
    network.listen(Factory.forProtocol(server))
    examiner = Examiner(network, network.reactor, timeout=5.0)

    async def examining() -> list[Finding]:
        return [one async for one in examiner.examine(Group("a group", PROBE, (case,)), habits)]

    (finding,) = settle(network, examining())
    assert isinstance(finding, Finding)
    assert (finding.group, finding.case) == ("a group", case)
    return finding


def case(sent: bytes, *expected: Any, **more: Any) -> Case:
    return Case("1", "a case", (Exchange(sent, expected),), **more)


REPLY = {"id": 1, "result": 0}
SECOND = {"id": 2, "result": 0}


@pytest.mark.parametrize(
    ("server", "what", "habits"),
    [
        (FakeServer, case(CALL, REPLY), POLITE),
        (FakeServer, case(TWO_CALLS, SECOND, REPLY), POLITE),
        (FakeServer, case(TWO_CALLS, REPLY, SECOND, in_order=True), POLITE),
        (FakeServer, case(NOTIFICATION), POLITE),
        (Backwards, case(TWO_CALLS, REPLY, SECOND), POLITE),
        (NeverEnds, case(CALL, REPLY), RUDE),
        (OneShot, case(CALL, REPLY), ONE_SHOT),
        (OneShot, case(CALL, REPLY, is_closed=True), POLITE),
        (Closing, case(CALL, is_closed=True), POLITE),
    ],
)
def test_agrees(
    network: MemoryNetwork, server: type[FakeServer], what: Case, habits: Habits
) -> None:
    assert examine(network, server, what, habits).problem is None


@pytest.mark.parametrize(
    ("server", "what", "problem", "received"),
    [
        (Silent, case(CALL, REPLY), "no reply came in time", []),
        (Closing, case(CALL, REPLY), "the server closed the connection", []),
        (
            OneShot,
            case(CALL, REPLY),
            "the server closed the connection",
            [b'{"id": 1, "result": 0}'],
        ),
        (
            WrongId,
            case(CALL, REPLY),
            "not the reply that was expected",
            [b'{"id": "1", "result": 0}'],
        ),
        (
            FakeServer,
            case(CALL, {"id": 1, "result": False}),
            "not the reply that was expected",
            [b'{"id": 1, "result": 0}'],
        ),
        (
            Backwards,
            case(TWO_CALLS, REPLY, SECOND, in_order=True),
            "not the replies that were expected, or in another order",
            [b'{"id": 2, "result": 0}', b'{"id": 1, "result": 0}'],
        ),
        (
            AnswersNotifications,
            case(NOTIFICATION),
            "not the reply that was expected",
            [b'{"id": null, "result": 0}'],
        ),
        (
            LateAnswer,
            case(NOTIFICATION),
            "a line that nothing asked for",
            [b'{"id": "p", "result": 0}', b'{"id": null, "result": 0}'],
        ),
        (
            NeverEnds,
            case(CALL, REPLY),
            "the server did not close the connection",
            [b'{"id": 1, "result": 0}', b'{"id": "p", "result": 0}'],
        ),
        (
            FakeServer,
            case(CALL, REPLY, is_closed=True),
            "the server did not close the connection",
            [b'{"id": 1, "result": 0}'],
        ),
    ],
)
def test_differs(
    network: MemoryNetwork,
    server: type[FakeServer],
    what: Case,
    problem: str,
    received: list[bytes],
) -> None:
    finding = examine(network, server, what)
    assert (finding.problem, list(finding.received)) == (problem, received)


def test_a_reply_that_is_no_json_differs(network: MemoryNetwork) -> None:
    finding = examine(network, NoJSON, case(CALL, REPLY))
    assert finding.problem is not None
    assert finding.problem.startswith("the reply is not JSON: ")
    assert finding.received[0] == b"{'id': 1, 'result': 0}"


def test_a_reply_that_comes_twice_differs(network: MemoryNetwork) -> None:
    assert examine(network, Twice, case(CALL, REPLY)).problem == "not the reply that was expected"


@pytest.mark.parametrize(
    ("server", "habits"),
    [
        (FakeServer, Habits(True, True, True)),
        (NeverEnds, Habits(True, True, False)),
        (OneShot, Habits(True, False, True)),
        (Closing, Habits(False)),
        (NoJSON, Habits(False)),
    ],
)
def test_finds_out_the_habits_of_a_server(
    network: MemoryNetwork, server: type[FakeServer], habits: Habits
) -> None:
    network.listen(Factory.forProtocol(server))
    examiner = Examiner(network, network.reactor, timeout=5.0)
    assert settle(network, examiner.habits(Group("a group", PROBE, ()))) == habits


def test_leaves_out_what_calls_a_function_that_the_server_lacks(network: MemoryNetwork) -> None:
    served: dict[str, Callable[..., Any]] = {**FUNCS}
    del served["sum"], served["wait"]
    network.listen(RPCServerFactory(served, reactor=network.reactor, threads=0))
    examiner = Examiner(network, network.reactor, timeout=5.0)
    group = read_groups()[0]
    habits = settle(network, examiner.habits(group, FUNCS))
    assert habits == Habits(True, True, True, ("sum", "wait"))

    async def examined() -> list[str]:
        return [finding.case.title async for finding in examiner.examine(group, habits)]

    left_out = {one.title for one in group.cases} - set(settle(network, examined()))
    assert left_out == {"[7] a batch", "[7] a batch of invalid JSON"}


def test_a_server_that_is_not_there_is_said_to_be_so(network: MemoryNetwork) -> None:
    examiner = Examiner(network, network.reactor, timeout=5.0)
    failure = settle(network, examiner.habits(read_groups()[0]))
    assert failure.check(ConnectFailed)


def test_splits_what_it_sends(network: MemoryNetwork) -> None:
    heard: list[bytes] = []

    class Listening(FakeServer):
        def dataReceived(self, data: bytes) -> None:
            heard.append(data)
            super().dataReceived(data)

    network.listen(Factory.forProtocol(Listening))
    examiner = Examiner(
        network, network.reactor, timeout=5.0, pieces=lambda data: (data[:3], data[3:])
    )
    settle(network, examiner.habits(Group("a group", PROBE, ())))
    assert heard[:2] == [PROBE.sent[:3], PROBE.sent[3:]]
