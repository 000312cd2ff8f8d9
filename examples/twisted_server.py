"""A server for Twisted: methods that wait, methods that block, and who is calling.

On port 8080 or another, until Ctrl-C::

    python examples/twisted_server.py 8080

``examples/twisted_client.py`` calls it.
"""

import hashlib
import sys
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import deferLater, react

from kn_sock import RPCServerFactory, current_call, in_reactor


class Service:
    """What is served: the public methods of this object."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._visits = 0

    async def nap(self, seconds: float) -> str:
        """Run on the reactor, as every ``async def`` does, and wait without blocking it.

        When the caller gives up or goes away, the wait is cancelled.
        """
        if seconds < 0:
            raise ValueError("a nap takes its time")
        print("nap begins")
        try:
            await deferLater(self._reactor, seconds)
        except CancelledError:
            print("nap cancelled")
            raise
        return f"slept {seconds:g} s"

    def echo_later(self, text: str, seconds: float) -> Deferred[str]:
        """Run on the reactor too, because the annotation says that it returns a Deferred."""
        return deferLater(self._reactor, seconds, lambda: text)

    def digest(self, password: str) -> str:
        """Run in a thread, as every other function does: this takes the processor a while."""
        return hashlib.pbkdf2_hmac("sha256", password.encode(), b"salt", 100_000).hex()

    @in_reactor
    def visit(self) -> int:
        """Run on the reactor because the decorator says so: quick, and it needs no lock."""
        self._visits += 1
        return self._visits

    def who_am_i(self) -> str:
        """Tell the caller its own address."""
        peer = current_call().peer
        return f"{peer.host}:{peer.port}"


async def main(reactor: Any, port: str = "8080") -> None:
    """Listen, and serve until the reactor is stopped."""
    factory = RPCServerFactory(Service(reactor))
    endpoint = TCP4ServerEndpoint(reactor, int(port), interface="127.0.0.1")
    listening = await endpoint.listen(factory)
    # Calls in flight may finish before the reactor stops.
    reactor.addSystemEventTrigger("before", "shutdown", factory.drain)
    address = listening.getHost()
    print(f"serving {', '.join(factory.methods)} on {address.host}:{address.port}")
    await Deferred()


if __name__ == "__main__":
    react(main, sys.argv[1:])
