"""Logins: who has logged in on each connection, and what they may call.

What checkers and realms are asked is `twisted.cred`'s, and `auth` has some of them. Here is when
they are asked, how often, how long it may take, and what the caller and the log are told.
"""

from __future__ import annotations

import copy
import enum
import traceback
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from twisted.cred.error import LoginFailed as CredLoginFailed
from twisted.cred.error import Unauthorized
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from kn_sock._display import safe_repr, truncate
from kn_sock._observe.reports import Reports
from kn_sock._serving.tables import served_table
from kn_sock._version import __version__
from kn_sock.auth import (
    EVERYTHING,
    IMethods,
    Password,
    Token,
    functions_of,
    identity_text,
    table_of,
)
from kn_sock.calls import current_call
from kn_sock.errors import InvalidParams, InvalidRequest, NotAuthenticated, RPCError
from kn_sock.methods.discovery import standard_methods
from kn_sock.methods.signature import LOGIN_METHOD, Method, in_reactor
from kn_sock.options import ServerOptions

if TYPE_CHECKING:
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


class LoginGuard:
    """Lets those who have logged in at the connections of one server.

    Args:
        portal: says who they are, and what they may call.
        everything: what the server serves, for those whose avatar is `EVERYTHING`.
        reactor: the clock.
        timeout: seconds that a connection has to log in; ``None`` for no limit.
        options: the server's.
        reports: gets the failed tries, and writes the log.

    Attributes:
        before: the methods that are there before a login.
        failed_logins: the tries that failed, of all connections.
    """

    def __init__(
        self,
        portal: Portal,
        everything: Mapping[str, Method],
        reactor: Any,
        timeout: float | None,
        *,
        options: ServerOptions | None = None,
        reports: Reports | None = None,
    ) -> None:
        if not isinstance(portal, Portal):
            raise TypeError(f"portal is a twisted.cred.portal.Portal, not {portal!r:.60}")
        self._portal = portal
        self.clock: IReactorTime = reactor
        self.timeout = timeout
        self.reports = reports or Reports()
        self._options = options or ServerOptions()
        self.failed_logins = 0
        self._logins: dict[RPCProtocol, Login] = {}
        login = Method(LOGIN_METHOD, self._login)
        self.before = {"rpc.ping": Method("rpc.ping", _ping), login.name: login}
        self._everything = {**everything, login.name: login}

    def opened(self, protocol: RPCProtocol) -> None:
        """Shut a new connection off from everything but logging in."""
        login = self._logins[protocol] = Login(self, protocol)
        protocol.serve(self.before, login.refuse)

    def ended(self, protocol: RPCProtocol) -> None:
        """Log out the identity of a connection that has ended."""
        login = self._logins.pop(protocol, None)
        if login is not None:
            login.end()

    @in_reactor
    def _login(self, /, *secrets: Any, **named: Any) -> Any:
        """Log in on this connection, with a username and a password, or with a token."""
        call = current_call()
        login = self._logins[call._protocol]
        if not call._request.expects_reply:
            # What nobody gets the answer of is no try; and each would be a line in the log.
            return login.refuse(call._request)
        return login.attempt(_credentials_of(secrets, named))

    def ask(self, credentials: Any, protocol: RPCProtocol) -> Deferred[tuple[str, Any]]:
        """Log in at the portal; the Deferred fires with the identity and the portal's result."""
        # Portal.login returns no avatar id; only its realm gets it.
        noting = RecordingRealm(self._portal.realm)
        portal = copy.copy(self._portal)
        portal.realm = noting
        asking = maybeDeferred(portal.login, credentials, protocol.connection, IMethods)
        return asking.addCallback(lambda result: (noting.identity, result))

    def methods_of(self, avatar: Any) -> Mapping[str, Method]:
        """Return the methods that an avatar offers.

        Raises:
            TypeError, ValueError: they cannot be used.
        """
        if avatar is EVERYTHING:
            return self._everything
        table = served_table(table_of(functions_of(avatar)), self._options)
        standard = standard_methods(table, __version__)
        return {**table, **standard, LOGIN_METHOD: self.before[LOGIN_METHOD]}


@implementer(IRealm)
class RecordingRealm:
    """Passes a request for an avatar on, and notes whose it was."""

    def __init__(self, realm: Any) -> None:
        self._realm = realm
        self.identity = ""

    def requestAvatar(self, avatarId: Any, mind: object, *interfaces: Any) -> Any:
        """Query the application's realm.

        Raises:
            TypeError: the checker gave no identity: ``None`` for no, or a generator not run.
        """
        if not _is_identity(avatarId):
            raise TypeError(f"a checker gives bytes, text, a number or (), not {type(avatarId)}")
        self.identity = identity_text(avatarId)
        return self._realm.requestAvatar(avatarId, mind, *interfaces)


def _is_identity(avatar_id: object) -> bool:
    if isinstance(avatar_id, (bytes, str)):
        return bool(avatar_id)
    return type(avatar_id) is int or avatar_id == ()


@in_reactor
def _ping(*_: Any, **__: Any) -> str:
    """Answer "pong" to whatever comes with it, so that a stranger's mistakes fill no log."""
    return "pong"


def _credentials_of(secrets: tuple[Any, ...], named: Mapping[str, Any]) -> Password | Token:
    """Make credentials of the arguments, named or not, or of one object that has the names.

    Raises:
        InvalidParams: they are something else. The text does not show it: it may be a secret.
    """
    given = named
    if len(secrets) == 1 and isinstance(secrets[0], dict) and not named:
        # Go's client sends one argument, always.
        given = secrets[0]
    elif secrets and not named:
        names = {1: ("token",), 2: ("username", "password")}.get(len(secrets), ())
        given = dict(zip(names, secrets, strict=False))
    elif secrets:
        given = {}
    if all(isinstance(one, str) for one in given.values()):
        if given.keys() == {"username", "password"}:
            return Password(**given)
        if given.keys() == {"token"}:
            return Token(**given)
    raise InvalidParams("rpc.login takes a username and a password, or a token: strings")


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
        self._state = LoginState.TRYING
        answer: Deferred[Any] = Deferred(lambda _: self._give_up())
        began = self._gate.clock.seconds()
        checking = self._checking = self._gate.ask(credentials, self._protocol)
        checking.addCallback(self._accepted, answer)
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

    def _accepted(self, outcome: tuple[str, Any], answer: Deferred[Any]) -> None:
        identity, (_, avatar, logout) = outcome
        try:
            if self._state is not LoginState.TRYING:
                raise CancelledError
            methods = self._gate.methods_of(avatar)
        except Exception:
            _call_logout(logout)
            raise
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

    def _failed(
        self, failure: Failure, answer: Deferred[Any], began: float, credentials: Password | Token
    ) -> None:
        self._checking = None
        if self._state is LoginState.ENDED:
            return
        self._failures += 1
        self._gate.failed_logins += 1
        self._gate.reports.login_failed()
        self._log_failure(failure, credentials)
        # Counted from the beginning: how long the checker took says something of the secret.
        clock = self._gate.clock
        delay = FIRST_DELAY * 2 ** (self._failures - 1) - (clock.seconds() - began)
        self._timer = clock.callLater(max(0.0, delay), self._answer_failure, answer)

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


def _who(credentials: Password | Token) -> str:
    if isinstance(credentials, Password):
        # As it is written in Python: what a stranger sends shall not look like a line of the log.
        return f"as {truncate(identity_text(credentials.username), 60)!r}"
    return "by token"


def _call_logout(logout: Callable[[], object]) -> None:
    maybeDeferred(logout).addErrback(lambda failure: log.failure("logging out failed", failure))
