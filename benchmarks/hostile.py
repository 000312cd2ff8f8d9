"""What a peer can do to others: ``python -m benchmarks.hostile``.

Each shape is sent to a fresh ``twistd knsock`` with default options, by a peer that does its worst
for some seconds. Beside it, a second client in a process of its own makes one call after another.
For each shape the table has the peak of the server's memory above what it takes idle, the longest
time that the second client waited, and its median. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["SHAPES", "Shape", "main", "measured"]

MIB = 1024 * 1024
_LINE = 4 * MIB - 100
_SECONDS = 4.0
_COLUMNS = ["Shape", "Memory, MiB", "Longest, ms", "p99, ms", "Median, ms"]
_HERE = Path(__file__).resolve().parent.parent


def request(number: int, method: str, params: str, dialect: str = "2.0") -> bytes:
    """Return a request; its params are JSON already."""
    if dialect == "kn-sock":
        return f'{{"method":"{method}","params":{params},"kwargs":{{}}}}\n'.encode()
    return f'{{"jsonrpc":"2.0","id":{number},"method":"{method}","params":{params}}}\n'.encode()


def filled(piece: str, around: str = "[[%s]]", size: int = _LINE) -> str:
    """Return JSON of this size: a piece, repeated."""
    return around % ",".join([piece] * (size // (len(piece) + 1)))


def unique_keys() -> str:
    """Return an object with as many members as a line can have."""
    return "[{" + ",".join(f'"{number:x}":1' for number in range(_LINE // 10)) + "}]"


@dataclass(frozen=True)
class Shape:
    """One thing that a peer may do.

    Attributes:
        name: what the table calls it.
        data: what is sent; again and again, until the time is over.
        first: what is sent once, before that.
        reads: whether the peer reads what is answered.
        flags: the server's options, besides the functions.
        connections: how many peers do it.
    """

    name: str
    data: Callable[[], bytes]
    first: bytes = b""
    reads: bool = True
    flags: tuple[str, ...] = ()
    connections: int = 1


def _calls(count: int, method: str, params: str) -> bytes:
    return b"".join(request(number, method, params) for number in range(count))


def _batch(count: int, method: str, params: str) -> bytes:
    return b"[%b]\n" % b",".join(request(n, method, params)[:-1] for n in range(count))


def _line(params: Callable[[], str], method: str = "size") -> Callable[[], bytes]:
    return lambda: request(1, method, params())


TOKENS = "TOKENS"

#: What is tried.
SHAPES = (
    Shape("nothing", lambda: request(1, "size", "[]")),
    Shape("1,000 results of 200 KB", lambda: _calls(1000, "text", "[200000]")),
    Shape("the same, and none is read", lambda: _calls(1000, "text", "[200000]"), reads=False),
    Shape(
        "0.3: one call waits, 4 MiB lines behind it",
        lambda: request(0, "size", filled("1"), "kn-sock"),
        request(0, "wait", "[60]", "kn-sock"),
    ),
    Shape(
        "0.3: the same, of lists",
        lambda: request(0, "size", filled("[]", size=290_000), "kn-sock"),
        request(0, "wait", "[60]", "kn-sock"),
    ),
    Shape(
        "calls that wait, of lists",
        lambda: request(1, "wait", "[60," + filled("[]", size=290_000) + "]"),
    ),
    Shape("results of 8 MB each", lambda: _calls(200, "text", "[8000000]")),
    Shape("results of 8 MB in numbers", lambda: _calls(200, "numbers", "[1000000]")),
    Shape(
        "batches whose members wait",
        lambda: _batch(2, "wait", "[60," + filled("1.5", size=2 * MIB - 200) + "]"),
    ),
    Shape("batches of 1,000 rpc.discover", lambda: _batch(1000, "rpc.discover", "[]")),
    Shape("rows of a dataclass", _line(lambda: filled('{"name":"a"}'), "rows")),
    Shape(
        "rows of a dataclass, as many as may be",
        _line(lambda: filled('{"name":"a"}', size=950_000), "rows"),
    ),
    Shape("4 MiB of lists", _line(lambda: filled("[]"))),
    Shape("4 MiB of objects", _line(lambda: filled("{}"))),
    Shape("4 MiB of nested lists", _line(lambda: filled("[" * 200 + "]" * 200))),
    Shape("4 MiB of unique keys", _line(unique_keys)),
    Shape("4 MiB of floats", _line(lambda: filled("1.5"))),
    Shape("4 MiB of short texts", _line(lambda: filled('"a"'))),
    Shape("150,000 lists in a line", _line(lambda: filled("[]", size=445_000))),
    Shape("slow functions on the reactor's thread", lambda: _calls(100, "rpc.discover", "[]")),
    Shape(
        "tokens of 4 MiB",
        _line(lambda: '["' + "x" * (_LINE - 100) + '"]', "rpc.login"),
        flags=("--auth", TOKENS, "--login-timeout", "none"),
    ),
    Shape(
        "0.3 calls of 4 MiB before a login",
        lambda: request(0, "size", filled("1"), "kn-sock"),
        flags=("--auth", TOKENS, "--login-timeout", "none"),
    ),
    Shape("replies to nothing", lambda: b'{"id":null,"error":{"message":"\\u001b[31m"}}\n' * 1000),
    Shape("garbage", lambda: b"x\n" * 30_000),
    Shape("half a line, from 50 peers", lambda: b"[" * MIB, connections=50, reads=False),
    Shape("requests of HTTP", lambda: b"GET / HTTP/1.1\r\n\r\n"),
)


@contextlib.contextmanager
def server(directory: str, flags: tuple[str, ...], place: str) -> Iterator[tuple[int, int]]:
    """Run a server; gives its port and its process."""
    paths = os.pathsep.join([directory, str(_HERE)])
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    if TOKENS in flags:
        tokens = Path(place) / "tokens"
        tokens.write_text("".join(f"user{n}:secret-of-user-{n}\n" for n in range(1000)))
        tokens.chmod(0o600)
        flags = tuple(f"file:{tokens}" if each == TOKENS else each for each in flags)
    command = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
    command += ["-n", "--pidfile", "", "knsock", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--funcs", "benchmarks.programs.hostile_funcs.FUNCS", *flags]
    with open(Path(place) / "log", "wb") as log:
        process = subprocess.Popen(
            command, cwd=place, env={**os.environ, "PYTHONPATH": paths}, stdout=log, stderr=log
        )
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        else:
            raise SystemExit((Path(place) / "log").read_text())
        yield port, process.pid
    finally:
        process.kill()
        process.wait()


def memory(process: int, name: str) -> float:
    """Return a figure of a process in MiB: ``VmRSS`` now, ``VmHWM`` its peak."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    return 0.0


