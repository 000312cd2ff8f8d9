"""Callers who log in, each of whom may call other functions; all in one process, on a free port.

A clerk logs in with a password, a program with a token::

    python examples/accounts.py
"""

from typing import Any

from twisted.cred.portal import Portal
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import react

from kn_sock import LoginFailed, MethodTable, RPCError, RPCServerFactory, connect, current_call
from kn_sock.auth import MethodsRealm, PasswordChecker, TokenChecker

balances = {"4711": 100}


def balance(account: str) -> int:
    """Tell how much there is."""
    return balances[account]


def withdraw(account: str, amount: int) -> str:
    """Take something off; the caller's name goes with it."""
    balances[account] -= amount
    return f"{amount} given out by {current_call().identity}"


# Made once: the functions are looked at here, and not at each login.
READS = MethodTable({"balance": balance})
WRITES = MethodTable({"balance": balance, "withdraw": withdraw})


def functions_of(identity: str) -> MethodTable:
    """Say what one may call."""
    return WRITES if identity == "ada" else READS


async def main(reactor: Any) -> None:
    """Serve, call as two who may, and try as two who may not."""
    # Real ones come from a file that nobody else can read: see TokenFile, or twisted.cred.
    checkers = [PasswordChecker({"ada": "correct horse"}), TokenChecker({"e5b1c0de": "report"})]
    portal = Portal(MethodsRealm(choose=functions_of), checkers)
    factory = RPCServerFactory(None, portal=portal)
    endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
    listening = await endpoint.listen(factory)
    where = f"tcp:127.0.0.1:{listening.getHost().port}"

    clerk = await connect(where, credentials=("ada", "correct horse"))
    print("ada:", await clerk.call("withdraw", "4711", 40))

    program = await connect(where, credentials="e5b1c0de")
    print("report:", await program.call("balance", "4711"))
    try:
        await program.call("withdraw", "4711", 40)
    except RPCError as problem:
        print("report:", problem)

    stranger = await connect(where)
    try:
        await stranger.call("balance", "4711")
    except RPCError as problem:
        print("stranger:", problem.code)
    try:
        await connect(where, credentials=("ada", "battery staple"))
    except LoginFailed as problem:
        print("stranger:", problem.__cause__)

    for connection in (clerk, program, stranger):
        await connection.close()
    await listening.stopListening()
    await factory.drain()


if __name__ == "__main__":
    react(main)
