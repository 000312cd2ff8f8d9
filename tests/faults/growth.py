"""Does the same again and again, and measures what is left each time: a leak shows as a slope.

``python -m tests.faults.growth`` runs every kind of load in full and prints the figures;
``python -m tests.faults.growth connections --count 2000 --rounds 5`` runs one.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import itertools
import os
import resource
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from kn_sock import CallTimeout, RPCClient, in_reactor
from kn_sock._blocking.reactor_thread import reactor_thread
from tests.faults.peers import (
    HOST,
    PATIENCE,
    Peer,
    Served,
    call,
    join,
    open_sockets,
    things_on,
    wait_until,
)

# What a round may leave, on average: caches that fill, some hundred blocks whatever the number. Of
# 1,000 clients or 10,000 calls that left a single object each it would be more.
MOST_BLOCKS = 500
# Memory that is not given back at once comes and goes; this is for what Python does not count.
MOST_KIB = 4096


@dataclasses.dataclass
class Left:
    """What there is between two rounds.

    Attributes:
        sockets: descriptors of sockets, pipes and files.
        readers: what the reactor reads.
        writers: what the reactor writes.
        timers: the calls that the reactor is to make.
        ours: objects of kn_sock's classes.
        blocks: blocks of memory that Python has allocated.
        kib: resident memory.
    """

    sockets: int
    readers: int
    writers: int
    timers: int
    ours: int
    blocks: int
    kib: int

    @classmethod
    def now(cls) -> Left:
        gc.collect()
        readers, writers, timers = map(len, things_on(reactor_thread()))
        ours = sum(str(type(one).__module__).startswith("kn_sock") for one in gc.get_objects())
        kib = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024
        return cls(
            len(os.listdir("/proc/self/fd")),
            readers,
            writers,
            timers,
            ours,
            sys.getallocatedblocks(),
            kib,
        )


@in_reactor
def hold() -> Deferred[Any]:
    """Wait for the cancellation."""
    return Deferred()


FUNCS = {
    "echo": in_reactor(lambda value: value),
    "echo_in_thread": lambda value: value,
    "hold": hold,
    "text": lambda length: "x" * length,
}


def connections(port: int, count: int) -> None:
    """Open so many at once, call over each, let them idle, and drop them, each third by a reset."""
    thread = reactor_thread()
    readers = len(things_on(thread)[0])
    peers = [Peer(socket.create_connection((HOST, port), timeout=PATIENCE)) for _ in range(count)]
    for peer in peers:
        peer.send(call(1, "echo", 1))
    for peer in peers:
        assert peer.message()["result"] == 1
    assert len(things_on(thread)[0]) == readers + count
    for number, peer in enumerate(peers):
        if number % 3:
            peer.close()
        else:
            peer.reset()
    wait_until(lambda: len(things_on(thread)[0]) <= readers)


def calls(port: int, count: int) -> None:
    """Call so often over one connection, half of it in threads."""
    with RPCClient(HOST, port, timeout=PATIENCE) as client:
        for method in ("echo", "echo_in_thread"):
            half = range(count // 2)
            assert sum(client.map(method, half, window=500)) == sum(half)


def cancelled(port: int, count: int) -> None:
    """Cancel so many calls that are in flight."""
    with RPCClient(HOST, port, timeout=PATIENCE) as client:
        for _ in range(count // 500):
            futures = [client.submit("hold") for _ in range(500)]
            client.call("echo", 1)
            for future in futures:
                assert future.cancel()
        client.call("echo", 1)


def timed_out(port: int, count: int) -> None:
    """Let so many calls time out."""
    with RPCClient(HOST, port, timeout=PATIENCE) as client:
        hurried = client.with_options(timeout=0.01)
        for _ in range(count // 500):
            futures = [hurried.submit("hold") for _ in range(500)]
            for future in futures:
                assert isinstance(future.exception(PATIENCE), CallTimeout)
        client.call("echo", 1)


def clients(port: int, count: int) -> None:
    """Make so many short clients, one after the other in each of four threads."""

    def make() -> None:
        for _ in range(count // 4):
            with RPCClient(HOST, port, timeout=PATIENCE) as client:
                client.call("echo", 1)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def heavy_lines() -> list[bytes]:
    """What one peer may send to cost others memory or time."""
    lists = b"[" + b",".join([b"[]"] * 40_000) + b"]"
    old = b'{"method":"%s","params":[%s],"kwargs":{}}\n'
    text = call(1, "echo_in_thread", "x" * 300_000)
    too_many = lists.replace(b",", b",[],[],")
    return [
        old % (b"hold", b"") + 20 * (old % (b"echo", lists)),
        b"".join(call(number, "text", 300_000) for number in range(50)),
        b"[" + b",".join([call(1, "hold").strip(), text.strip()] * 10) + b"]\n",
        20 * text,
        b'{"jsonrpc":"2.0","id":1,"method":"echo","params":' + too_many + b"}\n",
        b"[" * 1_000_000,
        b'{"id":null,"error":{"message":"\\u001b[31m"}}\n' * 1000,
        b"garbage\n" * 1000,
        b"[" + b",".join([call(1, "rpc.discover").strip()] * 1000) + b"]\n",
    ]


def hostile(port: int, count: int) -> None:
    """Connect so often, each time with something that costs much, and reset it under way."""
    thread = reactor_thread()
    lines = heavy_lines()
    with RPCClient(HOST, port, timeout=PATIENCE) as client:
        readers = len(things_on(thread)[0])
        for _ in range(count // len(lines)):
            peers = [join(port) for _ in lines]
            for peer, data in zip(peers, lines, strict=True):
                peer.socket.setblocking(False)
                # As much as the system takes.
                peer.socket.send(data)
            client.call("echo_in_thread", 1)
            for peer in peers:
                peer.reset()
            wait_until(lambda: len(things_on(thread)[0]) <= readers)


LOADS: dict[str, tuple[Callable[[int, int], None], int]] = {
    "connections": (connections, 2_000),
    "calls": (calls, 100_000),
    "cancelled": (cancelled, 10_000),
    "timed_out": (timed_out, 10_000),
    "clients": (clients, 2_000),
    "hostile": (hostile, 450),
}


def measure(name: str, count: int, rounds: int) -> list[Left]:
    """Run a load, so many times after a first that fills what is filled once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * count + 200
    if name == "connections" and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    load, _ = LOADS[name]
    server = Served(FUNCS, threads=4)
    sockets = open_sockets()
    found: list[Left] = []
    for _ in range(rounds + 1):
        load(server.port, count)
        # A connection that is half closed is not read any more, and still there.
        wait_until(lambda: open_sockets() <= sockets)
        found.append(Left.now())
    server.stop()
    return found


