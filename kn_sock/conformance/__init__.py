"""Puts a server to the test: JSON-RPC 2.0, 1.0 and kn-sock 0.3, byte by byte.

The cases are data, in ``cases.txt`` beside this module, and have nothing in them that only kn_sock
could do; ``python -m kn_sock.conformance host:port`` puts them to any server that reads and writes
JSON-RPC a line at a time. It has to serve the functions in `FUNCS`, or functions like them.
"""

from __future__ import annotations

from kn_sock.conformance._cases import Case, Exchange, Group, read_groups
from kn_sock.conformance._examine import Examiner, Finding, Habits
from kn_sock.conformance.funcs import FUNCS

__all__ = ["FUNCS", "Case", "Examiner", "Exchange", "Finding", "Group", "Habits", "read_groups"]
