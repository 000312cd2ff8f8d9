"""Authentication and authorisation with `twisted.cred`: checkers and a realm for most servers.

A `Portal <twisted.cred.portal.Portal>` is a realm and checkers. A checker says who somebody is; the
realm, what they may call. `MethodsRealm`, `PasswordChecker` and `TokenChecker` do for most servers;
any of `twisted.cred` will do as well. When a login is asked for, and what becomes of one that is
refused, is `_login`'s.
"""

from __future__ import annotations

import hashlib
import hmac
import inspect
import os
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ICredentials, IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from zope.interface import Attribute, Interface, implementer

from kn_sock.methods.table import Functions, MethodTable

__all__ = [
    "IMethods",
    "IToken",
    "MethodsRealm",
    "PasswordChecker",
    "TokenChecker",
    "TokenFile",
]


class IMethods(Interface):
    """What a realm is asked for: an avatar that says what its owner may call.

    The avatar may be anything that ``funcs`` may be, too: it need not provide this interface.
    """

    functions = Attribute("What may be called: whatever ``funcs`` of a server may be.")


class IToken(ICredentials):
    """A secret that says by itself who shows it."""

    token: Any = Attribute("The token, bytes.")

    def checkToken(token: bytes) -> bool:  # noqa: N805  # an interface's methods have no self
        """Whether the tokens are equal, in constant time."""


def is_same_secret(one: bytes, other: bytes) -> bool:
    """Compare two secrets in constant time, whatever their lengths."""
    return hmac.compare_digest(hashlib.sha256(one).digest(), hashlib.sha256(other).digest())


def secret_bytes(secret: str) -> bytes:
    """Return the bytes of a secret, whatever text it is."""
    return secret.encode("utf-8", "surrogatepass")


@implementer(IUsernamePassword)
class Password:
    """A name and a password, as ``rpc.login`` got them."""

    def __init__(self, username: str, password: str) -> None:
        self.username = secret_bytes(username)
        self.password = secret_bytes(password)

    def checkPassword(self, password: bytes) -> bool:
        """Whether this is the password, in constant time."""
        return is_same_secret(self.password, password)

    def __repr__(self) -> str:
        return f"<Password of {self.username!r:.60}>"


@implementer(IToken)
class Token:
    """A token, as ``rpc.login`` got it."""

    def __init__(self, token: str) -> None:
        self.token = secret_bytes(token)

    def checkToken(self, token: bytes) -> bool:
        """Whether this is the token, in constant time."""
        return is_same_secret(self.token, token)

    def __repr__(self) -> str:
        return "<Token>"


@implementer(ICredentialsChecker)
class PasswordChecker:
    """Knows the passwords of some users: ``PasswordChecker({"ada": "correct horse"})``.

    Args:
        passwords: by the user's name, which is the identity, too.

    Raises:
        TypeError, ValueError: a name or a password is no string, or is empty.

    A user that is not known takes as long as a password that is wrong.
    """

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, passwords: Mapping[str, str]) -> None:
        self._passwords = _bytes_of(passwords, "a user's name", "a password")

    def requestAvatarId(self, credentials: IUsernamePassword) -> Deferred[bytes | tuple[()]]:
        """Return a Deferred with the username; it fails with ``UnauthorizedLogin``."""
        name = credentials.username
        password = self._passwords.get(name)
        is_right = credentials.checkPassword(b"" if password is None else password)
        if password is None or not is_right:
            return fail(UnauthorizedLogin())
        return succeed(name)


@implementer(ICredentialsChecker)
class TokenChecker:
    """Knows some tokens: ``TokenChecker({"e5b1…": "deployer"})``.

    Args:
        tokens: whose each of them is: the identity, by the token.

    Raises:
        TypeError, ValueError: a token or an identity is no string, or is empty.

    Each is compared with what was shown, whichever of them fits.
    """

    credentialInterfaces = (IToken,)

    def __init__(self, tokens: Mapping[str, str]) -> None:
        self._tokens = _bytes_of(tokens, "a token", "an identity")

    def requestAvatarId(self, credentials: IToken) -> Deferred[bytes | tuple[()]]:
        """Return a Deferred with the token's owner; it fails with ``UnauthorizedLogin``."""
        found = None
        for token, identity in self._tokens.items():
            if credentials.checkToken(token):
                found = identity
        if found is None:
            return fail(UnauthorizedLogin())
        return succeed(found)


