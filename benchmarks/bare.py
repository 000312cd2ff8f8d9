"""The yardstick: what a server and its clients take that do nothing but answer calls.

No limits, no dialects, no deadlines, no cancellation. Every figure is a ratio to one of these:

- `BareServer`: methods run on the reactor, all replies to one read leave in one write.
- `BareClient`: calls are Deferreds, those of one turn of the reactor leave in one write.
- `BareBlockingClient`: any thread calls over one connection that a thread with a reactor of its own
  keeps; each call waits for a lock of its own.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Protocol
from typing_extensions import override

LISTEN_BACKLOG = 1024
PATIENCE = 30.0


class Request(msgspec.Struct):
    """A call."""

    method: str
    params: list[Any] = []  # msgspec gives each its own
    id: int | str | None = None


class Result(msgspec.Struct):
    """The reply to one that went well."""

    jsonrpc: str
    id: int | str | None
    result: Any


class Error(msgspec.Struct):
    """The reply to one that did not."""

    jsonrpc: str
    id: int | str | None
    error: dict[str, Any]


class Reply(msgspec.Struct):
    """Either, as a client reads it."""

    id: int
    result: Any = None
    error: Any = None


Methods: TypeAlias = dict[str, Callable[..., Any]]

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Request | list[Request]).decode
decode_reply = msgspec.json.Decoder(Reply).decode


def answer(request: Request, methods: Methods) -> Result | Error:
    """Run one call."""
    try:
        method = methods[request.method]
    except KeyError:
        return Error("2.0", request.id, {"code": -32601, "message": "there is no such method"})
    try:
        return Result("2.0", request.id, method(*request.params))
    except Exception as problem:
        return Error("2.0", request.id, {"code": -32000, "message": str(problem)})


class Lines(Protocol):
    """Splits what each read delivers; the line that has not ended is kept in pieces."""

    transport: ITCPTransport

    @override
    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self._tail: list[bytes] = []

    @override
    def dataReceived(self, data: bytes) -> None:
        lines = data.split(b"\n")
        if len(lines) > 1 and self._tail:
            lines[0] = b"".join((*self._tail, lines[0]))
            self._tail = []
        rest = lines.pop()
        if rest:
            self._tail.append(rest)
        if lines:
            self.linesReceived(lines)

    def linesReceived(self, lines: list[bytes]) -> None:  # noqa: N802  # as Twisted's own
        """Take the lines that one read ended."""


class BareServer(Lines):
    """Answers calls, and batches of them."""

    methods: Methods

    @override
    def linesReceived(self, lines: list[bytes]) -> None:
        methods, replies = self.methods, []
        for line in lines:
            try:
                request = decode(line)
            except (msgspec.DecodeError, ValueError, RecursionError):
                reply: Any = Error("2.0", None, {"code": -32700, "message": "no request"})
            else:
                if type(request) is list:
                    reply = [answer(each, methods) for each in request]
                else:
                    reply = answer(request, methods)
            replies.append(encode(reply))
        replies.append(b"")
        self.transport.write(b"\n".join(replies))


class Gathered:
    """Gathers what one turn of a reactor writes."""

    def __init__(self, reactor: Any, write: Callable[[bytes], object]) -> None:
        self._reactor = reactor
        self._write = write
        self._waiting: list[bytes] = []

    def add(self, line: bytes) -> None:
        """Write it with the others of this turn."""
        if not self._waiting:
            self._reactor.callLater(0, self._flush)
        self._waiting.append(line)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._write(b"".join(waiting))


class Call(msgspec.Struct):
    """A call as it is written."""

    jsonrpc: str
    id: int
    method: str
    params: tuple[Any, ...]


class BareClient(Lines):
    """Makes calls; each is a Deferred."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._pending: dict[int, Deferred[Any]] = {}
        self._last_id = 0

    @override
    def connectionMade(self) -> None:
        super().connectionMade()
        self._out = Gathered(self._reactor, self.transport.write)

    def call(self, method: str, *args: Any) -> Deferred[Any]:
        """Call a method."""
        self._last_id = call_id = self._last_id + 1
        self._pending[call_id] = deferred = Deferred[Any]()
        self._out.add(encode(Call("2.0", call_id, method, args)) + b"\n")
        return deferred

    @override
    def linesReceived(self, lines: list[bytes]) -> None:
        for line in lines:
            reply = decode_reply(line)
            deferred = self._pending.pop(reply.id)
            if reply.error is None:
                deferred.callback(reply.result)
            else:
                deferred.errback(RuntimeError(reply.error))


class Waiter:
    """One call of a thread: a lock that is released when the result is there."""

    __slots__ = ("error", "lock", "result")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lock.acquire()
        self.result: Any = None
        self.error: Any = None


class BlockingLines(Lines):
    """The connection of a `BareBlockingClient`, on the reactor's thread."""

    def __init__(self) -> None:
        self.pending: dict[int, Waiter] = {}
        self.is_connected = threading.Event()

    @override
    def connectionMade(self) -> None:
        super().connectionMade()
        self.is_connected.set()

    @override
    def linesReceived(self, lines: list[bytes]) -> None:
        for line in lines:
            reply = decode_reply(line)
            waiter = self.pending.pop(reply.id)
            waiter.result, waiter.error = reply.result, reply.error
            waiter.lock.release()


class BareBlockingClient:
    """Makes calls from any number of threads over one connection.

    Args:
        reactor: a reactor of its own; it is run in a thread until the process ends.
        port: where the server listens, on 127.0.0.1.
    """

    def __init__(self, reactor: Any, port: int) -> None:
        from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol

        self._reactor = reactor
        self._lines = BlockingLines()
        self._submitted: deque[tuple[Waiter, str, tuple[Any, ...]]] = deque()
        self._is_waking = False
        self._last_id = 0
        reactor._registerAsIOThread = False
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
        reactor.callWhenRunning(connectProtocol, endpoint, self._lines)
        threading.Thread(target=reactor.run, args=(False,), daemon=True).start()
        if not self._lines.is_connected.wait(PATIENCE):
            raise TimeoutError("no connection")

    def call(self, method: str, *args: Any) -> Any:
        """Call a method, and wait for its result."""
        return self.finish(self.begin(method, *args))

    def begin(self, method: str, *args: Any) -> Waiter:
        """Begin a call."""
        waiter = Waiter()
        self._submitted.append((waiter, method, args))
        if not self._is_waking:
            self._is_waking = True
            self._reactor.callFromThread(self._send)
        return waiter

    def finish(self, waiter: Waiter) -> Any:
        """Wait for the result of one that was begun."""
        if not waiter.lock.acquire(timeout=PATIENCE):
            raise TimeoutError("no reply")
        if waiter.error is not None:
            raise RuntimeError(waiter.error)
        return waiter.result

    def _send(self) -> None:
        self._is_waking = False
        lines = []
        for _ in range(len(self._submitted)):
            waiter, method, args = self._submitted.popleft()
            self._last_id = call_id = self._last_id + 1
            self._lines.pending[call_id] = waiter
            lines.append(encode(Call("2.0", call_id, method, args)))
        lines.append(b"")
        self._lines.transport.write(b"\n".join(lines))
