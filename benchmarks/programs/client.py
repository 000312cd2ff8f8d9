"""Call a server with one contender's own client: ``client.py NAME PORT``.

Takes orders, a JSON document a line, on its standard input, and prints the outcome of each:

- ``calls``: one thread, one call after another, of ``add``, or of ``echo`` with a text of so many
  bytes;
- ``threads``: so many threads on one client, each one call after another; where a client is not for
  several threads at once, each has a client of its own;
- ``window``: so many calls in flight at once, begun from one thread, or on one loop.

Run in the environment that `benchmarks.install` makes. Every result is compared with the right one.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import old

LONGEST = 40 * 1024 * 1024


class Wrong(Exception):
    """A result is not the right one."""


def check(result: Any, wanted: Any) -> None:
    """Raise unless a result is right."""
    if result != wanted:
        raise Wrong(f"not {wanted!r:.60}: {result!r:.200}")


def outcome(count: int, seconds: float, cpu: float, latencies: list[float]) -> dict[str, Any]:
    """Give what was seen, as the load generator does."""
    latencies.sort()
    found = {}
    if latencies:
        found = {
            p: latencies[min(len(latencies) - 1, len(latencies) * p // 100)] for p in (50, 90, 99)
        }
        found[100] = latencies[-1]
    return {"count": count, "seconds": seconds, "cpu_seconds": cpu, "latencies": found}


class Blocking:
    """A client whose calls block.

    One that can have no more than one call in flight makes its calls one by one where more are
    asked for.

    Attributes:
        is_shared: whether threads may use one client at once.
    """

    is_shared = True

    def __init__(self, port: int) -> None:
        self.port = port
        self.client = self.connect()

    def connect(self) -> Any:
        """Give a connected client."""
        raise NotImplementedError

    def call(self, client: Any, method: str, *args: Any) -> Any:
        """Call, and wait."""
        return client.call(method, *args)

    def begin(self, client: Any, method: str, *args: Any) -> Any:
        """Begin a call."""
        return self.call(client, method, *args)

    def finish(self, begun: Any) -> Any:
        """Wait for the result of one that was begun."""
        return begun

    def calls(self, seconds: float, size: int) -> dict[str, Any]:
        """Make one call after another."""
        return self._calls_of(self.client, seconds, size)

    def _calls_of(self, client: Any, seconds: float, size: int) -> dict[str, Any]:
        clock, call = time.perf_counter, self.call
        method, args, wanted = ("echo", ("x" * size,), "x" * size) if size else ("add", (1, 2), 3)
        latencies = []
        cpu = time.process_time()
        start = now = clock()
        end = start + seconds
        while now < end:
            check(call(client, method, *args), wanted)
            before, now = now, clock()
            latencies.append(now - before)
        return outcome(len(latencies), now - start, time.process_time() - cpu, latencies)

    def threads(self, seconds: float, count: int) -> dict[str, Any]:
        """The same in threads."""
        clients = [self.client if self.is_shared else self.connect() for _ in range(count)]
        found: list[dict[str, Any]] = []
        begin = threading.Barrier(count)

        def work(client: Any) -> None:
            begin.wait()
            found.append(self._calls_of(client, seconds, 0))

        cpu = time.process_time()
        threads = [threading.Thread(target=work, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if len(found) != count:
            raise Wrong("a thread failed")
        total = sum(each["count"] for each in found)
        longest = max(each["seconds"] for each in found)
        return outcome(total, longest, time.process_time() - cpu, [])

    def window(self, seconds: float, count: int) -> dict[str, Any]:
        """Have calls in flight, the oldest of which is waited for."""
        clock, begin, finish, client = time.perf_counter, self.begin, self.finish, self.client
        under_way: deque[Any] = deque()
        done = 0
        cpu = time.process_time()
        start = clock()
        end = start + seconds
        while clock() < end:
            under_way.append(begin(client, "add", 1, 2))
            if len(under_way) >= count:
                check(finish(under_way.popleft()), 3)
                done += 1
        while under_way:
            check(finish(under_way.popleft()), 3)
            done += 1
        return outcome(done, clock() - start, time.process_time() - cpu, [])


class KnSock(Blocking):
    """Ours."""

    def connect(self) -> Any:
        from kn_sock import RPCClient

        return RPCClient("127.0.0.1", self.port, max_line_bytes=LONGEST)

    def begin(self, client: Any, method: str, *args: Any) -> Any:
        return client.submit(method, *args)

    def finish(self, begun: Any) -> Any:
        return begun.result()


class KnSockMap(KnSock):
    """Ours, its `map`."""

    def window(self, seconds: float, count: int) -> dict[str, Any]:
        clock = time.perf_counter
        cpu = time.process_time()
        start = clock()
        end = start + seconds

        def ones() -> Any:
            while clock() < end:
                yield 1

        def twos() -> Any:
            while True:
                yield 2

        done = 0
        for result in self.client.map("add", ones(), twos(), window=count):
            check(result, 3)
            done += 1
        return outcome(done, clock() - start, time.process_time() - cpu, [])


class KnSockCallsOld(KnSock):
    """Ours, in the dialect of kn-sock 0.3."""

    def connect(self) -> Any:
        from kn_sock import RPCClient

        return RPCClient("127.0.0.1", self.port, dialect="kn-sock")


class OldKnSock(Blocking):
    """That of kn-sock 0.3.0; it has a lock, so threads wait for each other."""

    def connect(self) -> Any:
        return old.quiet.RPCClient("127.0.0.1", self.port)


class Bare(Blocking):
    """The bare one: a lock for each call."""

    def connect(self) -> Any:
        from twisted.internet.epollreactor import EPollReactor

        from benchmarks.bare import BareBlockingClient

        return BareBlockingClient(EPollReactor(), self.port)

    def begin(self, client: Any, method: str, *args: Any) -> Any:
        return client.begin(method, *args)

    def finish(self, begun: Any) -> Any:
        return self.client.finish(begun)


class Rpyc(Blocking):
    """rpyc; `async_` for calls in flight."""

    def connect(self) -> Any:
        import rpyc

        client = rpyc.connect("127.0.0.1", self.port)
        # Looked up once: each look-up is a call of its own.
        client.methods = {name: getattr(client.root, name) for name in ("add", "echo", "sleep")}
        client.later = rpyc.async_(client.methods["add"])
        return client

    def call(self, client: Any, method: str, *args: Any) -> Any:
        return client.methods[method](*args)

    def begin(self, client: Any, method: str, *args: Any) -> Any:
        return client.later(*args)

    def finish(self, begun: Any) -> Any:
        begun.wait()
        return begun.value


class Pyro(Blocking):
    """Pyro5; a proxy belongs to one thread."""

    is_shared = False

    def connect(self) -> Any:
        import Pyro5
        import Pyro5.api

        Pyro5.config.SOCK_NODELAY = True
        proxy = Pyro5.api.Proxy(f"PYRO:bench@127.0.0.1:{self.port}")
        proxy._pyroClaimOwnership()
        proxy._pyroBind()
        return proxy

    def call(self, client: Any, method: str, *args: Any) -> Any:
        return getattr(client, method)(*args)

    def _calls_of(self, client: Any, seconds: float, size: int) -> dict[str, Any]:
        client._pyroClaimOwnership()
        return super()._calls_of(client, seconds, size)


class Zerorpc(Blocking):
    """zerorpc; gevent's greenlets stand for threads."""

    def connect(self) -> Any:
        import zerorpc

        client = zerorpc.Client(heartbeat=None, timeout=30)
        client.connect(f"tcp://127.0.0.1:{self.port}")
        return client

    def call(self, client: Any, method: str, *args: Any) -> Any:
        return client(method, *args)

    def begin(self, client: Any, method: str, *args: Any) -> Any:
        return client(method, *args, **{"async": True})

    def finish(self, begun: Any) -> Any:
        return begun.get()

    def threads(self, seconds: float, count: int) -> dict[str, Any]:
        import gevent

        cpu = time.process_time()
        jobs = [gevent.spawn(self._calls_of, self.client, seconds, 0) for _ in range(count)]
        gevent.joinall(jobs, raise_error=True)
        total = sum(job.value["count"] for job in jobs)
        longest = max(job.value["seconds"] for job in jobs)
        return outcome(total, longest, time.process_time() - cpu, [])


