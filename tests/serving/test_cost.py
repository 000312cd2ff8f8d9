"""What a call costs, counted; it may not grow unseen, nor shrink without being written down here.

These are the figures of ``python -m tests.serving.cost``, which prints them anew: where Pythons
differ, the greatest. More than a figure fails; so does less than three quarters of it, as it would
let the cost grow back unseen.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
from typing import Any

import pytest

# For a request or a call: functions written in Python, and functions written in C.
CALLS = {
    "one request in a read": (13.0, 22.0),
    "400 requests in a read": (1.0, 9.0),
    "a batch of 100": (1.5, 6.5),
    "400 requests for threads, an executor's": (10.1, 19.1),
    "400 requests for threads, the pool's": (3.1, 16.1),
    "one call of a Deferred client": (48.0, 40.0),
    "400 calls of a Deferred client": (21.1, 23.1),
    "a call of a blocking client, on its thread": (23.0, 14.0),
}
# For one request, from dataReceived to transport.write: functions of Python's, and modules of ours.
ROUTES = {
    "the fast path": (13, 4),
    "the caller's timeout": (23, 9),
    "a trace": (22, 8),
    "named arguments": (25, 10),
}
# For all of them together.
SYSTEM_CALLS = {
    "400 requests, one after the other": {
        "epoll.poll": 400,
        "socket.recv": 400,
        "socket.send": 400,
    },
    "400 requests in one write": {"epoll.poll": 1, "socket.recv": 1, "socket.send": 1},
    "50 connections, a request each": {
        "epoll.poll": 50,
        "socket.recv": 50,
        "socket.send": 50,
    },
    "400 requests for threads, one after the other": {
        "epoll.poll": 800,
        "posix.read": 400,
        "socket.recv": 400,
        "socket.send": 400,
        "thread: posix.write": 400,
    },
    "400 calls of a Deferred client, one after the other": {
        "epoll.poll": 400,
        "socket.recv": 400,
        "socket.send": 400,
    },
    "400 calls of a blocking client, one after the other": {
        "epoll.poll": 800,
        "posix.read": 400,
        "socket.recv": 400,
        "socket.send": 400,
        "thread: posix.write": 400,
    },
}
# Of memory, for each.
BYTES = {
    "an idle connection, without its transport": 2_445,
    "a call that waits for a thread": 775,
}

# Where something runs beside the reactor it may be told of two events at once; then it makes fewer
# of these.
SHARED = {"epoll.poll", "posix.read"}
BESIDE = {
    "50 connections, a request each",
    "400 requests for threads, one after the other",
    "400 calls of a blocking client, one after the other",
}

# So much of a figure has to be there still.
LEAST = 0.75

PATIENCE = 60.0

pytestmark = pytest.mark.skipif(not hasattr(select, "epoll"), reason="it counts epoll's calls")


@pytest.fixture(scope="module")
def counted() -> dict[str, dict[str, Any]]:
    """What is counted now, in a process where nothing else is called."""
    counting = subprocess.run(
        [sys.executable, "-m", "tests.serving.cost", "--json"],
        stdout=subprocess.PIPE,
        timeout=PATIENCE,
        check=True,
    )
    found: dict[str, dict[str, Any]] = json.loads(counting.stdout)
    return found


def test_every_figure_is_counted(counted: dict[str, dict[str, Any]]) -> None:
    tables: dict[str, dict[str, Any]] = {
        "CALLS": CALLS,
        "ROUTES": ROUTES,
        "SYSTEM_CALLS": SYSTEM_CALLS,
        "BYTES": BYTES,
    }
    assert counted.keys() == tables.keys()
    for title, rows in tables.items():
        assert counted[title].keys() == rows.keys()


def check(found: float, most: float) -> None:
    assert found <= most, "a call costs more; where that has to be, write it into the table"
    assert found >= LEAST * most, "a call costs less: write that into the table"


@pytest.mark.parametrize("name", CALLS)
def test_calls_of_functions(counted: dict[str, dict[str, Any]], name: str) -> None:
    for found, most in zip(counted["CALLS"][name], CALLS[name], strict=True):
        check(found, most)


@pytest.mark.parametrize("name", ROUTES)
def test_the_route_of_one_request(counted: dict[str, dict[str, Any]], name: str) -> None:
    for found, most in zip(counted["ROUTES"][name], ROUTES[name], strict=True):
        check(found, most)


@pytest.mark.parametrize("name", SYSTEM_CALLS)
def test_system_calls(counted: dict[str, dict[str, Any]], name: str) -> None:
    found, most = counted["SYSTEM_CALLS"][name], SYSTEM_CALLS[name]
    assert found.keys() == most.keys()
    for kind in most:
        if name in BESIDE and kind in SHARED:
            assert 0 < found[kind] <= most[kind], kind
        else:
            assert found[kind] == most[kind], kind


@pytest.mark.parametrize("name", BYTES)
def test_bytes_of_memory(counted: dict[str, dict[str, Any]], name: str) -> None:
    check(counted["BYTES"][name], BYTES[name])