def attack(shape: Shape, port: int, until: float) -> None:
    """Send a shape again and again, over another connection if one is closed."""
    data = shape.data()
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            _attack(shape, data, port, until)
        time.sleep(0.01)


def _attack(shape: Shape, data: bytes, port: int, until: float) -> None:
    """Send a shape over one connection; read what comes, or do not."""
    with socket.create_connection(("127.0.0.1", port)) as peer:
        if shape.reads:
            threading.Thread(target=_read_all, args=(peer,), daemon=True).start()
        peer.settimeout(0.2)
        rest = memoryview(shape.first + data)
        while time.monotonic() < until:
            with contextlib.suppress(TimeoutError):
                rest = rest[peer.send(rest) :]
            if not rest:
                rest = memoryview(data)


def _read_all(peer: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while peer.recv(MIB):
            pass


def wait_beside(port: int, seconds: float) -> dict[str, float]:
    """Make one call after another, and return how long they took, in milliseconds."""
    waits = []
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        lines = peer.makefile("rb")
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            began = time.perf_counter()
            peer.sendall(request(1, "rpc.ping", "[]"))
            if not lines.readline():
                break
            waits.append((time.perf_counter() - began) * 1000)
            time.sleep(0.002)
    waits.sort()
    return {
        "longest": waits[-1],
        "median": waits[len(waits) // 2],
        "p99": waits[-len(waits) // 100],
    }


def measured(shape: Shape, directory: str) -> dict[str, float]:
    """Measure one shape against the library in a directory."""
    with tempfile.TemporaryDirectory() as place, server(directory, shape.flags, place) as found:
        port, process = found
        wait_beside(port, 0.3)
        idle = memory(process, "VmRSS")
        beside = [sys.executable, "-m", "benchmarks.hostile", "--beside", str(port)]
        second = subprocess.Popen(beside, cwd=_HERE, stdout=subprocess.PIPE)
        until = time.monotonic() + _SECONDS
        peers = [
            threading.Thread(target=attack, args=(shape, port, until))
            for _ in range(shape.connections)
        ]
        for peer in peers:
            peer.start()
        output, _ = second.communicate()
        for peer in peers:
            peer.join()
        log = (Path(place) / "log").stat().st_size / MIB
        return {
            "memory": memory(process, "VmHWM") - idle,
            "log": log,
            **json.loads(output or b'{"longest": NaN, "median": NaN, "p99": NaN}'),
        }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile", description=__doc__)
    parser.add_argument("--only", help="shapes with this text in their names")
    parser.add_argument("--directory", default=str(_HERE), help="where the kn_sock is")
    parser.add_argument("--csv", type=Path, help="where the table goes, too")
    parser.add_argument("--beside", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.beside:
        print(json.dumps(wait_beside(given.beside, _SECONDS)))
        return
    print(f"{'':44} {'MiB':>6} {'log MiB':>8} {'longest':>8} {'p99':>7} {'median':>7}  ms")
    rows: list[list[Any]] = []
    for shape in SHAPES:
        if given.only and given.only not in shape.name:
            continue
        row: Any = measured(shape, given.directory)
        print(
            f"{shape.name:44} {row['memory']:6.0f} {row['log']:8.1f}"
            f" {row['longest']:8.1f} {row['p99']:7.1f} {row['median']:7.2f}",
            flush=True,
        )
        waits = [f"{row[name]:.1f}" for name in ("longest", "p99", "median")]
        rows.append([shape.name, f"{row['memory']:.0f}", *waits])
    if given.csv:
        with given.csv.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([_COLUMNS, *rows])


if __name__ == "__main__":
    main()
