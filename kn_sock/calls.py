"""The call that a method serves: `current_call`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast
from weakref import ref

from msgspec import Struct

from kn_sock._serving.context import ServerCall, current

if TYPE_CHECKING:
    from kn_sock._io.transport import PeerProcess
    from kn_sock._wire.events import Request
    from kn_sock.connection import RPCConnection


class Call(Struct, eq=False, weakref=True):
    """A call while it is served, as returned by `current_call`.

    Thread: attributes may be read on any thread. The methods of `connection` are for the reactor's
    thread only. In a worker thread, call them by
    ``blockingCallFromThread(call.reactor, call.connection.call, "name")``.
    """

    _served: ServerCall
    _protocol: Any

    @property
    def cancelled(self) -> bool:
        """Whether the call was cancelled, or its caller has disconnected."""
        return self._served.cancelled

    @property
    def _request(self) -> Request:
        return self._served.own_request()

    @property
    def method(self) -> str:
        """The name of the method."""
        return self._served.method

    @property
    def is_notification(self) -> bool:
        """Whether no reply is sent."""
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
        """The trace that the call belongs to, as received; ``None`` if there is none.

        Spec: W3C Trace Context, the header of that name.
        """
        traceparent: str | None = self._request.traceparent
        return traceparent

    @property
    def connection(self) -> RPCConnection:
        """The connection of the call, for calls and notifications to the peer."""
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
        """The peer's address as text, such as ``127.0.0.1:8080``."""
        return str(self._protocol.peer_text)

    @property
    def peer_certificate(self) -> Any:
        """The certificate that the peer showed, or ``None``: no TLS, or none was asked for."""
        return self._protocol.peer_certificate

    @property
    def identity(self) -> str | None:
        """The identity that logged in on this connection, or ``None``."""
        identity: str | None = self._protocol.identity
        return identity

    @property
    def peer_uid(self) -> int | None:
        """The user id of the process at the other end of a Unix socket, on Linux; else ``None``.

        The kernel reports it, as of when the process connected.
        """
        process: PeerProcess = self._protocol.peer_process
        return process.uid

    @property
    def peer_gid(self) -> int | None:
        """The group id of that process."""
        process: PeerProcess = self._protocol.peer_process
        return process.gid

    @property
    def peer_pid(self) -> int | None:
        """The process id; the process may have ended, and the id may be in use again."""
        process: PeerProcess = self._protocol.peer_process
        return process.pid

    def __repr__(self) -> str:
        return f"<Call of {self.method} from {self.peer}>"


class ServedCall(Call):
    """A call with its arguments, as passed to the interceptors of a server.

    Attributes:
        args: the positional arguments, checked and converted as the method gets them. If they do
            not fit, or the method is unknown, as received.
        kwargs: the named arguments, likewise.

    Both may be set before ``proceed()``; they are not checked again.
    """

    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = {}  # a Struct's own, for each


def current_call() -> Call:
    """Return the call that the running method serves.

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
    """Make `current_call` return this call."""
    call._served.call_ref = ref(call)
