"""The blocking client: every way to call, and what comes back when a call fails.

Start ``examples/math_service.py``, then run::

    python examples/math_client.py localhost 8080
"""

import sys
from concurrent.futures import Future
from typing import Any

from kn_sock import CallTimeout, MethodNotFound, RPCClient


def call_one_by_one(client: RPCClient) -> None:
    """Call, and wait for the result."""
    print("hello:", client.call("hello", "Alice"))
    print("add:", client.call("add", 10, 20))
    print("add, with named arguments:", client.call("add", a=1.5, b=2))
    print("multiply, as an attribute:", client.remote.multiply(7, 8))
    print("factorial of 25:", client.call("factorial", 25))
    print("get_time:", client.call("get_time"))


def see_errors(client: RPCClient) -> None:
    """An exception that the function raises arrives as what it was."""
    try:
        client.call("divide", 10, 0)
    except ValueError as problem:
        print("divide by zero:", problem)
    try:
        client.call("no_such_method")
    except MethodNotFound as problem:
        print("unknown method:", problem)
    # The same connection, with another limit than the usual 30 seconds a call.
    hurried = client.with_options(timeout=5.0)
    try:
        print("within five seconds:", hurried.call("factorial", 10))
    except CallTimeout as problem:
        print("too slow:", problem)


def call_many(client: RPCClient) -> None:
    """Have many calls in flight at once, over the one connection."""
    print("map:", list(client.map("factorial", range(1, 6))))
    print("map, two arguments:", list(client.map("add", [1, 2, 3], [10, 20, 30])))

    futures: list[Future[Any]] = [client.submit("subtract", 100, n) for n in (1, 2, 3)]
    print("submit:", [future.result() for future in futures])

    batch = client.batch()
    batch.call("add", 2, 2)
    batch.call("divide", 1, 0)
    batch.notify("hello", "nobody waits for this")
    batch.call("divide", 1, 4)
    for result in batch.send():
        print("batch:", "failed:" if isinstance(result, Exception) else "gave", result)


def main() -> None:
    """Call the server that the command line names."""
    host = sys.argv[1] if len(sys.argv) > 1 else "localhost"
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 8080
    try:
        with RPCClient(host, port) as client:
            call_one_by_one(client)
            see_errors(client)
            call_many(client)
    except ConnectionRefusedError as problem:
        sys.exit(str(problem))


if __name__ == "__main__":
    main()
