"""What a call leaves behind: nothing that the garbage collector cannot take."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.protocol import Factory, Protocol

from kn_sock import RPCServerFactory
from kn_sock.testing import ManualExecutor, MemoryNetwork, connected_pair


class KeptError(Exception):
    """What a function keeps in what it was given; it leads to every frame that called it."""


@pytest.fixture
def kept() -> Iterator[weakref.WeakSet[KeptError]]:
    """Those that are still there."""
    errors: weakref.WeakSet[KeptError] = weakref.WeakSet()
    yield errors
    gc.collect()
    assert not errors


def keep(where: list[Any], kept: weakref.WeakSet[KeptError]) -> None:
    try:
        raise KeptError
    except KeptError as error:
        where.append(error)
        kept.add(error)


KEEPING: list[dict[str, Any]] = [
    {},
    {"call_timeout": 10},
    {"max_line_bytes": 1024},
    {"executor": ManualExecutor()},
    {"interceptors": [lambda _, proceed: proceed()]},
]


@pytest.mark.parametrize("options", KEEPING, ids=[str([*options]) for options in KEEPING])
@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc": "2.0", "id": 1, "method": "keep", "params": [[]]}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "keep", "params": {"where": []}}',
        b'{"jsonrpc": "2.0", "id": 1.5, "method": "keep", "params": [[]]}',
        b'{"jsonrpc": "2.0", "method": "keep", "params": [[]]}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "keep", "params": [], "kwargs": {"where": []}}',
        b'{"id": 1, "method": "keep", "params": [[]]}',
        b'{"method": "keep", "params": [[]], "kwargs": {}}',
        b'[{"jsonrpc": "2.0", "id": 1, "method": "keep", "params": [[]]}]',
        b'[{"jsonrpc": "2.0", "method": "keep", "params": [[]]}, 1]',
    ],
)
def test_a_call_leaves_nothing_that_cannot_be_collected(
    options: dict[str, Any], line: bytes, kept: weakref.WeakSet[KeptError], network: MemoryNetwork
) -> None:
    options = options if "executor" in options else {**options, "threads": 0}
    factory = RPCServerFactory(
        {"keep": lambda where: keep(where, kept)}, reactor=network.reactor, **options
    )
    network.listen(factory)
    network.connect(Factory.forProtocol(Protocol))
    network.wires[-1].write(line + b"\n")
    network.pump()
    if "executor" in options:
        assert options["executor"].run() == 1
        network.pump()
    assert len(kept) == 1


def test_a_reply_leaves_nothing_that_cannot_be_collected(
    kept: weakref.WeakSet[KeptError], network: MemoryNetwork
) -> None:
    pair = connected_pair({"empty": list}, network=network)
    pair.client.call("empty").addCallback(keep, kept)
    network.pump()
    assert len(kept) == 1
