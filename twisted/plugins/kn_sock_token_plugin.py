"""``--auth token:FILE``. Any run of twistd may import this: kn_sock is imported when it is used."""

from typing import Any

from twisted.cred.strcred import ICheckerFactory
from twisted.plugin import IPlugin
from zope.interface import implementer

HELP = """
Callers log in with a token. The file has one token a line, and after a space whose it is. Empty
lines, and those that begin with #, are left out. The file is read at each login: it may change
while the server runs. Let nobody else read it.
"""


@implementer(IPlugin, ICheckerFactory)
class TokenFileFactory:
    """Makes checkers out of files with tokens."""

    authType = "token"
    authHelp = HELP
    argStringFormat = "Location of a file with one token a line, and whose it is."

    @property
    def credentialInterfaces(self) -> tuple[Any, ...]:
        """The kinds of credentials that such a checker takes."""
        from kn_sock.auth import IToken

        return (IToken,)

    def generateChecker(self, argstring: str) -> Any:
        """Make the checker of a file.

        Raises:
            OSError: it cannot be read.
            ValueError: it holds something else.
        """
        from kn_sock.auth import TokenFile

        return TokenFile(argstring)


token_file = TokenFileFactory()
