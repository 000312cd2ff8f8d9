"""One trace through client, server and client: interceptors that pass ``traceparent`` on.

The client begins a trace. The server's interceptor takes it from the call, and makes a span of its
own; when the method calls back, the server passes that span on. Each end prints what it saw and how
long it took. Both ends are here, in one process, on a free port::

    python examples/tracing.py
"""

import re
import secrets
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import react

from kn_sock import OutgoingCall, RPCServerFactory, ServedCall, connect, current_call

Proceed = Callable[[], Deferred[Any]]

# W3C Trace Context: version, trace, the span that calls, flags.
TRACEPARENT = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")

# The span that runs here and now, as what it would pass on.
current_span: ContextVar[str | None] = ContextVar("current_span", default=None)


def child_of(parent: str | None) -> str:
    """Make a span: of the trace of its parent, or of a new one."""
    found = TRACEPARENT.fullmatch(parent or "")
    trace = found[1] if found else secrets.token_hex(16)
    return f"00-{trace}-{secrets.token_hex(8)}-01"


class Tracer:
    """Interceptors for one end, which report each span as it ends."""

    def __init__(self, name: str, reactor: Any) -> None:
        self._name = name
        self._reactor = reactor

    async def calling(self, call: OutgoingCall, proceed: Proceed) -> Any:
        """Tell the peer which span calls it."""
        span = child_of(current_span.get())
        call.traceparent = span
        return await self._measured("calls", call.method, span, proceed)

    async def serving(self, call: ServedCall, proceed: Proceed) -> Any:
        """Go on with the trace of the caller; what the method calls is then part of it."""
        span = child_of(call.traceparent)
        current_span.set(span)
        return await self._measured("serves", call.method, span, proceed)

    async def _measured(self, does: str, method: str, span: str, proceed: Proceed) -> Any:
        since = self._reactor.seconds()
        outcome = "ok"
        try:
            return await proceed()
        except Exception as problem:
            outcome = f"raised {type(problem).__name__}"
            raise
        finally:
            milliseconds = (self._reactor.seconds() - since) * 1000
            trace, number = span.split("-")[1:3]
            print(
                f"trace {trace[:8]} span {number[:8]}: {self._name} {does} {method}: "
                f"{outcome}, {milliseconds:.1f} ms"
            )


async def order(dish: str) -> str:
    """Take an order, and ask the guest back."""
    side = await current_call().connection.call("which_side", dish)
    return f"{dish} with {side}"


def which_side(dish: str) -> str:
    """Answer the server's question."""
    return {"curry": "rice"}[dish]


async def main(reactor: Any) -> None:
    """Serve, connect, and order."""
    server, client = Tracer("server", reactor), Tracer("client", reactor)
    factory = RPCServerFactory(
        {"order": order},
        serve_interceptors=[server.serving],
        # Around the calls that the server makes, back to its client.
        call_interceptors=[server.calling],
    )
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
    connection = await connect(
        f"tcp:127.0.0.1:{port.getHost().port}",
        funcs={"which_side": which_side},
        call_interceptors=[client.calling],
        serve_interceptors=[client.serving],
    )
    print(await connection.call("order", "curry"))
    try:
        await connection.call("order", "stew")
    except KeyError as problem:
        print("the guest does not know:", problem)
    await connection.close()
    await port.stopListening()


if __name__ == "__main__":
    react(main)
