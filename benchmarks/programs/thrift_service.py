"""The service that thriftpy2 serves."""

from __future__ import annotations

import io
import time
from typing import Any

import thriftpy2

TEXT = """
service Bench {
    i32 add(1: i32 a, 2: i32 b),
    string echo(1: string value),
    i32 sleep(1: i32 value),
}
"""
SERVICE: Any = thriftpy2.load_fp(io.StringIO(TEXT), "bench_thrift").Bench


class Bench:
    """Serves it."""

    def add(self, a: int, b: int) -> int:
        """Give the sum."""
        return a + b

    def echo(self, value: str) -> str:
        """Give back what came."""
        return value

    def sleep(self, value: int) -> int:
        """Block for a while."""
        time.sleep(0.01)
        return value