@implementer(ICredentialsChecker)
class TokenFile:
    """Knows the tokens in a file: one a line, and after a space whose it is.

    Args:
        path: the file. Empty lines, and those that begin with ``#``, are left out. It is read at
            each login, so that it may change meanwhile.

    Raises:
        OSError: it cannot be read.
        ValueError: a line is none of these.
    """

    credentialInterfaces = (IToken,)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        #: The absolute path of the file.
        self.path = os.path.abspath(path)
        self._read()

    def requestAvatarId(self, credentials: IToken) -> Deferred[bytes | tuple[()]]:
        """Return a Deferred with the token's owner; it fails with ``UnauthorizedLogin``."""
        return maybeDeferred(lambda: TokenChecker(self._read()).requestAvatarId(credentials))

    def _read(self) -> dict[str, str]:
        with open(self.path, encoding="utf-8") as file:
            lines = file.read().splitlines()
        tokens = {}
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            token, _, identity = line.strip().partition(" ")
            if not identity.strip():
                text = f"line {number} is not a token and, after a space, whose it is"
                raise ValueError(f"{self.path}: {text}")
            tokens[token] = identity.strip()
        return tokens


def _bytes_of(texts: Mapping[str, str], key: str, value: str) -> dict[bytes, bytes]:
    """Check and encode; errors do not show the value, as it may be a secret."""
    for pair in texts.items():
        for what, text in zip((key, value), pair, strict=True):
            if not isinstance(text, str):
                raise TypeError(f"{what} is a string, not {type(text).__name__}")
            if not text:
                raise ValueError(f"{what} is empty")
    return {secret_bytes(one): secret_bytes(other) for one, other in texts.items()}


@implementer(IMethods)
class Avatar:
    """Somebody who may call these functions; ``None`` for all that the server has."""

    def __init__(self, functions: Functions | None) -> None:
        self.functions = functions


# What MethodsRealm() gives: no other realm gives all that the server has by giving nothing.
EVERYTHING = Avatar(None)


@implementer(IRealm)
class MethodsRealm:
    """Says what those who have logged in may call.

    Args:
        funcs: what everybody may call. Without it, and without *choose*, that is all that the
            server was given.
        choose: gives what one may call, by the identity that the checker gave, as text: whatever
            ``funcs`` may be, or a Deferred of it. It is asked at each login, and one who may call
            nothing gets an empty mapping. A `MethodTable` that is made once spares the analysis of
            the functions.

    Raises:
        TypeError, ValueError: the functions cannot be used, or both were given.
    """

    def __init__(
        self, funcs: Functions | None = None, *, choose: Callable[[str], Any] | None = None
    ) -> None:
        if funcs is not None and choose is not None:
            raise ValueError("give the functions or a function that chooses them, not both")
        self._choose = choose
        self._avatar = EVERYTHING if funcs is None else Avatar(table_of(funcs))

    def requestAvatar(
        self, avatarId: bytes | tuple[()], mind: object, *interfaces: Any
    ) -> Deferred[Any]:
        """Return the avatar of an identity, as `IRealm` specifies."""
        if IMethods not in interfaces:
            return maybeDeferred(_cannot_provide, interfaces)
        if self._choose is None:
            return maybeDeferred(_avatar_tuple, self._avatar)
        chosen = maybeDeferred(self._choose, identity_text(avatarId))
        return chosen.addCallback(lambda functions: _avatar_tuple(Avatar(table_of(functions))))


def _cannot_provide(interfaces: Any) -> None:
    raise NotImplementedError(f"this realm has avatars of IMethods, none of {interfaces}")


def _avatar_tuple(avatar: Avatar) -> tuple[Any, Avatar, Callable[[], None]]:
    return IMethods, avatar, lambda: None


def identity_text(avatar_id: object) -> str:
    """Write an avatar's id as text; bytes that differ do so as text, too."""
    if isinstance(avatar_id, bytes):
        return avatar_id.decode("utf-8", "surrogateescape")
    # The id of the anonymous is an empty tuple.
    return str(avatar_id) if avatar_id != () else ""


def functions_of(avatar: Any) -> Any:
    """Return what an avatar offers: its ``functions``, or itself."""
    if isinstance(avatar, (Mapping, ModuleType)):
        return avatar
    if IMethods.providedBy(avatar):
        return avatar.functions
    functions = getattr(avatar, "functions", None)
    # An object may have a method of that name among those that it offers.
    return avatar if functions is None or inspect.isroutine(functions) else functions


def table_of(funcs: Functions) -> MethodTable:
    """Make a table of functions, unless they are one.

    Raises:
        TypeError, ValueError: they cannot be used.
    """
    return funcs if isinstance(funcs, MethodTable) else MethodTable().add(funcs)
