"""Who is measured: servers that the load generator talks to, and clients with a server each."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BARE", "CONTENDERS", "Contender"]

BARE = "bare"
BARE_BLOCKING = "bare blocking"
BARE_DEFERRED = "bare Deferred"


@dataclass(frozen=True)
class Contender:
    """One who is measured.

    Attributes:
        name: what the tables call it.
        server: its name in ``programs/serve.py``.
        wire: how the load generator talks to it; ``None`` where a client does.
        client: its name in ``programs/client.py``; ``None`` where the load generator does.
        base: the contender that its figures are ratios to.
        does: the kinds of order that its client understands.
        is_limit: whether it is a bare limit, and no library of others.
        is_pair: whether it is a client with another's server, for the sake of a target.
        distribution: what it comes from, on PyPI.
        kn_sock: a directory with another kn_sock than the one installed.
    """

    name: str
    server: str
    wire: str | None = None
    client: str | None = None
    base: str = BARE
    does: tuple[str, ...] = ("calls", "threads", "window")
    is_limit: bool = False
    is_pair: bool = False
    distribution: str = ""
    kn_sock: str | None = None

    @property
    def is_ours(self) -> bool:
        """Whether it is kn_sock."""
        return self.name.startswith("kn_sock")

    @property
    def is_peer(self) -> bool:
        """Whether it is a library of others."""
        return not (self.is_ours or self.is_limit or self.is_pair)


_LOOPED = ("calls", "window")


def _blocking(name: str, server: str, client: str, **more: object) -> Contender:
    return Contender(name, server, client=client, base=BARE_BLOCKING, **more)  # type: ignore[arg-type]  # the rest of its fields


def _looped(name: str, server: str, client: str, **more: object) -> Contender:
    return Contender(name, server, client=client, base=BARE_DEFERRED, does=_LOOPED, **more)  # type: ignore[arg-type]  # the rest of its fields


#: In the order of the tables.
CONTENDERS = (
    Contender(BARE, "bare", "2.0", is_limit=True),
    Contender("kn_sock reactor", "kn_sock-reactor", "2.0"),
    Contender("kn_sock thread", "kn_sock-thread", "2.0"),
    Contender("kn-sock 0.3.0", "kn-sock-0.3", "kn-sock", distribution="kn-sock"),
    Contender("aiorpcX", "aiorpcx", "2.0", distribution="aiorpcX"),
    Contender("txjsonrpc-ng", "txjsonrpc", "netstring", distribution="txjsonrpc-ng"),
    Contender("Twisted AMP", "amp", "amp", distribution="Twisted"),
    Contender("Twisted echo", "twisted-echo", "echo", is_limit=True),
    Contender("LineReceiver echo", "line-receiver", "echo", is_limit=True),
    Contender("uvloop", "uvloop", "2.0", is_limit=True, distribution="uvloop"),
    _blocking(BARE_BLOCKING, "bare", "bare-blocking", is_limit=True),
    _looped(BARE_DEFERRED, "bare", "bare-deferred", is_limit=True),
    _blocking("kn_sock blocking, bare server", "bare", "kn_sock-blocking", is_pair=True),
    _looped("kn_sock Deferred, bare server", "bare", "kn_sock-deferred", is_pair=True),
    _blocking(
        "kn-sock 0.3.0 client, kn_sock server", "kn_sock-reactor", "kn-sock-0.3", is_pair=True
    ),
    _blocking("kn_sock blocking", "kn_sock-reactor", "kn_sock-blocking"),
    _blocking("kn_sock map", "kn_sock-reactor", "kn_sock-map", does=("window",)),
    _blocking("kn_sock blocking, thread methods", "kn_sock-thread", "kn_sock-blocking"),
    _looped("kn_sock Deferred", "kn_sock-reactor", "kn_sock-deferred"),
    _blocking("kn-sock 0.3.0 client", "kn-sock-0.3", "kn-sock-0.3", distribution="kn-sock"),
    _looped("aiorpcX client", "aiorpcx", "aiorpcx", distribution="aiorpcX"),
    _looped("txjsonrpc-ng client", "txjsonrpc", "txjsonrpc", distribution="txjsonrpc-ng"),
    _looped("Twisted AMP client", "amp", "amp", distribution="Twisted"),
    _blocking("rpyc", "rpyc", "rpyc", distribution="rpyc"),
    _blocking("Pyro5", "pyro", "pyro", distribution="Pyro5"),
    _blocking("zerorpc", "zerorpc", "zerorpc", distribution="zerorpc"),
    _blocking("grpcio blocking", "grpc", "grpc", distribution="grpcio"),
    _looped("grpcio asyncio", "grpc", "grpc-asyncio", distribution="grpcio"),
    _blocking("thriftpy2", "thrift", "thrift", distribution="thriftpy2"),
    _blocking("jsonrpclib-pelix", "pelix", "pelix", distribution="jsonrpclib-pelix"),
)


def against(name: str, directory: str) -> tuple[Contender, ...]:
    """Give kn_sock's servers from another directory, to compare two states of it."""
    return tuple(
        Contender(f"kn_sock {kind} ({name})", f"kn_sock-{kind}", "2.0", kn_sock=directory)
        for kind in ("reactor", "thread")
    )
