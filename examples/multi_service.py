"""Several services behind one port, with the client in the same process.

The services' methods and some plain functions share one mapping, under names of your choice. The
server runs in a thread, the client in the main one. On a free port, or on the one that is named::

    python examples/multi_service.py 8080
"""

import platform
import sys
import threading
from concurrent.futures import Future
from typing import Any

from kn_sock import MethodNotFound, RPCClient, start_rpc_server

Number = int | float


class CalculatorService:
    """Arithmetic."""

    def add(self, a: Number, b: Number) -> Number:
        """Add two numbers."""
        return a + b

    def multiply(self, a: Number, b: Number) -> Number:
        """Multiply two numbers."""
        return a * b

    def divide(self, a: Number, b: Number) -> float:
        """Divide the first number by the second."""
        if b == 0:
            raise ValueError("Division by zero is not allowed")
        return a / b


class UserService:
    """Users, by number. Calls run in several threads, so that what they share has a lock."""

    def __init__(self) -> None:
        self._users: dict[int, dict[str, Any]] = {}
        self._last_id = 0
        self._lock = threading.Lock()

    def create(self, name: str, email: str) -> dict[str, Any]:
        """Add a user, and give it as it was stored."""
        with self._lock:
            self._last_id += 1
            user = {"id": self._last_id, "name": name, "email": email}
            self._users[self._last_id] = user
            return user

    def get(self, user_id: int) -> dict[str, Any] | None:
        """Give a user, or nothing."""
        return self._users.get(user_id)

    def names(self) -> list[str]:
        """List the names of all users."""
        with self._lock:
            return [user["name"] for user in self._users.values()]

    def delete(self, user_id: int) -> bool:
        """Remove a user, and tell whether there was one."""
        with self._lock:
            return self._users.pop(user_id, None) is not None


def server_info() -> dict[str, str]:
    """Describe the server."""
    return {"python": platform.python_version(), "system": platform.system()}


calculator = CalculatorService()
users = UserService()

FUNCS = {
    "calc_add": calculator.add,
    "calc_multiply": calculator.multiply,
    "calc_divide": calculator.divide,
    "user_create": users.create,
    "user_get": users.get,
    "user_names": users.names,
    "user_delete": users.delete,
    "server_info": server_info,
    "ping": lambda: "pong",
}


def serve(port: int, address: Future[tuple[str, int]], shutdown_event: threading.Event) -> None:
    """Serve until the event is set, and tell by *address* where, or why not."""
    try:
        start_rpc_server(
            port=port,
            register_funcs=FUNCS,
            # "0.0.0.0" opens it to the network: whoever reaches the port may call everything.
            host="127.0.0.1",
            shutdown_event=shutdown_event,
            on_ready=lambda host, bound_port: address.set_result((host, bound_port)),
        )
    except Exception as problem:
        address.set_exception(problem)


def use(client: RPCClient) -> None:
    """Call some of everything."""
    print("ping:", client.call("ping"))
    print("server_info:", ", ".join(client.call("server_info")))

    print("calc_add:", client.call("calc_add", 15, 7))
    print("calc_multiply:", client.call("calc_multiply", 8, 9))
    print("calc_divide:", client.call("calc_divide", 100, 4))

    alice = client.call("user_create", "Alice", email="alice@example.com")
    client.call("user_create", "Bob", "bob@example.com")
    print("user_get:", client.call("user_get", alice["id"]))
    print("user_names:", client.call("user_names"))
    print("user_delete:", client.call("user_delete", alice["id"]))
    print("user_names:", client.call("user_names"))

    try:
        client.call("calc_divide", 10, 0)
    except ValueError as problem:
        print("calc_divide by zero:", problem)
    try:
        client.call("calc_power", 2, 8)
    except MethodNotFound as problem:
        print("calc_power:", problem)


def main() -> None:
    """Start the server, use it, and stop it."""
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    address: Future[tuple[str, int]] = Future()
    shutdown_event = threading.Event()
    server = threading.Thread(target=serve, args=(port, address, shutdown_event), daemon=True)
    server.start()
    try:
        # Waits until the server listens, and raises what kept it from that.
        host, port = address.result()
    except OSError as problem:
        sys.exit(str(problem))
    print(f"serving on {host}:{port}")
    with RPCClient(host, port) as client:
        use(client)
    shutdown_event.set()
    server.join()
    print("stopped")


if __name__ == "__main__":
    main()
