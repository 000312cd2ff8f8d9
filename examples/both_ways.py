"""Calls in both directions over one connection: the server asks back, and reports progress.

Both ends are here, in one process, on a free port::

    python examples/both_ways.py
"""

from typing import Any

from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import deferLater, react

from kn_sock import RPCServerFactory, connect, current_call, in_reactor


class Cinema:
    """What the server serves."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    async def book(self, film: str) -> str:
        """Book a film, with a question to the caller on the way."""
        caller = current_call().connection
        seats = await caller.call("choose_seats", film, free=["A1", "A2", "B7"])
        for number, _ in enumerate(seats, start=1):
            await deferLater(self._reactor, 0.05)
            await caller.notify("progress", number, of=len(seats))
        return f"{film}: {', '.join(seats)}"


class Visitor:
    """What the client serves to the server that it is connected to.

    On the reactor: in threads, two notifications might overtake each other.
    """

    @in_reactor
    def choose_seats(self, film: str, free: list[str]) -> list[str]:
        """Take the first two."""
        print(f"client: asked for seats for {film}, from {', '.join(free)}")
        return free[:2]

    @in_reactor
    def progress(self, done: int, of: int) -> None:
        """Show how far the server is."""
        print(f"client: {done} of {of} booked")


async def main(reactor: Any) -> None:
    """Start a server, connect to it, make one call, and close both."""
    factory = RPCServerFactory(Cinema(reactor))
    endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
    listening = await endpoint.listen(factory)
    port = listening.getHost().port

    connection = await connect(f"tcp:127.0.0.1:{port}", funcs=Visitor())
    print("client: booked", await connection.call("book", "Metropolis"))
    await connection.close()

    await listening.stopListening()
    await factory.drain()
    print("closed")


if __name__ == "__main__":
    react(main)
