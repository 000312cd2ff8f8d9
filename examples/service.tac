"""A server as a twistd application, for more than the command line can say.

On port 8080, or the one that the environment names::

    KNSOCK_PORT=8080 twistd -ny examples/service.tac
"""

import os

from twisted.application.service import Application

from kn_sock import RPCServerService


def add(a: int | float, b: int | float) -> int | float:
    """Add two numbers."""
    return a + b


def reverse(text: str) -> str:
    """Turn a text round."""
    return text[::-1]


port = os.environ.get("KNSOCK_PORT", "8080")
server = RPCServerService(
    f"tcp:{port}:interface=127.0.0.1",
    {"add": add, "reverse": reverse},
    max_line_bytes=64 * 1024,
    drain_timeout=5.0,
)

# twistd looks for this name, and starts and stops what hangs in it.
application = Application("kn_sock example")
server.setServiceParent(application)
