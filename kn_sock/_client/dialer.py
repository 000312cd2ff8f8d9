"""One attempt at one endpoint: its time limit, and how it fails."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar, cast

from twisted.internet import error as twisted_error
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.python.failure import Failure

from kn_sock._declarations import check_seconds
from kn_sock._io.transport import place_of
from kn_sock.errors import ConnectFailed, ConnectRefused, LoginFailed, SocketNotFound

P = TypeVar("P")


class Progress:
    """How far an attempt has come, for the error when its time is up.

    Attributes:
        place: what is connected to.
        stage: what has not happened yet.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.stage = "no answer"

    def failed(self, reason: str, number: int | None = None) -> ConnectFailed:
        """Make the error of this attempt."""
        return ConnectFailed(f"cannot connect to {self.place}: {reason}", number)


#: Prepares a new connection, or raises the error of the attempt.
Prepare: TypeAlias = Callable[[Any, Progress], Awaitable[object]]


def dial(
    endpoint: IStreamClientEndpoint,
    factory: IProtocolFactory,
    timeout: float | None,
    reactor: Any,
    prepare: Prepare | None = None,
) -> Deferred[Any]:
    """Make one connection.

    Returns:
        A Deferred that fires with the protocol, or fails with `ConnectFailed`, or when it is
        cancelled with ``CancelledError``.
    """
    check_seconds("connect_timeout", timeout)
    progress = Progress(place_of(endpoint))
    attempt = Deferred.fromCoroutine(_made(endpoint, factory, progress, prepare))
    if timeout is None:
        return attempt.addErrback(_as_connect_failed, progress)

    # Deferred.addTimeout would not know the error that a cancelled endpoint fails with.
    timer = cast(IReactorTime, reactor).callLater(timeout, lambda: attempt.cancel())

    def done(outcome: Any) -> Any:
        if timer.active():
            timer.cancel()
        elif isinstance(outcome, Failure):
            is_resolving = getattr(endpoint, "is_resolving", False)
            stage = "the name was not resolved" if is_resolving else progress.stage
            error = progress.failed(f"{stage} within {timeout:g} s", errno.ETIMEDOUT)
            error.__cause__ = outcome.value
            return Failure(error)
        return outcome

    return attempt.addBoth(done).addErrback(_as_connect_failed, progress)


async def _made(
    endpoint: IStreamClientEndpoint,
    factory: IProtocolFactory,
    progress: Progress,
    prepare: Prepare | None,
) -> Any:
    protocol = await endpoint.connect(factory)
    if prepare is not None:
        await prepare(protocol, progress)
    return protocol


def _as_connect_failed(failure: Failure, progress: Progress) -> Failure:
    """Turn what Twisted says of a connection attempt into our error, which builtins know too."""
    problem = failure.value
    error: ConnectFailed
    if isinstance(problem, (ConnectFailed, CancelledError)):
        return failure
    if isinstance(problem, twisted_error.ConnectingCancelledError):
        return Failure(CancelledError())
    if isinstance(problem, twisted_error.ConnectionRefusedError):
        error = ConnectRefused(
            f"cannot connect to {progress.place}: connection refused; is the server running?"
        )
    elif isinstance(problem, twisted_error.ConnectError) and problem.osError == errno.ENOENT:
        error = SocketNotFound(
            f"cannot connect to {progress.place}: there is no such socket; is the server running?"
        )
    elif isinstance(problem, twisted_error.TimeoutError):
        error = progress.failed("no answer", errno.ETIMEDOUT)
    else:
        number = getattr(problem, "osError", None)
        number = number if isinstance(number, int) else getattr(problem, "errno", None)
        error = progress.failed(failure.getErrorMessage(), number)
    error.__cause__ = problem
    return Failure(error)


def none_of(problems: list[ConnectFailed]) -> ConnectFailed:
    """Make one error of those of several endpoints: it names each, and why."""
    if len(problems) == 1:
        return problems[0]
    reasons = [str(problem).removeprefix("cannot connect to ") for problem in problems]
    listed = " ".join(f"({number}) {reason}" for number, reason in enumerate(reasons, 1))
    text = f"cannot connect to any of {len(problems)} endpoints: {listed}"
    numbers = {problem.errno for problem in problems}
    # Of the kind that all of them have; but a login that is wrong is the caller's to know.
    kinds = {type(problem) for problem in problems}
    kind = (
        LoginFailed if LoginFailed in kinds else kinds.pop() if len(kinds) == 1 else ConnectFailed
    )
    error = kind(text, numbers.pop() if len(numbers) == 1 else None)
    error.__cause__ = problems[-1]
    return error
