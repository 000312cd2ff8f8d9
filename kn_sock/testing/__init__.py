"""Test servers and clients in memory, without sockets, threads or real time.

The real server and the real client run over a wire in memory. Nothing moves by itself:
``pair.pump()`` delivers what was written, ``pair.advance(seconds)`` advances the time. The wire
honours a receiver that pauses, splits bytes anywhere, holds either direction back, and can be cut
in the middle of a line::

    pair = connected_pair({"add": lambda a, b: a + b})
    calling = pair.client.call("add", 1, 2)
    pair.pump()
    assert value_of(calling) == 3
"""

from kn_sock.testing.network import MemoryNetwork, MemoryTransport
from kn_sock.testing.outcomes import Outcome, failure_of, outcome_of, value_of
from kn_sock.testing.pair import Pair, connected_pair
from kn_sock.testing.reactor import ManualExecutor, MemoryReactor

__all__ = [
    "ManualExecutor",
    "MemoryNetwork",
    "MemoryReactor",
    "MemoryTransport",
    "Outcome",
    "Pair",
    "connected_pair",
    "failure_of",
    "outcome_of",
    "value_of",
]
