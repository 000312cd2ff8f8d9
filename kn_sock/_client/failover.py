"""Connecting to the first of several endpoints that answers, with TLS, login and preparation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from twisted.internet import error as twisted_error
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IProtocolFactory, IStreamClientEndpoint

from kn_sock._client.credentials import Credentials, CredentialsLike, refusal_text
from kn_sock._client.dialer import Progress, dial, none_of
from kn_sock._declarations import check_seconds
from kn_sock._io.tls import handshake_problem
from kn_sock._io.transport import is_connected_to_itself
from kn_sock.connection import RPCConnection
from kn_sock.errors import ConnectFailed, ConnectionLost, LoginFailed, RPCError

if TYPE_CHECKING:
    from kn_sock.protocol import RPCProtocol

#: Called with a new connection, before anything else uses it; may give a Deferred or a coroutine.
OnConnected: TypeAlias = Callable[[RPCConnection], object]


class Connector:
    """Connects to the first of several endpoints that answers.

    Args:
        endpoints: in the order in which they are tried.
        factory: builds the protocol.
        timeout: seconds that each may take, TLS and *on_connected* included; ``None`` for no limit.
        reactor: the reactor.
        on_connected: prepares each connection before it is used.
        credentials: logs in with these, before that.
    """

    def __init__(
        self,
        endpoints: Sequence[IStreamClientEndpoint],
        factory: IProtocolFactory,
        timeout: float | None,
        reactor: Any,
        on_connected: OnConnected | None,
        credentials: CredentialsLike | None = None,
    ) -> None:
        check_seconds("connect_timeout", timeout)
        if on_connected is not None and not callable(on_connected):
            raise TypeError(f"on_connected must be a function, not {on_connected!r}")
        self._endpoints = endpoints
        self._factory = factory
        self._timeout = timeout
        self._reactor = reactor
        self._on_connected = on_connected
        self._credentials = Credentials.of(credentials)

    def dial(self) -> Deferred[RPCProtocol]:
        """Try each endpoint once.

        Returns:
            A Deferred that fires with the first connection made, or fails with `ConnectFailed`,
            or when it is cancelled.
        """
        return Deferred.fromCoroutine(self._first())

    async def _first(self) -> RPCProtocol:
        problems = []
        for endpoint in self._endpoints:
            try:
                protocol: RPCProtocol = await dial(
                    endpoint, self._factory, self._timeout, self._reactor, self._prepare
                )
            except ConnectFailed as problem:
                problems.append(problem)
            else:
                return protocol
        raise none_of(problems)

    async def _prepare(self, protocol: RPCProtocol, progress: Progress) -> None:
        if is_connected_to_itself(protocol.transport):
            protocol.abort()
            await protocol.when_closed()
            raise twisted_error.ConnectionRefusedError
        progress.stage = "the TLS handshake was not done"
        try:
            await protocol.when_open()
        except CancelledError:
            raise
        except Exception as problem:
            raise progress.failed(handshake_problem(problem)) from problem
        if self._credentials is not None:
            progress.stage = "the login was not answered"
            wrong = await self._done(self._credentials.log_in, protocol)
            if isinstance(wrong, RPCError):
                text = f"cannot connect to {progress.place}: {refusal_text(wrong)}"
                raise LoginFailed(text) from wrong
            if wrong is not None:
                raise progress.failed(f"the login was not answered: {wrong}") from wrong
        if self._on_connected is not None:
            progress.stage = "on_connected was not done"
            wrong = await self._done(self._on_connected, protocol)
            if wrong is not None:
                reason = f"on_connected failed: {type(wrong).__name__}: {wrong}"
                raise progress.failed(reason) from wrong

    async def _done(self, function: OnConnected, protocol: RPCProtocol) -> BaseException | None:
        """Prepare a connection; if that fails, close it and return the error."""
        try:
            wrong = await _Preparation(function, protocol, self._reactor).outcome
        except CancelledError:
            protocol.abort()
            raise
        if wrong is not None:
            protocol.close()
        return wrong


class _Preparation:
    """Runs the function that prepares a connection, in a reactor turn of its own.

    Attributes:
        outcome: fires with ``None``, or with what went wrong: the function failed, or the
            connection ended first. Cancelling it waits for the function no longer.
    """

    def __init__(self, on_connected: OnConnected, protocol: RPCProtocol, reactor: Any) -> None:
        self.outcome: Deferred[BaseException | None] = Deferred(self._give_up)
        self._on_connected = on_connected
        self._protocol = protocol
        self._reactor = reactor
        self._is_over = False
        self._working: Deferred[object] | None = None
        # What runs now may be in the middle of being cancelled by the function itself otherwise.
        self._timer: IDelayedCall | None = reactor.callLater(0, self._run)
        protocol.when_closed().addCallback(lambda _: self._settle(None))

    def _run(self) -> None:
        self._timer = None
        working = maybeDeferred(self._on_connected, self._protocol.connection)
        working.addCallbacks(
            lambda _: self._settle(None), lambda failed: self._settle(failed.value)
        )
        self._working = working
        if self._is_over:
            working.cancel()

    def _settle(self, problem: BaseException | None) -> None:
        if self._is_over:
            return
        self._end()
        if problem is None and not self._protocol.is_open:
            problem = ConnectionLost("the connection was lost before it was done")
        self.outcome.callback(problem)

    def _give_up(self, _: object) -> None:
        self._end()
        if self._working is not None:
            # Not from inside the function, which may be what cancels us.
            self._reactor.callLater(0, self._working.cancel)

    def _end(self) -> None:
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
