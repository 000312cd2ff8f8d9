"""The fast path: the common requests of one read, served in one loop.

It changes nothing of what a request means. `may_bypass` says when it may be taken; a request that
is not common goes to the ordinary path before its method runs, and everything that is not a plain
result is finished by the dispatcher. This is the hot path: measure every change.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET

from kn_sock._serving.admission import NO_METHODS, Path
from kn_sock._serving.context import ServerCall, current
from kn_sock._wire.dialects import JSONRPC_2
from kn_sock._wire.encoding import LEAST_INT, MOST_INT, Success, is_plain
from kn_sock._wire.events import Request

if TYPE_CHECKING:
    from kn_sock._serving.dispatcher import Dispatcher
    from kn_sock._wire.batches import BatchReply
    from kn_sock._wire.messages import Message

set_current = current.set


def serve(
    dispatcher: Dispatcher,
    messages: list[Message],
    slow_path: Callable[[Message], object],
    batch: BatchReply | None = None,
    until: float = math.inf,
    factor: float = 0,
) -> None:
    """Serve the messages of one read, in order.

    Args:
        dispatcher: serves the calls of the connection.
        messages: what was read; what has been served is removed, so that nothing keeps it alive.
        slow_path: called with each message that is not a common request, in its turn.
        batch: collects the replies, if the messages are the members of a batch.
        until: when the turn is over, in the reactor's seconds.
        factor: not 0 if each message has to be weighed, on the slow path.
    """
    calls, outbox, records = dispatcher.calls, dispatcher.outbox, dispatcher.replies.records
    replies = outbox.replies if batch is None else batch.plain
    running, connection = calls.running, calls.connection_ref or calls.own_ref()
    runner, lane, since = dispatcher.runner, calls.lane, dispatcher.connection.read_at
    clock, is_timed = dispatcher.connection.reactor.seconds, len(messages) > 1
    submit = (runner.pool or runner).submit if runner.uses_threads else None
    waiting, left = iter(messages), []
    for message in waiting:
        if is_timed and clock() >= until:
            left = [message, *waiting]
            break
        method = dispatcher.fast_methods.get(message.method)  # type: ignore[arg-type]  # or UNSET
        if (
            method is None
            or factor
            or message.jsonrpc != "2.0"
            or message.id is UNSET
            or not (message.kwargs is message.timeout is message.traceparent is UNSET)
        ):
            slow_path(message)
            continue
        key = message.id
        args: Any = message.params
        kwargs: Any = None
        request = None
        if batch is not None:
            request = Request(key, method.name, UNSET, UNSET, JSONRPC_2, True, batch)
        if (
            type(args) is not list
            or not method.required <= len(args) <= method.most
            or (method.kinds is not None and method.kinds != [*map(type, args)])
        ):
            bound = calls.bind(method, args, request, key)
            if bound is None:
                continue
            args, kwargs = bound
        if submit is not None and not method.on_reactor:
            if batch is not None or type(key) is not int or key in running:
                call = ServerCall(connection, request, method.name, key)
                calls.run_in_thread(call, method, args, kwargs)
                continue
            # A tuple of plain values is exempt from the garbage collector after its first look.
            args, function = tuple(args), method.function
            call = ServerCall(
                connection, None, method.name, key, since, True, True, function, args, kwargs
            )
            if lane is None:
                lane = calls.own_lane()
            try:
                submit(call, lane)
            except RuntimeError as problem:
                calls.refuse_without_thread(call, problem)
                continue
            running[key] = call
            if len(running) >= dispatcher.max_pending:
                dispatcher.admission.check_capacity()
            continue
        call = ServerCall(connection, request, method.name, key)
        # A context of its own: what it sets there, no other call sees.
        run, function = copy_context().run, method.function
        run(set_current, call)
        try:
            result = run(function, *args, **kwargs) if kwargs else run(function, *args)
        except BaseException as exception:
            calls.finish(call, None, exception)
            continue
        if (
            type(key) is not int
            or dispatcher.is_over
            or not ((type(result) is int and LEAST_INT <= result <= MOST_INT) or is_plain(result))
            or (batch is not None and batch.room <= 0 and not batch.has_room())
        ):
            calls.finish(call, result)
            continue
        call.is_over = True
        if batch is not None:
            batch.awaited -= 1
            batch.room -= 1
        elif not replies:
            outbox.begin()
        replies.append(Success("2.0", key, result))
        if records is not None:
            records.ended(call.own_request())
    # A traceback that keeps this frame must not keep the messages.
    messages[:] = left
    message = None  # type: ignore[assignment]
    if batch is not None:
        dispatcher.replies.end_batch(batch)


def deliver(dispatcher: Dispatcher) -> None:
    """Answer the calls whose functions have ended in threads."""
    calls, outbox, records = dispatcher.calls, dispatcher.outbox, dispatcher.replies.records
    replies, running = outbox.replies, calls.running
    ended = calls.own_lane().ended
    # Those that end meanwhile are announced again, so that other connections have their turn.
    for _ in range(len(ended)):
        call = ended.popleft()
        result = call.result
        if (
            not call.is_common
            or call.error is not None
            or dispatcher.is_over
            or dispatcher.replies.is_paused
            or not ((type(result) is int and LEAST_INT <= result <= MOST_INT) or is_plain(result))
        ):
            calls.end_job(call)
            continue
        call.is_over = True
        del running[call.key]
        if not replies:
            outbox.begin()
        replies.append(Success("2.0", call.key, result))
        if records is not None:
            records.ended(call.own_request())
        if dispatcher.fast_methods is NO_METHODS or dispatcher.tells_when_idle:
            dispatcher.proceed()
    if calls.own_lane().is_blocked:
        dispatcher.proceed()


#: Serves common requests in one loop.
FAST: Final = Path(serve, deliver)
