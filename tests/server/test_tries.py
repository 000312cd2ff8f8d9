"""How many tries to log in an address may make, over however many connections."""

from __future__ import annotations

import errno
import json
from typing import Any

import pytest
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.portal import Portal
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure
from zope.interface import implementer

from kn_sock import RPCServerFactory
from kn_sock._server.tries import Tries
from kn_sock.auth import IToken, MethodsRealm, TokenChecker
from kn_sock.testing import MemoryNetwork, MemoryReactor
from tests.serving.peers import RawClient, join

HOME = IPv4Address("TCP", "192.0.2.1", 1)


def ipv6(host: str) -> IPv6Address:
    return IPv6Address("TCP", host, 1)


@pytest.fixture
def clock() -> MemoryReactor:
    return MemoryReactor()


@pytest.fixture
def tries(clock: MemoryReactor) -> Tries:
    return Tries(6, clock)


def begun(tries: Tries, peer: Any = HOME, times: int = 100) -> int:
    return [tries.begin(peer) for _ in range(times)].count(True)


def test_an_address_has_so_many_tries_in_a_minute(tries: Tries, clock: MemoryReactor) -> None:
    assert begun(tries) == 6
    clock.advance(10.0)
    assert begun(tries) == 1
    clock.advance(3600.0)
    assert begun(tries) == 6


def test_a_try_that_succeeds_does_not_count(tries: Tries) -> None:
    for _ in range(50):
        assert tries.begin(HOME)
        tries.succeeded(HOME)
    assert begun(tries) == 6


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        (HOME, IPv4Address("TCP", "192.0.2.1", 2), True),
        (HOME, IPv4Address("TCP", "192.0.2.2", 1), False),
        (ipv6("2001:db8::1"), ipv6("2001:db8::ffff:1"), True),
        (ipv6("2001:db8::1"), ipv6("2001:db8:0:1::1"), False),
        (ipv6("fe80::1%eth0"), ipv6("fe80::2%eth1"), True),
        (UNIXAddress(b""), UNIXAddress(b""), True),
        (IPv4Address("TCP", "host.example", 1), IPv4Address("TCP", "host.example", 2), True),
    ],
)
def test_an_address_is_a_host_or_a_network_of_ipv6(
    tries: Tries, one: Any, other: Any, is_same: bool
) -> None:
    assert begun(tries, one) == 6
    assert begun(tries, other) == (0 if is_same else 6)


def test_there_may_be_no_limit_at_all(clock: MemoryReactor) -> None:
    free = Tries(None, clock)
    assert begun(free, times=1000) == 1000
    assert not free.is_suspect(HOME)


def test_so_many_addresses_are_remembered_and_no_more(tries: Tries) -> None:
    begun(tries)
    for number in range(10_001):
        tries.begin(IPv4Address("TCP", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1))
    assert len(tries._counts) == 10_000
    assert begun(tries) == 6


# --- at a server ----------------------------------------------------------------------------------


def portal_of(*checkers: Any) -> Portal:
    return Portal(MethodsRealm(), checkers or (TokenChecker({"right": "ada"}),))


def served(network: MemoryNetwork, portal: Portal | None = None, **options: Any) -> Any:
    factory = RPCServerFactory(
        {}, reactor=network.reactor, portal=portal or portal_of(), threads=0, **options
    )
    network.listen(factory)
    return factory


def log_in(network: MemoryNetwork, client: RawClient, token: str) -> None:
    request = {"jsonrpc": "2.0", "id": 1, "method": "rpc.login", "params": [token]}
    client.transport.write(json.dumps(request).encode() + b"\n")
    network.pump()


def errors_of(client: RawClient) -> list[str]:
    return [reply["error"]["message"] for reply in client.replies if "error" in reply]


def test_tries_count_although_their_connections_end_at_once(network: MemoryNetwork) -> None:
    asked: list[bytes] = []

    class Counting(TokenChecker):
        def requestAvatarId(self, credentials: Any) -> Any:
            asked.append(credentials.token)
            return super().requestAvatarId(credentials)

    served(network, portal_of(Counting({"right": "ada"})), login_rate=10)
    for number in range(100):
        client = join(network)
        log_in(network, client, f"guess {number}")
        client.transport.abortConnection()
        network.pump()
    assert len(asked) == 10
    client = join(network)
    log_in(network, client, "right")
    assert errors_of(client) == ["too many logins from this address have failed; wait a minute"]
    network.reactor.advance(60.0)
    network.pump()
    client = join(network)
    log_in(network, client, "right")
    network.reactor.advance(1.0)
    network.pump()
    assert client.replies[-1]["result"] == {"identity": "ada"}


def test_many_clients_of_one_address_may_log_in(network: MemoryNetwork) -> None:
    served(network, login_rate=5)
    clients = [join(network) for _ in range(50)]
    for client in clients:
        log_in(network, client, "right")
    assert all(client.replies[0]["result"] == {"identity": "ada"} for client in clients)


def test_an_address_that_guesses_gets_a_good_answer_as_late_as_a_bad_one(
    network: MemoryNetwork,
) -> None:
    factory = served(network)
    for _ in range(4):
        client = join(network)
        log_in(network, client, "wrong")
        client.transport.abortConnection()
        network.pump()
    client = join(network)
    log_in(network, client, "right")
    network.reactor.advance(0.9)
    network.pump()
    assert client.replies == []
    network.reactor.advance(0.2)
    network.pump()
    assert client.replies[0]["result"] == {"identity": "ada"}
    other = join(network)
    log_in(network, other, "right")
    other.transport.abortConnection()
    network.pump()
    network.reactor.advance(2.0)
    assert len(factory.connections) == 1


@implementer(ICredentialsChecker)
class Exhausted:
    credentialInterfaces = (IToken,)

    def __init__(self, problem: BaseException) -> None:
        self._problem = problem

    def requestAvatarId(self, _: Any) -> Deferred[Any]:
        return fail(Failure(self._problem))


@pytest.mark.parametrize(
    "problem", [OSError(errno.EMFILE, "Too many open files"), MemoryError("no memory")]
)
def test_a_login_that_cannot_be_checked_for_lack_of_resources_is_no_failed_one(
    network: MemoryNetwork, logged_errors: Any, problem: BaseException
) -> None:
    factory = served(network, portal_of(Exhausted(problem)), login_rate=3)
    client = join(network)
    for _ in range(10):
        log_in(network, client, "right")
    assert client.lost is None
    assert [reply["error"]["code"] for reply in client.replies] == [-32009] * 10
    assert factory.failed_logins == 0
    assert len(logged_errors.claim()) == 10
