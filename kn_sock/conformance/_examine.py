"""Runs the cases against a server, each on a connection of its own, and reports differences."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Final, cast

from twisted.internet import defer
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure
from typing_extensions import override

from kn_sock._client.dialer import dial
from kn_sock.conformance._cases import Case, Exchange, Group, are_replies, is_reply, parse

# A longer reply is an error of the server.
_LONGEST_REPLY: Final = 64 * 1024 * 1024


@dataclasses.dataclass(frozen=True)
class Finding:
    """What became of one case.

    Attributes:
        group: the name of its group.
        case: the case.
        received: the lines that came, in their order; the last one of them may be what was wrong.
        problem: what differs, or ``None`` when the server answered as it should.
    """

    group: str
    case: Case
    received: tuple[bytes, ...]
    problem: str | None


@dataclasses.dataclass(frozen=True)
class Habits:
    """What a server does with every connection, found out beforehand.

    Attributes:
        speaks: whether it answers the probe of the group.
        goes_on: whether a connection lives on after a reply.
        ends_politely: whether it closes once the client has shut down its writing side.
        lacks: the functions that it does not serve.
    """

    speaks: bool
    goes_on: bool = False
    ends_politely: bool = False
    lacks: tuple[str, ...] = ()

    def lacking_for(self, case: Case) -> str | None:
        """Name a function that a case calls and the server does not serve."""
        return next((name for name in self.lacks if f'"{name}"'.encode() in case.sent), None)


class _Silent(Exception):
    """Nothing came in time."""


class _Closed(Exception):
    """The server closed the connection."""


class _Differs(Exception):
    """The server did something else than it should."""


class Wire(LineOnlyReceiver):
    """One connection to the server that is examined: lines out of it, in their order."""

    delimiter = b"\n"
    MAX_LENGTH = _LONGEST_REPLY
    transport: Any

    def __init__(self, reactor: Any, timeout: float) -> None:
        self._reactor = reactor
        self._timeout = timeout
        self._queue: defer.DeferredQueue[bytes | None] = defer.DeferredQueue()
        self._is_closed = False
        self.received: list[bytes] = []

    @override
    def connectionMade(self) -> None:
        getattr(self.transport, "setTcpNoDelay", lambda _: None)(True)

    @override
    def lineReceived(self, line: bytes) -> None:
        self._queue.put(line.removesuffix(b"\r"))

    @override
    def connectionLost(self, reason: Failure = Failure(ConnectionError())) -> None:  # noqa: B008
        self._queue.put(None)

    async def send(self, pieces: Iterable[bytes]) -> None:
        """Write each piece in a turn of its own."""
        for piece in pieces:
            await deferLater(self._reactor, 0)
            self.transport.write(piece)

    async def line(self) -> bytes:
        """Wait for the next line that is not blank.

        Raises:
            _Closed: there will be none.
            _Silent: none came in time.
        """
        while not self._is_closed:
            waiting = self._queue.get()
            waiting.addTimeout(self._timeout, self._reactor)
            try:
                line = await waiting
            except defer.TimeoutError as problem:
                raise _Silent from problem
            if line is None:
                self._is_closed = True
            elif line:
                self.received.append(line)
                return line
        raise _Closed


class Examiner:
    """Examines one server.

    Args:
        endpoint: the server's endpoint.
        reactor: the reactor.
        timeout: seconds that a reply may take.
        pieces: cuts what is sent; each piece is written on its own.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        reactor: Any,
        *,
        timeout: float,
        pieces: Callable[[bytes], Iterable[bytes]] = lambda data: (data,),
    ) -> None:
        self._endpoint = endpoint
        self._reactor = reactor
        self._timeout = timeout
        self._pieces = pieces

    async def habits(self, group: Group, functions: Iterable[str] = ()) -> Habits:
        """Find out what the server does with every connection."""
        wire = await self.connect()
        try:
            if await self._probe_differs(wire, group):
                return Habits(speaks=False)
            lacks = await self._lacking(wire, functions)
            goes_on = not await self._probe_differs(wire, group)
            return Habits(True, goes_on, await self._ends_politely(wire), lacks)
        finally:
            await _leave(wire)

    async def _probe_differs(self, wire: Wire, group: Group) -> bool:
        try:
            await self._exchange(wire, group.probe)
        except (_Differs, _Closed, _Silent):
            return True
        return False

    async def _lacking(self, wire: Wire, functions: Iterable[str]) -> tuple[str, ...]:
        """Call each with an argument that none of them has: an unknown name is answered first."""
        lacking = []
        for name in functions:
            request = {"jsonrpc": "2.0", "method": name, "params": {"no such": 1}, "id": name}
            wire.transport.write(json.dumps(request).encode() + b"\n")
            try:
                error = parse(await wire.line()).get("error")
            except (ValueError, AttributeError, _Closed, _Silent):
                return ()
            if isinstance(error, dict) and error.get("code") == -32601:
                lacking.append(name)
        return tuple(lacking)

    async def _ends_politely(self, wire: Wire) -> bool:
        try:
            wire.transport.loseWriteConnection()
            await wire.line()
        except _Closed:
            return True
        except (_Silent, AttributeError):
            pass
        return False

    async def examine(self, group: Group, habits: Habits) -> AsyncIterator[Finding]:
        """Put the cases of a group to the server, one after the other.

        Those that call a function that the server lacks are left out.
        """
        for case in group.cases:
            if habits.lacking_for(case):
                continue
            wire = await self.connect()
            try:
                await self._examine(wire, case, group.probe, habits)
            except _Silent:
                problem: str | None = "no reply came in time"
            except _Closed:
                problem = "the server closed the connection"
            except _Differs as difference:
                problem = str(difference)
            else:
                problem = None
            finally:
                await _leave(wire)
            yield Finding(group.name, case, tuple(wire.received), problem)

    async def connect(self) -> Wire:
        """Make one more connection.

        Raises:
            ConnectFailed: it could not be made.
        """
        factory = Factory.forProtocol(lambda: Wire(self._reactor, self._timeout))
        factory.noisy = False
        attempt = dial(self._endpoint, factory, self._timeout, self._reactor)
        return cast(Wire, await attempt)

    async def _examine(self, wire: Wire, case: Case, probe: Exchange, habits: Habits) -> None:
        for exchange in case.exchanges:
            await self._exchange(wire, exchange, in_order=case.in_order)
        if case.is_closed:
            await _expect_end(wire)
        elif habits.goes_on:
            await self._exchange(wire, probe)
            if habits.ends_politely:
                # Whatever comes too late to be noticed before, comes before the end.
                wire.transport.loseWriteConnection()
                await _expect_end(wire)

    async def _exchange(self, wire: Wire, exchange: Exchange, *, in_order: bool = False) -> None:
        await wire.send(self._pieces(exchange.sent))
        if exchange.ends_sending:
            wire.transport.loseWriteConnection()
        lines = [await wire.line() for _ in exchange.expected]
        if any(isinstance(one, bytes) for one in exchange.expected):
            if lines != list(exchange.expected):
                raise _Differs("not the lines that were expected")
            return
        replies = [_reply(line) for line in lines]
        if in_order:
            if not all(map(is_reply, exchange.expected, replies)):
                raise _Differs("not the replies that were expected, or in another order")
        elif not are_replies(exchange.expected, replies):
            raise _Differs("not the reply that was expected")


def _reply(line: bytes) -> Any:
    try:
        return parse(line)
    except ValueError as problem:
        raise _Differs(f"the reply is not JSON: {problem}") from problem


async def _expect_end(wire: Wire) -> None:
    try:
        await wire.line()
    except _Closed:
        return
    except _Silent:
        raise _Differs("the server did not close the connection") from None
    raise _Differs("a line that nothing asked for")


async def _leave(wire: Wire) -> None:
    wire.transport.abortConnection()
    try:
        while True:
            await wire.line()
    except (_Closed, _Silent):
        pass
