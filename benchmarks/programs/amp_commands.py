"""The commands of Twisted AMP."""

from __future__ import annotations

from typing import ClassVar

from twisted.protocols.amp import Command, Integer, Unicode


class Add(Command):
    """Gives the sum."""

    commandName = b"add"  # noqa: N815  # Twisted's
    arguments: ClassVar = [(b"a", Integer()), (b"b", Integer())]
    response: ClassVar = [(b"result", Integer())]


class Echo(Command):
    """Gives back a text."""

    commandName = b"echo"  # noqa: N815  # Twisted's
    arguments: ClassVar = [(b"a", Unicode())]
    response: ClassVar = [(b"result", Unicode())]


class Sleep(Command):
    """Blocks for a while."""

    commandName = b"sleep"  # noqa: N815  # Twisted's
    arguments: ClassVar = [(b"a", Integer())]
    response: ClassVar = [(b"result", Integer())]
