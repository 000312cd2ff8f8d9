"""What somebody shows to log in: a name and a password, or a token, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

from twisted.cred.credentials import ICredentials, IUsernamePassword
from zope.interface import Attribute, implementer


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
        #: Its digest: all that is compared, so that its length matters once.
        self.digest = hashlib.sha256(self.token).digest()

    def checkToken(self, token: bytes) -> bool:
        """Whether this is the token, in constant time."""
        return hmac.compare_digest(self.digest, hashlib.sha256(token).digest())

    def __repr__(self) -> str:
        return "<Token>"


def identity_text(avatar_id: object) -> str:
    """Write an avatar's id as text; bytes that differ do so as text, too."""
    if isinstance(avatar_id, bytes):
        return avatar_id.decode("utf-8", "surrogateescape")
    # The id of the anonymous is an empty tuple.
    return str(avatar_id) if avatar_id != () else ""
