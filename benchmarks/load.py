"""The load generator: requests encoded beforehand, replies counted, and a few of them read.

It is one thread on plain sockets, so that it takes little time beside the server that it measures;
`Outcome.cpu_seconds` tells how much it took. Nothing here knows kn_sock. As a program it takes
orders, a JSON document a line, on its standard input: ``python -m benchmarks.load``.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

from benchmarks.wires import WIRES, Wire, WrongReply, encode_batch

__all__ = ["Load", "Outcome", "WrongReply", "beside", "burst", "churn", "idle", "load_of", "run"]

# For one reply, or one connection; a server that takes longer hangs.
PATIENCE = 10.0
_READ_BYTES = 256 * 1024
# What the kernel takes for a connection without anybody reading.
_SAFE_BYTES = 64 * 1024
_FIRST_NUMBER = 100_000

Address = tuple[str, int]
Check = Callable[[bytes], None]


@dataclass(frozen=True)
class Load:
    """What is sent.

    Attributes:
        requests: encoded requests, of one length, sent in turn by each connection.
        mark: bytes that each reply has exactly once.
        check: raises `WrongReply` unless the replies that it is given begin with a right one.
        connections: how many there are.
        in_flight: requests that each has in flight.
        calls_per_request: more than 1 where a request is a batch.
        least: requests that are answered in all, whatever time it takes.
        is_ended_by_mark: whether the mark ends a reply, and all replies have one length. It is then
            seen to that they had.
    """

    requests: tuple[bytes, ...]
    mark: bytes
    check: Check
    connections: int = 1
    in_flight: int = 1
    calls_per_request: int = 1
    least: int = 1
    is_ended_by_mark: bool = False


@dataclass(frozen=True)
class Outcome:
    """What was seen.

    Attributes:
        count: calls that were answered.
        seconds: from the first request to the last reply that is counted.
        cpu_seconds: time of the processor that this process took meanwhile.
        latencies: seconds from a request to its reply, by the share of calls in percent that had
            theirs by then; 100 is the slowest. Replies are taken for those to the oldest requests.
        answered: calls that were answered in all, with those that were in flight when the time was
            over: the server's work is for these.
    """

    count: int
    seconds: float
    cpu_seconds: float
    latencies: dict[int, float]
    answered: int = 0

    @property
    def rate(self) -> float:
        """Calls in a second."""
        return self.count / self.seconds


def load_of(
    wire_name: str,
    method: str,
    params: list[Any],
    result: Any,
    *,
    connections: int = 1,
    in_flight: int = 1,
    batch: int = 1,
    least: int = 1,
) -> Load:
    """Encode calls of one method for a wire of `WIRES`."""
    wire = WIRES[wire_name]
    # A few more than there are in flight: servers answer in any order.
    ring = 1 if in_flight == 1 else in_flight * 4
    if batch > 1:
        firsts = range(_FIRST_NUMBER, _FIRST_NUMBER + ring * batch, batch)
        requests = tuple(
            encode_batch(wire, method, params, range(first, first + batch)) for first in firsts
        )
    else:
        numbers = range(_FIRST_NUMBER, _FIRST_NUMBER + ring)
        requests = tuple(wire.encode(method, params, number) for number in numbers)
    return Load(
        requests,
        wire.mark,
        _checking(wire, result),
        connections,
        in_flight,
        batch,
        least,
        wire.is_ended_by_mark,
    )


def _checking(wire: Wire, result: Any) -> Check:
    return lambda replies: wire.check(replies, result)


def percentiles(weighted: list[tuple[float, int]]) -> dict[int, float]:
    """Give the percentiles of latencies, each with the number of replies that it took."""
    weighted = sorted(weighted)
    total = sum(weight for _, weight in weighted)
    found: dict[int, float] = {}
    passed = 0
    wanted = [50, 90, 99, 100]
    for latency, weight in weighted:
        passed += weight
        while wanted and passed * 100 >= wanted[0] * total:
            found[wanted.pop(0)] = latency
    return found


def dial(address: Address) -> socket.socket:
    """Connect, blocking."""
    connected = socket.create_connection(address, timeout=PATIENCE)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setblocking(True)
    # The kernel's own time limit: Python's would poll() before each read.
    limit = int(PATIENCE).to_bytes(8, sys.byteorder) + bytes(8)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    return connected


def _read(connected: socket.socket) -> bytes:
    try:
        data = connected.recv(_READ_BYTES)
    except BlockingIOError:
        raise WrongReply(f"no reply within {PATIENCE:.0f} seconds") from None
    if not data:
        raise WrongReply("the server closed the connection")
    return data


class Ring:
    """The requests of one load in a row, so that any number of them is one slice."""

    def __init__(self, load: Load) -> None:
        self.length = len(load.requests[0])
        if any(len(request) != self.length for request in load.requests):
            raise ValueError("the requests of a load have one length")
        self.size = len(load.requests)
        # Twice: a slice may begin anywhere. A large one, which is alone, is not copied.
        twice = load.requests * 2 if self.size > 1 else load.requests
        self.bytes = memoryview(b"".join(twice))

    def slice(self, position: int, count: int) -> memoryview:
        """Give so many requests from a position on."""
        start = position * self.length
        return self.bytes[start : start + count * self.length]


class Stream:
    """One connection: what is to be sent, what is in flight, and what came of the replies."""

    __slots__ = (
        "_bytes",
        "_check",
        "_counted",
        "_is_ended_by_mark",
        "_length",
        "_mark",
        "_position",
        "_rest",
        "_ring",
        "_unchecked",
        "first_reply",
        "sent",
        "socket",
        "under_way",
        "unsent",
    )

    def __init__(self, connected: socket.socket, load: Load, ring: Ring) -> None:
        self.socket = connected
        self.unsent = memoryview(b"")
        #: When requests were sent, and how many, oldest first.
        self.sent: deque[tuple[float, int]] = deque()
        self.under_way = 0
        self._ring = ring
        self._position = 0
        self._mark = load.mark
        self._check = load.check
        self._rest = b""
        self._unchecked: list[bytes] | None = []
        #: What was checked; all that was read until then.
        self.first_reply = b""
        self._is_ended_by_mark = load.is_ended_by_mark
        self._length = self._bytes = self._counted = 0

    def send(self, count: int, now: float) -> None:
        """Send so many requests more; what the socket does not take waits in ``unsent``."""
        self.sent.append((now, count))
        self.under_way += count
        ring = self._ring
        if self.unsent:
            rest = bytes(self.unsent) + bytes(ring.slice(self._position, count))
            self.unsent = memoryview(rest)
        else:
            self.unsent = ring.slice(self._position, count)
        self._position = (self._position + count) % ring.size
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as the socket takes it."""
        while self.unsent:
            try:
                taken = self.socket.send(self.unsent)
            except BlockingIOError:
                return
            self.unsent = self.unsent[taken:]

    def count(self, data: bytes) -> int:
        """Take what was read; tell how many replies it ends or has."""
        mark = self._mark
        if len(mark) == 1:
            count = data.count(mark)
        else:
            whole = self._rest + data
            count = whole.count(mark)
            self._rest = whole[-(len(mark) - 1) :]
        self._bytes += len(data)
        self._counted += count
        if self._unchecked is not None:
            self._unchecked.append(data)
            if count:
                replies = b"".join(self._unchecked)
                self._check(replies)
                self._length = replies.index(mark) + len(mark)
                self.first_reply = replies
                self._unchecked = None
        self.under_way -= count
        if self.under_way < 0:
            raise WrongReply("more replies than requests")
        return count

    def finish(self) -> None:
        """Check that all replies together are as long as the first one so many times.

        Those that were not read are so found to be no errors.
        """
        if self._is_ended_by_mark and self._bytes != self._counted * self._length:
            raise WrongReply(f"{self._counted} replies have {self._bytes} bytes, not all are right")

    def settle(self, count: int, now: float, latencies: list[tuple[float, int]]) -> None:
        """Note how long the oldest requests took."""
        while count:
            since, waiting = self.sent[0]
            settled = min(count, waiting)
            latencies.append((now - since, settled))
            count -= settled
            if settled == waiting:
                self.sent.popleft()
            else:
                self.sent[0] = (since, waiting - settled)


