"""The methods that a server offers: tables of functions, and where each function runs."""

from __future__ import annotations

from kn_sock.methods.signature import Method, in_reactor, in_thread
from kn_sock.methods.table import Functions, MethodTable

__all__ = ["Functions", "Method", "MethodTable", "in_reactor", "in_thread"]
