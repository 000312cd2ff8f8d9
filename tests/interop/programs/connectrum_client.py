"""Call a server with connectrum: ``PORT``; print what it got, one value a line."""

import asyncio
import json
import sys

from connectrum.client import StratumClient
from connectrum.svr_info import ServerInfo


async def main(port: int) -> None:
    client = StratumClient(loop=asyncio.get_running_loop())
    server = ServerInfo("here", "127.0.0.1", port)
    await client.connect(server, "t", short_term=True)
    print(json.dumps([client.server_version, client.protocol_version]))
    print(json.dumps(await client.RPC("server.banner")))
    tip, tips = client.subscribe("blockchain.headers.subscribe")
    print(json.dumps(await tip))
    print(json.dumps(await tips.get()))
    print(json.dumps(await client.batch_rpc([("server.banner",), ("server.ping",)])))
    client.close()


asyncio.run(main(int(sys.argv[1])))