@contextmanager
def _streams(load: Load, address: Address) -> Iterator[list[Stream]]:
    ring = Ring(load)
    streams: list[Stream] = []
    try:
        for _ in range(load.connections):
            streams.append(Stream(dial(address), load, ring))
            if load.connections > 1:
                # One after the other: a server with a short queue of connections would have some
                # of them wait for seconds, which `burst` is about.
                _call_once(streams[-1])
        yield streams
    finally:
        for stream in streams:
            stream.socket.close()


def run(load: Load, address: Address, seconds: float) -> Outcome:
    """Send a load for some seconds, then wait until everything sent is answered.

    Raises:
        WrongReply: a reply was not right, too many came, or none for ten seconds.
    """
    with _streams(load, address) as streams:
        small = load.in_flight * len(load.requests[0]) <= _SAFE_BYTES
        if len(streams) == 1 and (small or load.in_flight == 1):
            outcome = _run_one(load, streams[0], seconds)
        elif small and load.in_flight == load.calls_per_request == 1:
            # It checks each reply itself.
            return _run_one_each(load, streams, seconds)
        else:
            outcome = _run_many(load, streams, seconds)
        for stream in streams:
            stream.finish()
        return outcome


class Tally:
    """Counts replies until the time is over."""

    def __init__(self, load: Load, seconds: float) -> None:
        self.latencies: list[tuple[float, int]] = []
        self._load = load
        self._count = self._answered = 0
        self._cpu = time.process_time()
        self._start = self._last = time.perf_counter()
        self._end = self._start + seconds
        self.is_over = False
        self._cpu_seconds = 0.0

    def add(self, count: int, now: float) -> None:
        """Count replies that came just now."""
        self._answered += count
        if self.is_over:
            return
        self._count += count
        self._last = now
        if now >= self._end and self._count >= self._load.least:
            self.is_over = True
            self._cpu_seconds = time.process_time() - self._cpu

    def outcome(self) -> Outcome:
        """Tell what was counted."""
        return Outcome(
            self._count * self._load.calls_per_request,
            self._last - self._start,
            self._cpu_seconds,
            percentiles(self.latencies),
            self._answered * self._load.calls_per_request,
        )


