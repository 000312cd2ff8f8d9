"""What a method can know of the call that it serves: `current_call`."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kn_sock._session import Request
    from kn_sock.connection import RPCConnection
    from kn_sock.protocol import RPCProtocol

_current: ContextVar[Call] = ContextVar("kn_sock.current_call")


class Call:
    """One call while it is served, as `current_call` gives it to the method.

    Reactor: `method`, `cancelled`, `deadline` and `peer` may be read on any thread; `connection` is
    for the reactor's thread (in a worker thread, reach it with ``blockingCallFromThread``).
    """

    __slots__ = ("_protocol", "cancelled", "deadline", "request", "stop")

    def __init__(self, protocol: RPCProtocol, request: Request) -> None:
        self._protocol = protocol
        self.request = request
        #: Whether the caller gave up or went away; a function in a thread can look, and stop.
        self.cancelled = False
        #: When the call has to be over, in the reactor's seconds; ``None`` for no limit.
        self.deadline: float | None = None
        self.stop: Callable[[], object] | None = None

    @property
    def method(self) -> str:
        """The name that was called."""
        return self.request.method

    @property
    def connection(self) -> RPCConnection:
        """The connection that the call came over, to call or notify the peer in turn."""
        return self._protocol.connection

    @property
    def peer(self) -> Any:
        """The peer's address: an `IAddress <twisted.internet.interfaces.IAddress>`."""
        return self._protocol.peer

    @property
    def peer_certificate(self) -> Any:
        """The certificate that the peer showed, or ``None``: no TLS, or none was asked for."""
        return self._protocol.peer_certificate

    def __repr__(self) -> str:
        return f"<Call of {self.method} from {self.peer}>"


def current_call() -> Call:
    """Give the call that the running method serves.

    Works in worker threads, across ``await``, and in the callbacks of an inlineCallbacks method.

    Raises:
        LookupError: no method is running here.
    """
    try:
        return _current.get()
    except LookupError:
        raise LookupError("no call is served here: current_call() is for methods") from None


def run_as(call: Call, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Run a function so that `current_call` gives *call* in it."""
    token = _current.set(call)
    try:
        return function(*args, **kwargs) if kwargs else function(*args)
    finally:
        _current.reset(token)
