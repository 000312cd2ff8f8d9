"""Peers that misbehave as a script says, the servers and clients they meet, and what may be left.

Plain sockets in plain threads: what they send, and when, is the script's alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kn_sock import (
    RPCClient,
    RPCClientService,
    RPCConnection,
    RPCProtocol,
    RPCServerService,
    connect,
    start_rpc_server,
)
from kn_sock._blocking.reactor_thread import ReactorThread, reactor_thread

# Nothing here takes this long; what does has hung.
PATIENCE = 20.0

HOST = "127.0.0.1"

TOP = Path(__file__).resolve().parent.parent.parent


# --- bytes ----------------------------------------------------------------------------------------


def call(request_id: Any, method: str, *params: Any) -> bytes:
    """Write a call."""
    request = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
    return json.dumps(request).encode() + b"\n"


def reply(request: Any, **changes: Any) -> bytes:
    """Write the reply to a call of ``echo`` or a ping, with other members than the right ones."""
    result = request["params"][0] if "params" in request else "pong"
    message = {"jsonrpc": "2.0", "id": request["id"], "result": result, **changes}
    return json.dumps(message).encode() + b"\n"


class Peer:
    """One end of a connection, a plain socket."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE)
        self.socket = sock
        self._lines: Any = None

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def line(self) -> bytes:
        """Wait for the next line; nothing at the end."""
        if self._lines is None:
            self._lines = self.socket.makefile("rb")
        line: bytes = self._lines.readline()
        return line

    def message(self) -> Any:
        """Wait for the next line of JSON."""
        return json.loads(self.line())

    def wait_for_end(self) -> None:
        """Read until the other side has closed, by whatever means."""
        with contextlib.suppress(OSError):
            while self.socket.recv(65536):
                pass

    def stop_sending(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close so that the other side gets a reset and no goodbye."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()
        self.socket.close()

    def behave(self) -> None:
        """Answer every call of ``echo``, until the other side closes."""
        with contextlib.suppress(OSError):
            while line := self.line():
                request = json.loads(line)
                if "id" in request and "method" in request:
                    self.send(reply(request))


def join(port: int) -> Peer:
    """Connect as a client that keeps to no rules."""
    return Peer(socket.create_connection((HOST, port), timeout=PATIENCE))


Script = Callable[[Peer], object]


class ScriptedServer:
    """Plays a script to each connection, in a thread of its own; then closes it.

    Args:
        scripts: the first connection's, the second's, …; the last is for all that follow too.
    """

    def __init__(self, *scripts: Script) -> None:
        self._scripts = scripts
        self._listener = socket.create_server((HOST, 0))
        self._listener.settimeout(PATIENCE)
        self.port: int = self._listener.getsockname()[1]
        self.accepted = 0
        self.problems: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            script = self._scripts[min(self.accepted, len(self._scripts) - 1)]
            self.accepted += 1
            thread = threading.Thread(target=self._play, args=(script, Peer(sock)), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _play(self, script: Script, peer: Peer) -> None:
        try:
            script(peer)
        except BaseException as problem:
            self.problems.append(problem)
        finally:
            peer.close()

    def join(self) -> None:
        """Wait until a connection has come, and every script has ended."""
        wait_until(lambda: bool(self._threads))
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def stop(self) -> None:
        # A close alone would leave accept() waiting.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in (self._accepting, *self._threads):
            thread.join(PATIENCE)
            assert not thread.is_alive()
        assert self.problems == []


# --- ours -----------------------------------------------------------------------------------------


class Served:
    """A server of ours, on the background reactor, run by a thread."""

    def __init__(self, funcs: Any, **options: Any) -> None:
        self._shutdown = threading.Event()
        ready = threading.Event()
        self.port = 0
        self.raised: list[BaseException] = []

        def on_ready(host: str, port: int) -> None:
            self.port = port
            ready.set()

        def serve() -> None:
            try:
                start_rpc_server(
                    0, funcs, shutdown_event=self._shutdown, on_ready=on_ready, **options
                )
            except BaseException as raised:
                self.raised.append(raised)

        self._thread = threading.Thread(target=serve, daemon=True)
        self._thread.start()
        assert ready.wait(PATIENCE)

    def begin_to_stop(self) -> None:
        self._shutdown.set()

    def stop(self) -> None:
        self._shutdown.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        assert self.raised == []


class ServedService:
    """A service of ours that serves on the background reactor, where it can be looked into."""

    def __init__(
        self, funcs: Any, *, endpoint: str = f"tcp:0:interface={HOST}", **options: Any
    ) -> None:
        self._thread = reactor_thread()
        self._service: RPCServerService = self._thread.call(
            lambda: RPCServerService(endpoint, funcs, reactor=self._thread.reactor, **options)
        )
        listening: Any = self._thread.call(self._service.listen)
        self.port: int = listening.getHost().port
        self.is_stopped = threading.Event()

    def connections(self) -> list[RPCProtocol]:
        found: list[RPCProtocol] = self._thread.call(
            lambda: list(self._service.factory.connections)
        )
        return found

    def begin_to_stop(self) -> None:
        def stop() -> None:
            self._service.stopService().addCallback(lambda _: self.is_stopped.set())

        self._thread.call(stop)

    def stop(self) -> None:
        if not self.is_stopped.is_set():
            self._thread.call(self._service.stopService)


class BlockingCaller:
    """Calls as a script does: over one client, which connects again when it has to."""

    def __init__(self, port: int, **options: Any) -> None:
        self._client = RPCClient(HOST, port, timeout=PATIENCE, **options)

    def call(self, timeout: float, method: str, *args: Any) -> Any:
        return self._client.with_options(timeout=timeout).call(method, *args)

    def close(self) -> None:
        self._client.close()


class DeferredCaller:
    """Calls as a Twisted program does: over a connection, and a new one when it was lost."""

    def __init__(self, port: int, **options: Any) -> None:
        self._port = port
        self._options = options
        self._thread = reactor_thread()
        self._connections: list[RPCConnection] = []
        self._connect()

    def _connect(self) -> None:
        made: RPCConnection = self._thread.call(
            lambda: connect(
                f"tcp:{HOST}:{self._port}", reactor=self._thread.reactor, **self._options
            )
        )
        self._connections.append(made)

    def call(self, timeout: float, method: str, *args: Any) -> Any:
        connection = self._connections[-1]
        if not self._thread.call(lambda: connection._channel.is_open):  # type: ignore[attr-defined]  # a protocol's
            self._connect()
            connection = self._connections[-1]
        with_timeout = connection.with_options(timeout=timeout)
        return self._thread.call(lambda: with_timeout.call(method, *args))

    def close(self) -> None:
        for connection in self._connections:
            self._thread.call(connection.close)


class ServiceCaller:
    """Calls as a Twisted service does, which keeps a connection by itself."""

    def __init__(self, port: int, **options: Any) -> None:
        self._thread = reactor_thread()
        self._service: RPCClientService = self._thread.call(
            lambda: RPCClientService(
                f"tcp:{HOST}:{port}",
                reactor=self._thread.reactor,
                retry_policy=lambda _: 0.01,
                **options,
            )
        )
        self._thread.call(self._service.startService)

    def call(self, timeout: float, method: str, *args: Any) -> Any:
        verbs = self._service.with_options(timeout=timeout)
        return self._thread.call(lambda: verbs.call(method, *args))

    def close(self) -> None:
        self._thread.call(self._service.stopService)


Caller = BlockingCaller | DeferredCaller | ServiceCaller
CALLERS: list[type[Caller]] = [BlockingCaller, DeferredCaller, ServiceCaller]


# --- processes ------------------------------------------------------------------------------------


class Process:
    """A program in a process of its own; it reads what it prints up to what a test waits for."""

    def __init__(self, *command: str, **keywords: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command],
            **{
                "env": {**os.environ, "PYTHONPATH": str(TOP), "PYTHONUNBUFFERED": "1"},
                "stdout": subprocess.PIPE,
                "stderr": subprocess.STDOUT,
                "text": True,
                # A shell's background jobs ignore it, and pass that on.
                "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
                **keywords,
            },
        )
        self._lines: list[str] = []
        # One that hangs is ended, and what waits for its output with it.
        self._watchdog = threading.Timer(3 * PATIENCE, self.process.kill)
        self._watchdog.daemon = True
        self._watchdog.start()

    def line_with(self, pattern: str) -> re.Match[str]:
        """Read the output up to a line that matches."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.append(line)
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"no {pattern} in {''.join(self._lines)}")

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Wait for the end; give the exit code and all of the output."""
        rest, _ = self.process.communicate(timeout=2 * PATIENCE)
        self._watchdog.cancel()
        return self.process.returncode, "".join(self._lines) + (rest or "")

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.end()


def twistd(*arguments: str, **keywords: Any) -> Process:
    """Run ``twistd``."""
    command = "from twisted.scripts.twistd import run; run()"
    return Process("-c", command, "--pidfile=", *arguments, **keywords)


# --- what is left ---------------------------------------------------------------------------------


def open_sockets() -> set[str]:
    """Tell which sockets this process has."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        # The one that lists the directory is closed by now.
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/self/fd/{number}"))
    return {name for name in found if name.startswith("socket:")}


def wait_until(condition: Callable[[], bool], thread: ReactorThread | None = None) -> None:
    """Let the background reactor turn until something holds, which it soon does."""
    thread = thread or reactor_thread()
    hung = threading.Event()
    timer = threading.Timer(PATIENCE, hung.set)
    timer.daemon = True
    timer.start()
    try:
        while not condition():
            assert not hung.is_set()
            # A turn of the reactor, with what the kernel has for it.
            thread.call(lambda: None)
    finally:
        timer.cancel()


def things_on(thread: ReactorThread) -> tuple[set[Any], set[Any], set[Any]]:
    """Give what a reactor reads, what it writes, and the calls that it is to make."""
    reactor = thread.reactor
    found: tuple[set[Any], set[Any], set[Any]] = thread.call(
        lambda: (
            set(reactor.getReaders()),
            set(reactor.getWriters()),
            set(reactor.getDelayedCalls()),
        )
    )
    return found


def check_nothing_is_left() -> Iterator[None]:
    """Hold a test to leaving no socket, no timer and no descriptor behind."""
    thread = reactor_thread()
    sockets, before = open_sockets(), things_on(thread)
    yield

    def is_as_before() -> bool:
        now = things_on(thread)
        return open_sockets() <= sockets and all(a <= b for a, b in zip(now, before, strict=True))

    if thread.is_alive:
        try:
            wait_until(is_as_before, thread)
        except AssertionError:
            now = things_on(thread)
            more = [list(map(str, a - b)) for a, b in zip(now, before, strict=True)]
            raise AssertionError(f"left: {open_sockets() - sockets}, and {more}") from None


# --- TLS ------------------------------------------------------------------------------------------


def tls_server_context(directory: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "cert.pem", directory / "server.key")
    return context


def tls_client_context(directory: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(directory / "cert.pem"))
