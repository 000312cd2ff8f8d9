"""The errors of calls whose methods were not run, or not to the end."""

from __future__ import annotations

from kn_sock._display import safe_repr
from kn_sock.errors import ErrorCode, InternalError, MethodNotFound, RPCError


def not_found(method: str) -> RPCError:
    """Return the error for an unknown method."""
    return MethodNotFound(f"Method '{safe_repr(method)}' not found")


def too_late(*, maybe_executed: bool) -> RPCError:
    """Return the error for a call whose deadline has passed."""
    fate = "it had been begun" if maybe_executed else "it was not run"
    return RPCError(
        ErrorCode.DEADLINE_PASSED,
        f"the time for the call has passed; {fate}",
        {"maybe_executed": maybe_executed},
    )


def deferred_in_thread(method: str) -> RPCError:
    """Return the error for a method that returned a Deferred in a thread."""
    return InternalError(
        f"{method} returned a Deferred from a worker thread; "
        "decorate it with kn_sock.in_reactor, so that it runs where Deferreds may be used"
    )


def no_thread(problem: BaseException) -> RPCError:
    """Return the error for a call for which no thread can be started."""
    return InternalError(f"no thread can be had: {problem}")
