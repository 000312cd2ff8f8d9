"""Call a server with jsonrpcclient over a socket: ``PORT``.

On standard input, the steps as one JSON array; each has its outcome printed:

- ``["request", METHOD, PARAMS, IDS]``: one request, its id from one of the package's generators.
- ``["batch", REQUESTS]``: requests, each ``[METHOD, PARAMS]``, and a notification of the first.
"""

import json
import socket
import sys
from typing import Any

import jsonrpcclient
from jsonrpcclient import id_generators

GENERATORS: dict[str, Any] = {
    "decimal": id_generators.decimal(0),
    "hexadecimal": id_generators.hexadecimal(),
    "random": id_generators.random(),
    "uuid": id_generators.uuid(),
}


def exchange(message: Any) -> Any:
    print(json.dumps(message), file=stream, flush=True)
    return jsonrpcclient.parse_json(stream.readline())


def shown(sent: Any, response: Any) -> Any:
    assert response.id == sent["id"]
    fields = response._asdict()
    del fields["id"]
    return fields


def request(method: str, params: Any, generator: str = "decimal") -> Any:
    sent = jsonrpcclient.request(method, params, id=next(GENERATORS[generator]))
    return shown(sent, exchange(sent))


def batch(requests: list[Any]) -> Any:
    sent = [jsonrpcclient.request(*each) for each in requests]
    responses = {
        response.id: response
        for response in exchange([jsonrpcclient.notification(*requests[0]), *sent])
    }
    assert len(responses) == len(sent)
    return [shown(each, responses[each["id"]]) for each in sent]


STEPS: dict[str, Any] = {"request": request, "batch": batch}

with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
    stream = connection.makefile("rw", encoding="utf-8", newline="\n")
    for name, *arguments in json.load(sys.stdin):
        print(json.dumps(STEPS[name](*arguments)))
