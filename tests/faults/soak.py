"""What takes longer than a test may: ``python -m tests.faults.soak``, about two minutes.

Every load of `tests.faults.growth` in full, `tests.faults.mixed`, and `tests.faults.fuzz` by chance
and, where atheris is installed, guided by coverage; side by side, each in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys

# What hangs is ended after so many times the seconds.
_PATIENCE = 6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=80.0, help="for each kind of lines")
    parser.add_argument("--lines", type=int, default=1_000_000, help="of each kind, at most")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    bounds = ["--seconds", str(given.seconds), "--lines", str(given.lines)]
    bounds += ["--seed", str(given.seed)]
    mixed = ["tests.faults.mixed", "--seconds", str(given.seconds), "--seed", str(given.seed)]
    commands = [["tests.faults.growth"], mixed, ["tests.faults.fuzz", *bounds]]
    if importlib.util.find_spec("atheris") is not None:
        commands.append(["tests.faults.fuzz_guided", *bounds])
    else:
        print("no fuzzing guided by coverage: there is no atheris here")
    running = [
        subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command in commands
    ]
    failed = 0
    for command, process in zip(commands, running, strict=True):
        try:
            output, _ = process.communicate(timeout=_PATIENCE * given.seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            output = process.communicate()[0] + "\nit did not end in its time\n"
        if process.returncode == 0:
            # Not the thousands of lines that libFuzzer prints.
            lines = [line for line in output.splitlines() if not line.startswith(("#", "INFO"))]
            output = "\n".join(line for line in lines if "NEW_FUNC" not in line) + "\n"
        else:
            failed += 1
        print(f"--- {' '.join(command)}: {process.returncode}\n{output}", end="", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
