"""A client that connects again when the connection is lost, and calls now and then.

Start ``examples/math_service.py`` now, later, or stop and start it meanwhile: the client waits for
it. Ten calls, one second apart::

    python examples/client_service.py tcp:localhost:8080 10 1.0
"""

import sys
from typing import Any

from twisted.internet.task import deferLater, react

from kn_sock import CallTimeout, ConnectionLost, RPCClientService


async def main(
    reactor: Any, endpoint: str = "tcp:localhost:8080", calls: str = "10", pause: str = "1.0"
) -> None:
    """Make some calls, with a pause after each, whether the server is there or not."""
    service = RPCClientService(endpoint, reactor=reactor, timeout=20.0)
    # In an Application: service.setServiceParent(application).
    service.startService()
    for number in range(1, int(calls) + 1):
        try:
            # While there is no connection, this waits for one.
            answer = await service.call("get_time")
        except (ConnectionLost, CallTimeout) as problem:
            # It was not sent a second time: it may have been done the first time.
            again = "may have run" if problem.maybe_executed else "did not run"
            print(f"call {number}: {problem} (it {again})")
        else:
            print(f"call {number}: {answer}")
        await deferLater(reactor, float(pause))
    await service.stopService()
    print("stopped")


if __name__ == "__main__":
    react(main, sys.argv[1:])
