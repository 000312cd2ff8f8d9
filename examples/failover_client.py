"""A script that goes on calling while its servers come and go.

It prefers the first server, and takes the second while the first is away. Start
``examples/math_service.py`` at these ports now or later, stop one, start it again::

    python examples/failover_client.py tcp:localhost:8080,tcp:localhost:8081 10 1.0
"""

import sys
import time

from kn_sock import CallTimeout, ConnectionLost, RPCClient, RPCConnection


async def check(connection: RPCConnection) -> None:
    """See that a new connection is of use; no other call goes out before this is done.

    It runs on the background reactor: it may wait for Deferreds, and must not block.
    """
    if await connection.call("rpc.ping") != "pong":
        raise LookupError("this is no kn_sock server")
    print("connected")


def main(
    endpoints: str = "tcp:localhost:8080,tcp:localhost:8081", calls: str = "10", pause: str = "1.0"
) -> None:
    """Make some calls, with a pause after each, whether a server is there or not."""
    with RPCClient.from_endpoint(
        endpoints.split(","),
        # Calls wait until a server is there, for as long as each may take.
        queue_while_disconnected=True,
        timeout=20.0,
        on_connected=check,
    ) as client:
        # To ask the time twice does no harm: a call may be sent again when a server dies under it.
        careless = client.with_options(idempotent=True)
        for number in range(1, int(calls) + 1):
            try:
                print(f"call {number}: {careless.call('get_time')}")
            except (ConnectionLost, CallTimeout) as problem:
                print(f"call {number}: {problem}")
            time.sleep(float(pause))
    print("closed")


if __name__ == "__main__":
    main(*sys.argv[1:])
