"""The figures as Prometheus reads them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any, cast
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import pytest_twisted
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.threads import deferToThread
from twisted.logger import ILogObserver, globalLogPublisher

from kn_sock import RPCServerFactory, Stats
from kn_sock.metrics import MetricsService
from kn_sock.testing import MemoryNetwork, MemoryReactor, Pair, connected_pair


def add(a: int, b: int) -> int:
    return a + b


def fails() -> None:
    raise ValueError("no luck")


FUNCS = {"add": add, "fails": fails}


def called(pair: Pair, method: str, *args: Any) -> None:
    pair.client.call(method, *args).addErrback(lambda _: None)
    pair.pump()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def test_each_figure_is_a_metric(network: MemoryNetwork, registry: CollectorRegistry) -> None:
    pair = connected_pair(FUNCS, network=network, metrics=registry)
    called(pair, "add", 1, 2)
    called(pair, "add", 1, 2)
    called(pair, "fails")
    called(pair, "nope")
    called(pair, "also nope")
    pair.wire.write(b"nonsense\n")
    pair.pump()

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"kn_sock_{name}", labels)

    assert value("calls_total", method="add", outcome="ok") == 2
    assert value("calls_total", method="fails", outcome="function_raised") == 1
    assert value("calls_total", method="(unknown)", outcome="method_not_found") == 2
    assert value("calls_total", method="nope", outcome="method_not_found") is None
    assert value("call_seconds_count", method="add") == 2
    assert value("call_seconds_bucket", method="add", le="0.001") == 2
    assert value("call_seconds_sum", method="add") == 0
    assert value("open_connections") == 1
    assert value("connections_total") == 1
    assert value("unreadable_total") == 1
    for name in ("calls_in_flight", "calls_waiting"):
        assert value(name) == 0
    for name in ("late_replies", "cancellations", "deadline_drops", "failed_logins"):
        assert value(f"{name}_total") == 0
    reader = pair.wire.peer.protocol._reader
    assert value("received_bytes_total") == reader.received_bytes > 0
    pair.wire.write(b"GET / HTTP/1.1\r\n")
    other = connected_pair(FUNCS, network=MemoryNetwork(), metrics=registry)
    other.wire.write(b"GET / HTTP/1.1\r\n")
    other.pump()
    assert value("connections_refused_total", reason="http") == 1
    assert value("connections_total") == 2


def test_metrics_and_rpc_stats_are_the_same_figures(
    network: MemoryNetwork, registry: CollectorRegistry
) -> None:
    stats = Stats()
    pair = connected_pair(FUNCS, network=network, metrics=registry, stats=stats)
    called(pair, "add", 1, 2)
    labels = {"method": "add", "outcome": "ok"}
    assert registry.get_sample_value("kn_sock_calls_total", labels) == 1
    assert stats.methods["add"].outcomes == {"ok": 1}
    assert network.factory.stats is stats


def test_metrics_alone_serve_no_rpc_stats(
    network: MemoryNetwork, registry: CollectorRegistry
) -> None:
    pair = connected_pair(FUNCS, network=network, metrics=registry)
    called(pair, "rpc.stats")
    labels = {"method": "(unknown)", "outcome": "method_not_found"}
    assert registry.get_sample_value("kn_sock_calls_total", labels) == 1


def test_other_stats_for_the_same_registry_are_an_error(registry: CollectorRegistry) -> None:
    clock = MemoryReactor()
    RPCServerFactory(FUNCS, reactor=clock, metrics=registry)
    with pytest.raises(ValueError, match="registry"):
        RPCServerFactory(FUNCS, reactor=clock, metrics=registry, stats=Stats())


def test_names_that_are_taken_are_an_error(registry: CollectorRegistry) -> None:
    Counter("kn_sock_calls", "Somebody else's.", registry=registry)
    with pytest.raises(ValueError, match="kn_sock_calls"):
        RPCServerFactory(FUNCS, reactor=MemoryReactor(), metrics=registry)


@pytest.mark.parametrize("wrong", [True, "registry", 9100])
def test_what_is_no_registry_is_an_error(wrong: Any) -> None:
    with pytest.raises(TypeError, match="registry"):
        RPCServerFactory(FUNCS, reactor=MemoryReactor(), metrics=wrong)


# --- over HTTP ------------------------------------------------------------------------------------


@pytest.fixture
def service(registry: CollectorRegistry) -> Iterator[MetricsService]:
    endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
    service = MetricsService(endpoint, registry, reactor=reactor)
    service.startService()
    yield service
    pytest_twisted.blockon(service.stopService())


async def fetched(service: MetricsService, path: str) -> tuple[int, str, str]:
    assert service.port is not None
    port = service.port.getHost().port  # type: ignore[attr-defined]  # a TCP address

    def fetch() -> tuple[int, str, str]:
        try:
            answer = urlopen(f"http://127.0.0.1:{port}{path}", timeout=20)
        except HTTPError as problem:
            answer = problem
        with answer:
            return answer.status, answer.read().decode(), answer.headers["content-type"]

    found: tuple[int, str, str] = await deferToThread(fetch)
    return found


@pytest_twisted.ensureDeferred
async def test_they_are_scraped(
    network: MemoryNetwork, registry: CollectorRegistry, service: MetricsService
) -> None:
    pair = connected_pair(FUNCS, network=network, metrics=registry)
    called(pair, "add", 1, 2)
    called(pair, "fails")
    code, text, kind = await fetched(service, "/metrics")
    assert code == 200
    assert kind.startswith("text/plain; version=")
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["kn_sock_calls_total", "add", "ok"] == 1
    assert samples["kn_sock_calls_total", "fails", "function_raised"] == 1
    assert samples["kn_sock_open_connections",] == 1


@pytest_twisted.ensureDeferred
async def test_a_scrape_writes_nothing_into_the_log(service: MetricsService) -> None:
    events: list[Any] = []
    observer = cast(ILogObserver, events.append)
    globalLogPublisher.addObserver(observer)
    try:
        await fetched(service, "/metrics")
    finally:
        globalLogPublisher.removeObserver(observer)
    assert events == []


@pytest_twisted.ensureDeferred
async def test_nothing_else_is_served(service: MetricsService) -> None:
    assert (await fetched(service, "/"))[0] == 404
    assert (await fetched(service, "/other"))[0] == 404


def test_a_port_in_use_is_an_oserror(service: MetricsService, registry: CollectorRegistry) -> None:
    assert service.port is not None
    port = service.port.getHost().port  # type: ignore[attr-defined]  # a TCP address
    other = MetricsService(f"tcp:{port}:interface=127.0.0.1", registry, reactor=reactor)
    with pytest.raises(OSError, match="Address already in use"):
        other.startService()


@pytest_twisted.ensureDeferred
async def test_they_may_be_read_on_another_thread(registry: CollectorRegistry) -> None:
    """As prometheus_client's own HTTP server does, under `start_rpc_server`."""
    stats = Stats()
    RPCServerFactory(FUNCS, reactor=MemoryReactor(), metrics=registry, stats=stats)
    reading = [deferToThread(lambda: len(list(registry.collect()))) for _ in range(20)]
    for number in range(5_000):
        stats.ended(f"method{number}", "ok", 0.1)
    for deferred in reading:
        assert await deferred > 0


# --- without the package --------------------------------------------------------------------------


def without_prometheus(code: str) -> str:
    blocked = "import sys; sys.modules['prometheus_client'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", blocked + code],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.stdout + done.stderr


def test_without_the_package_everything_else_works_and_the_error_names_the_extra() -> None:
    code = (
        "from kn_sock.testing import connected_pair\n"
        "pair = connected_pair({'add': lambda: 3}, stats=True)\n"
        "calling = pair.client.call('rpc.stats'); pair.pump(); print(type(calling.result))\n"
        "import kn_sock.metrics\n"
    )
    said = without_prometheus(code)
    assert said.startswith("<class 'dict'>")
    assert "ImportError: metrics need prometheus_client: pip install prometheus_client" in said
