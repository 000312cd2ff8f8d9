"""Where methods run, and the errors that callers get: shared by the connections of one factory."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from kn_sock._exceptions import describe_exception, share_details
from kn_sock._observe.reports import Reports, traceback_of
from kn_sock._serving.budget import TURN_SECONDS, Budget
from kn_sock._serving.threads import CompletionNotifier, ConnectionQueue, Job, Submits, WorkerPool
from kn_sock._wire.encoding import PLAIN_BYTES
from kn_sock.errors import ErrorCode, InternalError, RPCError

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from kn_sock._io.outbox import WriteCoalescer
    from kn_sock._serving.budget import Account
    from kn_sock._serving.context import ServerCall
    from kn_sock.methods.signature import Method
    from kn_sock.options import ServerOptions

log = Logger()

ASKS_TO_EXIT: Final = (SystemExit, KeyboardInterrupt)

CANCELLED: Final = RPCError(ErrorCode.CANCELLED, "the call was cancelled")


class Runner:
    """The methods of one factory, and the threads that some of them run in.

    Args:
        methods: by name; ``rpc.ping`` and ``rpc.discover`` among them.
        options: how calls are treated.
        turn: gathers what is written while finished calls are delivered.
        clock: the reactor.
        call_from_thread: the reactor's.
        on_exit: called on the reactor's thread with the ``SystemExit`` or ``KeyboardInterrupt``
            that a method raised: it asks for the end of the process.
        reports: where the connections report.
    """

    def __init__(
        self,
        methods: Mapping[str, Method],
        options: ServerOptions,
        turn: WriteCoalescer,
        clock: IReactorTime,
        call_from_thread: Callable[..., object],
        on_exit: Callable[[BaseException], object],
        reports: Reports | None = None,
    ) -> None:
        self.reports = reports or Reports()
        self.methods = dict(methods)
        self.options = options
        self._on_exit = on_exit
        #: Whether every plain reply is certain to be within the limit of a line.
        self.queues_plain_replies = options.max_line_bytes >= PLAIN_BYTES
        self.uses_threads = options.executor is not None or options.threads > 0
        self._turn = turn
        self._seconds = clock.seconds
        #: The bytes that calls of all connections may take.
        self.budget = Budget(
            options.max_total_buffered_bytes, options.max_buffered_bytes, clock.callLater
        )
        self._finished = CompletionNotifier(call_from_thread, self._deliver)
        self._executor: Submits | None = options.executor
        #: The threads, once there has been need of them, and no executor of the caller's own.
        self.pool: WorkerPool | None = None

    def new_lane(
        self,
        done: Callable[[], object],
        account: Account,
        encode: Callable[[Any, Any], Any],
    ) -> ConnectionQueue:
        """Make the place of one connection among those that wait for threads."""
        return ConnectionQueue(self._finished, done, account, encode)

    def submit(self, job: Job, lane: ConnectionQueue) -> None:
        """Run a job on a worker thread.

        Raises:
            RuntimeError: no thread can be had.
        """
        if self.pool is not None:
            self.pool.submit(job, lane)
        elif self._executor is None:
            self.pool = WorkerPool(self.options.threads)
            self.pool.submit(job, lane)
        else:
            # It has an order of its own; of one connection's jobs, the first comes first.
            lane.waiting.append(job)
            try:
                self._executor.submit(lane.run_next)
            except Exception as problem:
                # If it cannot be withdrawn, it ran in place of another job.
                if lane.withdraw(job):
                    text = str(problem) or type(problem).__name__
                    raise RuntimeError(text) from problem

    def resume(self, lane: ConnectionQueue) -> None:
        """Resume a lane that is blocked: with one job, if there is no room."""
        lane.is_blocked = False
        if self.pool is not None:
            self.pool.resume(lane)
        elif self._executor is not None:
            lane.resume_in(self._executor)

    def _deliver(self, lanes: deque[ConnectionQueue]) -> None:
        self._turn.hold()
        until = self._seconds() + TURN_SECONDS
        try:
            # Those that end meanwhile wake the reactor anew, so that others have their turn.
            for left in range(len(lanes), 0, -1):
                lanes.popleft().deliver()
                if left > 1 and self._seconds() >= until:
                    self._finished.go_on()
                    return
        finally:
            self._turn.release()

    def stop(self) -> None:
        """End the threads; a later call starts new ones."""
        if self.pool is not None:
            self.pool.stop()
            self.pool = None

    # --- errors --------------------------------------------------------------------------------

    def error_of(self, call: ServerCall, exception: BaseException) -> RPCError:
        """Return the error that the caller gets; stop if the process is asked to exit."""
        if isinstance(exception, ASKS_TO_EXIT):
            log.critical(
                "{method} raised {kind}: stopping",
                method=call.method,
                kind=type(exception).__name__,
            )
            self._on_exit(exception)
            return InternalError(
                f"{call.method} raised {type(exception).__name__}: the server is stopping"
            )
        if call.cancelled and isinstance(exception, CancelledError):
            return CANCELLED
        if isinstance(exception, RPCError):
            return exception
        error = describe_exception(exception)
        options = self.options
        if not options.expose_errors:
            # The log has the same reference, and with it what is kept from the caller.
            reference = uuid.uuid4().hex[:12]
            text = f"internal error (reference {reference})"
            return InternalError(text, {"reference": reference})
        hint = _asyncio_hint(exception, str(error))
        if hint:
            return InternalError(f"{call.method}: {error}; {hint}")
        if options.share_tracebacks:
            error.data["traceback"] = traceback_of(exception)
            share_details(error, exception)
        return error


def _asyncio_hint(exception: BaseException, text: str) -> str:
    if isinstance(exception, RuntimeError) and (
        "no running event loop" in text or "await wasn't used with future" in text
    ):
        return (
            "code that needs asyncio's event loop runs under Twisted's asyncio reactor "
            "(twistd --reactor=asyncio), wrapped in Deferred.fromFuture(asyncio.ensure_future(…))"
        )
    return ""
