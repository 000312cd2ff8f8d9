"""What is told and counted of those who have to log in first."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import Portal

from kn_sock import Stats
from kn_sock.auth import MethodsRealm
from kn_sock.testing import MemoryNetwork, Pair, connected_pair


def add(a: int, b: int) -> int:
    return a + b


@pytest.fixture
def portal() -> Portal:
    checker = InMemoryUsernamePasswordDatabaseDontUse()
    checker.addUser(b"ada", b"correct horse")
    return Portal(MethodsRealm(), [checker])


def called(pair: Pair, method: str, *args: Any) -> Any:
    outcome: list[Any] = []
    calling = pair.client.call(method, *args)
    calling.addBoth(lambda result: outcome.append(getattr(result, "value", result)))
    pair.pump()
    return outcome[0] if outcome else None


def of_server(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in events if each.get("peer") == "127.0.0.1:50000"]


def test_who_has_not_logged_in_cannot_fill_the_log(
    network: MemoryNetwork, portal: Portal, log_events: Any
) -> None:
    stats = Stats()
    pair = connected_pair({"add": add}, network=network, portal=portal, stats=stats)
    for _ in range(50):
        called(pair, "add", 1, 2)
        called(pair, "rpc.login", "too", "many", "words")
        pair.client.notify("add", 1, 2)
    pair.pump()
    assert len(of_server(log_events.take())) <= 1
    assert stats.methods["(unknown)"].outcomes == {"not_authenticated": 100}
    assert stats.methods["rpc.login"].outcomes == {"invalid_params": 50}


def test_after_a_login_failures_are_logged_with_who_it_was(
    network: MemoryNetwork, portal: Portal, log_events: Any
) -> None:
    seen: list[Any] = []
    pair = connected_pair({"add": add}, network=network, portal=portal, access_log=seen.append)
    assert called(pair, "rpc.login", "ada", "correct horse") == {"identity": "ada"}
    called(pair, "add", 1)
    called(pair, "add", 1, 2)
    pair.close()
    _, failed, closed = of_server(log_events.take())
    assert (failed["outcome"], failed["identity"]) == ("invalid_params", "ada")
    assert closed["identity"] == "ada"
    assert [each.get("identity") for each in seen] == ["ada"] * 3
    assert "correct horse" not in str(seen)


def test_logins_that_fail_are_counted(network: MemoryNetwork, portal: Portal) -> None:
    stats = Stats()
    pair = connected_pair({"add": add}, network=network, portal=portal, stats=stats)
    called(pair, "rpc.login", "ada", "wrong")
    assert stats.failed_logins == network.factory.failed_logins == 1
    pair.advance(1)
    called(pair, "rpc.login", "ada", "wrong again")
    assert stats.failed_logins == 2
    pair.advance(2)
    pair.close()


def test_rpc_stats_is_for_those_who_have_logged_in(network: MemoryNetwork, portal: Portal) -> None:
    pair = connected_pair({"add": add}, network=network, portal=portal, stats=True)
    assert called(pair, "rpc.stats").code == -32002
    called(pair, "rpc.login", "ada", "correct horse")
    assert called(pair, "rpc.stats")["calls"]["rpc.login"]["outcomes"] == {"ok": 1}


def test_interceptors_see_nothing_of_a_stranger_nor_the_login(
    network: MemoryNetwork, portal: Portal
) -> None:
    seen: list[str] = []

    def watches(call: Any, proceed: Any) -> Any:
        seen.append(call.method)
        return proceed()

    options: dict[str, Any] = {"portal": portal, "interceptors": [watches]}
    pair = connected_pair({"add": add}, network=network, **options)
    assert called(pair, "add", 1, 2).code == -32002
    pair.client.notify("add", 1, 2)
    pair.pump()
    assert called(pair, "rpc.ping") == "pong"
    called(pair, "rpc.login", "ada", "correct horse")
    assert called(pair, "add", 1, 2) == 3
    called(pair, "nope")
    assert seen == ["rpc.ping", "add", "nope"]


def test_one_connection_too_many_is_counted(network: MemoryNetwork) -> None:
    stats = Stats()
    pair = connected_pair({"add": add}, network=network, stats=stats, max_connections=1)
    network.connect(pair.wire.protocol.factory)
    network.pump()
    assert stats.refused == {"max_connections": 1}
    assert (stats.connections, stats.open_connections) == (1, 1)


def test_a_peer_that_speaks_tls_is_counted_and_one_warning(
    network: MemoryNetwork, log_events: Any
) -> None:
    stats = Stats()
    pair = connected_pair({"add": add}, network=network, stats=stats)
    pair.wire.write(b"\x16\x03\x01\x02\x00\x01\x00\x01")
    pair.pump()
    (event,) = of_server(log_events.take())
    assert event["log_level"].name == "warn"
    assert stats.refused == {"tls": 1}
