"""What a method can know of the call that it serves: `current_call`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast
from weakref import ref

from msgspec import Struct

from kn_sock._serving.context import ServerCall, current
from kn_sock._wire.events import Request

if TYPE_CHECKING:
    from kn_sock._io.peer import PeerProcess
    from kn_sock.connection import RPCConnection


class Call(Struct, eq=False, weakref=True):
    """One call while it is served, as `current_call` gives it to the method.

    Reactor: all of it may be read on any thread; the verbs of `connection` are for the reactor's
    thread alone. In a worker thread, wait for them by
    ``blockingCallFromThread(call.reactor, call.connection.call, "name")``.
    """

    _served: ServerCall
    _protocol: Any

    @property
    def cancelled(self) -> bool:
        """Whether the caller gave up or went away; a function in a thread can look."""
        return self._served.cancelled

    @property
    def _request(self) -> Request:
        return self._served.request

    @property
    def method(self) -> str:
        """The name that was called."""
        return self._served.method

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


def current_call() -> Call:
    """Give the call that the running method serves.

    Works in worker threads, across ``await``, and in the callbacks of an inlineCallbacks method.

    Raises:
        LookupError: no method is running here; nor did what runs here ask for its call before that
            call had ended, and its connection, too.
    """
    try:
        served = current.get()
    except LookupError:
        raise LookupError("no call is served here: current_call() is for methods") from None
    call = None if served.call_ref is None else served.call_ref()
    if call is None:
        protocol = served.connection()
        if protocol is None:
            raise LookupError(f"the call of {served.method} has ended, and its connection, too")
        call = Call(served, protocol)
        show(call)
    return cast(Call, call)


def show(call: Call) -> None:
    """Have `current_call` give this."""
    call._served.call_ref = ref(call)
