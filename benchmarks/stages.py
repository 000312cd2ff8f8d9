"""Where the time of a call goes: ``python -m benchmarks.stages docs/performance/stages.csv``.

A server of methods on the reactor, in a process of its own, notes every few milliseconds of its
processor time which line of which file it is at, while the load generator calls it. The lines are
counted by what they are for. Such samples cost next to nothing, where a profiler that counts calls
makes small functions look large; a C function's time is its caller's.
"""

from __future__ import annotations

import collections
import csv
import json
import linecache
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any, Final

from benchmarks.load import load_of, run

SECONDS: Final = 6.0
# Of processor time; the system's own clock may be coarser.
_INTERVAL: Final = 0.001

#: What the columns are: the connections, and the calls in flight on each of them.
LOADS: Final = {"1 × 1": (1, 1), "50 × 1": (50, 1), "1 × 1,000": (1, 1000), "10 × 100": (10, 100)}

STAGES: Final = {
    "reactor": "Twisted: waiting for events, and handing them out",
    "read": "the system call that reads",
    "framing": "bytes to lines",
    "decode": "lines to messages",
    "bind": "the look-up, and the arguments held against the signature",
    "call": "the function, and what current_call() gives in it",
    "encode": "results to bytes",
    "gather": "one write for all replies",
    "write": "the system call that writes",
}

# In a file, a function, and a line where such a text is: the first that fits.
_PLACES: Final = [
    ("twisted/internet/tcp.py", "doRead", r"\.recv\(", "read"),
    ("kn_sock/_io/transport.py", "", "", "write"),
    ("kn_sock/_wire/framing.py", "", "", "framing"),
    ("kn_sock/_io/reader.py", "", r"decode_message|messages", "decode"),
    ("kn_sock/_io/reader.py", "", r"turn", "gather"),
    ("kn_sock/_io/reader.py", "", "", "framing"),
    ("kn_sock/_wire/encoding.py", "", "", "encode"),
    ("kn_sock/_io/outbox.py", "", "encode", "encode"),
    ("kn_sock/_io/outbox.py", "", "", "gather"),
    ("kn_sock/_serving/fastpath.py", "", r"current|method\.function|Call\(|is_over = ", "call"),
    ("kn_sock/_serving/fastpath.py", "", r"result|replies|records|begin\(", "encode"),
    ("kn_sock/", "", "", "bind"),
    ("stages.py", "add", "", "call"),
    ("", "", "", "reactor"),
]


def stage_of(file: str, function: str, line: str) -> str:
    """Tell what a line is for."""
    return next(
        stage
        for place, name, pattern, stage in _PLACES
        if place in file and name in ("", function) and re.search(pattern, line)
    )


def add(a: Any, b: Any) -> Any:
    """Give the sum."""
    return a + b


def serve() -> None:
    """Serve, and write what was noted for each line that comes in."""
    from twisted.internet import reactor, stdio
    from twisted.logger import globalLogBeginner
    from twisted.protocols.basic import LineOnlyReceiver

    from kn_sock import RPCServerFactory, in_reactor

    # Until a log is begun, Twisted keeps all of it in memory.
    nowhere: Any = [lambda _: None]
    globalLogBeginner.beginLoggingTo(nowhere, redirectStandardIO=False)
    any_reactor: Any = reactor
    seen: collections.Counter[tuple[str, str, int]] = collections.Counter()

    def note(_: int, frame: FrameType | None) -> None:
        if frame is not None:
            # A frame that is about to begin may have no line yet.
            seen[frame.f_code.co_filename, frame.f_code.co_name, frame.f_lineno or 0] += 1

    class Orders(LineOnlyReceiver):
        delimiter = b"\n"

        def lineReceived(self, line: bytes) -> None:
            stages: collections.Counter[str] = collections.Counter()
            # The signal goes on coming meanwhile.
            noted = dict(seen)
            seen.clear()
            for (file, function, number), count in noted.items():
                stages[stage_of(file, function, linecache.getline(file, number))] += count
            self.sendLine(json.dumps(stages).encode())

        def connectionLost(self, reason: object = None) -> None:
            signal.setitimer(signal.ITIMER_PROF, 0)
            any_reactor.stop()

    port = any_reactor.listenTCP(
        0, RPCServerFactory({"add": in_reactor(add)}), interface="127.0.0.1"
    )
    print(port.getHost().port, flush=True)
    signal.signal(signal.SIGPROF, note)
    signal.setitimer(signal.ITIMER_PROF, _INTERVAL, _INTERVAL)
    stdio.StandardIO(Orders())
    any_reactor.run()


def shares() -> dict[str, dict[str, float]]:
    """Measure; give for each load the share of each stage."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.stages", "--serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        port = int(server.stdout.readline())
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(server.pid, cores[:1])
        os.sched_setaffinity(0, cores[-1:])
        found = {}
        for name, (connections, in_flight) in LOADS.items():
            load = load_of("2.0", "add", [1, 2], 3, connections=connections, in_flight=in_flight)
            run(load, ("127.0.0.1", port), 0.5)
            for seconds in (0.0, SECONDS):
                if seconds:
                    run(load, ("127.0.0.1", port), seconds)
                server.stdin.write("\n")
                stages = json.loads(server.stdout.readline())
            found[name] = {stage: stages.get(stage, 0) / sum(stages.values()) for stage in STAGES}
        server.stdin.close()
    return found


def main() -> None:
    """Measure, and write the table."""
    if sys.argv[1:] == ["--serve"]:
        serve()
        return
    found = shares()
    with Path(sys.argv[1]).open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["", *LOADS, "What it is"])
        for stage, text in STAGES.items():
            rows.writerow([stage, *(f"{found[name][stage]:.0%}" for name in LOADS), text])


if __name__ == "__main__":
    main()
