"""The short way of common requests: all that one read delivered is served in one loop.

Whatever is done for other requests by the many functions of `_serving` is done here by one, with
the same outcome; every step that a call does not need costs more than what its method does. This is
the hot path: measure what is changed here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from msgspec import UNSET
from typing_extensions import override

from kn_sock._serving.context import ServerCall, current
from kn_sock._serving.dispatcher import PLAIN_TYPES, Dispatcher
from kn_sock._serving.refusals import no_thread
from kn_sock._wire.batches import BatchReply
from kn_sock._wire.dialects import JSONRPC_2
from kn_sock._wire.encoding import LEAST_INT, MOST_INT, PLAIN_BYTES, Success, is_plain
from kn_sock._wire.events import Request
from kn_sock._wire.messages import Message
from kn_sock.errors import InvalidParams
from kn_sock.methods.table import Method

set_current = current.set
reset_current = current.reset

# Looked up, and compared with: where no method may be called at once.
_NONE: Final[Mapping[str, Method]] = {}


class FastDispatcher(Dispatcher):
    """Serves the calls of one connection, the common ones by the short way.

    Common is a request of the 2.0 dialect with an id, while requests may begin as they come, and
    have no limit of time.
    """

    # The methods that may be called at once, by name: none where each call is looked at first.
    _fast_methods: Mapping[str, Method]

    @override
    def _update_fast_path(self) -> None:
        options = self._runner.options
        looks_at_each = (
            self._is_guarded
            or self._is_over
            or options.call_timeout is not None
            or options.max_line_bytes < PLAIN_BYTES
        )
        self._fast_methods = _NONE if looks_at_each else self._methods

    @override
    def take(
        self,
        messages: list[Message],
        slow_path: Callable[[Message], object],
        batch: BatchReply | None = None,
    ) -> None:
        protocol, outbox = self._protocol, self._outbox
        replies = outbox.replies if batch is None else batch.plain
        uses_threads, running = self._runner.uses_threads, self._running
        connection = self._connection or self._own_connection()
        if uses_threads:
            since, lane = protocol.read_at, self._lane
            # The pool itself, where there is one: without another call.
            submit = (self._runner.pool or self._runner).submit
        for message in messages:
            method = self._fast_methods.get(message.method)  # type: ignore[arg-type]  # UNSET is no name
            if (
                method is None
                or message.jsonrpc != "2.0"
                or message.id is UNSET
                or message.kwargs is not UNSET
                or message.timeout is not UNSET
                or message.traceparent is not UNSET
            ):
                slow_path(message)
                continue
            args: Any = message.params
            kwargs: Any = None
            request = None
            if batch is not None:
                request = Request(message.id, method.name, UNSET, UNSET, JSONRPC_2, True, batch)
            if (
                type(args) is not list
                or not method.required <= len(args) <= method.most
                or (method.kinds is not None and method.kinds != [*map(type, args)])
            ):
                try:
                    args, kwargs = method.bind(args, None)
                except InvalidParams as error:
                    call = ServerCall(connection, request, method.name, message.id)
                    self._refuse(call.request, error)
                    continue
            key = message.id
            if uses_threads and not method.on_reactor:
                if batch is not None or type(key) is not int or key in running:
                    call = ServerCall(connection, request, method.name, key)
                    self._run_in_thread(call, method, args, kwargs)
                    continue
                # A tuple of plain values is one that the collector lets be, from its first look on.
                args, function = tuple(args), method.function
                call = ServerCall(
                    connection,
                    None,
                    method.name,
                    key,
                    since,
                    True,
                    True,
                    function,
                    args,
                    kwargs,
                )
                if lane is None:
                    lane = self._own_lane()
                try:
                    submit(call, lane)
                except RuntimeError as problem:
                    call.forget_function()
                    self._refuse(call.request, no_thread(problem))
                    continue
                running[key] = call
                if len(running) >= self._most:
                    self._admitting().check_capacity()
                continue
            call = ServerCall(connection, request, method.name, key)
            token = set_current(call)
            try:
                result = method.function(*args, **kwargs) if kwargs else method.function(*args)
            except BaseException as exception:
                call.is_over = True
                self._refuse(call.request, self._runner.error_of(call, exception), exception)
                continue
            finally:
                reset_current(token)
            if type(result) not in PLAIN_TYPES:
                self._answer_later(call, result)
                continue
            call.is_over = True
            if (
                type(key) is not int
                or self._is_over
                or not (
                    (type(result) is int and LEAST_INT <= result <= MOST_INT) or is_plain(result)
                )
                or (batch is not None and batch.room <= 0 and not batch.has_room())
            ):
                self._answer(call.request, result)
                continue
            if batch is not None:
                batch.awaited -= 1
                batch.room -= 1
            elif not replies:
                outbox.begin()
            replies.append(Success("2.0", key, result))
            if self._records is not None:
                self._records.ended(call.request)
        # Nobody would collect what keeps this frame, as a traceback does, and is kept by a message.
        del messages[:]
        message = None  # type: ignore[assignment]
        if batch is not None:
            self._end_batch(batch)

    @override
    def _jobs_ended(self) -> None:
        ended = self._own_lane().ended
        outbox, replies, running = self._outbox, self._outbox.replies, self._running
        # Those that end meanwhile are told of anew, so that others have their turn.
        for _ in range(len(ended)):
            call = ended.popleft()
            result = call.result
            if (
                not call.is_common
                or call.error is not None
                or self._is_over
                or self._bytes_while_paused is not None
                or not (
                    (type(result) is int and LEAST_INT <= result <= MOST_INT) or is_plain(result)
                )
            ):
                self._try_to_end(call)
                continue
            call.is_over = True
            del running[call.key]
            if not replies:
                outbox.begin()
            replies.append(Success("2.0", call.key, result))
            if self._records is not None:
                self._records.ended(call.request)
            if self._fast_methods is _NONE or self.tells_when_idle:
                self._proceed()
