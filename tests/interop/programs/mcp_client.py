"""Call a server with the session of the MCP Python SDK: ``PORT``.

On standard input, the steps as one JSON array; each has its outcome printed:

- ``["initialize"]``, ``["send_ping"]``, ``["list_tools"]``
- ``["call_tool", NAME, ARGUMENTS]``: the result, and the progress that was told of until then.
- ``["give up", NAME, ARGUMENTS]``: a call that takes longer than it waits for it.
- ``["logged"]``: what the next log message of the server says.

The server may ask for its ``roots/list``.
"""

import asyncio
import json
import socket
import sys
from typing import Any

import anyio
import mcp_types
from mcp import ClientSession, MCPError
from mcp.server.stdio import stdio_server

# Long enough for the request to be written, which is all that is needed.
SHORT = 0.2

logged: asyncio.Queue[Any] = asyncio.Queue()


async def list_roots(context: Any) -> Any:
    return mcp_types.ListRootsResult(roots=[mcp_types.Root(uri="file:///here", name="here")])


async def log(params: Any) -> None:
    logged.put_nowait(params.data)


async def call_tool(session: Any, name: str, arguments: Any) -> Any:
    progress: list[Any] = []

    async def told(done: float, total: float | None, message: str | None) -> None:
        progress.append([done, total, message])

    result = await session.call_tool(name, arguments, progress_callback=told)
    return {**result.model_dump(mode="json", exclude_none=True), "progress": progress}


async def plain(session: Any, name: str) -> Any:
    return (await getattr(session, name)()).model_dump(mode="json", exclude_none=True)


async def outcome_of(session: Any, name: str, *arguments: Any) -> Any:
    try:
        if name == "call_tool":
            return await call_tool(session, *arguments)
        if name == "give up":
            return await session.call_tool(*arguments, read_timeout_seconds=SHORT)
        if name == "logged":
            return await logged.get()
        return await plain(session, name)
    except MCPError as problem:
        return {"code": problem.code, "message": problem.message, "data": problem.data}


async def main(port: int) -> None:
    steps = json.load(sys.stdin)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        # Its transport over standard input and output, which may as well be a socket.
        lines = anyio.wrap_file(connection.makefile("r", encoding="utf-8"))
        out = anyio.wrap_file(connection.makefile("w", encoding="utf-8"))
        async with (
            stdio_server(lines, out) as streams,
            ClientSession(
                *streams, list_roots_callback=list_roots, logging_callback=log
            ) as session,
        ):
            for step in steps:
                print(json.dumps(await outcome_of(session, *step)))
            connection.shutdown(socket.SHUT_RDWR)


asyncio.run(main(int(sys.argv[1])))
