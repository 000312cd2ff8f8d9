"""What a method can know of the call that it serves: `current_call`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET, Struct

from kn_sock._session import Request
from kn_sock.errors import CallTimeout

if TYPE_CHECKING:
    from kn_sock._peer import PeerProcess
    from kn_sock.connection import RPCConnection

# Stands for what is under way for a call that a thread has, or is to have.
IN_THREAD: Final = object()

current: ContextVar[Call] = ContextVar("kn_sock.current_call")


class Call(Struct, eq=False):
    """One call while it is served, as `current_call` gives it to the method.

    Attributes:
        cancelled: whether the caller gave up or went away; a function in a thread can look.

    Reactor: all of it may be read on any thread; the verbs of `connection` are for the reactor's
    thread alone. In a worker thread, wait for them by
    ``blockingCallFromThread(call.reactor, call.connection.call, "name")``.
    """

    _protocol: Any
    # What came for it; where that was common, it is made when it is asked for: see `_request`.
    _asked: Request | None
    # Its `Method`, and what a thread runs that with.
    _method: Any = None
    _args: Sequence[Any] = ()
    _kwargs: Mapping[str, Any] | None = None
    # By which it is found among those that are under way; until then, of a common one, its id.
    _key: Any = None
    # When a common one was read; None where it has ended by the end of that read.
    _since: float | None = None
    # Whether nothing but its result is needed to answer it: see `_common`.
    _is_common: bool = False
    # What is under way for it: a Deferred, or `IN_THREAD`.
    _stop: Any = None
    # What came of the function that a thread ran.
    _result: Any = None
    _error: BaseException | None = None
    cancelled: bool = False
    # Whether its caller has been told something already: that it took too long.
    _is_answered: bool = False
    # Whether the method has ended. What it left running has time of its own.
    _is_over: bool = False

    @property
    def _request(self) -> Request:
        """What came. Of a common request nobody asks for it, but to refuse or to report it."""
        asked = self._asked
        if asked is None:
            name = self._method.name
            asked = Request(self._key, name, UNSET, UNSET, "2.0", True, None, self._since)
            self._asked = asked
        return asked

    def _run(self) -> None:
        token = current.set(self)
        try:
            function = self._method.function
            if self._kwargs:
                self._result = function(*self._args, **self._kwargs)
            else:
                self._result = function(*self._args)
        except BaseException as error:
            # All of them: SystemExit too is the reactor's to act on, not this thread's.
            self._error = error
        current.reset(token)

    @property
    def method(self) -> str:
        """The name that was called."""
        return str(self._request.method)

    @property
    def is_notification(self) -> bool:
        """Whether the caller hears nothing of it."""
        return not self._request.expects_reply

    @property
    def deadline(self) -> float | None:
        """When the call has to be over, in the seconds of its `reactor`; ``None`` for no limit."""
        deadline: float | None = self._request.deadline
        return deadline

    @property
    def remaining(self) -> float | None:
        """Seconds until the deadline, 0 when it has passed; ``None`` for no limit."""
        deadline = self.deadline
        return None if deadline is None else max(0.0, deadline - self.reactor.seconds())

    @property
    def traceparent(self) -> str | None:
        """The trace that the caller says the call belongs to, as it came; ``None`` for none.

        Spec: W3C Trace Context, the header of that name.
        """
        traceparent: str | None = self._request.traceparent
        return traceparent

    @property
    def connection(self) -> RPCConnection:
        """The connection that the call came over, to call or notify the peer in turn."""
        connection: RPCConnection = self._protocol.connection
        return connection

    @property
    def reactor(self) -> Any:
        """The connection's reactor; under `start_rpc_server` it is not the global one."""
        return self._protocol.reactor

    @property
    def peer(self) -> Any:
        """The peer's address: an `IAddress <twisted.internet.interfaces.IAddress>`."""
        return self._protocol.peer

    @property
    def peer_text(self) -> str:
        """The peer's address as a person would write it."""
        return str(self._protocol.peer_text)

    @property
    def peer_certificate(self) -> Any:
        """The certificate that the peer showed, or ``None``: no TLS, or none was asked for."""
        return self._protocol.peer_certificate

    @property
    def identity(self) -> str | None:
        """Who logged in on this connection, as the server's checker calls them, or ``None``."""
        identity: str | None = self._protocol.identity
        return identity

    @property
    def peer_uid(self) -> int | None:
        """The user whose process is at the other end of a Unix socket, on Linux; else ``None``.

        It is the kernel's word: who connected, when they did.
        """
        process: PeerProcess = self._protocol.peer_process
        return process.uid

    @property
    def peer_gid(self) -> int | None:
        """That process's group, likewise."""
        process: PeerProcess = self._protocol.peer_process
        return process.gid

    @property
    def peer_pid(self) -> int | None:
        """That process's number, likewise; the process itself may have ended, and another begun."""
        process: PeerProcess = self._protocol.peer_process
        return process.pid

    def __repr__(self) -> str:
        return f"<Call of {self.method} from {self.peer}>"


class ServedCall(Call):
    """A call as the interceptors of a server are given it: with its arguments.

    Attributes:
        args: its arguments by position, as the method gets them: checked, and converted. Where they
            do not fit, or there is no such method, as they came.
        kwargs: its arguments by name, likewise.

    Both may be set before ``proceed()``; they are not checked again.
    """

    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = {}  # a Struct's own, for each
    # What a thread runs for it.
    _job: Any = None
    # Whether its method has begun, or waits for a thread.
    _has_begun: bool = False


def current_call() -> Call:
    """Give the call that the running method serves.

    Works in worker threads, across ``await``, and in the callbacks of an inlineCallbacks method.

    Raises:
        LookupError: no method is running here.
    """
    try:
        return current.get()
    except LookupError:
        raise LookupError("no call is served here: current_call() is for methods") from None


def time_left(timeout: float | None) -> float | None:
    """Bound the time of a call that is made here by that of the call that is served here, if any.

    What a method began, and left running when it ended, is bound by it no more.

    Raises:
        CallTimeout: the time for the call that is served has passed.

    Reactor: any thread.
    """
    call = current.get(None)
    if call is None or call._is_over:
        return timeout
    remaining = call.remaining
    if remaining is None:
        return timeout
    if remaining <= 0:
        text = f"the time for {call.method}, in which this call is made, has passed"
        raise CallTimeout(text, maybe_executed=False)
    return remaining if timeout is None else min(timeout, remaining)


def run_as(call: Call, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Run a function so that `current_call` gives *call* in it."""
    token = current.set(call)
    try:
        return function(*args, **kwargs) if kwargs else function(*args)
    finally:
        current.reset(token)
