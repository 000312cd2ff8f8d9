"""Blocking API: `RPCClient` and `start_rpc_server`.

The work is done on the background reactor of `_blocking.reactor_thread`; the caller waits for it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from twisted.internet.interfaces import IStreamClientEndpoint
from typing_extensions import Self

from kn_sock._blocking.link import BlockingCall, BlockingConnection, ConnectionRef, FutureCall
from kn_sock._blocking.outcome import Outcome
from kn_sock._blocking.reactor_thread import reactor_thread
from kn_sock._blocking.server import BlockingServer, sigterm_as_ctrl_c
from kn_sock._calling.options import DEFAULT_TIMEOUT, Batch, BatchEntry, Remote, check_method
from kn_sock._client.endpoints import EndpointLike, endpoints_for, host_endpoint
from kn_sock._declarations import check_count
from kn_sock._serving.context import time_left
from kn_sock.client import DEFAULT_CONNECT_TIMEOUT
from kn_sock.connection import send_batch

if TYPE_CHECKING:
    from kn_sock._client.credentials import CredentialsLike
    from kn_sock._client.failover import OnConnected
    from kn_sock._intercept.chain import Interceptor
    from kn_sock._wire.dialects import DialectName
    from kn_sock.errors import ConnectionLost
    from kn_sock.methods.table import Functions

__all__ = ["RPCClient", "start_rpc_server"]

DEFAULT_WINDOW = 100


class RPCClient:
    """Calls functions over one connection, and waits for their results.

    Args:
        host: a name or an address.
        port: the port, from 1 to 65535.
        timeout: the time limit of calls, in seconds; ``None`` for no limit.
        connect_timeout: seconds for a connection, including the TLS handshake and *on_connected*;
            ``None`` for no limit.
        on_connected: called with each new `RPCConnection`, on the background reactor's thread. It
            may return a Deferred or a coroutine, and completes before any call is sent. It must not
            block, and must use that connection for its calls. If it fails, the connection is closed
            and counts as not made.
        queue_while_disconnected: whether calls wait while no connection can be made, within their
            time limit; the first connection may then be missing, too. Otherwise the constructor
            raises at once, and a call that finds the connection lost tries once to connect.
        stay_connected: whether to connect again as soon as the connection is lost, for a client
            that only listens, with *funcs*; otherwise the next call does.
        on_lost: called with the `ConnectionLost` of each connection that was lost, on the
            background reactor's thread.
        dialect: how calls are written: ``"2.0"``, ``"1.0"``, or ``"kn-sock"`` for a server that
            still runs kn-sock 0.3.
        funcs: functions that the server may call; they run in threads.
        credentials: for the login on each new connection: a tuple of a username and a password, or
            a token.
        interceptors: an older name of ``call_interceptors``: functions around each call, on the
            background reactor's thread.
        options: the `ServerOptions` for calls by the server; ``max_line_bytes`` limits replies too.

    Raises:
        ConnectFailed: the host does not exist or does not answer. It is an ``OSError``; a refused
            connection is also a ``ConnectionRefusedError``.
        LoginFailed: the server refused the credentials. It is a `ConnectFailed`.
        RuntimeError: called on the reactor's thread.

    Thread: any number at once; calls share the connection and do not wait for each other. The next
    call reconnects if the connection was lost. As a context manager it closes itself. After
    ``fork()``, the child needs a client of its own.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        timeout: float | None = DEFAULT_TIMEOUT,
        connect_timeout: float | None = DEFAULT_CONNECT_TIMEOUT,
        on_connected: OnConnected | None = None,
        queue_while_disconnected: bool = False,
        stay_connected: bool = False,
        on_lost: Callable[[ConnectionLost], object] | None = None,
        dialect: DialectName = "2.0",
        funcs: Functions | None = None,
        credentials: CredentialsLike | None = None,
        interceptors: Sequence[Interceptor] | None = None,
        **options: Any,
    ) -> None:
        self._open(
            lambda reactor: [host_endpoint(reactor, host, port)],
            timeout=timeout,
            connect_timeout=connect_timeout,
            on_connected=on_connected,
            queue_while_disconnected=queue_while_disconnected,
            stay_connected=stay_connected,
            on_lost=on_lost,
            dialect=dialect,
            funcs=funcs,
            credentials=credentials,
            **({} if interceptors is None else {"interceptors": interceptors}),
            **options,
        )

    @classmethod
    def from_endpoint(cls, endpoint: EndpointLike | Sequence[EndpointLike], **options: Any) -> Self:
        """Connect to a Twisted client endpoint.

        Args:
            endpoint: its description, as ``"tls:example.com:8443"`` or ``"unix:/run/app.sock"``; or
                several in a list, which are tried in order, until one answers. Each time that a
                connection is made, the first is tried first.
            options: the class's options.

        Raises:
            ValueError: a description cannot be understood.
            ConnectFailed, RuntimeError: as for the class.
        """
        client = cls.__new__(cls)
        client._open(lambda reactor: endpoints_for(endpoint, reactor), **options)
        return client

    def _open(
        self, endpoints: Callable[[Any], list[IStreamClientEndpoint]], **options: Any
    ) -> None:
        thread = reactor_thread()
        link: BlockingConnection = thread.call(
            partial(BlockingConnection, thread, endpoints, **options)
        )
        # First: what is connected when Ctrl-C comes is closed with it.
        self._handle = ConnectionRef(link)
        self._options = link.call_options
        if link.queues:
            thread.submit(link.need_connection)
        else:
            thread.call(link.connect)

    # --- calls
    # --------------------------------------------------------------------------------------

    def call(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call a method and return its result. All other arguments are passed to the method.

        Raises:
            RemoteError: the function raised; if it raised a builtin exception, this is one too.
            RPCError: the peer refused the call; its subclasses say why.
            CallTimeout, ConnectionLost: there was no reply; ``maybe_executed`` is whether the
                function may have run.
            ConnectFailed: the connection was lost before, and reconnecting failed.
            TypeError, ValueError: an argument cannot be sent.
            RuntimeError: called on the reactor's thread.
        """
        check_method(method)
        link = self._checked_link()
        call = self._new_call(link, method)
        try:
            link.begin(call, args, kwargs, self._options)
            return call.outcome.wait()
        except BaseException:
            # Ctrl-C, or whatever else a signal handler raises: nobody waits for it any more.
            if not call.outcome.is_there:
                link.give_up(call)
            raise

    def _new_call(self, link: BlockingConnection, method: str) -> BlockingCall:
        timeout = time_left(self._options.timeout)
        return BlockingCall(method, timeout, outcome=Outcome(link.thread))

    def notify(self, method: str, /, *args: Any, **kwargs: Any) -> None:
        """Send a notification. There is no reply, not even an error.

        Raises:
            ConnectionLost, ConnectFailed, TypeError, ValueError: it was not sent.
            CallTimeout: it was not sent, as there was no connection within ``timeout``.

        Thread: any. On a reactor's thread it does not wait; that it was not sent is logged there.
        """
        check_method(method)
        link = self._running_link()
        if link.intercepting is not None:
            verbs = link.verbs(self._options)
            run = copy_context().run
            link.notify(partial(run, verbs.notify, method, *args, **kwargs), method)
            return
        line = link.channel.writer.encode_notification(
            method, args, kwargs, traceparent=self._options.traceparent
        )
        timeout = self._options.timeout
        link.notify(partial(link.channel.send_notification, line, timeout), method)

    def submit(self, method: str, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start a call, and return at once.

        Returns:
            A future of what `call` would return or raise. Cancelling it cancels the call, and so
            does the end of the process: wait for what has to be done.

        Raises:
            TypeError, ValueError: an argument cannot be sent.

        Thread: any, a reactor's too. It never waits.
        """
        check_method(method)
        link = self._running_link()
        call = FutureCall(method, time_left(self._options.timeout), handle=self._handle)
        link.begin(call, args, kwargs, self._options)
        return call.future

    def map(
        self, method: str, /, *iterables: Iterable[Any], window: int = DEFAULT_WINDOW
    ) -> Iterator[Any]:
        """Call a method with each element, or with the elements of several iterables side by side.

        Args:
            method: the name.
            iterables: the arguments, as for the builtin `map`.
            window: the most calls in flight at once.

        Returns:
            An iterator of the results, in order. A failed call raises in the place of its result,
            and ends the iteration.
        """
        check_method(method)
        check_count("window", window, least=1)
        if not iterables:
            raise TypeError("map() needs at least one iterable of arguments")
        link = self._checked_link()
        return self._mapped(link, method, zip(*iterables, strict=False), window)

    def _mapped(
        self, link: BlockingConnection, method: str, arguments: Iterator[Any], window: int
    ) -> Iterator[Any]:
        # Calls that are waited for in order need no futures, which take as long as all else here.
        under_way: deque[BlockingCall] = deque()
        problem: Exception | None = None
        try:
            for args in arguments:
                if len(under_way) >= window:
                    yield _first_result(under_way)
                try:
                    call = self._new_call(self._checked_link(), method)
                    link.begin(call, args, {}, self._options)
                except Exception as raised:
                    # In its place: those before it have results.
                    problem = raised
                    break
                under_way.append(call)
            while under_way:
                yield _first_result(under_way)
            if problem is not None:
                raise problem
        finally:
            # Its traceback holds this frame, which holds it: a cycle, otherwise.
            problem = None
            for call in under_way:
                if not call.outcome.is_there:
                    link.give_up(call)

    def batch(self) -> Batch[list[Any]]:
        """Return a new batch. Its ``send`` returns the results, or exceptions, in order."""
        return Batch(self._send_batch)

    def _send_batch(self, entries: list[BatchEntry]) -> list[Any]:
        link = self._checked_link()
        if link.intercepting is not None:
            run, batch = copy_context().run, link.intercepting.batch
            sent = partial(run, batch, link.channel, self._options, entries)
        else:
            # What bounds the time is known to this thread, and not to the reactor's.
            options = self._options.replaced({"timeout": time_left(self._options.timeout)})
            sent = partial(send_batch, link.channel, entries, options)
        results: list[Any] = link.thread.call(sent)
        return results

    @property
    def remote(self) -> Remote[Any]:
        """The server's methods as attributes: ``client.remote.add(10, 20)``."""
        return Remote(self.call)

    def with_options(self, **options: Any) -> RPCClient:
        """Return the same connection with other call options.

        Args:
            options: ``timeout``, in seconds; ``propagate_deadline``; ``traceparent``, the trace
                that the calls belong to; ``idempotent=True`` for methods that may run twice: a call
                that was written when the connection was lost is then sent once more over the next
                one, within its time limit; a batch only if none of its calls had ended.
        """
        other = type(self).__new__(type(self))
        other._handle = self._handle
        other._options = self._options.replaced(options)
        return other

    def _running_link(self) -> BlockingConnection:
        self._handle.link.thread.check_running()
        return self._handle.link

    def _checked_link(self) -> BlockingConnection:
        self._handle.link.thread.check()
        return self._handle.link

    # --- the end
    # ------------------------------------------------------------------------------------

    def close(self, timeout: float | None = None) -> None:
        """Send what was written, and close the connection. Calls in flight fail.

        Args:
            timeout: seconds that the server has to read what was written; ``None`` for ten.

        Idempotent. Thread: any. On a reactor's thread it does not wait until it is closed.
        """
        self._handle.link.close(timeout)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} has a connection, and cannot be pickled or copied: "
            "make a new one, as in the child process"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _first_result(under_way: deque[BlockingCall]) -> Any:
    # It stays in the queue while it is awaited, to be cancelled with the others.
    result = under_way[0].outcome.wait()
    under_way.popleft()
    return result


