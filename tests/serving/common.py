"""What the tests of calls share: outcomes, functions, and a peer that sends lines of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from kn_sock.testing import ManualExecutor, MemoryNetwork, Pair, connected_pair


def add(a: Any, b: Any) -> Any:
    return a + b


def echo(value: Any) -> Any:
    return value


# --- outcomes -------------------------------------------------------------------------------------


def outcome_of(deferred: Deferred[Any]) -> Any:
    """Take the result of a Deferred, or the exception it failed with; ``None`` before it fires."""
    outcome: list[Any] = []
    deferred.addBoth(lambda result: outcome.append(getattr(result, "value", result)))
    return outcome[0] if outcome else None


def failure_of(deferred: Deferred[Any]) -> BaseException:
    """Take the exception that a Deferred failed with."""
    caught: list[BaseException] = []

    def catch(failure: Failure) -> None:
        assert failure.value is not None
        caught.append(failure.value)

    deferred.addErrback(catch)
    assert caught, "it has not failed"
    return caught[0]


def value_of(deferred: Deferred[Any]) -> Any:
    """Take the result that a Deferred has."""
    results: list[Any] = []
    deferred.addCallback(results.append)
    deferred.addErrback(lambda failure: failure.raiseException())
    assert results, "it has not fired"
    return results[0]


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
