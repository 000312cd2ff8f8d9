"""The login of one connection: one try after another, each answered in its time."""

from __future__ import annotations

import enum
import errno
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from twisted.cred.error import LoginFailed as CredLoginFailed
from twisted.cred.error import Unauthorized
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from kn_sock._credentials import Password, Token, identity_text
from kn_sock._display import safe_repr, truncate
from kn_sock._io.transport import address_text
from kn_sock.errors import ErrorCode, InvalidRequest, NotAuthenticated, RPCError

if TYPE_CHECKING:
    from kn_sock._server.login_guard import LoginGuard
    from kn_sock._wire.events import Request
    from kn_sock.protocol import RPCProtocol

log = Logger()


# What a connection may try before it is closed.
MOST_TRIES: Final = 3

# After the first try that failed the answer comes this late, after each further one twice as late.
FIRST_DELAY: Final = 1.0

_WANTED: Final = (
    "log in first: this server answers nothing but rpc.login and rpc.ping before that "
    "(a client of kn_sock logs in with credentials=…)"
)
_REFUSED: Final = "the credentials were not accepted"
_TOO_MANY: Final = "too many logins from this address have failed; wait a minute"
_NOT_NOW: Final = "the login cannot be checked at present; try again later"


class LoginState(enum.Enum):
    """The state of the login of one connection."""

    #: No login is in progress: there was none, it failed, or it succeeded.
    IDLE = enum.auto()
    #: Credentials are checked, or the answer to a failed login is delayed.
    TRYING = enum.auto()
    #: The same, and the caller has cancelled it: it counts, and lets nobody in.
    CANCELLED = enum.auto()
    #: The connection has ended.
    ENDED = enum.auto()


