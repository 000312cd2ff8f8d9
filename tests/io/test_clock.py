from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.task import Clock

from kn_sock import use_monotonic_clock
from kn_sock._blocking.reactor_thread import new_reactor
from kn_sock._io.clock import time_of_day

PATIENCE = 60.0


@pytest.fixture
def reactor() -> Iterator[Any]:
    reactor = new_reactor()
    # As Twisted makes it.
    del reactor.seconds
    yield reactor
    for call in reactor.getDelayedCalls():
        call.cancel()
    reactor.fireSystemEvent("shutdown")


def test_what_is_scheduled_keeps_its_delay(reactor: Any) -> None:
    call = reactor.callLater(50, print)
    use_monotonic_clock(reactor)
    assert reactor.seconds is time.monotonic
    assert 49 < call.getTime() - time.monotonic() <= 50
    call.reset(70)
    assert 69 < call.getTime() - time.monotonic() <= 70
    later = reactor.callLater(10, print)
    use_monotonic_clock(reactor)
    assert 9 < later.getTime() - time.monotonic() <= 10
    assert abs(time_of_day(reactor) - time.time()) < 1


def test_a_clock_of_another_kind_stays() -> None:
    clock = Clock()
    use_monotonic_clock(clock)
    clock.advance(5)
    assert clock.seconds() == 5
    assert time_of_day(clock) == 5


PROGRAM = """
import time

real, shift = time.time, 0
time.time = lambda: real() + shift

import queue, threading
from kn_sock import CallTimeout, RPCClient, start_rpc_server

stop, ready = threading.Event(), queue.Queue()
go_on = threading.Event()
server = threading.Thread(
    target=start_rpc_server,
    args=(0, {"wait": lambda: go_on.wait(30), "add": lambda a, b: a + b}),
    kwargs={
        "on_ready": lambda host, port: ready.put(port),
        "shutdown_event": stop,
        "idle_timeout": 600.0,
    },
)
server.start()
client = RPCClient("127.0.0.1", ready.get(), timeout=600.0)
for shift in (3600, -3600):
    waiting = client.submit("wait")
    assert client.call("add", 1, 2) == 3
    try:
        client.with_options(timeout=0.2).call("wait")
    except CallTimeout:
        print("in time")
    go_on.set()
    print(waiting.result(10))
    go_on.clear()
go_on.set()
client.close()
stop.set()
server.join()
"""


def test_a_wall_clock_that_is_set_ends_no_call_and_skips_no_delay() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ran.stderr == b""
    assert ran.stdout.decode().split("\n") == ["in time", "True", "in time", "True", ""]
