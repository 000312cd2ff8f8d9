"""One table of several services, each under a prefix, with arguments that have types.

Serve it with twistd::

    twistd -n knsock --port 8080 --funcs examples.prefixed_services.TABLE

and call it from Python::

    with RPCClient("localhost", 8080) as client:
        client.call("calc.add", 10, 20)
        client.remote.accounts.open({"owner": "Alice", "limit": "99.90"})
        client.remote.accounts.deposit("Alice", "12.34")
        client.remote.stats.median([3, 1, 2])

What arrives is JSON. The annotations make dates, decimals and objects of it before the function is
called, and refuse what does not fit; results go the other way.
"""

import statistics
import threading
from dataclasses import dataclass, field
from datetime import datetime, timezone
from decimal import Decimal

from kn_sock import MethodTable


@dataclass(slots=True)
class Account:
    """An account: in JSON, an object with these members."""

    owner: str
    limit: Decimal = Decimal(0)
    balance: Decimal = Decimal(0)
    opened: datetime = field(default_factory=lambda: datetime.now(timezone.utc))


class Calculator:
    """Arithmetic."""

    def add(self, a: int | float, b: int | float) -> int | float:
        """Add two numbers."""
        return a + b


class Accounts:
    """Accounts, by their owners."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}
        self._lock = threading.Lock()

    def open(self, account: Account) -> Account:
        """Open an account, and give it as it was stored."""
        with self._lock:
            if account.owner in self._accounts:
                raise ValueError(f"{account.owner} has an account already")
            self._accounts[account.owner] = account
        return account

    def deposit(self, owner: str, amount: Decimal) -> Decimal:
        """Pay something in, and give the new balance."""
        with self._lock:
            account = self._accounts[owner]
            account.balance += amount
            return account.balance

    def opened_since(self, moment: datetime) -> list[str]:
        """List who opened an account since then."""
        with self._lock:
            return [a.owner for a in self._accounts.values() if a.opened >= moment]


TABLE = MethodTable()
TABLE.add(Calculator(), prefix="calc")
TABLE.add(Accounts(), prefix="accounts")
# A whole module: every function in its __all__.
TABLE.add(statistics, prefix="stats")