class Login:
    """The login of one connection.

    One login is in progress at a time. One that fails counts until its answer is sent, which is
    delayed, whatever the caller does meanwhile; the last one closes the connection.
    """

    def __init__(self, gate: LoginGuard, protocol: RPCProtocol) -> None:
        self._gate = gate
        self._protocol = protocol
        self._failures = 0
        # Whether the answer to the present try is late, a good one as well.
        self._is_suspect = False
        self._log = gate.reports.log
        self._state = LoginState.IDLE
        # Whether the log has a line about notifications before the login.
        self._has_refused = False
        self._checking: Deferred[Any] | None = None
        self._logout: Callable[[], object] | None = None
        self._timer: IDelayedCall | None = None
        self._deadline: IDelayedCall | None = None
        if gate.timeout is not None:
            self._deadline = gate.clock.callLater(gate.timeout, self._took_too_long)

    def refuse(self, request: Request) -> RPCError | None:
        """Answer whatever is called before the login, whether it is there or not."""
        if request.expects_reply:
            return NotAuthenticated(_WANTED)
        if not self._has_refused:
            # The first alone: who has not logged in shall not fill the log.
            self._has_refused = True
            self._log.info(
                "{peer}: the notification {method} came before a login: dropped, as others will be",
                peer=self._protocol.peer_text,
                method=safe_repr(request.method),
            )
        return None

    # --- one try ----------------------------------------------------------------------------------

    def attempt(self, credentials: Password | Token) -> Deferred[Any]:
        """Check credentials; the Deferred fires with the caller's answer.

        Raises:
            RPCError: a login is in progress, or no tries are left.
        """
        if self._protocol.identity is not None:
            raise InvalidRequest("this connection is logged in already; open another one")
        if self._state is not LoginState.IDLE:
            raise NotAuthenticated("a login is in progress on this connection; wait for its answer")
        peer = self._protocol.peer
        self._is_suspect = self._gate.tries.is_suspect(peer)
        if not self._gate.tries.begin(peer):
            self._log.warn("{peer}: login refused unchecked: too many", peer=address_text(peer))
            raise NotAuthenticated(_TOO_MANY)
        self._state = LoginState.TRYING
        answer: Deferred[Any] = Deferred(lambda _: self._give_up())
        began = self._gate.clock.seconds()
        checking = self._checking = self._gate.ask(credentials, self._protocol)
        checking.addCallback(self._accepted, answer, began)
        checking.addErrback(self._failed, answer, began, credentials)
        return answer

    def _give_up(self) -> None:
        """The caller does not wait any more."""
        if self._state is LoginState.TRYING:
            self._state = LoginState.CANCELLED
        if self._checking is None:
            return
        try:
            self._checking.cancel()
        except Exception:
            # The checker's own canceller; the connection's end does not wait for it.
            log.failure("cancelling a login raised")

    def _accepted(self, outcome: tuple[str, Any], answer: Deferred[Any], began: float) -> Any:
        identity, (_, avatar, logout) = outcome
        try:
            if self._state is not LoginState.TRYING:
                raise CancelledError
            methods = self._gate.methods_of(avatar)
        except Exception:
            _call_logout(logout)
            raise
        left = began + FIRST_DELAY - self._gate.clock.seconds()
        if self._is_suspect and left > 0:
            self._is_suspect = False
            later: Deferred[Any] = Deferred(lambda _: _call_logout(logout))
            later.addCallback(self._accepted, answer, began)
            self._timer = self._gate.clock.callLater(left, self._go_on, later, outcome)
            return later
        self._gate.tries.succeeded(self._protocol.peer)
        self._checking = None
        self._state = LoginState.IDLE
        self._stop_timers()
        self._logout = logout
        self._protocol.identity = identity
        self._protocol.serve(methods)
        self._log.info(
            "{peer}: logged in as {identity}",
            peer=self._protocol.peer_text,
            identity=repr(truncate(identity, 60)),
        )
        answer.callback({"identity": identity})
        return None

    def _go_on(self, later: Deferred[Any], outcome: tuple[str, Any]) -> None:
        self._timer = None
        later.callback(outcome)

    def _failed(
        self, failure: Failure, answer: Deferred[Any], began: float, credentials: Password | Token
    ) -> None:
        self._checking = None
        if self._state is LoginState.ENDED:
            return
        if _lacks_resources(failure):
            self._lacks_resources(failure, answer)
            return
        self._failures += 1
        self._gate.failed_logins += 1
        self._gate.reports.login_failed()
        self._log_failure(failure, credentials)
        # Counted from the beginning: how long the checker took says something of the secret.
        clock = self._gate.clock
        delay = FIRST_DELAY * 2 ** (self._failures - 1) - (clock.seconds() - began)
        self._timer = clock.callLater(max(0.0, delay), self._answer_failure, answer)

    def _lacks_resources(self, failure: Failure, answer: Deferred[Any]) -> None:
        """Answer a try that could not be checked for lack of resources: it does not count."""
        self._gate.tries.succeeded(self._protocol.peer)
        self._state = LoginState.IDLE
        self._log.error(
            "{peer}: a login could not be checked: {reason}",
            peer=self._protocol.peer_text,
            reason=failure.getErrorMessage(),
        )
        if not answer.called:
            answer.errback(RPCError(ErrorCode.SERVER_BUSY, _NOT_NOW))

    def _answer_failure(self, answer: Deferred[Any]) -> None:
        self._timer = None
        # Another try may wait, and begins with the answer: the last one stays the last.
        is_last = self._failures >= MOST_TRIES
        self._state = LoginState.TRYING if is_last else LoginState.IDLE
        if not answer.called:
            answer.errback(NotAuthenticated(_REFUSED))
        if is_last:
            self._protocol.close()

    def _log_failure(self, failure: Failure, credentials: Password | Token) -> None:
        """Log who failed to log in; never the secret, nor a text that may have it in it."""
        said = {
            "peer": self._protocol.peer_text,
            "who": _who(credentials),
            "count": self._failures,
            "most": MOST_TRIES,
        }
        if failure.check(CancelledError):
            self._log.info("{peer}: login {who} cancelled (try {count} of {most})", **said)
            return
        if failure.check(CredLoginFailed, Unauthorized):
            self._log.warn("{peer}: login {who} refused (try {count} of {most})", **said)
            return
        self._log.error(
            "{peer}: login {who} could not be checked (try {count} of {most}): {kind}\n{traceback}",
            kind=failure.type.__name__ if failure.type is not None else "an unknown error",
            traceback="".join(traceback.format_tb(failure.getTracebackObject())),
            **said,
        )

    # --- the end ----------------------------------------------------------------------------------

    def _took_too_long(self) -> None:
        self._deadline = None
        self._log.warn(
            "{peer}: no login within {seconds:g} s: closed",
            peer=self._protocol.peer_text,
            seconds=self._gate.timeout,
        )
        self._protocol.close()

    def end(self) -> None:
        """Log out: the connection has ended."""
        self._state = LoginState.ENDED
        self._stop_timers()
        self._give_up()
        logout, self._logout = self._logout, None
        if logout is not None:
            _call_logout(logout)

    def _stop_timers(self) -> None:
        for timer in (self._timer, self._deadline):
            if timer is not None:
                timer.cancel()
        self._timer = self._deadline = None


def _lacks_resources(failure: Failure) -> bool:
    """Whether a check failed for lack of files or memory."""
    problem = failure.value
    if isinstance(problem, OSError):
        return problem.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
    return isinstance(problem, MemoryError)


def _who(credentials: Password | Token) -> str:
    if isinstance(credentials, Password):
        # As it is written in Python: what a stranger sends shall not look like a line of the log.
        return f"as {truncate(identity_text(credentials.username), 60)!r}"
    return "by token"


def _call_logout(logout: Callable[[], object]) -> None:
    maybeDeferred(logout).addErrback(lambda failure: log.failure("logging out failed", failure))
