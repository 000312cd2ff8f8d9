"""Fork, exit, Ctrl-C, no standard output, no descriptors left: faults of the process itself."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kn_sock import RPCClient
from tests.faults.peers import (
    HOST,
    PATIENCE,
    TOP,
    Peer,
    Process,
    ScriptedServer,
    Served,
    call,
    join,
)

Start = Callable[..., Process]

SERVE = """
import os, sys, threading
from kn_sock import RPCClient, RPCClientService, ForkedError, in_reactor, start_rpc_server
from twisted.internet.defer import Deferred

never = threading.Event()
entered = threading.Semaphore(0)

def block():
    entered.release()
    never.wait()

@in_reactor
def hold():
    entered.release()
    return Deferred()

ready = threading.Event()
address = []

def on_ready(host, port):
    address.append(port)
    ready.set()

def add(a, b):
    return a + b

def serve():
    threading.Thread(
        target=start_rpc_server, args=(0, {"add": add, "block": block, "hold": hold}),
        kwargs={"on_ready": on_ready}, daemon=True,
    ).start()
    ready.wait()
    return address[0]
"""


def script(tmp_path: Path, text: str) -> str:
    path = tmp_path / "script.py"
    path.write_text(text)
    return str(path)


# --- fork -----------------------------------------------------------------------------------------


def test_forks_under_load_harm_neither_parent_nor_children(start: Start, tmp_path: Path) -> None:
    """Threads call all the time; each child is told, makes a client of its own, and ends."""
    text = (
        SERVE
        + """
import warnings
warnings.simplefilter("ignore")
port = serve()
client = RPCClient("127.0.0.1", port, timeout=20)
over = threading.Event()
counts = []

def work():
    count = 0
    while not over.is_set():
        assert client.call("add", count, 1) == count + 1
        count += 1
    counts.append(count)

threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for number in range(10):
    child = os.fork()
    if not child:
        code = 1
        try:
            try:
                client.call("add", 1, 2)
            except ForkedError:
                with RPCClient("127.0.0.1", port, timeout=20) as own:
                    code = 0 if own.call("add", number, 1) == number + 1 else 3
        finally:
            os._exit(code)
    print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
over.set()
for thread in threads:
    thread.join()
print("parent", len(counts), min(counts) > 0, client.call("add", 1, 2))
"""
    )
    code, output = start(script(tmp_path, text)).end()
    assert output.splitlines() == ["child 0"] * 10 + ["parent 4 True 3"]
    assert code == 0


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_multiprocessing_make_clients_of_their_own(
    start: Start, tmp_path: Path, method: str
) -> None:
    text = (
        SERVE
        + f"""
import multiprocessing, warnings
warnings.simplefilter("ignore")

def work(port):
    with RPCClient("127.0.0.1", port, timeout=20) as own:
        return own.call("add", port, 1) - port

if __name__ == "__main__":
    port = serve()
    client = RPCClient("127.0.0.1", port, timeout=20)
    waiting = client.submit("hold")
    entered.acquire()
    with multiprocessing.get_context("{method}").Pool(2) as pool:
        print(pool.map(work, [port] * 6))
    print(client.call("add", 1, 2), waiting.done())
"""
    )
    code, output = start(script(tmp_path, text)).end()
    assert output.splitlines() == ["[1, 1, 1, 1, 1, 1]", "3 False"]
    assert code == 0


def test_a_child_that_ends_leaves_the_parents_connections_open(
    start: Start, tmp_path: Path
) -> None:
    """It ends as a program does, with all that runs then: it says no goodbye for its parent."""
    text = (
        SERVE
        + """
import warnings
warnings.simplefilter("ignore")
port = serve()
client = RPCClient("127.0.0.1", port, timeout=20)
waiting = client.submit("hold")
entered.acquire()
child = os.fork()
if not child:
    client.close()
    sys.exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), waiting.done(), client.call("add", 1, 2))
