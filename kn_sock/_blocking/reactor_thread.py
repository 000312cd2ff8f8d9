"""The one background reactor of the process, for code that has none of its own.

It is a private reactor: Twisted's global one is not touched, so that an application may run it, or
never import it. It starts with the first use, in a daemon thread, and ends with the interpreter. A
child process that was forked has its own: the parent's thread does not exist there, and its sockets
belong to the parent.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable
from threading import get_ident
from typing import Any, Protocol, TypeVar, cast

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.logger import Logger
from twisted.python import threadable
from twisted.python.failure import Failure

from kn_sock._blocking.outcome import Outcome
from kn_sock._io.clock import use_monotonic_clock
from kn_sock._io.outbox import WriteCoalescer
from kn_sock.errors import ConnectionLost, ForkedError

log = Logger()

T = TypeVar("T")

# Names that are looked up at once.
_LOOKUPS = 100

# At the interpreter's end: what is written by then goes out within this.
_STOP_SECONDS = 2.0


class Closable(Protocol):
    """Something that is closed before the reactor stops."""

    def close(self) -> Deferred[None]:
        """Write what waits, fail what is in flight, and close."""


def new_reactor() -> Any:
    """Make a reactor that is not the global one, of the best kind that there is here."""
    reactor: Any = None
    for kind in ("epoll", "kqueue", "poll", "select"):
        try:
            module = importlib.import_module(f"twisted.internet.{kind}reactor")
        except ImportError:
            continue
        name = {"epoll": "EPollReactor", "kqueue": "KQueueReactor"}.get(
            kind, kind.title() + "Reactor"
        )
        reactor = getattr(module, name)()
        break
    # Which thread "the" I/O thread is, is one fact for the whole process; it is not ours to say.
    reactor._registerAsIOThread = False
    use_monotonic_clock(reactor)
    # Its threads look names up, and start when there are some: one that hangs keeps its thread.
    reactor.suggestThreadPoolSize(_LOOKUPS)
    return reactor


class ReactorThread:
    """A reactor, running in a daemon thread of its own."""

    def __init__(self) -> None:
        # Thread.is_alive() of Python 3.12 and before returns False for a running thread after
        # Ctrl-C interrupted it once.
        self._has_ended = False
        # First, as there may be too many: what a reactor has open would stay open.
        begin = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(begin,), name="kn_sock-reactor", daemon=True
        )
        self._thread.start()
        try:
            self.reactor = new_reactor()
        except BaseException:
            self._has_ended = True
            begin.set()
            raise
        self.turn = WriteCoalescer(self.reactor)
        self.is_forked = False
        self.is_ending = False
        #: The connections that are open.
        self.closables: set[Closable] = set()
        self._submitted: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        # Which round of `_run_submitted` is next, and for which it has been woken.
        self._round, self._woken_for = 0, -1
        self._outcomes: set[Outcome] = set()
        self.reactor.addSystemEventTrigger("before", "shutdown", self._fail_outcomes)
        is_running = Outcome(self)
        self.reactor.callWhenRunning(is_running.succeed, None)
        begin.set()
        is_running.wait()
        self._ident = self._thread.ident

    def _run(self, begin: threading.Event) -> None:
        begin.wait()
        if self._has_ended:
            return
        try:
            self.reactor.run(installSignalHandlers=False)
        finally:
            self._has_ended = True

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return not self._has_ended

    def check_process(self) -> None:
        """Raise in a child that was forked since: there is no such thread.

        Raises:
            ForkedError: this is such a child.
        """
        if self.is_forked:
            raise ForkedError(
                "this was made before fork(); its connection belongs to the parent process. "
                "Make a new one in the child"
            )

    def check_running(self) -> None:
        """Raise if nothing can be sent any more.

        Raises:
            ForkedError: the process was forked since.
            ConnectionLost: the thread has ended, as it does with the interpreter.
        """
        self.check_process()
        if self.is_ending or self._has_ended:
            raise ConnectionLost("the reactor's thread has ended", maybe_executed=False)

    def check(self) -> None:
        """Raise if waiting for this thread would never end, or stop the application's reactor.

        Raises:
            RuntimeError: this is a reactor's thread itself.
            ForkedError, ConnectionLost: as for `check_running`.
        """
        # Asked here, too: the common case, without another call.
        if self.is_forked or self.is_ending or self._has_ended:
            self.check_running()
        ident = get_ident()
        if ident == self._ident:
            raise RuntimeError(
                "a blocking call on the reactor's thread would wait for itself; "
                "use current_call().connection or kn_sock.connect there, or remove @in_reactor"
            )
        if ident == threadable.ioThread and _is_inside_reactor():
            raise RuntimeError(
                "a blocking call would stop the reactor that runs on this thread; use "
                "kn_sock.connect or RPCClientService there, or call from a thread (deferToThread)"
            )

    @property
    def may_wait(self) -> bool:
        """Whether this is a thread that may wait for the reactor's."""
        ident = get_ident()
        if ident == self._ident:
            return False
        return ident != threadable.ioThread or not _is_inside_reactor()

    def submit(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function on the reactor's thread, soon; many wake it once. Any thread.

        It may be entered again from within, by a signal handler or a finalizer that calls: that it
        was woken is noted after the fact, so that who is interrupted in between wakes it in vain.
        """
        self._submitted.append((function, args))
        coming = self._round
        if self._woken_for != coming:
            try:
                self.reactor.callFromThread(self._run_submitted)
            except BaseException:
                # A signal handler raised in between: nobody else would wake it.
                self.reactor.callFromThread(self._run_submitted)
                raise
            self._woken_for = coming

    def _run_submitted(self) -> None:
        # Before they are taken: what is submitted after that wakes it again.
        self._round += 1
        submitted = self._submitted
        self.turn.hold()
        try:
            for _ in range(len(submitted)):
                function, args = submitted.popleft()
                try:
                    function(*args)
                except Exception:
                    log.failure("a submitted call failed")
        finally:
            self.turn.release()

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function on the reactor's thread, and wait for its result, or its Deferred's.

        Raises:
            Whatever it raises, or its Deferred fails with.
            RuntimeError: this is the reactor's thread.
        """
        self.check()
        outcome = Outcome(self)

        def start() -> None:
            self._outcomes.add(outcome)
            deferred = maybeDeferred(function, *args)
            deferred.addCallbacks(
                outcome.succeed, lambda failure: outcome.fail(_exception_of(failure))
            )
            deferred.addBoth(lambda _: self._outcomes.discard(outcome))
            cancels.append(deferred.cancel)

        cancels: list[Callable[[], object]] = []
        self.submit(start)
        try:
            return outcome.wait()
        except BaseException:
            # Ctrl-C, or whatever else a signal handler raises.
            if not outcome.is_there:
                self.submit(lambda: [cancel() for cancel in cancels])
            raise

    def drop_sockets(self) -> None:
        """Close what a child got of its parent's sockets, and nothing else of them.

        The port of a parent that is killed would stay in use, and its connections open, for as long
        as the child lives.
        """
        reactor = self.reactor
        # Not getReaders(): its thread may have been in the midst of changing them.
        known = getattr(reactor, "_selectables", None)
        known = {*reactor._reads, *reactor._writes} if known is None else [*known.values()]
        for one in known:
            inherited = getattr(one, "socket", None)
            if isinstance(inherited, socket.socket):
                with contextlib.suppress(OSError):
                    os.close(inherited.detach())

    def _fail_outcomes(self) -> None:
        outcomes, self._outcomes = self._outcomes, set()
        for outcome in outcomes:
            outcome.fail(ConnectionLost("the reactor's thread is ending"))

    def stop(self) -> None:
        """Close what is open, stop the reactor, and wait a little for it. Idempotent.

        Reactor: any thread but its own.
        """
        if self.is_forked or not self.is_alive:
            return
        self.submit(self._close_and_stop)
        self._thread.join(_STOP_SECONDS)

    def _close_and_stop(self) -> None:
        closing = DeferredList([each.close() for each in list(self.closables)])
        closing.addCallback(lambda _: self._stop_reactor())
        # A peer that does not read is not waited for.
        self.reactor.callLater(_STOP_SECONDS * 0.8, self._stop_reactor)

    def _stop_reactor(self) -> None:
        if self.reactor.running:
            self.reactor.stop()


def _is_inside_reactor() -> bool:
    """Whether this code was called by the global reactor, which runs.

    That the reactor runs on this thread is not enough: a greenlet beside it may wait, and so may a
    plain test that pytest-twisted calls.
    """
    reactor = sys.modules.get("twisted.internet.reactor")
    if reactor is None or not getattr(reactor, "running", False):
        return False
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_globals.get("__name__") == "pytest_twisted":
            return False
        is_its_loop = frame.f_code.co_name in ("run", "mainLoop")
        if is_its_loop and frame.f_locals.get("self") is reactor:
            return True
    return False


def _exception_of(failure: Failure) -> BaseException:
    return cast(BaseException, failure.value)


# A signal handler may make a client while one is made.
_lock = threading.RLock()
_running: ReactorThread | None = None
# What fork() left over in a child. Kept, as closing its sockets and its poller is the parent's.
_left_over: list[ReactorThread] = []


def reactor_thread() -> ReactorThread:
    """Return the background reactor of this process, started if necessary. Thread: any."""
    global _running
    with _lock:
        while _running is None or not _running.is_alive:
            made = ReactorThread()
            if _running is None or not _running.is_alive:
                _running = made
            else:
                made.stop()
        return _running


def _after_fork_in_child() -> None:
    global _running, _lock
    _lock = threading.RLock()
    forked, _running = _running, None
    if forked is not None:
        forked.is_forked = True
        _left_over.append(forked)
        forked.drop_sockets()


@atexit.register
def _at_exit() -> None:
    if _running is not None:
        _running.is_ending = True
        _running.stop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
