"""The same lines as `tests.faults.fuzz`, mutated so that they reach more of the code each time.

``python -m tests.faults.fuzz_guided --lines 1000000``, with ``--seconds`` to end it earlier. It
needs atheris, which is libFuzzer for Python: ``pip install atheris``.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import atheris

INSTRUMENTED = [
    "_wire.framing",
    "_wire.documents",
    "_wire.decoding",
    "_wire.session",
    "_display",
    "errors",
]

with atheris.instrument_imports(include=[f"kn_sock.{name}" for name in INSTRUMENTED]):
    from tests.faults import fuzz

# Longer ones take longer, and show nothing new.
_MOST_BYTES = 3000


def run(lines: int, seconds: float, seed: int) -> None:
    """Run until so many lines were checked, or the time is over; it ends the process."""
    checker = fuzz.Checker()
    ends = time.monotonic() + seconds
    inputs = 0

    def check(data: bytes) -> None:
        nonlocal inputs
        inputs += 1
        data += b"\n"
        try:
            checker.check(data)
        except BaseException as problem:
            fuzz.report(data, problem)
            raise
        if checker.lines >= lines or time.monotonic() > ends:
            print(
                f"guided by coverage, seed {seed}: {checker.lines:,} lines in {inputs:,} inputs, "
                "no exception",
                flush=True,
            )
            # There is no other way out of it.
            os._exit(0)

    corpus = Path(tempfile.mkdtemp())
    for number, data in enumerate(fuzz.seeds()):
        (corpus / str(number)).write_bytes(data)
    words = ["".join(f"\\x{byte:02x}" for byte in token) for token in fuzz.TOKENS]
    dictionary = corpus.with_suffix(".dict")
    dictionary.write_text("".join(f'"{word}"\n' for word in words if 0 < len(word) < 250))
    options = [f"-dict={dictionary}", f"-max_len={_MOST_BYTES}", f"-seed={seed}"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], check)
    atheris.Fuzz()


if __name__ == "__main__":
    given = fuzz.arguments(__doc__)
    run(given.lines, given.seconds, given.seed)
