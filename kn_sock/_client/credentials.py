"""The credentials of a client, and the login."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from kn_sock.errors import MethodNotFound, RPCError, rpc_error

if TYPE_CHECKING:
    from kn_sock.connection import RPCConnection

#: What ``credentials=`` takes: a name and a password, or a token.
CredentialsLike: TypeAlias = "tuple[str, str] | str"


class Credentials:
    """A name and a password, or a token; shown by nothing.

    Raises:
        TypeError, ValueError: it is something else, or empty. The text does not show the secret.
    """

    __slots__ = ("_secrets",)

    def __init__(self, given: CredentialsLike) -> None:
        secrets = (given,) if isinstance(given, str) else given
        if not isinstance(secrets, (tuple, list)) or not all(
            isinstance(one, str) for one in secrets
        ):
            raise TypeError(
                "credentials are a tuple of a username and a password, or a token: strings, not "
                f"{type(given).__name__}"
            )
        if len(secrets) > 2 or not secrets or not all(secrets):
            raise ValueError(
                "credentials are a tuple of a username and a password, or a token; none is empty"
            )
        self._secrets = tuple(secrets)

    @classmethod
    def of(cls, given: CredentialsLike | None) -> Credentials | None:
        """Make credentials from the option, if it was given."""
        return None if given is None else cls(given)

    async def log_in(self, connection: RPCConnection) -> None:
        """Log in on a connection.

        Raises:
            RPCError: the server refused.
            CallTimeout, ConnectionLost: it did not answer.
        """
        try:
            await connection.call("rpc.login", *self._secrets)
        except RPCError as problem:
            # A server that knows no login may show the arguments that it could not use.
            text = str(problem).replace(self._secrets[-1], "…")
            refusal = rpc_error(problem.code, text)
        else:
            return
        raise refusal

    def __repr__(self) -> str:
        return "<Credentials>"


def refusal_text(problem: RPCError) -> str:
    """Return the meaning of a server's answer to a login."""
    if isinstance(problem, MethodNotFound):
        return "the server has no login: leave credentials= out, if that is meant to be"
    return f"the login failed: {problem}"
