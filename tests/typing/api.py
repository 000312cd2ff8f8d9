"""The public types, as their users write them: the type checker has to accept every line.

Run by mypy, not by pytest.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

from twisted.application.service import IService
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IListeningPort, IProtocolFactory

import kn_sock
from kn_sock.testing import Pair, connected_pair


@kn_sock.in_reactor
def quick(a: int, b: int) -> int:
    caller: kn_sock.Call = kn_sock.current_call()
    back: Deferred[Any] = caller.connection.call("name")
    back.addErrback(lambda failure: None)
    return a + b


@kn_sock.in_thread
def slow(text: str) -> str:
    return text


def use(*_: object) -> None:
    pass


# The decorators keep the signature.
three: int = quick(1, 2)

FUNCS = {"quick": quick, "slow": slow}
TABLE = kn_sock.MethodTable(FUNCS, prefix="math").add(threading).add(object(), prefix="o")
METHOD: kn_sock.Method = TABLE["math.quick"]


def script() -> None:
    with kn_sock.RPCClient("localhost", 8080, timeout=None, dialect="1.0") as client:
        result: Any = client.call("quick", 1, b=2)
        client.notify("slow", "x")
        future: Future[Any] = client.submit("slow", "x")
        results: Iterator[Any] = client.map("quick", [1, 2], [3, 4], window=10)
        batch = client.batch()
        batch.call("quick", 1, 2)
        batch.notify("slow", "x")
        answers: list[Any] = batch.send()
        quicker: kn_sock.RPCClient = client.with_options(timeout=1.5)
        use(result, future, results, answers, quicker, client.remote.math.quick(1, 2))
    kn_sock.RPCClient.from_endpoint("tls:example.com:8443").close()
    kn_sock.start_rpc_server(8080, FUNCS, "127.0.0.1", threading.Event(), max_pending=10)
    kn_sock.start_rpc_server(port=8080, register_funcs=FUNCS, on_ready=lambda host, port: None)


async def application(reactor: Any) -> None:
    factory: IProtocolFactory = kn_sock.RPCServerFactory(FUNCS, threads=4)
    port: IListeningPort = await serverFromString(reactor, "tcp:8080").listen(factory)
    connection: kn_sock.RPCConnection = await kn_sock.connect("tcp:localhost:8080", funcs=FUNCS)
    result: Any = await connection.call("quick", 1, 2)
    answers: list[Any] = await connection.batch().send()
    await connection.notify("slow", "x")
    await connection.with_options(timeout=2).remote.quick(1, 2)
    await connection.close()
    service: IService = kn_sock.RPCServerService("tcp:8080", FUNCS)
    client = kn_sock.RPCClientService("tcp:localhost:8080", timeout=3)
    more: Deferred[Any] = client.call("quick", 1, 2)
    use(port, result, answers, service, more)


def errors() -> bool:
    try:
        script()
    except kn_sock.RemoteError as error:
        use(error.type_name, error.remote_traceback, error.code, error.message, error.data)
    except (kn_sock.CallTimeout, kn_sock.ConnectionLost) as error:
        return error.maybe_executed
    except kn_sock.ConnectFailed as error:
        use(error.errno)
    except kn_sock.RPCError as error:
        return error.code == kn_sock.ErrorCode.SERVER_BUSY
    return False


def test_code() -> Pair:
    pair = connected_pair(FUNCS, max_pending=3, client={"timeout": 1})
    pair.pump()
    return pair
