"""Serve with one of the contenders: ``serve.py NAME``.

Prints its port once it listens, on 127.0.0.1, and serves until its standard input ends. Every
server has the same functions, plainly registered; limits that would refuse the longest lines are
lifted, nothing else is tuned. Run in the environment that `benchmarks.install` makes, and by its
path: so the kn_sock that is served is the installed one, or that of ``PYTHONPATH``.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import old

SLEEP_SECONDS = 0.01
# The longest line of any workload is 16 MiB and a little.
LONGEST = 40 * 1024 * 1024


def add(a: Any, b: Any) -> Any:
    """Give the sum: the quickest call."""
    return a + b


def echo(value: Any) -> Any:
    """Give back what came."""
    return value


def size(value: Any) -> int:
    """Tell how long something is."""
    return len(value)


def sleep(value: Any) -> Any:
    """Block for a while, as functions do that wait for a disk or a database."""
    time.sleep(SLEEP_SECONDS)
    return value


METHODS: dict[str, Callable[..., Any]] = {"add": add, "echo": echo, "size": size, "sleep": sleep}


def listens(port: int) -> None:
    """Tell the port."""
    print(port, flush=True)


def wait_until_listening(port: int) -> None:
    """Wait for a server that does not tell."""
    for _ in range(500):
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            time.sleep(0.02)
        else:
            listens(port)
            return


def free_port() -> int:
    """Find a port for a server that cannot find one by itself."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


# --- on Twisted
# ------------------------------------------------------------------------------------------


def listen(factory: Any) -> None:
    """Run Twisted's reactor with a factory."""
    from twisted.internet import reactor
    from twisted.logger import globalLogBeginner

    # Until a log is begun, Twisted keeps all of it in memory.
    globalLogBeginner.beginLoggingTo([lambda _: None], redirectStandardIO=False)
    any_reactor: Any = reactor
    port = any_reactor.listenTCP(0, factory, backlog=1024, interface="127.0.0.1")
    listens(port.getHost().port)
    any_reactor.run()


def bare() -> None:
    """The yardstick."""
    from twisted.internet.protocol import Factory

    from benchmarks.bare import BareServer

    factory = Factory.forProtocol(BareServer)
    factory.noisy = False
    BareServer.methods = METHODS
    listen(factory)


def twisted_echo() -> None:
    """What Twisted takes for the bytes alone."""
    from twisted.internet.protocol import Factory, Protocol

    class Echo(Protocol):
        def connectionMade(self) -> None:
            transport: Any = self.transport
            transport.setTcpNoDelay(True)

        def dataReceived(self, data: bytes) -> None:
            transport: Any = self.transport
            transport.write(data)

    listen(Factory.forProtocol(Echo))


def line_receiver() -> None:
    """What Twisted's own way of splitting lines takes."""
    from twisted.internet.protocol import Factory
    from twisted.protocols.basic import LineOnlyReceiver

    class Echo(LineOnlyReceiver):
        delimiter = b"\n"
        MAX_LENGTH = LONGEST

        def connectionMade(self) -> None:
            transport: Any = self.transport
            transport.setTcpNoDelay(True)

        def lineReceived(self, line: bytes) -> None:
            self.sendLine(line)

    listen(Factory.forProtocol(Echo))


def kn_sock_reactor() -> None:
    """kn_sock, its methods on the reactor but for the one that blocks."""
    from kn_sock import RPCServerFactory, in_reactor

    methods = {name: in_reactor(method) for name, method in METHODS.items() if name != "sleep"}
    listen(RPCServerFactory({**methods, "sleep": sleep}, max_line_bytes=LONGEST))


def kn_sock_thread() -> None:
    """kn_sock, plain functions, which run in threads."""
    from kn_sock import RPCServerFactory

    listen(RPCServerFactory(METHODS, max_line_bytes=LONGEST))


def amp() -> None:
    """Twisted AMP."""
    from amp_commands import Add, Echo, Sleep
    from twisted.internet.protocol import Factory
    from twisted.internet.threads import deferToThread
    from twisted.protocols.amp import AMP

    class Server(AMP):
        def connectionMade(self) -> None:
            super().connectionMade()
            self.transport.setTcpNoDelay(True)

        @Add.responder
        def add(self, a: int, b: int) -> dict[str, int]:
            return {"result": add(a, b)}

        @Echo.responder
        def echo(self, a: str) -> dict[str, str]:
            return {"result": echo(a)}

        @Sleep.responder
        def sleep(self, a: int) -> Any:
            return deferToThread(sleep, a).addCallback(lambda result: {"result": result})

    factory = Factory.forProtocol(Server)
    factory.noisy = False
    listen(factory)