def _run_one(load: Load, stream: Stream, seconds: float) -> Outcome:
    """Without a poll: a blocking read is one system call."""
    clock, read = time.perf_counter, stream.socket
    tally = Tally(load, seconds)
    stream.send(load.in_flight, clock())
    while stream.under_way:
        count = stream.count(_read(read))
        if not count:
            continue
        now = clock()
        tally.add(count, now)
        stream.settle(count, now, tally.latencies)
        if not tally.is_over:
            stream.send(count, now)
    return tally.outcome()


class Caller:
    """One connection that has one call in flight, the same each time.

    So is its reply: each is compared with the one that was checked.
    """

    __slots__ = ("_reply", "_rest", "read", "send", "since")

    def __init__(self, stream: Stream) -> None:
        self.read = stream.socket.recv
        self.send = stream.socket.send
        self.since = 0.0
        self._reply = stream.first_reply
        self._rest = b""

    def ends(self, data: bytes) -> bool:
        """Take a part of a reply; tell whether that is all of it."""
        self._rest += data
        if not data or not self._reply.startswith(self._rest):
            raise WrongReply(f"not {self._reply[:200]!r}: {self._rest[:200]!r}")
        if self._rest != self._reply:
            return False
        self._rest = b""
        return True


def _run_one_each(load: Load, streams: list[Stream], seconds: float) -> Outcome:
    """With next to nothing done for a call but its system calls.

    A quick server has one or two replies ready in each turn; it must not wait for what is done with
    them here.
    """
    clock, poller, (request,), reply = time.perf_counter, select.epoll(), load.requests, b""
    callers: dict[int, Caller] = {}
    with poller:
        for stream in streams:
            stream.socket.setblocking(False)
            callers[stream.socket.fileno()] = Caller(stream)
            poller.register(stream.socket.fileno(), select.EPOLLIN)
            reply = stream.first_reply
        tally = Tally(load, seconds)
        poll, settled, most, length = (
            poller.poll,
            tally.latencies.append,
            len(reply) + 1,
            len(request),
        )
        for caller in callers.values():
            caller.since = clock()
            caller.send(request)
        under_way = len(callers)
        while under_way:
            ready = poll(PATIENCE)
            if not ready:
                raise WrongReply(f"no reply within {PATIENCE:.0f} seconds")
            count, now = 0, 0.0
            for handle, _ in ready:
                caller = callers[handle]
                data = caller.read(most)
                if data != reply and not caller.ends(data):
                    continue
                count += 1
                now = clock()
                settled((now - caller.since, 1))
                if tally.is_over:
                    under_way -= 1
                    continue
                caller.since = now
                if caller.send(request) != length:
                    raise WrongReply("a request was not taken whole")
            if count:
                tally.add(count, now)
    return tally.outcome()


