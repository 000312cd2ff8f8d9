"""What the tests of the blocking side share."""

from __future__ import annotations

import random
import socket

import pytest

# Below the ports that systems give to connections, so that none takes it in the meantime.
CHOOSABLE = range(20_000, 32_000)


@pytest.fixture
def free_port() -> int:
    """A port where nothing listens, and where a test may."""
    while True:
        port = random.SystemRandom().choice(CHOOSABLE)
        with socket.socket() as holder:
            try:
                holder.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
