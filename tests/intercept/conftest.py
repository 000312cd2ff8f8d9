from __future__ import annotations

import pytest

from kn_sock.testing import ManualExecutor


@pytest.fixture
def executor() -> ManualExecutor:
    return ManualExecutor()