def txjsonrpc() -> None:
    """txjsonrpc-ng, in netstrings."""
    from twisted.internet.threads import deferToThread
    from txjsonrpc_ng.netstring.jsonrpc import JSONRPC, RPCFactory

    class Server(JSONRPC):  # type: ignore[misc]  # has no types
        def connectionMade(self) -> None:
            super().connectionMade()
            self.transport.setTcpNoDelay(True)

        def jsonrpc_add(self, a: Any, b: Any) -> Any:
            return add(a, b)

        def jsonrpc_echo(self, value: Any) -> Any:
            return echo(value)

        def jsonrpc_size(self, value: Any) -> Any:
            return size(value)

        def jsonrpc_sleep(self, value: Any) -> Any:
            return deferToThread(sleep, value)

    factory = RPCFactory(Server, maxLength=LONGEST)
    factory.noisy = False
    listen(factory)


# --- on asyncio
# ------------------------------------------------------------------------------------------


def run_asyncio(start: Callable[[], Any]) -> None:
    """Run asyncio's loop; *start* gives the port."""

    async def forever() -> None:
        listens(await start())
        await asyncio.Event().wait()

    asyncio.run(forever())


def uvloop() -> None:
    """The same as `bare` on uvloop: the limit of another world."""
    import uvloop
    from msgspec import DecodeError

    from benchmarks.bare import Error, answer, decode, encode

    class Server(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            self.tail: list[bytes] = []

        def data_received(self, data: bytes) -> None:
            lines = data.split(b"\n")
            if len(lines) > 1 and self.tail:
                lines[0] = b"".join((*self.tail, lines[0]))
                self.tail = []
            rest = lines.pop()
            if rest:
                self.tail.append(rest)
            if lines:
                self.transport.write(b"".join([self.reply(line) for line in lines]))

        def reply(self, line: bytes) -> bytes:
            try:
                request = decode(line)
            except (DecodeError, ValueError, RecursionError):
                return encode(Error("2.0", None, {"code": -32700, "message": "no request"})) + b"\n"
            if type(request) is list:
                return encode([answer(each, METHODS) for each in request]) + b"\n"
            return encode(answer(request, METHODS)) + b"\n"

    async def start() -> int:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Server, "127.0.0.1", 0, backlog=1024)
        return int(server.sockets[0].getsockname()[1])

    uvloop.install()
    run_asyncio(start)


def aiorpcx() -> None:
    """aiorpcX, its limits on what a client may cost lifted."""
    import aiorpcx

    class Session(aiorpcx.RPCSession):  # type: ignore[misc]  # has no types
        cost_hard_limit = 0
        initial_concurrent = 1000

        def default_framer(self) -> Any:
            return aiorpcx.NewlineFramer(max_size=0)

        async def handle_request(self, request: Any) -> Any:
            handler = handlers.get(request.method)
            return await aiorpcx.handler_invocation(handler, request)()

    async def in_thread(value: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, sleep, value)

    def coroutine(method: Callable[..., Any]) -> Any:
        # Its handlers are coroutine functions, and it looks at their signatures.
        if method is add:

            async def added(a: Any, b: Any) -> Any:
                return add(a, b)

            return added

        async def called(value: Any) -> Any:
            return method(value)

        return called

    handlers = {name: coroutine(method) for name, method in METHODS.items()}
    handlers["sleep"] = in_thread

    async def start() -> int:
        server = await aiorpcx.serve_rs(Session, "127.0.0.1", 0, backlog=1024)
        return int(server.sockets[0].getsockname()[1])

    run_asyncio(start)


