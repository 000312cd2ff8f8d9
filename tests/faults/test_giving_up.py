"""Calls from signal handlers and finalizers, and calls that any exception gives up."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.peers import Peer, Process, ScriptedServer

Start = Callable[..., Process]

SERVED = """
import gc, os, signal, sys, threading
from kn_sock import RPCClient, start_rpc_server
from kn_sock._blocking.reactor_thread import reactor_thread

ready = threading.Event()
ports = []

def on_ready(host, port):
    ports.append(port)
    ready.set()

def serve(**funcs):
    threading.Thread(
        target=start_rpc_server, args=(0, funcs), kwargs={"on_ready": on_ready}, daemon=True
    ).start()
    ready.wait()
    return RPCClient("127.0.0.1", ports[0], timeout=5)
"""


@pytest.fixture
def run(start: Start, tmp_path: Path) -> Callable[[str], tuple[int, str]]:
    """Runs a script; gives its exit code and what it printed."""

    def run(text: str) -> tuple[int, str]:
        path = tmp_path / "script.py"
        path.write_text(SERVED + text)
        return start(str(path)).end()

    return run


# --- a call within a call -------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["call", "submit"])
def test_a_call_by_a_signal_handler_within_a_call_does_not_hang(
    run: Callable[[str], tuple[int, str]], verb: str
) -> None:
    """The signal comes at the worst time: while the reactor is being woken."""
    text = f"""
client = serve(add=lambda a, b: a + b)
results = []
signal.signal(signal.SIGUSR1, lambda *_: results.append(client.call("add", 1, 2)))
reactor = reactor_thread().reactor
wake = reactor.callFromThread

def interrupted(*args):
    reactor.callFromThread = wake
    signal.raise_signal(signal.SIGUSR1)
    wake(*args)

reactor.callFromThread = interrupted
value = client.{verb}("add", 3, 4)
results.append(value if type(value) is int else value.result())
print(results)
"""
    assert run(text) == (0, "[3, 7]\n")


def test_a_finalizer_that_calls_its_own_server_does_not_hang(
    run: Callable[[str], tuple[int, str]],
) -> None:
    """A job has ended, and its thread is about to wake the reactor, when it collects garbage."""
    text = """
inside = []

class Calls:
    def __del__(self):
        inside.append(client.call("add", 1, 2))

notifiers = []

def work():
    import kn_sock._serving.threads as threads
    plain = threads.CompletionNotifier.go_on

    def go_on(notifier):
        threads.CompletionNotifier.go_on = plain
        Calls()
        plain(notifier)

    threads.CompletionNotifier.go_on = go_on
    return "worked"

client = serve(add=lambda a, b: a + b, work=work)
print(client.call("work"), inside, client.call("add", 3, 4))
"""
    assert run(text) == (0, "worked [3] 7\n")


def test_finalizers_that_call_at_any_time_hang_nothing(
    run: Callable[[str], tuple[int, str]],
) -> None:
    text = """
client = serve(add=lambda a, b: a + b)
gc.set_threshold(20)
finalized = []

class Calls:
    def __init__(self):
        self.cycle = self
    def __del__(self):
        if threading.current_thread().name.startswith("caller"):
            finalized.append(client.call("add", 1, 1))

def work():
    for number in range(300):
        Calls()
        assert client.call("add", number, 1) == number + 1
        if number % 20 == 0:
            gc.collect()

threads = [threading.Thread(target=work, name=f"caller {n}") for n in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
gc.set_threshold(700)
print(set(finalized))
"""
    assert run(text) == (0, "{2}\n")


# --- given up by whatever is raised ---------------------------------------------------------------

GIVES_UP = """
class SoftTimeLimitExceeded({base}):
    pass

def give_up(*_):
    raise SoftTimeLimitExceeded

signal.signal(signal.SIGALRM, give_up)
client = RPCClient("127.0.0.1", {port}, timeout=20)
client.call("rpc.ping")
signal.setitimer(signal.ITIMER_REAL, 0.05)
try:
    {waits}
except SoftTimeLimitExceeded:
    print("given up", client.call("rpc.ping"))
"""


@pytest.mark.parametrize("base", ["Exception", "SystemExit"])
@pytest.mark.parametrize(
    "waits",
    [
        "client.call('hold')",
        "list(client.map('hold', [1]))",
        "batch = client.batch(); batch.call('hold'); batch.send()",
    ],
)
def test_a_call_that_any_exception_gives_up_is_cancelled_at_the_server(
    run: Callable[[str], tuple[int, str]],
    scripted: Callable[..., ScriptedServer],
    waits: str,
    base: str,
) -> None:
    heard: list[str] = []

    def answers_all_but_hold(peer: Peer) -> None:
        with contextlib.suppress(OSError, ValueError):
            while True:
                message: Any = peer.message()
                first = message[0] if isinstance(message, list) else message
                heard.append(first["method"])
                if first["method"] == "rpc.ping":
                    peer.send(b'{"jsonrpc":"2.0","id":%d,"result":"pong"}\n' % first["id"])

    port = scripted(answers_all_but_hold).port
    text = GIVES_UP.format(base=base, port=port, waits=waits)
    assert run(text) == (0, "given up pong\n")
    assert heard[:4] == ["rpc.ping", "hold", "$/cancelRequest", "rpc.ping"]


@pytest.mark.parametrize(
    "waits",
    ["client.call('run', 1)", "client.notify('run', 1)", "list(client.map('run', [1]))"],
)
def test_what_was_given_up_while_disconnected_does_not_run_later(
    run: Callable[[str], tuple[int, str]], waits: str
) -> None:
    text = f"""
import socket

ran = []
held = socket.create_server(("127.0.0.1", 0))
port = held.getsockname()[1]
held.close()

class GivenUp(BaseException):
    pass

def give_up(*_):
    raise GivenUp

signal.signal(signal.SIGALRM, give_up)
client = RPCClient("127.0.0.1", port, timeout=20, queue_while_disconnected=True)
signal.setitimer(signal.ITIMER_REAL, 0.05)
try:
    {waits}
except GivenUp:
    pass
threading.Thread(
    target=start_rpc_server, args=(port, {{"run": ran.append}}), kwargs={{"on_ready": on_ready}},
    daemon=True,
).start()
ready.wait()
client.call("run", 2)
print(ran)
"""
    assert run(text) == (0, "[2]\n")
