"""Call a server with kn-sock 0.3's own client: ``PACKAGE PORT METHOD PARAMS KWARGS``.

Only its ``rpc`` module is loaded: the rest of the package wants more than is installed.
"""

import importlib.util
import json
import sys

package, port, method, params, kwargs = sys.argv[1:]
spec = importlib.util.spec_from_file_location("old_rpc", f"{package}/kn_sock/rpc.py")
assert spec is not None
assert spec.loader is not None
old_rpc = importlib.util.module_from_spec(spec)
spec.loader.exec_module(old_rpc)

client = old_rpc.RPCClient("localhost", int(port))
try:
    outcome = {"result": client.call(method, *json.loads(params), **json.loads(kwargs))}
except Exception as problem:
    outcome = {"type": type(problem).__name__, "text": str(problem)}
client.close()
print(json.dumps(outcome))
