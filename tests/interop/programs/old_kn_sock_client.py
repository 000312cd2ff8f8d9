"""Call a server with kn-sock 0.3's own client: ``PORT``.

On standard input, the steps as one JSON array; each has its outcome printed:

- ``["call", METHOD, PARAMS, KWARGS]``: one call; all of them share one connection.
- ``["share", THREADS, CALLS]``: threads that use the one client by turns, each asking for numbers
  of its own; printed are those that they got.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import old_kn_sock_rpc


def call(method: str, params: list[Any], kwargs: dict[str, Any]) -> Any:
    try:
        return {"result": client.call(method, *params, **kwargs)}
    except Exception as problem:
        return {"type": type(problem).__name__, "text": str(problem)}


def share(threads: int, calls: int) -> Any:
    def ask(thread: int) -> list[Any]:
        return [client.call("echo", [thread, number]) for number in range(calls)]

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(ask, range(threads)))


STEPS: dict[str, Any] = {"call": call, "share": share}

client = old_kn_sock_rpc.RPCClient("localhost", int(sys.argv[1]))
for name, *arguments in json.load(sys.stdin):
    print(json.dumps(STEPS[name](*arguments)))
client.close()
