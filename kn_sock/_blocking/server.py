"""A server on the background reactor, and a thread that waits for its end."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint

from kn_sock._server.listening import LISTEN_BACKLOG
from kn_sock.errors import ConnectionLost
from kn_sock.server import RPCServerService

if TYPE_CHECKING:
    from kn_sock._blocking.reactor_thread import ReactorThread
    from kn_sock.methods.table import Functions

# How soon a server notices that its event is set, in seconds.
_EVENT_SECONDS: Final = 0.1


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C, in the main thread, unless the program handles it."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class BlockingServer:
    """One server, from listening to the end of its drain.

    Args:
        thread: the thread of the background reactor.
        host: the address of the interface.
        port: the port; 0 picks a free one.
        funcs: the functions.
        options: the other options of `RPCServerFactory`.

    Raises:
        RuntimeError: called on the reactor's thread.
    """

    def __init__(
        self,
        thread: ReactorThread,
        host: str,
        port: int,
        funcs: Functions | None,
        options: dict[str, Any],
    ) -> None:
        thread.check()
        self._thread = thread
        self._host = host
        self._port = port
        self._funcs = funcs
        self._options = options
        self._ends = threading.Event()
        # The service, once the reactor's thread has made it.
        self._services: list[RPCServerService] = []
        #: What methods raised to end the process.
        self.exits: list[BaseException] = []

    def listen(self) -> Any:
        """Start to listen.

        Returns:
            The bound address.
        """
        return self._thread.call(self._listen).getHost()

    def _listen(self) -> Deferred[Any]:
        reactor = self._thread.reactor
        kind = TCP6ServerEndpoint if ":" in self._host else TCP4ServerEndpoint
        endpoint = kind(reactor, self._port, backlog=LISTEN_BACKLOG, interface=self._host)
        service = RPCServerService(
            endpoint, self._funcs, reactor=reactor, on_exit=self._exit_asked, **self._options
        )
        self._services.append(service)
        return service.listen()

    def _exit_asked(self, exception: BaseException) -> None:
        self.exits.append(exception)
        self._ends.set()

    def wait(self, shutdown_event: threading.Event | None) -> None:
        """Wait until the event is set, a method ends the process, or the reactor stops."""
        awaited = self._ends if shutdown_event is None else shutdown_event
        seconds = 1.0 if shutdown_event is None else _EVENT_SECONDS
        try:
            while not awaited.wait(seconds) and not self._ends.is_set() and self._thread.is_alive:
                pass
        except RuntimeError as problem:
            # Ctrl-C in the moment when the event releases its lock makes it release it twice.
            if isinstance(problem.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise

    def stop(self) -> None:
        """Drain and stop the service, if it was made by then."""
        try:
            self._thread.call(self._stop_services)
        except KeyboardInterrupt:
            # The second one: do not wait for the calls in flight.
            self._thread.call(self._abort)
        except ConnectionLost:
            # The interpreter is exiting, and a daemon thread has nobody to report to.
            if not self._thread.is_ending:
                raise

    def _stop_services(self) -> Deferred[Any]:
        return DeferredList([service.stopService() for service in self._services])

    def _abort(self) -> None:
        for service in self._services:
            service.factory.abort()
