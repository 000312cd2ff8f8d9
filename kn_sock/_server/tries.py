"""Tries to log in, by the address that they came from: how many there may be."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime

# As many addresses are remembered; of more, those are forgotten that tried longest ago.
_MOST_ADDRESSES: Final = 10_000

# After so many tries of an address that failed or are in progress, each answer is late.
_FREE_TRIES: Final = 3

_MINUTE: Final = 60.0


class Tries:
    """Counts tries to log in by address.

    A try counts from its beginning, whatever becomes of its connection; one that succeeds does not
    count any more. What was counted is forgotten at the rate that is allowed.

    Args:
        rate: how many an address may make in a minute; ``None`` for no limit.
        clock: the reactor.
    """

    def __init__(self, rate: int | None, clock: IReactorTime) -> None:
        self._rate = rate
        self._clock = clock
        # How many count, and when that was.
        self._counts: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def begin(self, peer: Any) -> bool:
        """Count a try from an address; ``False`` if it may not make another one yet."""
        if self._rate is None:
            return True
        address = _key_of(peer)
        count = self._count(address)
        if count >= self._rate:
            return False
        self._set(address, count + 1)
        return True

    def succeeded(self, peer: Any) -> None:
        """Do not count a try that succeeded."""
        if self._rate is not None:
            address = _key_of(peer)
            self._set(address, max(0.0, self._count(address) - 1))

    def is_suspect(self, peer: Any) -> bool:
        """Whether answers to this address are late, good ones as well.

        Otherwise who guesses need not wait for the answer: it would be good at once, or not at all.
        """
        return self._rate is not None and self._count(_key_of(peer)) > _FREE_TRIES

    def _count(self, address: str) -> float:
        count, since = self._counts.get(address, (0.0, 0.0))
        if not count or self._rate is None:
            return 0.0
        forgotten = (self._clock.seconds() - since) * self._rate / _MINUTE
        return max(0.0, count - forgotten)

    def _set(self, address: str, count: float) -> None:
        self._counts[address] = count, self._clock.seconds()
        self._counts.move_to_end(address)
        if len(self._counts) > _MOST_ADDRESSES:
            self._counts.popitem(last=False)


def _key_of(peer: Any) -> str:
    """Return what stands for the owner of an address: of IPv6, the network that he has."""
    host = getattr(peer, "host", None)
    if not isinstance(host, str):
        # Of a Unix socket.
        return type(peer).__name__
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 4:
        return host
    return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
