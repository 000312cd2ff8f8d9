"""A client for Twisted: calls give Deferreds, which can be awaited, gathered and cancelled.

Start ``examples/twisted_server.py``, then run::

    python examples/twisted_client.py tcp:localhost:8080
"""

import sys
from typing import Any

from twisted.internet.defer import gatherResults
from twisted.internet.task import react

from kn_sock import CallCancelled, CallTimeout, ConnectFailed, RemoteError, RPCConnection, connect


async def use(connection: RPCConnection) -> None:
    """Call in every way that there is."""
    print("visit:", await connection.call("visit"))
    print("echo_later:", await connection.remote.echo_later("hello", seconds=0.1))
    print("who_am_i:", await connection.call("who_am_i"))

    # Three at once, over the one connection: this takes as long as the slowest of them.
    naps = [connection.call("nap", seconds) for seconds in (0.3, 0.2, 0.1)]
    print("gathered:", await gatherResults(naps, consumeErrors=True))

    batch = connection.batch()
    batch.call("visit")
    batch.call("digest", "secret")
    visits, digest = await batch.send()
    print("batch:", visits, digest[:8])

    slow = connection.call("nap", 60)
    await connection.call("visit")  # by now the nap has begun
    slow.cancel()
    try:
        await slow
    except CallCancelled as problem:
        print("cancelled:", problem)

    try:
        await connection.with_options(timeout=0.2).call("nap", 60)
    except CallTimeout as problem:
        print("timeout:", problem)

    try:
        await connection.call("nap", -1)
    except RemoteError as problem:
        print("the server raised", problem.type_name, "-", problem)


async def main(reactor: Any, endpoint: str = "tcp:localhost:8080") -> None:
    """Connect, use the connection, and close it."""
    try:
        connection = await connect(endpoint, reactor=reactor)
    except ConnectFailed as problem:
        sys.exit(str(problem))
    try:
        await use(connection)
    finally:
        await connection.close()
    print("closed")


if __name__ == "__main__":
    react(main, sys.argv[1:])
