"""The wire, with nothing but a socket: how a client of kn-sock 0.3 speaks.

A request is one line of JSON with a method, a list of arguments and an object of named ones. The
answer is one line with a result or an error. They come in the order of the requests.

Start ``examples/math_service.py``, then run::

    python examples/raw_socket_client.py localhost 8080
"""

import json
import socket
import sys
from io import BufferedIOBase
from typing import Any


def call(stream: BufferedIOBase, method: str, *args: Any, **kwargs: Any) -> Any:
    """Write a request, and read its answer."""
    request = {"method": method, "params": args, "kwargs": kwargs}
    line = json.dumps(request).encode() + b"\n"
    print("->", line.decode(), end="")
    stream.write(line)
    stream.flush()
    line = stream.readline()
    print("<-", line.decode(), end="")
    answer = json.loads(line)
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer["result"]


def main() -> None:
    """Call the server that the command line names."""
    host = sys.argv[1] if len(sys.argv) > 1 else "localhost"
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 8080
    with socket.create_connection((host, port), timeout=10) as connection:
        stream = connection.makefile("rwb")
        print("add:", call(stream, "add", 10, 20))
        print("hello:", call(stream, "hello", name="Alice"))
        for method in ("divide", "no_such_method"):
            try:
                call(stream, method, 10, 0)
            except RuntimeError as problem:
                print(f"{method} failed:", problem)


if __name__ == "__main__":
    main()
