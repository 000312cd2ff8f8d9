"""The private names of Twisted that are used are there, in the Twisted that is installed."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet import endpoints, posixbase
from twisted.internet.abstract import FileDescriptor
from twisted.internet.testing import MemoryReactorClock

from kn_sock._blocking.reactor_thread import new_reactor
from kn_sock._io.transport import place_of

REACTOR: Any = MemoryReactorClock()


@pytest.mark.parametrize("name", ["_tempDataLen", "dataBuffer", "offset"])
def test_a_descriptor_has_what_counts_its_unsent_bytes(name: str) -> None:
    assert hasattr(FileDescriptor(REACTOR), name)


def test_client_endpoints_wrap_protocols() -> None:
    assert endpoints._WrappingProtocol.__name__ == "_WrappingProtocol"


@pytest.mark.parametrize(
    ("endpoint", "place"),
    [
        (endpoints.TCP4ClientEndpoint(REACTOR, "127.0.0.1", 8080), "127.0.0.1:8080"),
        (endpoints.TCP6ClientEndpoint(REACTOR, "::1", 8080), "[::1]:8080"),
        (endpoints.UNIXClientEndpoint(REACTOR, "/run/app.sock"), "/run/app.sock"),
        (endpoints.HostnameEndpoint(REACTOR, "example.com", 8443), "example.com:8443"),
    ],
)
def test_an_endpoint_knows_where_it_connects_to(endpoint: Any, place: str) -> None:
    assert place_of(endpoint) == place


def test_an_endpoint_with_tls_knows_what_it_wraps() -> None:
    inner = endpoints.TCP4ClientEndpoint(REACTOR, "127.0.0.1", 8443)
    options: Any = object()
    assert place_of(endpoints.wrapClientTLS(options, inner)) == "127.0.0.1:8443"


def test_a_server_endpoint_with_tls_knows_its_context() -> None:
    context: Any = object()
    endpoint: Any = endpoints.SSL4ServerEndpoint(REACTOR, 8443, context)
    assert endpoint._sslContextFactory is context


def test_a_reactor_can_be_kept_from_claiming_the_io_thread() -> None:
    assert hasattr(posixbase.PosixReactorBase, "_registerAsIOThread")


def test_the_background_reactor_knows_what_it_reads_and_writes() -> None:
    reactor = new_reactor()
    try:
        known = getattr(reactor, "_selectables", None)
        assert isinstance(known, dict) or isinstance(reactor._reads, set)
    finally:
        for waker in reactor._internalReaders:
            waker.connectionLost(None)