class Grpc(Blocking):
    """grpcio, its blocking client."""

    def connect(self) -> Any:
        import grpc
        from grpc_messages import OPTIONS, decode, encode

        channel = grpc.insecure_channel(f"127.0.0.1:{self.port}", options=OPTIONS)
        names = ("add", "echo", "sleep")
        return {name: channel.unary_unary(f"/Bench/{name}", encode, decode) for name in names}

    def call(self, client: Any, method: str, *args: Any) -> Any:
        return client[method](args)[0]

    def begin(self, client: Any, method: str, *args: Any) -> Any:
        return client[method].future(args)

    def finish(self, begun: Any) -> Any:
        return begun.result()[0]


class Thrift(Blocking):
    """thriftpy2; a client is for one thread."""

    is_shared = False

    def connect(self) -> Any:
        from thrift_service import SERVICE
        from thriftpy2.rpc import make_client

        return make_client(SERVICE, "127.0.0.1", self.port, timeout=30_000)

    def call(self, client: Any, method: str, *args: Any) -> Any:
        return getattr(client, method)(*args)


class Pelix(Blocking):
    """jsonrpclib-pelix, over HTTP; a proxy is for one thread."""

    is_shared = False

    def connect(self) -> Any:
        import jsonrpclib

        return jsonrpclib.ServerProxy(f"http://127.0.0.1:{self.port}")

    def call(self, client: Any, method: str, *args: Any) -> Any:
        return getattr(client, method)(*args)


