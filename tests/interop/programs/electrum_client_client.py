"""Call a server with electrum-client: ``PORT``; print what it got, one value a line."""

import asyncio
import json
import sys
from typing import Any

from electrum_client.client import ElectrumClient
from electrum_client.exceptions import ElectrumError
from loguru import logger

logger.remove()


async def main(port: str) -> None:
    tips: asyncio.Queue[Any] = asyncio.Queue()
    async with ElectrumClient(f"tcp://127.0.0.1:{port}") as client:
        found = [client.server_version, client.negotiated_protocol]
        found.append(await client.server_banner())
        found.append(await client.server_ping())
        found.append((await client.subscribe_headers(tips.put_nowait)).height)
        found.append(await tips.get())
        histories = [client.get_history(f"{number:064x}") for number in range(200)]
        found.append([history[0].height for history in await asyncio.gather(*histories)])
        try:
            await client.broadcast("00")
        except ElectrumError as problem:
            found.append(problem.args[0])
    for value in found:
        print(json.dumps(value))


asyncio.run(main(sys.argv[1]))