def start_rpc_server(
    port: int,
    register_funcs: Functions | None,
    host: str = "127.0.0.1",
    shutdown_event: threading.Event | None = None,
    *,
    on_ready: Callable[[str, int], object] | None = None,
    **options: Any,
) -> None:
    """Serve functions until an event is set, or Ctrl-C or SIGTERM arrives; drain, and return.

    Args:
        port: the port to listen on; 0 picks a free one.
        register_funcs: the functions: a mapping of names to callables, an object, a module, or a
            `MethodTable`. ``None`` with a *portal* whose avatars have functions of their own.
        host: the address of the interface; ``"0.0.0.0"`` for all interfaces.
        shutdown_event: stops the server when it is set; without one, Ctrl-C or the end of the
            process does.
        on_ready: called with the address and the port once the server listens.
        options: the other options of `RPCServerFactory`: ``portal``, ``tls_cert``, ``tls_key``,
            ``tls_client_ca``, and the `ServerOptions`.

    Raises:
        OSError: the address cannot be listened on, with ``errno.EADDRINUSE`` if the port is in use;
            or a file named by an option cannot be read.
        TypeError, ValueError: the functions or an option cannot be used.
        SystemExit: a method raised it.
        RuntimeError: called on the reactor's thread.

    Thread: any but the reactor's; several servers may run at once. In the main thread SIGTERM is
    handled, unless the program handles it; a second one, or Ctrl-C, aborts the calls in flight.
    """
    if type(port) is not int or not 0 <= port < 65536:
        raise ValueError(f"a port is a whole number from 0 to 65535, not {port!r}")
    server = BlockingServer(reactor_thread(), host, port, register_funcs, options)
    # From here on Ctrl-C may come at any time: it ends what has begun by then.
    with sigterm_as_ctrl_c():
        try:
            bound = server.listen()
            if on_ready is not None:
                on_ready(bound.host, bound.port)
            server.wait(shutdown_event)
        except KeyboardInterrupt:
            pass
        finally:
            server.stop()
    if server.exits:
        raise server.exits[0]
