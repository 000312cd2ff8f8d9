"""Logins: who has logged in on each connection, and what they may call.

What checkers and realms are asked is `twisted.cred`'s, and `auth` has some of them. Here is whom a
server asks, and what becomes of their answers; `login` has what happens on one connection.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from kn_sock._credentials import Password, Token, identity_text
from kn_sock._observe.reports import Reports
from kn_sock._server.login import Login
from kn_sock._server.tries import Tries
from kn_sock._serving.tables import served_table
from kn_sock._version import __version__
from kn_sock.auth import EVERYTHING, IMethods, functions_of, table_of
from kn_sock.calls import current_call
from kn_sock.errors import InvalidParams
from kn_sock.methods.discovery import standard_methods
from kn_sock.methods.signature import LOGIN_METHOD, Method, in_reactor
from kn_sock.options import ServerOptions

if TYPE_CHECKING:
    from kn_sock.protocol import RPCProtocol

log = Logger()


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
        tries: the tries of each address.
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
        self.tries = Tries(self._options.login_rate, self.clock)
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