"""
    )
    code, output = start(script(tmp_path, text)).end()
    assert output == "0 False 3\n"
    assert code == 0


# --- the interpreter's end ------------------------------------------------------------------------

IN_FLIGHT = """
port = serve()
clients = [RPCClient("127.0.0.1", port) for _ in range(5)]
futures = [client.submit(name) for client in clients for name in ("block", "hold")]
batch = clients[0].batch()
batch.call("hold")
threading.Thread(target=batch.send, daemon=True).start()
threading.Thread(target=clients[1].call, args=("hold",), daemon=True).start()
for _ in range(7):
    entered.acquire()
"""


@pytest.mark.parametrize(
    ("last", "code"),
    [
        ("print('end')", 0),
        ("print('end'); sys.exit(3)", 3),
        ("del clients, client, futures; print('end')", 0),
        ("[client.close() for client in clients[2:]]; print('end')", 0),
    ],
)
def test_the_interpreter_ends_with_all_of_it_open(
    start: Start, tmp_path: Path, last: str, code: int
) -> None:
    text = SERVE + IN_FLIGHT.replace("futures =", "client = clients[0]\nfutures =") + last + "\n"
    ended, output = start(script(tmp_path, text)).end()
    assert output == "end\n"
    assert ended == code


def test_the_interpreter_ends_with_a_traceback_of_the_scripts_own(
    start: Start, tmp_path: Path
) -> None:
    code, output = start(script(tmp_path, SERVE + IN_FLIGHT + "1 / 0\n")).end()
    assert output.count("Traceback") == 1
    assert output.rstrip().endswith("ZeroDivisionError: division by zero")
    assert code == 1


def test_the_interpreter_ends_while_a_client_connects(
    start: Start, tmp_path: Path, scripted: Callable[..., ScriptedServer]
) -> None:
    """To a server that accepts, and then nothing: there is TLS to be spoken first."""
    hears = threading.Event()

    def says_nothing(peer: Peer) -> None:
        peer.socket.recv(1)
        hears.set()
        peer.wait_for_end()

    port = scripted(says_nothing).port
    text = f"""
import sys, threading
from kn_sock import RPCClient
endpoint = "tls:127.0.0.1:{port}"
threading.Thread(target=RPCClient.from_endpoint, args=(endpoint,), daemon=True).start()
sys.stdin.readline()
print("end")
"""
    process = start(script(tmp_path, text), stdin=subprocess.PIPE)
    assert hears.wait(PATIENCE)
    assert process.process.stdin is not None
    process.process.stdin.write("\n")
    process.process.stdin.flush()
    code, output = process.end()
    assert (code, output) == (0, "end\n")


# --- Ctrl-C ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "waits",
    [
        "client.with_options(timeout=None).call('hold')",
        "client.submit('hold').result()",
        "list(client.map('hold', [1, 2, 3]))",
        "batch = client.batch(); batch.call('hold'); batch.send()",
        "RPCClient('127.0.0.1', port, on_connected=lambda c: c.call('hold'))",
    ],
)
def test_ctrl_c_ends_what_waits_and_the_client_goes_on(
    start: Start, tmp_path: Path, scripted: Callable[..., ScriptedServer], waits: str
) -> None:
    is_asked = threading.Event()

    def answers_all_but_hold(peer: Peer) -> None:
        with contextlib.suppress(OSError, ValueError):
            while True:
                message: Any = peer.message()
                first = message[0] if isinstance(message, list) else message
                if first["method"] == "hold":
                    is_asked.set()
                elif "id" in first:
                    peer.send(b'{"jsonrpc":"2.0","id":%d,"result":"pong"}\n' % first["id"])

    port = scripted(answers_all_but_hold).port
    text = f"""
from kn_sock import RPCClient
port = {port}
client = RPCClient("127.0.0.1", port, timeout=20)
try:
    {waits}
except KeyboardInterrupt:
    print("interrupted", client.call("rpc.ping"))
"""
    process = start(script(tmp_path, text))
    assert is_asked.wait(PATIENCE)
    process.send(signal.SIGINT)
    code, output = process.end()
    assert (code, output) == (0, "interrupted pong\n")


INTERRUPTED = """
import signal, threading
from kn_sock import RPCClient, start_rpc_server
from kn_sock._blocking.reactor_thread import reactor_thread

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
thread = reactor_thread()
never = threading.Event()

def begin():
    {begin}

ended = 0
for number in range(150):
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.00003 * (number + 1))
            begin()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        pass
    ended += 1

