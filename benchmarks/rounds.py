"""Runs every workload: in each round every contender once, one after the other.

So that noise hits all alike, what is compared was measured within seconds of each other. Servers
and clients are processes of their own, on 127.0.0.1, which end with this one.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.contenders import Contender
from benchmarks.install import TOP, Environment
from benchmarks.workloads import Workload

__all__ = ["Plan", "measure"]

PROGRAMS = TOP / "benchmarks" / "programs"
# A slice that takes longer than this is the last one of its contender in its workload.
LONG_SLICE_SECONDS = 3.0
PATIENCE = 60.0
_FIRST_IDLE = 500


class Failed(Exception):
    """A program of a contender did not do what it should."""


class Program:
    """A program that takes orders and gives outcomes, a JSON document a line."""

    def __init__(self, command: Sequence[str | Path], variables: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [str(part) for part in command],
            cwd=TOP,
            env={**os.environ, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._in, self._out = self.process.stdin, self.process.stdout
        self._rest = b""

    def line(self) -> str:
        """Read a line.

        Raises:
            Failed: it ended, or took too long.
        """
        end = time.monotonic() + PATIENCE
        with selectors.DefaultSelector() as selector:
            selector.register(self._out, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise Failed(f"it took longer than {PATIENCE:.0f} seconds")
                data = os.read(self._out.fileno(), 65536)
                if not data:
                    raise Failed("it ended by itself")
                self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()

    def tell(self, order: object) -> None:
        """Give an order."""
        try:
            self._in.write(json.dumps(order).encode() + b"\n")
            self._in.flush()
        except OSError as problem:
            raise Failed("it ended by itself") from problem

    def ask(self, order: object) -> dict[str, Any]:
        """Give an order, and wait for its outcome.

        Raises:
            Failed: it was not carried out.
        """
        self.tell(order)
        outcome: dict[str, Any] = json.loads(self.line())
        if "problem" in outcome:
            raise Failed(outcome["problem"])
        return outcome

    def pin(self, cores: set[int]) -> None:
        """Have all of its threads run on these cores alone."""
        for thread in os.listdir(f"/proc/{self.process.pid}/task"):
            try:
                os.sched_setaffinity(int(thread), cores)
            except ProcessLookupError:
                continue

    def cpu_seconds(self) -> float:
        """Tell how much time of the processor it took, all its threads together."""
        # The kernel's clock of another process, as clock_getcpuclockid(3) makes its number.
        return time.clock_gettime((~self.process.pid << 3) | 2)

    def resident_bytes(self) -> int:
        """Tell how much memory it has."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text("ascii").split()[1]
        return int(pages) * resource.getpagesize()

    def end(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        self._in.close()
        self._out.close()


class Cast:
    """The programs of the contenders, each started when it is first needed."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._stack = ExitStack()
        self._servers: dict[tuple[str, str | None], tuple[Program, int]] = {}
        self._clients: dict[Contender, Program] = {}
        self.load = self._new_load()

    def _new_load(self) -> Program:
        return self._start([self._environment.python, "-m", "benchmarks.load"], None)

    def __enter__(self) -> Cast:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _start(self, command: Sequence[str | Path], kn_sock: str | None) -> Program:
        path = [kn_sock, str(TOP)] if kn_sock else [str(TOP)]
        variables = {"PYTHONPATH": os.pathsep.join(path), "PYTHONDONTWRITEBYTECODE": "1"}
        if self._environment.old is not None:
            variables["KN_SOCK_0_3"] = str(self._environment.old)
        program = Program(command, variables)
        self._stack.callback(program.end)
        return program

    def new_server(self, contender: Contender) -> tuple[Program, int]:
        """Start a server of its own; give it and its port."""
        command: list[str | Path] = [self._environment.python, PROGRAMS / "serve.py"]
        command.append(contender.server)
        program = self._start(command, contender.kn_sock)
        return program, int(program.line())

    def server(self, contender: Contender) -> tuple[Program, int]:
        """Give the server, and its port."""
        key = (contender.server, contender.kn_sock)
        if key not in self._servers:
            self._servers[key] = self.new_server(contender)
        return self._servers[key]

    def client(self, contender: Contender) -> Program:
        """Give the client, connected to its server."""
        if contender not in self._clients:
            _, port = self.server(contender)
            command: list[str | Path] = [self._environment.python, PROGRAMS / "client.py"]
            command += [contender.client or "", str(port)]
            self._clients[contender] = self._start(command, None)
        return self._clients[contender]

    def forget(self, contender: Contender) -> None:
        """End what made the load for it, whose state is not known any more."""
        client = self._clients.pop(contender, None)
        if client is not None:
            client.process.kill()
        if contender.wire is not None:
            self.load.process.kill()
            self.load = self._new_load()


class Plan:
    """What is to be measured.

    Args:
        workloads: which.
        contenders: whom.
        rounds: how often.
        seconds: how long each time.
        passes: ``"pinned"``, ``"not pinned"`` or both.
        idle_connections: how many are held where nothing happens on them.
    """

    def __init__(
        self,
        workloads: Sequence[Workload],
        contenders: Sequence[Contender],
        *,
        rounds: int,
        seconds: float,
        passes: Sequence[str],
        idle_connections: int = 5000,
    ) -> None:
        self.workloads = workloads
        self.contenders = contenders
        self.rounds = rounds
        self.seconds = seconds
        self.passes = passes
        self.idle_connections = idle_connections

    def contenders_in(self, workload: Workload) -> Iterator[Contender]:
        """Give those that can take part in a workload, the base of the others first."""
        for contender in self.contenders:
            if workload.is_for_clients:
                if contender.client is not None and workload.kind in contender.does:
                    yield contender
            elif contender.wire is not None and (
                not workload.only
                or contender.name in workload.only
                or (contender.kn_sock is not None and "kn_sock reactor" in workload.only)
            ):
                yield contender


def cores_for(pinning: str) -> tuple[set[int], set[int]]:
    """Give the cores of the server, and those of the load."""
    cores = sorted(os.sched_getaffinity(0))
    if pinning == "not pinned" or len(cores) < 2:
        return set(cores), set(cores)
    return {cores[0]}, {cores[1]}


class Measuring:
    """Measures a plan."""

    def __init__(self, plan: Plan, cast: Cast, environment: Environment) -> None:
        self._plan = plan
        self._cast = cast
        self._problems = environment.problems
        self.slices: list[dict[str, Any]] = []
        self.skipped: dict[tuple[str, str], str] = {}

    def run(self) -> None:
        """Measure everything."""
        for pinning in self._plan.passes:
            for workload in self._plan.workloads:
                if pinning in workload.passes:
                    self._run_workload(workload, pinning)

    def _run_workload(self, workload: Workload, pinning: str) -> None:
        left = list(self._plan.contenders_in(workload))
        begun = time.monotonic()
        for number in range(min(self._plan.rounds, workload.rounds)):
            for contender in list(left):
                if not self._slice(workload, contender, pinning, number):
                    left.remove(contender)
        took, seen = time.monotonic() - begun, self._seen(workload, pinning)
        print(f"{pinning}, {workload.title}: {took:.0f} s, {seen}", flush=True)

    def _seen(self, workload: Workload, pinning: str) -> str:
        from benchmarks.figures import Figures

        figures = Figures(self.slices)
        texts = []
        for contender in self._plan.contenders_in(workload):
            value = figures.median(workload, contender.name, pinning)
            ratio = figures.ratio(workload, contender.name, contender.base, pinning)
            if contender.is_ours and value is not None:
                texts.append(f"{contender.name} {value:.4g}" + (f" ({ratio:.2f})" if ratio else ""))
        return ", ".join(texts)

    def _slice(self, workload: Workload, contender: Contender, pinning: str, number: int) -> bool:
        """Measure one contender once; tell whether it goes on."""
        reason = self._reason(workload, contender)
        begun = time.monotonic()
        if reason is None:
            try:
                seen = self._measured(workload, contender, pinning)
            except Failed as problem:
                self._cast.forget(contender)
                reason = str(problem)
        if reason is not None:
            self.skipped[contender.name, workload.name] = reason
            return False
        self.slices.append(
            {
                "workload": workload.name,
                "contender": contender.name,
                "pinning": pinning,
                "round": number,
                **seen,
            }
        )
        took = time.monotonic() - begun
        if took > LONG_SLICE_SECONDS + self._plan.seconds and workload.kind != "hold":
            text = f"measured once: it took {took:.0f} seconds"
            self.skipped.setdefault((contender.name, workload.name), text)
            return False
        return True

    def _reason(self, workload: Workload, contender: Contender) -> str | None:
        """Tell why a contender cannot take part."""
        if contender.distribution in self._problems:
            return f"not installed: {self._problems[contender.distribution]}"
        if contender.wire is None:
            return None
        from benchmarks.wires import WIRES

        wire = WIRES[contender.wire]
        if wire.most_bytes is not None and workload.size > wire.most_bytes:
            return f"its values have at most {wire.most_bytes} bytes"
        if "batch" in workload.load and not wire.has_batches:
            return "it has no batches"
        return None

    def _measured(self, workload: Workload, contender: Contender, pinning: str) -> dict[str, Any]:
        if workload.kind == "hold":
            return self._held(workload, contender)
        server, port = self._cast.server(contender)
        on_server, on_load = cores_for(pinning)
        server.pin(on_server)
        if workload.is_for_clients:
            program = self._cast.client(contender)
            order: dict[str, Any] = {"kind": workload.kind, "number": workload.number}
            order["seconds"] = self._plan.seconds
        else:
            program = self._cast.load
            order = workload.order(contender.wire or "", port, self._plan.seconds)
        program.pin(on_load)
        before = server.cpu_seconds()
        seen = program.ask(order)
        return {**seen, "server_cpu_seconds": server.cpu_seconds() - before}

    def _held(self, workload: Workload, contender: Contender) -> dict[str, Any]:
        """Measure the memory of connections, in a server that did nothing before."""
        server, port = self._cast.new_server(contender)
        try:
            order = workload.order(contender.wire or "", port, 0.0)
            most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 2 * _FIRST_IDLE
            if contender.server == "kn-sock-0.3":
                # A thread each.
                most = min(most, 1000)
            wanted = min(self._plan.idle_connections - _FIRST_IDLE, most)
            order["load"]["connections"] = wanted
            order |= {"first": _FIRST_IDLE, "has_called": bool(workload.number)}
            self._cast.load.ask(order)
            before = server.resident_bytes()
            self._cast.load.ask("more")
            after = server.resident_bytes()
            # Both are closed; then it is done.
            self._cast.load.ask("close")
            return {"connections": wanted, "bytes": (after - before) / wanted}
        finally:
            server.process.kill()


def about(plan: Plan, environment: Environment) -> dict[str, Any]:
    """Tell where and how it was measured."""
    listed = subprocess.run(
        [environment.python, "-m", "pip", "list", "--format", "json"],
        capture_output=True,
        check=True,
    ).stdout
    versions = {each["name"]: each["version"] for each in json.loads(listed)}
    versions["kn-sock 0.3.0"] = "0.3.0" if environment.old else "not here"
    commit = subprocess.run(
        ["git", "-C", TOP, "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "commit": commit,
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "passes": list(plan.passes),
        "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "versions": versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")


def raise_file_limit() -> None:
    """Have as many files open as the system lets this process; its children have it too."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextmanager
def written(path: Path, result: Callable[[], dict[str, Any]]) -> Iterator[None]:
    """Write what there is in the end, also where Ctrl-C came first."""
    try:
        yield
    finally:
        path.write_text(json.dumps(result(), indent=1), "utf-8")


def measure(plan: Plan, environment: Environment, path: Path) -> None:
    """Measure a plan, and write what was seen."""
    if not sys.platform.startswith("linux"):
        raise SystemExit("the benchmarks need Linux: they read /proc and pin processes")
    raise_file_limit()
    described = about(plan, environment)
    with Cast(environment) as cast:
        measuring = Measuring(plan, cast, environment)

        def result() -> dict[str, Any]:
            skipped = [
                {"contender": contender, "workload": workload, "reason": reason}
                for (contender, workload), reason in measuring.skipped.items()
            ]
            return {
                "about": {**described, "load_after": os.getloadavg()[0]},
                "slices": measuring.slices,
                "skipped": skipped,
            }

        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with written(path, result):
            measuring.run()
