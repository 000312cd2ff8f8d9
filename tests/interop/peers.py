"""The programs that others wrote: where they are, which versions, and how one is run."""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PROGRAMS = HERE / "programs"
PEERS = Path(os.environ.get("KN_SOCK_PEERS", HERE.parent.parent / ".peers"))
PYTHON = PEERS / "venv" / "bin" / "python"
OLD_KN_SOCK = PEERS / "kn-sock-0.3"
ELECTRUM_CLIENT = PEERS / "electrum-client"

# What a program may take to start, or to end when it has nothing more to do.
PATIENCE = 30.0


class Missing(Exception):
    """The program is not on this machine."""


def output_of(*command: str | Path) -> str:
    """Run something that tells its version."""
    return subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=PATIENCE
    ).stdout.strip()


def from_pypi(name: str) -> Callable[[], str]:
    def version() -> str:
        if not PYTHON.exists():
            raise Missing("run tests/interop/install.py first")
        code = f"import importlib.metadata; print(importlib.metadata.version({name!r}))"
        return output_of(PYTHON, "-c", code)

    return version


def from_npm(name: str) -> Callable[[], str]:
    def version() -> str:
        package = PEERS / "node_modules" / name / "package.json"
        if shutil.which("node") is None:
            raise Missing("there is no node")
        if not package.exists():
            raise Missing("run tests/interop/install.py first")
        return str(json.loads(package.read_text("utf-8"))["version"])

    return version


def from_directory(directory: Path, name: str) -> Callable[[], str]:
    def version() -> str:
        found = sorted(directory.glob(f"{name}-*.dist-info"))
        if not found:
            raise Missing("run tests/interop/install.py first")
        return found[0].name.removeprefix(f"{name}-").removesuffix(".dist-info")

    return version


def go() -> str:
    if not (PEERS / "bin" / "go-server").exists():
        raise Missing("run tests/interop/install.py where there is a Go compiler")
    # The programs tell themselves what they were built by.
    return output_of(PEERS / "bin" / "go-server", "version").removeprefix("go")


def libjson_rpc_cpp() -> str:
    if not (PEERS / "bin" / "cpp-server").exists():
        raise Missing("run tests/interop/install.py where there are g++ and libjsonrpccpp-dev")
    return output_of(PEERS / "bin" / "cpp-server", "version")


def openbsd_nc() -> str:
    if shutil.which("nc") is None:
        raise Missing("there is no nc")
    told = subprocess.run(["nc", "-h"], capture_output=True, text=True, timeout=PATIENCE).stderr
    found = re.search(r"OpenBSD netcat \(Debian patchlevel ([^)]+)\)", told)
    if found is None:
        raise Missing("this nc is not OpenBSD's, as Debian has it")
    return found[1]


def socat() -> str:
    if shutil.which("socat") is None:
        raise Missing("there is no socat")
    found = re.search(r"socat version (\S+)", output_of("socat", "-V"))
    assert found is not None
    return found[1]


# How to find out the version of each; they raise Missing where there is none.
VERSIONS: dict[str, Callable[[], str]] = {
    "kn-sock 0.3": from_directory(OLD_KN_SOCK, "kn_sock"),
    "aiorpcX": from_pypi("aiorpcX"),
    "MCP Python SDK": from_pypi("mcp"),
    "jsonrpcclient": from_pypi("jsonrpcclient"),
    "electrum-client": from_directory(ELECTRUM_CLIENT, "electrum_client"),
    "connectrum": from_pypi("connectrum"),
    "Go net/rpc/jsonrpc": go,
    "jayson": from_npm("jayson"),
    "libjson-rpc-cpp": libjson_rpc_cpp,
    "nc": openbsd_nc,
    "socat": socat,
    "@mempool/electrum-client": from_npm("@mempool/electrum-client"),
}

_known_versions: dict[str, str | Missing] = {}


def version_of(peer: str) -> str:
    if peer not in _known_versions:
        try:
            _known_versions[peer] = VERSIONS[peer]()
        except Missing as problem:
            _known_versions[peer] = problem
    found = _known_versions[peer]
    if isinstance(found, Missing):
        raise found
    return found


CLIENT, SERVER = "client", "server"


class Program:
    """A program that runs: the lines that it prints, each as soon as it is there."""

    def __init__(self, *command: str | Path, **variables: str) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **variables},
            text=True,
        )
        self.errors: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._threads = [
            threading.Thread(target=self._read_lines, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _read_lines(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors.extend(self.process.stderr)

    def line(self) -> str:
        """Wait for the next line that it prints."""
        line = self._lines.get(timeout=PATIENCE)
        if line is None:
            self.process.wait(PATIENCE)
            self._threads[1].join(PATIENCE)
            raise AssertionError(f"it ended: {''.join(self.errors)}")
        return line

    def port(self) -> int:
        """Wait until it says where it listens."""
        words = self.line().split()
        assert words[:2] == ["listening", "on"], words
        return int(words[2])

    def send(self, *lines: str) -> None:
        """Write lines to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.writelines(f"{line}\n" for line in lines)
        self.process.stdin.flush()

    def ask(self, question: Any) -> Any:
        """Write a line of JSON; wait for the next line that it prints, which is JSON too."""
        self.send(json.dumps(question))
        return json.loads(self.line())

    def rest(self) -> list[str]:
        """Wait for its end; give the lines that it printed until then."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        lines = list(iter(lambda: self._lines.get(timeout=PATIENCE), None))
        self._threads[1].join(PATIENCE)
        assert self.process.wait(PATIENCE) == 0, "".join(self.errors)
        return [line for line in lines if line is not None]

    def end(self) -> None:
        """Kill it, if it still runs."""
        self.process.kill()
        self.process.wait(PATIENCE)
        for thread in self._threads:
            thread.join(PATIENCE)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


Start = Callable[..., Program]
Serve = Callable[..., int]