def count():
    return len([r for r in thread.reactor.getReaders() if hasattr(r, "getHost")])

before = threading.Timer(10, print, ["hung"])
before.daemon = True
before.start()
while thread.call(count) and before.is_alive():
    pass
before.cancel()
print("ended", ended, "open", thread.call(count))
"""


@pytest.mark.parametrize(
    "begin",
    [
        "start_rpc_server(0, {'add': print}, shutdown_event=never)",
        "RPCClient('127.0.0.1', PORT).call('hold')",
    ],
)
def test_ctrl_c_at_any_time_leaves_nothing_open(
    start: Start, tmp_path: Path, scripted: Callable[..., ScriptedServer], begin: str
) -> None:
    """To the fraction of a millisecond, while it starts or connects: and all goes on afterwards."""
    server = scripted(Peer.wait_for_end)
    text = INTERRUPTED.format(begin=begin.replace("PORT", str(server.port)))
    code, output = start(script(tmp_path, text)).end()
    assert output == "ended 150 open 0\n"
    assert code == 0


# --- the standard output --------------------------------------------------------------------------

FUNCS = "def add(a, b):\n    print('adding')\n    return a + b\nFUNCS = {'add': add}\n"


def test_twistd_serves_on_when_nobody_reads_its_output_any_more(
    start_twistd: Start, tmp_path: Path
) -> None:
    (tmp_path / "served.py").write_text(FUNCS)
    server = start_twistd("-n", "knsock", "--port", "0", "--funcs", "served.FUNCS", cwd=tmp_path)
    port = int(server.line_with(r"on 127\.0\.0\.1:(\d+)")[1])
    assert server.process.stdout is not None
    server.process.stdout.close()
    with RPCClient(HOST, port, timeout=PATIENCE) as client:
        for number in range(20):
            assert client.call("add", number, 1) == number + 1
    server.send(signal.SIGTERM)
    assert server.process.wait(PATIENCE) in (0, -signal.SIGTERM)


def test_a_server_without_standard_streams_serves(tmp_path: Path) -> None:
    """They are closed before it starts; a pipe of its own says that it listens."""
    text = (
        SERVE
        + """
port = serve()
with open("ready", "w") as ready_pipe:
    ready_pipe.write(str(port))
never.wait()
"""
    )
    pipe = tmp_path / "ready"
    os.mkfifo(pipe)
    server = subprocess.Popen(
        ["/bin/sh", "-c", 'exec "$0" "$1" <&- >&- 2>&-', sys.executable, script(tmp_path, text)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(TOP)},
    )
    # One that never listens would have this wait for ever.
    watchdog = threading.Timer(PATIENCE, lambda: os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    watchdog.start()
    try:
        with RPCClient(HOST, int(pipe.read_text()), timeout=PATIENCE) as client:
            assert client.call("add", 1, 2) == 3
    finally:
        watchdog.cancel()
        server.kill()
        server.wait(PATIENCE)


# --- descriptors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["twistd", "script"])
def test_a_server_without_descriptors_left_goes_on(
    start: Start, start_twistd: Start, tmp_path: Path, kind: str
) -> None:
    """Those that are connected are served; those that come later are, once there are some again."""
    most = 60

    def limited() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    (tmp_path / "served.py").write_text(FUNCS.replace("    print('adding')\n", ""))
    if kind == "twistd":
        server = start_twistd(
            *("-n", "knsock", "--port", "0", "--funcs", "served.FUNCS"),
            cwd=tmp_path,
            preexec_fn=limited,
        )
    else:
        text = SERVE + "print('on 127.0.0.1:%d' % serve(), flush=True)\nnever.wait()\n"
        server = start(script(tmp_path, text), preexec_fn=limited)
    port = int(server.line_with(r"on 127\.0\.0\.1:(\d+)")[1])
    peers = [join(port) for _ in range(2 * most)]
    # The first of them are served; those that are too many are closed, or wait.
    for peer in peers[:20]:
        peer.send(call(1, "add", 1, 2))
        assert peer.message()["result"] == 3
    for peer in peers[20:]:
        peer.close()
    peers[0].send(call(2, "add", 3, 4))
    assert peers[0].message()["result"] == 7
    # Until the server has heard of all that were closed, it may have no place for one more.
    assert is_served_soon(port)
    for peer in peers[:20]:
        peer.close()


def is_served_soon(port: int) -> bool:
    for _ in range(1000):
        with (
            contextlib.suppress(ConnectionError, TimeoutError),
            RPCClient(HOST, port, timeout=1.0) as client,
        ):
            return bool(client.call("add", 5, 6) == 11)
    return False


def test_a_client_without_descriptors_left_says_so(
    start: Start, tmp_path: Path, serve: Callable[..., Served]
) -> None:
    port = serve({"add": lambda a, b: a + b}).port
    text = f"""