def problems(found: list[Left]) -> list[str]:
    """Say what grows: round after round, as a leak does. What comes once is a thread begun late."""
    rounds = len(found) - 1
    grown = []
    for name in ("sockets", "readers", "writers", "timers", "ours"):
        counts = [getattr(left, name) for left in found]
        more = counts[-1] - counts[0]
        if all(after > before for before, after in itertools.pairwise(counts)):
            grown.append(f"{more} more {name} after {rounds} rounds")
    for name, most in (("blocks", MOST_BLOCKS), ("kib", MOST_KIB)):
        sizes = [getattr(left, name) for left in found]
        more = min(after - before for before, after in itertools.pairwise(sizes))
        if more > most:
            grown.append(f"{more} more {name} each round")
    return grown


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("load", nargs="*", choices=[[], *LOADS], help="all, unless named")
    parser.add_argument("--count", type=int, help="of connections, calls or clients")
    parser.add_argument("--rounds", type=int, default=4)
    given = parser.parse_args()
    ok = True
    for name in given.load or LOADS:
        count = given.count or LOADS[name][1]
        found = measure(name, count, given.rounds)
        print(f"{name}: {count:,} a round")
        for number, left in enumerate(found):
            print(f"  {number}: {left}")
        for problem in problems(found):
            ok = False
            print(f"  GROWS: {problem}")
        sys.stdout.flush()
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
