"""What the tests of calls share: outcomes, functions, and a peer that sends lines of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred

from kn_sock.testing import (
    ManualExecutor,
    MemoryNetwork,
    Pair,
    connected_pair,
)
from kn_sock.testing import (
    failure_of as failure_of,
)
from kn_sock.testing import (
    outcome_of as outcome_of,
)
from kn_sock.testing import (
    value_of as value_of,
)


def add(a: Any, b: Any) -> Any:
    return a + b


def echo(value: Any) -> Any:
    return value


# --- outcomes -------------------------------------------------------------------------------------


def values_of(deferreds: Sequence[Deferred[Any]]) -> list[Any]:
    return [value_of(deferred) for deferred in deferreds]


# --- calls over a pair ----------------------------------------------------------------------------


def called(pair: Pair, method: str, /, *args: Any, **kwargs: Any) -> Any:
    """Call a method and take the outcome."""
    deferred = pair.client.call(method, *args, **kwargs)
    pair.pump()
    return outcome_of(deferred)


def result_of(pair: Pair, method: str, /, *args: Any, **kwargs: Any) -> Any:
    """Call a method and take its result."""
    deferred = pair.client.call(method, *args, **kwargs)
    pair.pump()
    return value_of(deferred)


def error_of(pair: Pair, method: str, /, *args: Any, **kwargs: Any) -> Any:
    """Call a method and take the exception that the call fails with."""
    deferred = pair.client.call(method, *args, **kwargs)
    pair.pump()
    return failure_of(deferred)


def run_threads(pair: Pair, executor: ManualExecutor) -> None:
    """Run the functions that wait for a thread, and deliver their results."""
    pair.pump()
    executor.run()
    pair.pump()


def batched(client: Any, *entries: Any) -> Deferred[list[Any]]:
    """Send a batch of entries: the verb, the method, its arguments."""
    batch = client.batch()
    for verb, method, *args in entries:
        getattr(batch, verb)(method, *args)
    sending: Deferred[list[Any]] = batch.send()
    return sending


def sent_by(pair: Pair) -> list[Any]:
    """Take what the client has written, and hold it back."""
    pair.wire.is_held = True
    pair.network.reactor.advance(0)
    return [json.loads(line) for line in pair.wire.written.splitlines()]


# --- lines ----------------------------------------------------------------------------------------

CANCEL = {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": 1}}


def request(request_id: Any, method: str, *params: Any, **members: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params, **members}


class RawClient:
    """A client in memory that sends lines of its own."""

    def __init__(self, network: MemoryNetwork, funcs: Any, **options: Any) -> None:
        self.pair = connected_pair(funcs, network=network, **options)
        self.network = network
        (self.server,) = network.factory.connections
        self._received: list[Any] = []
        self.pair.wire.protocol.dataReceived = self._receive

    def _receive(self, data: bytes) -> None:
        self._received += [json.loads(line) for line in data.splitlines()]

    def send(self, *messages: Any) -> None:
        for message in messages:
            self.pair.wire.write(json.dumps(message).encode() + b"\n")
        self.pair.pump()

    def ask(self, *messages: Any) -> list[Any]:
        """Send messages, and take what was answered since the last time."""
        self.send(*messages)
        return self.take()

    def advance(self, seconds: float) -> None:
        self.pair.advance(seconds)

    def after(self, seconds: float) -> list[Any]:
        """Let time pass, and take what was answered since the last time."""
        self.advance(seconds)
        return self.take()

    def take(self) -> list[Any]:
        received, self._received = self._received, []
        return received