import os, resource
from kn_sock import ConnectFailed, RPCClient
first = RPCClient("127.0.0.1", {port}, timeout=20)
most = max(map(int, os.listdir("/proc/self/fd"))) + 1
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
taken = []
try:
    while True:
        taken.append(os.dup(0))
except OSError:
    pass
try:
    RPCClient("127.0.0.1", {port}, timeout=20)
except ConnectFailed as error:
    print("failed", isinstance(error, OSError), error)
print(first.call("add", 1, 2))
os.close(taken.pop())
print(RPCClient("127.0.0.1", {port}, timeout=20).call("add", 3, 4))
"""
    code, output = start(script(tmp_path, text)).end()
    lines = output.splitlines()
    assert lines[0].startswith("failed True cannot connect to 127.0.0.1")
    assert lines[1:] == ["3", "7"]
    assert code == 0


# --- what a child has of its parent ---------------------------------------------------------------


def test_a_notification_of_a_child_that_ends_at_once_arrives(start: Start, tmp_path: Path) -> None:
    """Each child makes a client, notifies, and ends without running exit handlers."""
    text = (
        SERVE
        + """
import warnings
warnings.simplefilter("ignore")
heard = []

def hear(number):
    heard.append(number)
    if len(heard) == 40:
        entered.release()

ready.clear()
threading.Thread(
    target=start_rpc_server, args=(0, {"hear": hear}), kwargs={"on_ready": on_ready}, daemon=True
).start()
ready.wait()
for number in range(40):
    if not os.fork():
        RPCClient("127.0.0.1", address[0]).notify("hear", number)
        os._exit(0)
    os.wait()
print(entered.acquire(timeout=10), sorted(heard) == list(range(40)))
"""
    )
    assert start(script(tmp_path, text)).end() == (0, "True True\n")


@pytest.mark.parametrize("asks", ["result(5)", "exception(5)", "result()"])
def test_a_future_of_the_parent_does_not_wait_in_a_child(
    start: Start, tmp_path: Path, asks: str
) -> None:
    text = (
        SERVE
        + f"""
import warnings
warnings.simplefilter("ignore")
client = RPCClient("127.0.0.1", serve())
future = client.submit("hold")
done = client.submit("add", 1, 2)
done.result()
child = os.fork()
if not child:
    try:
        future.{asks}
    except ForkedError:
        print("told", done.result(), flush=True)
    os._exit(0)
os.waitpid(child, 0)
print(future.done())
"""
    )
    assert start(script(tmp_path, text)).end() == (0, "told 3\nFalse\n")


def test_a_helper_that_a_server_has_forked_does_not_keep_its_port(
    start: Start, tmp_path: Path
) -> None:
    text = (
        SERVE
        + """
import signal, warnings
warnings.simplefilter("ignore")
port = serve()
client = RPCClient("127.0.0.1", port)
client.call("add", 1, 2)
helper = os.fork()
if not helper:
    signal.pause()
print(port, helper, flush=True)
threading.Event().wait()
"""
    )
    server = start(script(tmp_path, text))
    found = server.line_with(r"(\d+) (\d+)")
    port, helper = int(found[1]), int(found[2])
    try:
        peer = join(port)
        server.send(signal.SIGKILL)
        server.process.wait(PATIENCE)
        # Its connections end with it, and its port is free.
        peer.wait_for_end()
        peer.close()
        with socket.create_server((HOST, port)):
            pass
    finally:
        os.kill(helper, signal.SIGKILL)
    server.end()
