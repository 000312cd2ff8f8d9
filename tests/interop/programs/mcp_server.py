"""Serve with the low-level server of the MCP Python SDK, one connection after another."""

import asyncio
import socket
from typing import Any

import anyio
import mcp_types
from mcp import MCPError
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

never = asyncio.Event()
stopped: list[str] = []


async def list_tools(context: Any, params: Any) -> Any:
    schema = {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}}
    return mcp_types.ListToolsResult(tools=[mcp_types.Tool(name="add", input_schema=schema)])


async def add(session: Any, a: Any, b: Any) -> str:
    return str(a + b)


async def refuse(session: Any) -> str:
    raise MCPError(7, "not today", {"try": "tomorrow"})


async def fail(session: Any) -> str:
    raise ValueError("unexpected")


async def count(session: Any, to: int) -> str:
    for number in range(1, to + 1):
        await session.report_progress(number, to, "counting")
    return "counted"


async def roots(session: Any) -> str:
    """Ask the caller, over the same connection."""
    found = await session.list_roots()
    return ", ".join(root.name for root in found.roots)


async def wait(session: Any) -> str:
    try:
        await never.wait()
    except asyncio.CancelledError:
        stopped.append("wait")
        raise
    return ""


async def cancelled(session: Any) -> str:
    """Tell how many calls of ``wait`` were stopped."""
    return str(len(stopped))


TOOLS: dict[str, Any] = {
    "add": add,
    "refuse": refuse,
    "fail": fail,
    "count": count,
    "roots": roots,
    "wait": wait,
    "cancelled": cancelled,
}


async def call_tool(context: Any, params: Any) -> Any:
    text = await TOOLS[params.name](context.session, **params.arguments or {})
    return mcp_types.CallToolResult(content=[mcp_types.TextContent(type="text", text=text)])


async def main() -> None:
    server = Server("peer", version="1", on_list_tools=list_tools, on_call_tool=call_tool)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print("listening on", listener.getsockname()[1], flush=True)
        while True:
            connection, _ = await asyncio.to_thread(listener.accept)
            # Its transport over standard input and output, which may as well be a socket.
            lines = anyio.wrap_file(connection.makefile("r", encoding="utf-8"))
            out = anyio.wrap_file(connection.makefile("w", encoding="utf-8"))
            async with stdio_server(lines, out) as streams:
                await server.run(*streams, server.create_initialization_options())
            connection.close()


asyncio.run(main())
