"""The state of a call while it is served, and which call the current context serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, Final
from weakref import ReferenceType

from msgspec import UNSET, Struct

from kn_sock._wire.dialects import JSONRPC_2
from kn_sock._wire.events import Request
from kn_sock.errors import CallTimeout

if TYPE_CHECKING:
    from kn_sock._serving.threads import ConnectionQueue
    from kn_sock.methods.signature import Method

# Results of these types are encoded by the reactor, with the replies to other calls.
_QUICK: Final = frozenset({int, bool, float, type(None)})

current: ContextVar[ServerCall] = ContextVar("kn_sock.current_call")


class ServerCall(Struct, eq=False, gc=False):
    """One call while it is served. What methods see of it is a `Call`.

    The garbage collector does not track it, as thousands may wait for threads. So it must not be
    part of a cycle: it refers to the function and its arguments only until they are run or refused,
    to the outcome only until that is delivered, and to the connection weakly.
    """

    # To the protocol.
    connection: ReferenceType[Any]
    # Its request; for a common one, made when it is first needed: see `own_request`.
    request: Request | None
    method: str
    # Its id among the calls in flight; None if it is found by itself.
    key: Any = None
    # When a common one was read; None if it ended during that read.
    since: float | None = None
    # Whether its result is enough to answer it: see `fastpath`.
    is_common: bool = False
    # Whether it runs in a thread, or waits for one.
    is_in_thread: bool = False
    # The function that a thread runs.
    function: Callable[..., Any] | None = None
    args: Sequence[Any] | None = None
    kwargs: Mapping[str, Any] | None = None
    # The outcome.
    result: Any = None
    error: BaseException | None = None
    cancelled: bool = False
    # Whether it was answered already, as its deadline has passed.
    is_answered: bool = False
    # Whether the method has ended. Work that it left running is not bound by the deadline.
    is_over: bool = False
    # The method, if its arguments are still to be bound, by the thread.
    unbound: Method | None = None
    # To the `Call` that the method has asked for.
    call_ref: ReferenceType[Any] | None = None

    def own_request(self) -> Request:
        """Return the request. Of a common one it is made here, to refuse or to report it."""
        request = self.request
        if request is None:
            request = self.request = Request(
                self.key, self.method, UNSET, UNSET, JSONRPC_2, True, None, self.since
            )
        return request

    def is_kept_by_thread(self, lane: Any) -> bool:
        """Whether it ends only when the thread that has it does; interceptors wait for that."""
        return False

    def has_begun(self, lane: Any) -> bool:
        """Whether the method has begun of a call that no thread is asked to run."""
        return True

    def forget_function(self) -> None:
        """Drop the function and its arguments, which may refer to anything."""
        self.function = self.args = self.kwargs = self.unbound = None

    def _run(self, lane: ConnectionQueue) -> None:
        """Run the function, on a thread and in a context of its own; encode its result there."""
        function, args, kwargs, method = self.function, self.args, self.kwargs, self.unbound
        self.function = self.args = self.kwargs = None
        run = copy_context().run
        run(current.set, self)
        try:
            if method is not None:
                args, kwargs = run(method.bind, args, kwargs)  # type: ignore[arg-type]  # as they came
            # They are set by who submits it.
            result = run(function, *args, **kwargs) if kwargs else run(function, *args)  # type: ignore[arg-type, misc]
            del args, kwargs
            self.result = result if type(result) in _QUICK else lane.encode(self, result)
        except BaseException as error:
            # All of them: SystemExit too is the reactor's to act on, not this thread's.
            self.error = error


def time_left(timeout: float | None) -> float | None:
    """Limit the time of a call made here by the time left of the call served here, if any.

    Work that a method left running when it ended is not limited by it.

    Raises:
        CallTimeout: the time for the call that is served has passed.

    Reactor: any thread.
    """
    served = current.get(None)
    if served is None or served.is_over or served.request is None:
        return timeout
    deadline, protocol = served.request.deadline, served.connection()
    if deadline is None or protocol is None:
        return timeout
    remaining: float = deadline - protocol.reactor.seconds()
    if remaining <= 0:
        text = f"the time for {served.method}, in which this call is made, has passed"
        raise CallTimeout(text, maybe_executed=False)
    return remaining if timeout is None else min(timeout, remaining)


def run_as(served: ServerCall, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Run a function so that `current_call` gives this call in it.

    It has a context of its own: what it sets there, no other call sees.
    """
    run = copy_context().run
    run(current.set, served)
    return run(function, *args, **(kwargs or {}))
