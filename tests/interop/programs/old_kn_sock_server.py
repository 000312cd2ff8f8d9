"""Serve with kn-sock 0.3's own server."""

import math
import socket
import threading
from typing import Any

import old_kn_sock_rpc

released = threading.Event()


def add(a: Any, b: Any) -> Any:
    return a + b


def echo(value: Any) -> Any:
    return value


def divide(a: float, b: float) -> float:
    if b == 0:
        raise ValueError("Division by zero is not allowed")
    return a / b


def fail_silently() -> None:
    raise ValueError


def wait(value: Any) -> Any:
    """Wait for `release`, which is to come over another connection."""
    released.wait()
    return value


def release() -> None:
    released.set()


def infinity() -> float:
    return math.inf


def unencodable() -> Any:
    return {1, 2}


FUNCS = (add, echo, divide, fail_silently, wait, release, infinity, unencodable)

# It cannot say which port it was given, so it is not given port 0.
with socket.create_server(("127.0.0.1", 0)) as found:
    port = found.getsockname()[1]


def tell(text: str) -> None:
    """Take what it prints; it says so as soon as it listens."""
    if "Listening" in text:
        print("listening on", port, flush=True)


old_kn_sock_rpc.print = tell
old_kn_sock_rpc.start_rpc_server(port, {func.__name__: func for func in FUNCS}, "127.0.0.1")