def _run_many(load: Load, streams: list[Stream], seconds: float) -> Outcome:
    clock = time.perf_counter
    poller = select.epoll()
    by_handle = {stream.socket.fileno(): stream for stream in streams}
    wants_write: set[int] = set()

    def watch(handle: int, stream: Stream) -> None:
        if bool(stream.unsent) != (handle in wants_write):
            poller.modify(handle, select.EPOLLIN | (select.EPOLLOUT if stream.unsent else 0))
            wants_write.symmetric_difference_update((handle,))

    with poller:
        for handle, stream in by_handle.items():
            stream.socket.setblocking(False)
            poller.register(handle, select.EPOLLIN)
        tally = Tally(load, seconds)
        for handle, stream in by_handle.items():
            stream.send(load.in_flight, clock())
            watch(handle, stream)
        busy = len(streams)
        while busy:
            ready = poller.poll(PATIENCE)
            if not ready:
                raise WrongReply(f"no reply within {PATIENCE:.0f} seconds")
            for handle, events in ready:
                stream = by_handle[handle]
                if events & select.EPOLLOUT:
                    stream.flush()
                if events & ~select.EPOLLOUT:
                    count = stream.count(_read(stream.socket))
                    now = clock()
                    tally.add(count, now)
                    stream.settle(count, now, tally.latencies)
                    if count and not tally.is_over:
                        stream.send(count, now)
                    busy -= not stream.under_way
                if stream.unsent or wants_write:
                    watch(handle, stream)
    return tally.outcome()


def churn(load: Load, address: Address, seconds: float) -> Outcome:
    """Connect, make one call, close; again and again."""
    tally = Tally(load, seconds)
    while not tally.is_over:
        begun = time.perf_counter()
        with _streams(load, address) as (stream,):
            _call_once(stream)
        now = time.perf_counter()
        tally.latencies.append((now - begun, 1))
        tally.add(1, now)
    return tally.outcome()


def burst(load: Load, address: Address) -> Outcome:
    """Make all connections of a load at once, with one call each; until all are answered."""
    poller = select.epoll()
    ring = Ring(load)
    streams: dict[int, Stream] = {}
    try:
        for _ in range(load.connections):
            connecting = socket.socket()
            streams[connecting.fileno()] = Stream(connecting, load, ring)
            connecting.setblocking(False)
        tally = Tally(load, 0.0)
        begun = time.perf_counter()
        for handle, stream in streams.items():
            problem = stream.socket.connect_ex(address)
            if problem not in (0, errno.EINPROGRESS):
                raise OSError(problem, os.strerror(problem))
            poller.register(handle, select.EPOLLOUT)
        waiting = load.connections
        while waiting:
            ready = poller.poll(max(0.0, begun + PATIENCE - time.perf_counter()))
            if not ready:
                raise WrongReply(
                    f"{waiting} connections had no reply within {PATIENCE:.0f} seconds"
                )
            for handle, events in ready:
                stream = streams[handle]
                if not events & select.EPOLLOUT:
                    if stream.count(_read(stream.socket)):
                        waiting -= 1
                        now = time.perf_counter()
                        tally.add(1, now)
                        tally.latencies.append((now - begun, 1))
                        poller.unregister(handle)
                    continue
                stream.send(1, begun)
                poller.modify(handle, select.EPOLLIN)
    finally:
        poller.close()
        for stream in streams.values():
            stream.socket.close()
    return tally.outcome()


@contextmanager
def idle(load: Load, address: Address, *, has_called: bool) -> Iterator[None]:
    """Hold the connections of a load; each of them, or else the last alone, has made one call."""
    ring = Ring(load)
    streams: list[Stream] = []
    try:
        for number in range(load.connections):
            stream = Stream(dial(address), load, ring)
            streams.append(stream)
            # They are accepted in turn: the last one's answer tells that all of them were.
            if has_called or number == load.connections - 1:
                _call_once(stream)
        yield
    finally:
        for stream in streams:
            stream.socket.close()


def _call_once(stream: Stream) -> None:
    stream.send(1, time.perf_counter())
    while not stream.count(_read(stream.socket)):
        pass
    stream.sent.clear()


