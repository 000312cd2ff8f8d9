"""Serve the functions of the cases by kn_sock."""

from kn_sock import start_rpc_server
from kn_sock.conformance import FUNCS

start_rpc_server(0, FUNCS, on_ready=lambda _, port: print("listening on", port, flush=True))
