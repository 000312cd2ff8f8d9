"""The environment that the contenders run in: made once, and found again."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Environment", "installed"]

HERE = Path(__file__).resolve().parent
TOP = HERE.parent
DEFAULT_DIRECTORY = TOP / ".benchmarks"


@dataclass(frozen=True)
class Environment:
    """Where everything is.

    Attributes:
        python: the interpreter that has the peers, and kn_sock from this checkout.
        old: the file of kn-sock 0.3.0 that has its remote calls; ``None`` where it is not here.
        problems: the requirements that cannot be installed on this Python, each with the reason.
    """

    python: Path
    old: Path | None
    problems: dict[str, str]


def requirements(path: Path) -> list[str]:
    """Read the lines that name something."""
    lines = path.read_text("utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _pip(python: Path, *arguments: str | Path) -> str:
    """Install; give the last of what it says if it cannot."""
    command = [python, "-m", "pip", "-q", "--disable-pip-version-check", "install", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if line.strip()]
    return "" if not done.returncode else (said or ["pip failed"])[-1]


def installed(directory: Path = DEFAULT_DIRECTORY) -> Environment:
    """Give the environment in a directory; make it if it is not there, or is of other requirements.

    Raises:
        RuntimeError: kn_sock itself, or Twisted, cannot be installed.
    """
    files = [HERE / "requirements.txt", HERE / "requirements-old.txt", TOP / "setup.cfg"]
    texts = [str(TOP).encode(), sys.version.encode(), *(file.read_bytes() for file in files)]
    wanted = hashlib.sha256(b"\0".join(texts)).hexdigest()
    stamp = directory / "installed.json"
    python = directory / "venv" / "bin" / "python"
    old = directory / "kn-sock-0.3.0" / "kn_sock" / "rpc.py"
    if stamp.exists():
        made = json.loads(stamp.read_text("utf-8"))
        if made["of"] == wanted:
            return Environment(python, old if old.exists() else None, made["problems"])
    print(f"making an environment in {directory}", flush=True)
    problems = _make(directory)
    stamp.write_text(json.dumps({"of": wanted, "problems": problems}), "utf-8")
    return Environment(python, old if old.exists() else None, problems)


def _make(directory: Path) -> dict[str, str]:
    """Install everything that can be; give the others, each with the reason."""
    environment = directory / "venv"
    venv.create(environment, with_pip=True, clear=True)
    python = environment / "bin" / "python"
    wanted = requirements(HERE / "requirements.txt")
    problems = {}
    if _pip(python, "-r", HERE / "requirements.txt"):
        # One of them is to blame: one by one, so that the others are there.
        for requirement in wanted:
            problem = _pip(python, requirement)
            if problem:
                problems[requirement.partition("==")[0]] = problem
    # Last, and in place: it takes what is there of Twisted and msgspec.
    problem = _pip(python, "-e", TOP)
    if problem:
        raise RuntimeError(f"kn_sock cannot be installed: {problem}")
    for requirement in requirements(HERE / "requirements-old.txt"):
        target = directory / "kn-sock-0.3.0"
        problem = _pip(python, "--no-deps", "--upgrade", "--target", target, requirement)
        if problem:
            problems[requirement.partition("==")[0]] = problem
    return problems
