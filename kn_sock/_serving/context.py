"""The state of a call while it is served, and which call the current context serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any
from weakref import ReferenceType

from msgspec import UNSET, Struct

from kn_sock._wire.dialects import JSONRPC_2
from kn_sock._wire.events import Request
from kn_sock.errors import CallTimeout

current: ContextVar[ServerCall] = ContextVar("kn_sock.current_call")


class ServerCall(Struct, eq=False, gc=False):
    """One call while it is served. What methods see of it is a `Call`.

    The garbage collector does not track it, as thousands may wait for threads. So it must not be
    part of a cycle: it refers to the function and its arguments only until they are run or refused,
    to the outcome only until that is delivered, and to the connection weakly.
    """

    # To the protocol.
    connection: ReferenceType[Any]
    # What came for it; where that was common, it is made when it is asked for: see `request`.
    asked: Request | None
    method: str
    # The id by which it is found among those that are under way; None where it is found by itself.
    key: Any = None
    # When a common one was read; None where it has ended by the end of that read.
    since: float | None = None
    # Whether nothing but its result is needed to answer it: see `_common`.
    is_common: bool = False
    # Whether a thread has it, or is to have it.
    is_in_thread: bool = False
    # What a thread is to run.
    function: Callable[..., Any] | None = None
    args: Sequence[Any] | None = None
    kwargs: Mapping[str, Any] | None = None
    # What came of that.
    result: Any = None
    error: BaseException | None = None
    cancelled: bool = False
    # Whether its caller has been told something already: that it took too long.
    is_answered: bool = False
    # Whether the method has ended. What it left running has time of its own.
    is_over: bool = False
    # To the `Call` that a method has asked for.
    call_ref: ReferenceType[Any] | None = None

    @property
    def request(self) -> Request:
        """What came. Of a common request nobody asks for it, but to refuse or to report it."""
        asked = self.asked
        if asked is None:
            asked = Request(self.key, self.method, UNSET, UNSET, JSONRPC_2, True, None, self.since)
            self.asked = asked
        return asked

    def is_kept_by_thread(self, lane: Any) -> bool:
        """Whether it ends only when the thread that has it does; interceptors wait for that."""
        return False

    def has_begun(self, lane: Any) -> bool:
        """Whether the method has begun of a call that no thread is asked to run."""
        return True

    def forget_function(self) -> None:
        """Drop the function and its arguments, which may refer to anything."""
        self.function = self.args = self.kwargs = None

    def _run(self) -> None:
        """Run the function, on a thread."""
        function, args, kwargs = self.function, self.args, self.kwargs
        self.function = self.args = self.kwargs = None
        token = current.set(self)
        try:
            if kwargs:
                self.result = function(*args, **kwargs)  # type: ignore[misc]  # set by who submits it
            else:
                self.result = function(*args)  # type: ignore[misc]  # likewise
        except BaseException as error:
            # All of them: SystemExit too is the reactor's to act on, not this thread's.
            self.error = error
        current.reset(token)


def time_left(timeout: float | None) -> float | None:
    """Limit the time of a call made here by the time left of the call served here, if any.

    Work that a method left running when it ended is not limited by it.

    Raises:
        CallTimeout: the time for the call that is served has passed.

    Reactor: any thread.
    """
    served = current.get(None)
    if served is None or served.is_over or served.asked is None:
        return timeout
    deadline, protocol = served.asked.deadline, served.connection()
    if deadline is None or protocol is None:
        return timeout
    remaining: float = deadline - protocol.reactor.seconds()
    if remaining <= 0:
        text = f"the time for {served.method}, in which this call is made, has passed"
        raise CallTimeout(text, maybe_executed=False)
    return remaining if timeout is None else min(timeout, remaining)


def run_as(served: ServerCall, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Run a function so that `current_call` gives this call in it."""
    token = current.set(served)
    try:
        return function(*args, **kwargs) if kwargs else function(*args)
    finally:
        current.reset(token)