def beside(
    quick: Load, other: Load, address: Address, seconds: float, *, is_same: bool = False
) -> Outcome:
    """Make quick calls one after another, beside another load; tell of the quick ones.

    Args:
        quick: the quick calls, of one connection.
        other: the load beside them, of one connection, which a process of its own sends. Not with
            *is_same*: it goes over the connection of the quick ones then, and is told apart by its
            replies, in which the quick ones' check fails.
        address: the server's.
        seconds: how long.
        is_same: whether there is one connection for both.
    """
    if is_same:
        return _beside_on_one(quick, other, address, seconds)
    ready, told = os.pipe()
    child = os.fork()
    if not child:
        # It ends with the pipe, or is ended.
        status = 1
        try:
            os.close(ready)
            once = run(other, address, 0.0)
            os.write(told, b"." if once.count else b"!")
            run(other, address, seconds + 0.2)
            status = 0
        finally:
            os._exit(status)
    os.close(told)
    try:
        if os.read(ready, 1) != b".":
            raise WrongReply("the load beside it failed")
        return run(quick, address, seconds)
    finally:
        os.close(ready)
        _, status = os.waitpid(child, 0)
        if status and sys.exc_info()[0] is None:
            raise WrongReply("the load beside it failed")


def _beside_on_one(quick: Load, other: Load, address: Address, seconds: float) -> Outcome:
    tally = Tally(quick, seconds)
    slow = quick_waits = 0
    rest = b""
    with _streams(quick, address) as (stream,):
        stream.socket.sendall(b"".join([*other.requests[: other.in_flight]]))
        slow = other.in_flight
        begun = time.perf_counter()
        stream.socket.sendall(quick.requests[0])
        quick_waits = 1
        while slow or quick_waits:
            lines = (rest + _read(stream.socket)).split(quick.mark)
            rest = lines.pop()
            for line in lines:
                now = time.perf_counter()
                try:
                    quick.check(line)
                except WrongReply:
                    other.check(line)
                    slow -= 1
                    if not tally.is_over:
                        stream.socket.sendall(other.requests[0])
                        slow += 1
                    continue
                quick_waits = 0
                tally.latencies.append((now - begun, 1))
                tally.add(1, now)
                if not tally.is_over:
                    begun = now
                    stream.socket.sendall(quick.requests[0])
                    quick_waits = 1
    return tally.outcome()


# --- as a program
# ------------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def _ordered_load(wire: str, told: str) -> Load:
    """Encode what an order tells: texts and arrays by their length, as they may be long."""
    load = json.loads(told)
    method, length, numbers = load["method"], load.pop("text", 0), load.pop("numbers", 0)
    if numbers:
        params: list[Any] = [list(range(_FIRST_NUMBER, _FIRST_NUMBER + numbers))]
    elif length:
        params = ["x" * length]
    else:
        params = [1, 2]
    results = {"add": 3, "size": numbers or length}
    result = results[method] if method in results else params[0]
    return load_of(wire, params=params, result=result, **load)


def load_in(order: dict[str, Any], name: str = "load") -> Load:
    """Give the load of an order; encoded once where it comes again."""
    return _ordered_load(order["wire"], json.dumps(order[name], sort_keys=True))


def answer(order: dict[str, Any]) -> dict[str, Any]:
    """Do what one order says; give the outcome as JSON has it."""
    kind, address, load = order["kind"], ("127.0.0.1", order["port"]), load_in(order)
    seconds = order["seconds"]
    if kind == "run":
        outcome = run(load, address, seconds)
    elif kind == "churn":
        outcome = churn(load, address, seconds)
    elif kind == "burst":
        outcome = burst(load, address)
    elif kind == "beside":
        outcome = beside(load, load_in(order, "other"), address, seconds, is_same=order["is_same"])
    else:
        raise ValueError(f"there is no kind {kind}")
    return asdict(outcome)


def hold(order: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Open some connections, then more of them, telling of each step."""
    address, load = ("127.0.0.1", order["port"]), load_in(order)
    with idle(replace(load, connections=order["first"]), address, has_called=order["has_called"]):
        yield {"open": order["first"]}
        with idle(load, address, has_called=order["has_called"]):
            yield {"open": order["first"] + load.connections}


def main() -> None:
    """Take orders from the standard input until it ends."""
    for line in sys.stdin:
        order = json.loads(line)
        try:
            if order["kind"] == "hold":
                for step in hold(order):
                    print(json.dumps(step), flush=True)
                    # Until it is told to go on.
                    sys.stdin.readline()
                result: dict[str, Any] = {"open": 0}
            else:
                result = answer(order)
        except Exception as problem:
            result = {"problem": f"{type(problem).__name__}: {problem}"}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
