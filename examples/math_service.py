"""A math service: the methods of an object and plain functions, in one mapping.

Run it by itself, on port 8080 or another, until Ctrl-C::

    python examples/math_service.py 8080

or with twistd, which brings logging and every server option::

    twistd -n knsock --port 8080 --funcs examples.math_service.FUNCS

``examples/math_client.py`` calls it.
"""

import math
import sys
from datetime import datetime

from kn_sock import start_rpc_server

# Arguments are checked against annotations: text instead of a number is refused before the call.
Number = int | float


class MathService:
    """Arithmetic. Each call runs in a thread, so that one that takes long holds up no other."""

    def add(self, a: Number, b: Number) -> Number:
        """Add two numbers."""
        return a + b

    def subtract(self, a: Number, b: Number) -> Number:
        """Take the second number from the first."""
        return a - b

    def multiply(self, a: Number, b: Number) -> Number:
        """Multiply two numbers."""
        return a * b

    def divide(self, a: Number, b: Number) -> float:
        """Divide the first number by the second."""
        if b == 0:
            raise ValueError("Division by zero is not allowed")
        return a / b

    def factorial(self, n: int) -> int:
        """Multiply the numbers from 1 to n."""
        return math.factorial(n)


def hello(name: str) -> str:
    """Greet somebody."""
    return f"Hello, {name}!"


def get_time() -> str:
    """Tell the server's time."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


service = MathService()

FUNCS = {
    "add": service.add,
    "subtract": service.subtract,
    "multiply": service.multiply,
    "divide": service.divide,
    "factorial": service.factorial,
    "hello": hello,
    "get_time": get_time,
}


def show_address(host: str, port: int) -> None:
    """Say where the server listens, once it does."""
    print(f"Serving {', '.join(FUNCS)} on {host}:{port}; Ctrl-C stops it")


def main() -> None:
    """Serve on the port that the command line names."""
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8080
    start_rpc_server(port, FUNCS, on_ready=show_address)
    print("Stopped")


if __name__ == "__main__":
    main()