def grpc() -> None:
    """grpcio, its server on asyncio; messages are msgpack, which costs it less than protobuf."""
    import grpc.aio
    from grpc_messages import OPTIONS, decode, encode

    def handler(method: Callable[..., Any]) -> Any:
        async def called(request: Any, context: Any) -> Any:
            # In a list: it turns a text, which this would be otherwise, into bytes by itself.
            return [method(*request)]

        async def in_thread(request: Any, context: Any) -> Any:
            return [await asyncio.get_running_loop().run_in_executor(None, method, *request)]

        return grpc.unary_unary_rpc_method_handler(
            in_thread if method is sleep else called, decode, encode
        )

    async def start() -> int:
        server = grpc.aio.server(options=OPTIONS)
        handlers = {name: handler(method) for name, method in METHODS.items()}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Bench", handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        started.append(server)
        return int(port)

    # Kept: it stops when nobody holds it.
    started: list[Any] = []
    run_asyncio(start)


# --- on threads, and gevent
# ------------------------------------------------------------------------------------------


def kn_sock_old() -> None:
    """kn-sock 0.3.0."""
    port = free_port()
    threading.Thread(target=wait_until_listening, args=(port,), daemon=True).start()
    # It prints by itself; the first line has to be the port.
    old.quiet.start_rpc_server(port, METHODS, host="127.0.0.1")


def rpyc() -> None:
    """Its threaded server, a thread for each connection."""
    import rpyc
    from rpyc.utils.server import ThreadedServer

    class Service(rpyc.Service):  # type: ignore[misc]  # has no types
        exposed_add = staticmethod(add)
        exposed_echo = staticmethod(echo)
        exposed_sleep = staticmethod(sleep)

    server = ThreadedServer(Service, hostname="127.0.0.1", port=0, backlog=1024)
    listens(server.port)
    server.start()


def pyro() -> None:
    """Pyro5, its server with threads."""
    import Pyro5
    import Pyro5.api

    Pyro5.config.THREADPOOL_SIZE = 200
    Pyro5.config.SOCK_NODELAY = True

    @Pyro5.api.expose
    class Service:
        def add(self, a: Any, b: Any) -> Any:
            return add(a, b)

        def echo(self, value: Any) -> Any:
            return echo(value)

        def sleep(self, value: Any) -> Any:
            return sleep(value)

    daemon = Pyro5.api.Daemon(host="127.0.0.1", port=0)
    daemon.register(Service(), "bench")
    listens(daemon.sock.getsockname()[1])
    daemon.requestLoop()


def zerorpc() -> None:
    """zerorpc, on gevent."""
    import zerorpc

    server = zerorpc.Server(dict(METHODS), heartbeat=None)
    port = free_port()
    server.bind(f"tcp://127.0.0.1:{port}")
    listens(port)
    server.run()


def thrift() -> None:
    """thriftpy2, its server with threads."""
    from thrift_service import SERVICE, Bench
    from thriftpy2.rpc import make_server

    port = free_port()
    server = make_server(SERVICE, Bench(), "127.0.0.1", port, client_timeout=None)
    threading.Thread(target=wait_until_listening, args=(port,), daemon=True).start()
    server.serve()


def pelix() -> None:
    """jsonrpclib-pelix: JSON-RPC over HTTP, with a pool of threads."""
    from jsonrpclib.SimpleJSONRPCServer import PooledJSONRPCServer
    from jsonrpclib.threadpool import ThreadPool

    pool = ThreadPool(max_threads=60, min_threads=10)
    pool.start()
    server = PooledJSONRPCServer(("127.0.0.1", 0), thread_pool=pool, logRequests=False)
    for name, method in METHODS.items():
        server.register_function(method, name)
    listens(server.socket.getsockname()[1])
    server.serve_forever()


SERVERS: dict[str, Callable[[], None]] = {
    "bare": bare,
    "twisted-echo": twisted_echo,
    "line-receiver": line_receiver,
    "uvloop": uvloop,
    "kn_sock-reactor": kn_sock_reactor,
    "kn_sock-thread": kn_sock_thread,
    "kn-sock-0.3": kn_sock_old,
    "aiorpcx": aiorpcx,
    "txjsonrpc": txjsonrpc,
    "amp": amp,
    "grpc": grpc,
    "rpyc": rpyc,
    "pyro": pyro,
    "zerorpc": zerorpc,
    "thrift": thrift,
    "pelix": pelix,
}


def end_with_parent() -> None:
    """End when the standard input does: so no server outlives who started it."""
    while os.read(0, 1024):
        pass
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, daemon=True).start()
    SERVERS[sys.argv[1]]()
