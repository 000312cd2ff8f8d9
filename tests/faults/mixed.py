"""Everything at once on the caller's side: ``python -m tests.faults.mixed --seconds 600``.

One client calls from several threads, from a signal handler and from finalizers. Calls are
cancelled, given up by what the handler raises, and made in batches; the process forks; the server
is killed, started anew, and stands still for a while. Every call has to end in its time, and one
that says that it was not run must not have been.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import gc
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

from kn_sock import CallTimeout, ConnectFailed, ConnectionLost, ForkedError, KnSockError, RPCClient

SERVER = """
import os, sys, threading
from kn_sock import current_call, start_rpc_server

book = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND)

def run(token):
    os.write(book, b"%d\\n" % token)
    return token

def hold(token):
    while not current_call().cancelled:
        threading.Event().wait(0.01)

start_rpc_server(int(sys.argv[1]), {"run": run, "hold": hold}, threads=16, on_ready=print)
"""

TIMEOUT = 2.0
# A call that takes longer than this has hung: the timeout, and what a busy machine adds.
PATIENCE = 30.0


class GivenUp(BaseException):
    """What the signal handler raises."""


class Server:
    """A process that serves; killed, started anew at the same port, and stopped for a while."""

    def __init__(self, book: str) -> None:
        self._book = book
        self.port = 0
        self._process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SERVER, str(self.port), self._book]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        self.port = int(process.stdout.readline().split()[1])
        return process

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def disturb(self, chance: random.Random) -> None:
        """Kill and restart it, or have it stand still."""
        if chance.random() < 0.5:
            self.kill()
            time.sleep(chance.random())
            self._process = self._start()
        else:
            self._process.send_signal(signal.SIGSTOP)
            time.sleep(3 * chance.random())
            self._process.send_signal(signal.SIGCONT)


class Mixed:
    """The calls, and what became of them."""

    def __init__(self, port: int, seed: int) -> None:
        self.client = RPCClient("127.0.0.1", port, timeout=TIMEOUT, queue_while_disconnected=True)
        self.seed = seed
        self.tokens = itertools.count(1)
        self.outcomes: collections.Counter[str] = collections.Counter()
        #: Tokens of calls that were not run, by what they ended with.
        self.not_run: list[int] = []
        self.problems: list[str] = []
        self.is_over = threading.Event()
        # Of each thread: the seconds of calls within the present one.
        self.within = threading.local()

    def end(self, what: str, token: int, function: Callable[[], Any]) -> None:
        """Make a call, and note how it ended and when."""
        began = time.monotonic()
        around, self.within.seconds = getattr(self.within, "seconds", 0.0), 0.0
        try:
            result = function()
            outcome = "result" if result == token else f"wrong result {result!r}"
        except KnSockError as problem:
            outcome = type(problem).__name__
            if not problem.maybe_executed:
                self.not_run.append(token)
        except (futures.CancelledError, futures.TimeoutError, GivenUp) as problem:
            outcome = type(problem).__name__
        self.outcomes[f"{what}: {outcome}"] += 1
        took = time.monotonic() - began
        # Not what finalizers and handlers called meanwhile.
        own = took - self.within.seconds
        self.within.seconds = around + took
        if own > PATIENCE:
            self.problems.append(f"{what} took {own:.1f} s: {outcome}")
        if outcome.startswith("wrong"):
            self.problems.append(f"{what}: {outcome}")

    def _batch(self, token: int) -> Any:
        batch = self.client.batch()
        batch.call("run", token)
        (outcome,) = batch.send()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _cancelled(self, token: int, chance: random.Random) -> Any:
        future = self.client.submit("hold", token)
        time.sleep(0.01 * chance.random())
        future.cancel()
        return future.result(PATIENCE)

    def work(self, number: int) -> None:
        """Call in all ways, until it is over."""
        chance = random.Random(self.seed + number)
        client = self.client
        kinds: dict[str, Callable[[int], Any]] = {
            "call": lambda token: client.call("run", token),
            "submit": lambda token: client.submit("run", token).result(PATIENCE),
            "map": lambda token: next(client.map("run", [token])),
            "batch": self._batch,
            "cancelled": lambda token: self._cancelled(token, chance),
            "timed out": lambda token: client.with_options(timeout=0.02).call("hold", token),
        }
        while not self.is_over.is_set():
            what = chance.choice(list(kinds))
            token = next(self.tokens)
            self.end(what, token, lambda what=what, token=token: kinds[what](token))  # type: ignore[misc]
            Finalized(self)

    def interrupted(self, chance: random.Random) -> None:
        """Make a call in the main thread that a signal gives up, or that it calls within."""
        token = next(self.tokens)
        signal.setitimer(signal.ITIMER_REAL, 0.0001 + 0.01 * chance.random())
        try:
            self.end("interrupted", token, lambda: self.client.call("run", token))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def fork(self) -> None:
        """A child is told that the client is not its own."""
        child = os.fork()
        if not child:
            code = 1
            with contextlib.suppress(BaseException):
                try:
                    self.client.call("run", 0)
                except ForkedError:
                    code = 0
            os._exit(code)
        if os.waitpid(child, 0)[1]:
            self.problems.append("a forked child was not told so")
        self.outcomes["fork"] += 1


class Finalized:
    """Calls when it is collected, on whatever thread that is."""

    def __init__(self, mixed: Mixed) -> None:
        self._mixed = mixed
        self._cycle = self

    def __del__(self) -> None:
        mixed = self._mixed
        if mixed.is_over.is_set() or not threading.current_thread().name.startswith("mixed"):
            return
        token = next(mixed.tokens)
        mixed.end("finalizer", token, lambda: mixed.client.call("run", token))


@contextlib.contextmanager
def handled(mixed: Mixed, chance: random.Random) -> Iterator[None]:
    def handle(*_: Any) -> None:
        if chance.random() < 0.5:
            raise GivenUp
        token = next(mixed.tokens)
        mixed.end("handler", token, lambda: mixed.client.call("run", token))

    before = signal.signal(signal.SIGALRM, handle)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run(seconds: float, seed: int) -> Mixed:
    """Do all of it for so long; return what was seen."""
    chance = random.Random(seed)
    with tempfile.NamedTemporaryFile() as book:
        server = Server(book.name)
        mixed = Mixed(server.port, seed)
        threads = [
            threading.Thread(target=mixed.work, args=(number,), name=f"mixed {number}", daemon=True)
            for number in range(4)
        ]
        threshold = gc.get_threshold()
        gc.set_threshold(200)
        for thread in threads:
            thread.start()
        until = time.monotonic() + seconds
        with handled(mixed, chance):
            while time.monotonic() < until:
                for _ in range(20):
                    with contextlib.suppress(GivenUp):
                        mixed.interrupted(chance)
                mixed.fork()
                server.disturb(chance)
        mixed.is_over.set()
        for thread in threads:
            thread.join(2 * PATIENCE)
            if thread.is_alive():
                mixed.problems.append(f"{thread.name} hangs")
        gc.set_threshold(*threshold)
        with contextlib.suppress(CallTimeout, ConnectionLost, ConnectFailed):
            mixed.client.call("run", 0)
        mixed.client.close()
        server.kill()
        ran = {int(line) for line in book.read().split()}
    for token in mixed.not_run:
        if token in ran:
            mixed.problems.append(f"call {token} was run, and said that it was not")
    return mixed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    # That threads run when it forks is what is tried here.
    warnings.simplefilter("ignore", DeprecationWarning)
    mixed = run(given.seconds, given.seed)
    total = sum(mixed.outcomes.values())
    print(f"mixed, seed {given.seed}: {total:,} calls, {len(mixed.not_run):,} of them not run")
    for outcome, count in sorted(mixed.outcomes.items()):
        print(f"  {count:8,} {outcome}")
    for problem in mixed.problems:
        print(f"  PROBLEM: {problem}")
    return 1 if mixed.problems else 0


if __name__ == "__main__":
    sys.exit(main())
