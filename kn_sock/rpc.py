"""The name under which kn-sock 0.3 had its remote calls: ``from kn_sock.rpc import RPCClient``."""

from kn_sock.blocking import RPCClient, start_rpc_server

__all__ = ["RPCClient", "start_rpc_server"]
