"""Serve with aiorpcX: ``PROTOCOL``, where the protocol is a class of aiorpcX."""

import asyncio
import sys
from typing import Any

import aiorpcx

(protocol,) = sys.argv[1:]


class Session(aiorpcx.RPCSession):
    def __init__(self, transport: Any) -> None:
        super().__init__(transport)
        self.noted: list[Any] = []
        self.released = asyncio.Event()

    def default_connection(self) -> Any:
        return aiorpcx.JSONRPCConnection(getattr(aiorpcx, protocol))

    async def handle_request(self, request: Any) -> Any:
        handler = getattr(self, request.method) if request.method in METHODS else None
        return await aiorpcx.handler_invocation(handler, request)()

    async def add(self, a: Any, b: Any) -> Any:
        return a + b

    async def echo(self, value: Any) -> Any:
        return value

    async def refuse(self) -> None:
        raise aiorpcx.RPCError(7, "not today")

    async def fail(self) -> None:
        raise ValueError("for its log alone")

    async def note(self, value: Any) -> None:
        self.noted.append(value)

    async def notes(self) -> list[Any]:
        return self.noted

    async def wait(self, value: Any) -> Any:
        await self.released.wait()
        return value

    async def release(self) -> None:
        self.released.set()

    async def ask_back(self, number: Any) -> Any:
        """Ask the caller, over the same connection."""
        return await self.send_request("double", [number])

    async def tell_back(self, text: str) -> None:
        await self.send_notification("take", [text])


METHODS = frozenset(name for name in vars(Session) if not name.startswith("_")) - {
    "default_connection",
    "handle_request",
}


async def main() -> None:
    server = await aiorpcx.serve_rs(Session, "127.0.0.1", 0)
    print("listening on", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
