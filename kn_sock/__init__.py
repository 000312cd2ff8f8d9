"""Call Python functions in another process as if they were local.

Newline-delimited JSON-RPC over one connection, on Twisted. For scripts: `RPCClient` and
`start_rpc_server`. For Twisted applications: `RPCServerFactory`, `connect`, and the services.
Importing this installs no reactor.
"""

from kn_sock._intercept.calls import OutgoingCall
from kn_sock._io.clock import use_monotonic_clock
from kn_sock._observe.stats import Stats
from kn_sock._version import __version__
from kn_sock.blocking import RPCClient, start_rpc_server
from kn_sock.calls import Call, ServedCall, current_call
from kn_sock.client import RPCClientService, connect
from kn_sock.connection import RPCConnection
from kn_sock.errors import (
    CallCancelled,
    CallTimeout,
    ConnectFailed,
    ConnectionLost,
    ConnectRefused,
    ErrorCode,
    ForkedError,
    InternalError,
    InvalidParams,
    InvalidRequest,
    KnSockError,
    LoginFailed,
    MethodNotFound,
    NotAuthenticated,
    ParseError,
    RemoteError,
    RPCError,
    SocketNotFound,
)
from kn_sock.methods.signature import Method, in_reactor, in_thread
from kn_sock.methods.table import MethodTable
from kn_sock.options import ServerOptions
from kn_sock.protocol import RPCProtocol
from kn_sock.server import RPCServerFactory, RPCServerService

__all__ = [
    "Call",
    "CallCancelled",
    "CallTimeout",
    "ConnectFailed",
    "ConnectRefused",
    "ConnectionLost",
    "ErrorCode",
    "ForkedError",
    "InternalError",
    "InvalidParams",
    "InvalidRequest",
    "KnSockError",
    "LoginFailed",
    "Method",
    "MethodNotFound",
    "MethodTable",
    "NotAuthenticated",
    "OutgoingCall",
    "ParseError",
    "RPCClient",
    "RPCClientService",
    "RPCConnection",
    "RPCError",
    "RPCProtocol",
    "RPCServerFactory",
    "RPCServerService",
    "RemoteError",
    "ServedCall",
    "ServerOptions",
    "SocketNotFound",
    "Stats",
    "__version__",
    "connect",
    "current_call",
    "in_reactor",
    "in_thread",
    "start_rpc_server",
    "use_monotonic_clock",
]
