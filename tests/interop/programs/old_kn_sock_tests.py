"""Run the test of remote calls that kn-sock 0.3 brings, as it stands: ``FILE CLIENT SERVER``.

*CLIENT* and *SERVER* say whose each is: ``old`` or ``new``. The new client is told the dialect of
an old server, as nothing else would tell it.
"""

import ast
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import old_kn_sock_rpc

import kn_sock

path, client, server = sys.argv[1:]
clients = {
    ("old", "new"): old_kn_sock_rpc.RPCClient,
    ("new", "old"): partial(kn_sock.RPCClient, dialect="kn-sock"),
}
servers = {"old": old_kn_sock_rpc.start_rpc_server, "new": kn_sock.start_rpc_server}
if (client, server) != ("new", "new"):
    mixed: Any = ModuleType("kn_sock")
    mixed.RPCClient = clients[client, server]
    mixed.start_rpc_server = servers[server]
    sys.modules["kn_sock"] = mixed

# The rest of the file tests the rest of the package.
tree = ast.parse(Path(path).read_text("utf-8"))
tree.body = [part for part in tree.body if getattr(part, "name", "") == "test_rpc"]
names: dict[str, object] = {}
exec(compile(tree, path, "exec"), names)
test = names["test_rpc"]
assert callable(test)
test()
