"""The programs in the documentation print what the documentation says that they print."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

TOP = Path(__file__).resolve().parents[2]
DOCS = TOP / "docs"

# How long anything may take: far more than it does, so that only a hang runs into it.
SECONDS = 30.0

# The programs that have a server beside them, by page.
SERVERS = {
    "recipes.rst": {
        "install_client.py": "install_server.py",
        "files_client.py": "files_server.py",
        "tls_client.py": "tls_server.py",
    },
    "tutorial-script.rst": dict.fromkeys(["client.py", "errors.py", "many.py"], "server.py"),
    "tutorial-twisted.rst": {"client.py": "server.py"},
}
PROGRAMS = [
    *("recipes.rst install_client.py", "recipes.rst files_client.py", "recipes.rst traced.py"),
    *("recipes.rst tls_client.py", "tutorial-script.rst client.py"),
    *("tutorial-script.rst errors.py", "tutorial-script.rst many.py"),
    *("tutorial-script.rst together.py", "tutorial-twisted.rst client.py"),
    "tutorial-twisted.rst both.py",
]

BLOCK = re.compile(
    r"(?m)^\.\. code-block:: (\w+)\n((?:[ ]+:\w+:.*\n)*)\n((?:[ ]{3,}.*\n|\n)+)", re.ASCII
)


class Page(NamedTuple):
    """What a page shows: programs by their names, and consoles."""

    programs: dict[str, str]
    consoles: list[str]


def page_of(name: str) -> Page:
    page = Page({}, [])
    for kind, options, body in BLOCK.findall((DOCS / name).read_text("utf-8")):
        text = textwrap.dedent(body).strip("\n") + "\n"
        caption = re.search(r":caption: (\S+)", options)
        if caption is not None:
            page.programs[caption[1]] = text
        elif kind == "console":
            page.consoles.append(text)
    return page


def output_of(page: Page, program: str) -> str:
    """Return what a console of the page shows for a program."""
    for console in page.consoles:
        found = re.search(rf"(?m)^\$ python {re.escape(program)}\n((?:[^$].*\n)*)", console)
        if found is not None:
            return found[1]
    raise AssertionError(f"no console shows {program}")


class Ports:
    """Free ports in place of those that the documentation has."""

    def __init__(self) -> None:
        self._ports = {port: self._free() for port in ("8080", "8443", "8099")}

    @staticmethod
    def _free() -> str:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            return str(listener.getsockname()[1])

    def put_into(self, text: str) -> str:
        for shown, real in self._ports.items():
            text = re.sub(rf"\b{shown}\b", real, text)
        return text

    def take_out_of(self, text: str) -> str:
        for shown, real in self._ports.items():
            text = text.replace(real, shown)
        return text

    def in_text(self, text: str) -> list[int]:
        return [int(real) for real in self._ports.values() if real in text]


def environment() -> dict[str, str]:
    paths = [str(TOP), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


@contextmanager
def running(program: str, directory: Path, port: int) -> Iterator[None]:
    """Run a server until it is interrupted, from when it can be connected to."""
    process = subprocess.Popen(
        [sys.executable, program], cwd=directory, env=environment(), stdout=subprocess.DEVNULL
    )
    try:
        ends = time.monotonic() + SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < ends
        yield
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) in (0, -signal.SIGINT)
    finally:
        process.kill()
        process.wait()


def run(*command: str, directory: Path) -> str:
    done = subprocess.run(
        command, cwd=directory, env=environment(), capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("shown", PROGRAMS)
def test_a_program_prints_what_is_shown(shown: str, tmp_path: Path) -> None:
    name, program = shown.split()
    page, ports = page_of(name), Ports()
    for file, text in page.programs.items():
        (tmp_path / file).write_text(ports.put_into(text), "utf-8")
    if program == "tls_client.py":
        run("sh", "tls.sh", directory=tmp_path)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "data.bin").write_bytes(b"kn_sock\n" * 375_000)
    server = SERVERS[name].get(program)
    if server is None:
        printed = run(sys.executable, program, directory=tmp_path)
    else:
        (port,) = ports.in_text((tmp_path / server).read_text("utf-8"))
        with running(server, tmp_path, port):
            printed = run(sys.executable, program, directory=tmp_path)
    assert ports.take_out_of(printed) == output_of(page, program)


def test_the_tests_that_are_shown_pass(tmp_path: Path) -> None:
    for file, text in page_of("testing.rst").programs.items():
        (tmp_path / file).write_text(text, "utf-8")
    printed = run(sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", directory=tmp_path)
    assert "6 passed" in printed


def test_the_programs_of_the_readme(tmp_path: Path) -> None:
    text = (TOP / "README.rst").read_text("utf-8")
    blocks = [
        textwrap.dedent(body).strip("\n") + "\n"
        for kind, _, body in BLOCK.findall(text)
        if kind == "python"
    ]
    ports = Ports()
    for name, block in zip(("server.py", "client.py", "deferreds.py"), blocks, strict=True):
        (tmp_path / name).write_text(ports.put_into(block), "utf-8")
    (port,) = ports.in_text((tmp_path / "server.py").read_text("utf-8"))
    with running("server.py", tmp_path, port):
        assert run(sys.executable, "client.py", directory=tmp_path) == "30\n0.25\n"
    assert run(sys.executable, "deferreds.py", directory=tmp_path) == "30\n"
