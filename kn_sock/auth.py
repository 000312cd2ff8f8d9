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
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from zope.interface import Attribute, Interface, implementer

from kn_sock._credentials import IToken, Token, identity_text, secret_bytes
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
        self._tokens = [
            (token, hashlib.sha256(token).digest(), identity)
            for token, identity in _bytes_of(tokens, "a token", "an identity").items()
        ]

    def requestAvatarId(self, credentials: IToken) -> Deferred[bytes | tuple[()]]:
        """Return a Deferred with the token's owner; it fails with ``UnauthorizedLogin``."""
        found = None
        shown = credentials.digest if isinstance(credentials, Token) else None
        for token, digest, identity in self._tokens:
            if shown is None:
                is_same = credentials.checkToken(token)
            else:
                is_same = hmac.compare_digest(shown, digest)
            if is_same:
                found = identity
        if found is None:
            return fail(UnauthorizedLogin())
        return succeed(found)


@implementer(ICredentialsChecker)
class TokenFile:
    """Knows the tokens in a file: one a line, and after a space whose it is.

    Args:
        path: the file. Empty lines, and those that begin with ``#``, are left out. It is read again
            when it has changed.

    Raises:
        OSError: it cannot be read.
        ValueError: a line is none of these.
    """

    credentialInterfaces = (IToken,)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        #: The absolute path of the file.
        self.path = os.path.abspath(path)
        self._read_at = _version_of(self.path)
        self._checker = TokenChecker(self._read())

    def requestAvatarId(self, credentials: IToken) -> Deferred[bytes | tuple[()]]:
        """Return a Deferred with the token's owner; it fails with ``UnauthorizedLogin``."""
        return maybeDeferred(lambda: self._current().requestAvatarId(credentials))

    def _current(self) -> TokenChecker:
        """Return the checker of what the file has now."""
        version = _version_of(self.path)
        if version != self._read_at:
            self._checker = TokenChecker(self._read())
            self._read_at = version
        return self._checker

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


def _version_of(path: str) -> tuple[int, ...]:
    """Return what differs once a file has changed.

    Raises:
        OSError: it cannot be seen.
    """
    found = os.stat(path)
    return found.st_mtime_ns, found.st_size, found.st_ino


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