class Asyncio:
    """A client on asyncio."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.loop = asyncio.new_event_loop()
        self.client = self.loop.run_until_complete(self.connect())

    async def connect(self) -> Any:
        """Give a connected client."""
        raise NotImplementedError

    async def call(self, client: Any, method: str, *args: Any) -> Any:
        """Call."""
        raise NotImplementedError

    def calls(self, seconds: float, size: int) -> dict[str, Any]:
        """Make one call after another."""
        method, args, wanted = ("echo", ("x" * size,), "x" * size) if size else ("add", (1, 2), 3)
        return self._chains(seconds, 1, method, args, wanted)

    def window(self, seconds: float, count: int) -> dict[str, Any]:
        """Have calls in flight."""
        return self._chains(seconds, count, "add", (1, 2), 3)

    def _chains(
        self, seconds: float, count: int, method: str, args: tuple[Any, ...], wanted: Any
    ) -> dict[str, Any]:
        clock = time.perf_counter
        done = 0

        async def chain() -> None:
            nonlocal done
            while True:
                check(await self.call(self.client, method, *args), wanted)
                done += 1
                if clock() >= end:
                    return

        async def chains() -> None:
            await asyncio.gather(*[chain() for _ in range(count)])

        cpu = time.process_time()
        start = clock()
        end = start + seconds
        self.loop.run_until_complete(chains())
        return outcome(done, clock() - start, time.process_time() - cpu, [])


class GrpcAsyncio(Asyncio):
    """grpcio, its client on asyncio."""

    async def connect(self) -> Any:
        import grpc.aio
        from grpc_messages import OPTIONS, decode, encode

        channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", options=OPTIONS)
        names = ("add", "echo", "sleep")
        return {name: channel.unary_unary(f"/Bench/{name}", encode, decode) for name in names}

    async def call(self, client: Any, method: str, *args: Any) -> Any:
        return (await client[method](args))[0]


class Aiorpcx(Asyncio):
    """aiorpcX."""

    async def connect(self) -> Any:
        import aiorpcx

        class Session(aiorpcx.RPCSession):  # type: ignore[misc]  # has no types
            cost_hard_limit = 0

            def default_framer(self) -> Any:
                return aiorpcx.NewlineFramer(max_size=0)

        self.connector = aiorpcx.connect_rs("127.0.0.1", self.port, session_factory=Session)
        return await self.connector.__aenter__()

    async def call(self, client: Any, method: str, *args: Any) -> Any:
        return await client.send_request(method, args)


class OnTwisted:
    """A client whose calls are Deferreds."""

    def __init__(self, port: int) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.port = port
        self.client: Any = None
        self._wait(lambda: self.connect().addCallback(self._connected))

    def _connected(self, client: Any) -> None:
        self.client = client
        self.reactor.crash()

    def connect(self) -> Any:
        """Give a Deferred of a connected client."""
        raise NotImplementedError

    def call(self, method: str, *args: Any) -> Any:
        """Give a Deferred of a result."""
        raise NotImplementedError

    def _wait(self, begin: Callable[[], object]) -> None:
        """Run the reactor until it is crashed, which leaves the connections open."""
        self.problem: Any = None
        self.reactor.callWhenRunning(begin)
        self.reactor.run(installSignalHandlers=False)
        if self.problem is not None:
            self.problem.raiseException()

    def calls(self, seconds: float, size: int) -> dict[str, Any]:
        """Make one call after another."""
        method, args, wanted = ("echo", ("x" * size,), "x" * size) if size else ("add", (1, 2), 3)
        return self._chains(seconds, 1, method, args, wanted)

    def window(self, seconds: float, count: int) -> dict[str, Any]:
        """Have calls in flight."""
        return self._chains(seconds, count, "add", (1, 2), 3)

    def _chains(
        self, seconds: float, count: int, method: str, args: tuple[Any, ...], wanted: Any
    ) -> dict[str, Any]:
        clock, call = time.perf_counter, self.call
        done = 0
        ended = 0

        def next_call() -> None:
            try:
                called = call(method, *args)
            except Exception as problem:
                failed(problem)
            else:
                called.addCallbacks(came, failed)

        def came(result: Any) -> None:
            nonlocal done, ended
            done += 1
            if result != wanted:
                failed(Wrong(f"{result!r:.100}"))
            elif clock() < end:
                next_call()
            else:
                ended += 1
                if ended == count:
                    self.reactor.crash()

        def failed(problem: Any) -> None:
            from twisted.python.failure import Failure

            self.problem = problem if isinstance(problem, Failure) else Failure(problem)
            self.reactor.crash()

        def begin() -> None:
            for _ in range(count):
                next_call()

        cpu = time.process_time()
        start = clock()
        end = start + seconds
        self._wait(begin)
        return outcome(done, clock() - start, time.process_time() - cpu, [])


class KnSockDeferred(OnTwisted):
    """Ours."""

    def connect(self) -> Any:
        from kn_sock import connect

        return connect(f"tcp:127.0.0.1:{self.port}", max_line_bytes=LONGEST)

    def call(self, method: str, *args: Any) -> Any:
        return self.client.call(method, *args)


class BareDeferred(OnTwisted):
    """The bare one."""

    def connect(self) -> Any:
        from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol

        from benchmarks.bare import BareClient

        endpoint = TCP4ClientEndpoint(self.reactor, "127.0.0.1", self.port)
        return connectProtocol(endpoint, BareClient(self.reactor))

    def call(self, method: str, *args: Any) -> Any:
        return self.client.call(method, *args)


class AmpDeferred(OnTwisted):
    """Twisted AMP."""

    def connect(self) -> Any:
        from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
        from twisted.protocols.amp import AMP

        endpoint = TCP4ClientEndpoint(self.reactor, "127.0.0.1", self.port)
        return connectProtocol(endpoint, AMP()).addCallback(self._without_delay)

    @staticmethod
    def _without_delay(client: Any) -> Any:
        client.transport.setTcpNoDelay(True)
        return client

    def call(self, method: str, *args: Any) -> Any:
        from amp_commands import Add, Echo

        if method == "add":
            called = self.client.callRemote(Add, a=args[0], b=args[1])
        else:
            called = self.client.callRemote(Echo, a=args[0])
        return called.addCallback(lambda answer: answer["result"])


class TxjsonrpcDeferred(OnTwisted):
    """txjsonrpc-ng; its client makes a connection for each call."""

    def connect(self) -> Any:
        from twisted.internet.defer import succeed
        from txjsonrpc_ng import jsonrpclib
        from txjsonrpc_ng.netstring.jsonrpc import Proxy, QueryProtocol

        QueryProtocol.MAX_LENGTH = LONGEST
        return succeed(Proxy("127.0.0.1", self.port, version=jsonrpclib.VERSION_2))

    def call(self, method: str, *args: Any) -> Any:
        return self.client.callRemote(method, *args)


CLIENTS: dict[str, Callable[[int], Any]] = {
    "bare-blocking": Bare,
    "bare-deferred": BareDeferred,
    "kn_sock-blocking": KnSock,
    "kn_sock-map": KnSockMap,
    "kn_sock-0.3-dialect": KnSockCallsOld,
    "kn_sock-deferred": KnSockDeferred,
    "kn-sock-0.3": OldKnSock,
    "aiorpcx": Aiorpcx,
    "txjsonrpc": TxjsonrpcDeferred,
    "amp": AmpDeferred,
    "rpyc": Rpyc,
    "pyro": Pyro,
    "zerorpc": Zerorpc,
    "grpc": Grpc,
    "grpc-asyncio": GrpcAsyncio,
    "thrift": Thrift,
    "pelix": Pelix,
}


def main(name: str, port: str) -> None:
    """Take orders until the standard input ends."""
    client = CLIENTS[name](int(port))
    for line in sys.stdin:
        order = json.loads(line)
        try:
            result = getattr(client, order["kind"])(order["seconds"], order["number"])
        except Exception as problem:
            result = {"problem": f"{type(problem).__name__}: {problem}"[:300]}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
