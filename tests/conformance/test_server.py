"""The cases, put to our server: over memory, split at every byte, and over sockets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint

from kn_sock import RPCServerFactory
from kn_sock.conformance import FUNCS, Case, Examiner, Finding, Group, Habits, read_groups
from kn_sock.testing import MemoryNetwork

GROUPS = read_groups()
POLITE = Habits(speaks=True, goes_on=True, ends_politely=True)

# Those that are about length are not made longer by being cut.
SHORT_BYTES = 700


@pytest.fixture(autouse=True)
def only_the_author_is_told(logged_errors: Any) -> Iterator[None]:
    """No case makes the server log an error but of a method that returned what JSON cannot say."""
    yield
    assert {
        error for error in logged_errors.claim() if not error.startswith("not_a_number from ")
    } == set()


def whole(data: bytes) -> Iterable[bytes]:
    return (data,)


def bytewise(data: bytes) -> Iterable[bytes]:
    return (data[index : index + 1] for index in range(len(data)))


def single_cases(*, longest: int | None = None) -> list[Any]:
    return [
        pytest.param(Group(group.name, group.probe, (case,)), id=case.title)
        for group in GROUPS
        for case in group.cases
        if longest is None or len(case.sent) <= longest
    ]


async def findings_of(examiner: Examiner, group: Group) -> list[Finding]:
    return [finding async for finding in examiner.examine(group, POLITE)]


def examine_in_memory(
    network: MemoryNetwork, group: Group, pieces: Callable[[bytes], Iterable[bytes]]
) -> list[Finding]:
    examiner = Examiner(network, network.reactor, timeout=5.0, pieces=pieces)
    findings: list[Finding] = []
    examining = Deferred.fromCoroutine(findings_of(examiner, group))
    examining.addCallback(findings.extend)
    network.pump()
    # A reply that does not come is given up when its time has passed.
    while not examining.called:
        network.reactor.advance(5.0)
        network.pump()
    network.wires.clear()
    return findings


def listen_in_memory(network: MemoryNetwork) -> None:
    network.listen(RPCServerFactory(FUNCS, reactor=network.reactor, threads=0))


def problems(findings: list[Finding]) -> list[tuple[Case, Any]]:
    return [(one.case, (one.problem, one.received)) for one in findings if one.problem is not None]


@pytest.mark.parametrize("group", single_cases())
def test_over_memory(network: MemoryNetwork, group: Group) -> None:
    listen_in_memory(network)
    findings = examine_in_memory(network, group, whole)
    assert len(findings) == 1
    assert problems(findings) == []


@pytest.mark.parametrize("group", single_cases(longest=SHORT_BYTES))
def test_byte_by_byte(network: MemoryNetwork, group: Group) -> None:
    listen_in_memory(network)
    assert problems(examine_in_memory(network, group, bytewise)) == []


@pytest.mark.parametrize("group", single_cases(longest=SHORT_BYTES))
def test_split_at_every_byte(network: MemoryNetwork, group: Group) -> None:
    listen_in_memory(network)
    (case,) = group.cases
    for index in range(1, max(len(exchange.sent) for exchange in case.exchanges)):

        def halves(data: bytes, index: int = index) -> Iterable[bytes]:
            return (data[:index], data[index:]) if index < len(data) else (data,)

        assert problems(examine_in_memory(network, group, halves)) == []


@pytest.mark.parametrize("threads", [0, 4])
@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
@pytest_twisted.ensureDeferred
async def test_over_a_socket(group: Group, threads: int) -> None:
    factory = RPCServerFactory(FUNCS, reactor=reactor, threads=threads)
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
    try:
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
        examiner = Examiner(endpoint, reactor, timeout=30.0)
        assert await examiner.habits(group, FUNCS) == POLITE
        findings = await findings_of(examiner, group)
        assert len(findings) == len(group.cases)
        assert problems(findings) == []
    finally:
        await port.stopListening()
        await factory.drain()
