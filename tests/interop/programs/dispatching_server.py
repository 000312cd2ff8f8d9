"""Serve the functions of the cases by a library that others wrote: ``LIBRARY``.

Most of them turn one text into another and leave the connection to their users. What is around them
here is as little as will do: a thread for each connection, a line in, a line out. An exception that
a library lets out ends the connection, as it would end anyone's loop.
"""

import asyncio
import functools
import socketserver
import sys
from collections.abc import Callable
from typing import Any

Dispatch = Callable[[str], str | None]


def subtract(minuend, subtrahend):
    return minuend - subtrahend


def update(*values):
    pass


def add_up(*values):
    return sum(values)


def get_data():
    return ["hello", 5]


def echo(value):
    return value


def length(value):
    return len(value)


def fail(text):
    raise ValueError(text)


def fail_inside():
    subtract(1)


FUNCS = {
    "subtract": subtract,
    "update": update,
    "sum": add_up,
    "notify_hello": update,
    "notify_sum": update,
    "get_data": get_data,
    "echo": echo,
    "length": length,
    "fail": fail,
    "fail_inside": fail_inside,
}


def json_rpc() -> Dispatch:
    from jsonrpc import JSONRPCResponseManager

    def dispatch(text: str) -> str | None:
        response = JSONRPCResponseManager.handle(text, FUNCS)
        return response.json if response is not None else None

    return dispatch


def jsonrpcserver() -> Dispatch:
    import jsonrpcserver

    def with_success(function):
        @functools.wraps(function)
        def method(*args, **kwargs):
            return jsonrpcserver.Success(function(*args, **kwargs))

        return method

    methods = {name: with_success(function) for name, function in FUNCS.items()}
    return lambda text: jsonrpcserver.dispatch(text, methods=methods) or None


def pjrpc() -> Dispatch:
    from pjrpc.server import Dispatcher, MethodRegistry

    registry = MethodRegistry()
    for name, function in FUNCS.items():
        registry.add_method(function, name)
    dispatcher = Dispatcher()
    dispatcher.add_methods(registry)

    def dispatch(text: str) -> str | None:
        response = dispatcher.dispatch(text, context=None)
        return response[0] if response is not None else None

    return dispatch


def tinyrpc() -> Dispatch:
    from tinyrpc.dispatch import RPCDispatcher
    from tinyrpc.exc import RPCError
    from tinyrpc.protocols.jsonrpc import JSONRPCProtocol

    protocol, dispatcher = JSONRPCProtocol(), RPCDispatcher()
    for name, function in FUNCS.items():
        dispatcher.add_method(function, name)

    def dispatch(text: str) -> str | None:
        # As its own RPCServer does it.
        try:
            request = protocol.parse_request(text)
        except RPCError as problem:
            response = problem.error_respond()
        else:
            response = dispatcher.dispatch(request)
        return response.serialize().decode() if response is not None else None

    return dispatch


def ajsonrpc() -> Dispatch:
    from ajsonrpc.dispatcher import Dispatcher
    from ajsonrpc.manager import AsyncJSONRPCResponseManager

    dispatcher = Dispatcher()
    for name, function in FUNCS.items():
        dispatcher.add_function(function, name)
    manager = AsyncJSONRPCResponseManager(dispatcher)
    return lambda text: asyncio.run(manager.get_payload_for_payload(text)) or None


def jsonrpclib_pelix() -> Dispatch:
    from jsonrpclib.SimpleJSONRPCServer import SimpleJSONRPCDispatcher

    dispatcher = SimpleJSONRPCDispatcher()
    for name, function in FUNCS.items():
        dispatcher.register_function(function, name)
    return lambda text: dispatcher._marshaled_dispatch(text) or None


LIBRARIES = {
    "json-rpc": json_rpc,
    "jsonrpcserver": jsonrpcserver,
    "pjrpc": pjrpc,
    "tinyrpc": tinyrpc,
    "ajsonrpc": ajsonrpc,
    "jsonrpclib-pelix": jsonrpclib_pelix,
}


class Handler(socketserver.StreamRequestHandler):
    """One connection."""

    def handle(self) -> None:
        for line in self.rfile:
            answer = self.server.dispatch(line.decode().rstrip("\r\n"))
            if answer is not None:
                self.wfile.write(answer.encode() + b"\n")


class Server(socketserver.ThreadingTCPServer):
    """A thread for each connection."""

    daemon_threads = True
    request_queue_size = 100

    def __init__(self, dispatch: Dispatch) -> None:
        self.dispatch = dispatch
        super().__init__(("127.0.0.1", 0), Handler)


def awaitable(function):
    """Make a function one whose calls are awaited, with the same signature."""

    @functools.wraps(function)
    async def method(*args, **kwargs):
        return function(*args, **kwargs)

    return method


async def serve_aiorpcx() -> None:
    """The one that has a server of its own."""
    import aiorpcx

    methods = {name: awaitable(function) for name, function in FUNCS.items()}

    class Session(aiorpcx.RPCSession):
        async def handle_request(self, request: Any) -> Any:
            handler = methods.get(request.method)
            return await aiorpcx.handler_invocation(handler, request)()

    server = await aiorpcx.serve_rs(Session, "127.0.0.1", 0)
    print("listening on", server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    if sys.argv[1] == "aiorpcX":
        asyncio.run(serve_aiorpcx())
    else:
        with Server(LIBRARIES[sys.argv[1]]()) as server:
            print("listening on", server.server_address[1], flush=True)
            server.serve_forever()
