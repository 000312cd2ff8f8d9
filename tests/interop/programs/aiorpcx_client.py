"""Call a server with aiorpcX: ``PORT PROTOCOL``, where the protocol is a class of aiorpcX.

On standard input, the steps as one JSON array; each has its outcome printed:

- ``["request", METHOD, ARGS]``
- ``["notification", METHOD, ARGS]``
- ``["together", REQUESTS]``: many requests in flight, each ``[METHOD, ARGS]``.
- ``["batch", MEMBERS]``, each ``[IS_REQUEST, METHOD, ARGS]``.
- ``["give up", METHOD, ARGS]``: a request that is cancelled once it was sent.
- ``["heard"]``: the arguments of the next notification that the server sent.

The server may ask it to ``double`` a number.
"""

import asyncio
import json
import sys
from typing import Any

import aiorpcx

port, protocol = sys.argv[1:]
heard: asyncio.Queue[Any] = asyncio.Queue()


async def double(number: Any) -> Any:
    return 2 * number


async def take(text: str) -> None:
    heard.put_nowait(text)


class Session(aiorpcx.RPCSession):
    def default_connection(self) -> Any:
        return aiorpcx.JSONRPCConnection(getattr(aiorpcx, protocol))

    async def handle_request(self, request: Any) -> Any:
        method = {"double": double, "take": take}.get(request.method)
        return await aiorpcx.handler_invocation(method, request)()


def shown(outcome: Any) -> Any:
    if isinstance(outcome, aiorpcx.RPCError):
        return {"code": outcome.code, "message": outcome.message}
    assert not isinstance(outcome, BaseException), outcome
    return {"result": outcome}


async def request(session: Any, method: str, args: Any) -> Any:
    try:
        return shown(await session.send_request(method, args))
    except aiorpcx.RPCError as problem:
        return shown(problem)


async def together(session: Any, requests: list[Any]) -> Any:
    return await asyncio.gather(*[request(session, *each) for each in requests])


async def batch(session: Any, members: list[Any]) -> Any:
    async with session.send_batch() as sent:
        for is_request, method, args in members:
            (sent.add_request if is_request else sent.add_notification)(method, args)
    return [shown(outcome) for outcome in sent.results]


async def give_up(session: Any, method: str, args: Any) -> Any:
    before = session.send_count
    task = asyncio.create_task(session.send_request(method, args))
    while session.send_count == before:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return task.cancelled()


async def next_heard(session: Any) -> Any:
    return await heard.get()


STEPS: dict[str, Any] = {
    "request": request,
    "notification": lambda session, method, args: session.send_notification(method, args),
    "together": together,
    "batch": batch,
    "give up": give_up,
    "heard": next_heard,
}


async def main() -> None:
    connecting = aiorpcx.connect_rs("127.0.0.1", int(port), session_factory=Session)
    async with connecting as session:
        for name, *arguments in json.load(sys.stdin):
            print(json.dumps(await STEPS[name](session, *arguments)))


asyncio.run(main())
