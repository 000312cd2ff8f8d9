"""The serving half of a connection: calls that the peer made, until each of them is answered.

Where a method runs is `_runner`'s; here is what is under way, what waits, and how a call ends.
"""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol, cast

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from kn_sock._call import Call, current, run_as
from kn_sock._runner import CANCELLED, Runner
from kn_sock._session import Refusal, Request, Session, id_key
from kn_sock._text import shown
from kn_sock._workers import Job
from kn_sock.errors import ErrorCode, InternalError, InvalidParams, MethodNotFound, RPCError
from kn_sock.methods import Method

log = Logger()

set_current = current.set
reset_current = current.reset

# Results of these types are certainly no Deferred, coroutine or other awaitable.
_PLAIN: Final = frozenset({int, str, float, bool, type(None), dict, list, tuple, bytes})

_BUSY = RPCError(
    ErrorCode.SERVER_BUSY, "too many calls are under way on this connection; try again later"
)
_DRAINING = RPCError(
    ErrorCode.SERVER_BUSY, "the server is stopping and takes no new calls; nothing was run"
)


class Connection(Protocol):
    """What is asked of the connection whose calls are served."""

    peer_text: str

    @property
    def awaits_replies(self) -> bool:
        """Whether calls of our own wait for this peer's replies."""

    def update_reading(self) -> None:
        """Ask `Serving.wants_more` once more."""

    def serving_is_idle(self) -> None:
        """Take note that every call is answered."""


class Serving:
    """Serves the calls of one connection.

    Args:
        protocol: whose connection it is; told when reading should pause, and when all is answered.
        session: writes the answers.
        put: sends them.
        runner: runs the methods.
    """

    def __init__(
        self,
        protocol: Connection,
        session: Session[Any],
        put: Callable[[bytes], object],
        runner: Runner,
    ) -> None:
        self._protocol = protocol
        self._put = put
        self._session = session
        self._runner = runner
        self._methods: Mapping[str, Method] = runner.methods
        self._absent: Callable[[Request], RPCError | None] = _not_found
        self._most = runner.options.max_pending
        self._running: dict[Call, None] = {}
        self._by_id: dict[Any, Call] = {}
        # Read from the wire, and not begun: past max_pending, or while the peer does not read.
        self._held: deque[Request | Refusal] = deque()
        # kn-sock 0.3 sends no ids: one call at a time, in order.
        self._in_order: deque[Request | Refusal] = deque()
        self._ordered: Request | None = None
        self._peer_reads = True
        self._is_stalled = False
        self._is_draining = False
        self._is_over = False
        #: Whether the protocol is to be told when every call has been answered.
        self.tells_when_idle = False

    def serve(
        self,
        methods: Mapping[str, Method],
        absent: Callable[[Request], RPCError | None] | None = None,
    ) -> None:
        """Serve these methods from now on.

        Args:
            methods: by name.
            absent: what is answered where a method is none of them; by default, that it is not
                there. ``None`` is for a notification, and drops it.
        """
        self._methods = methods
        self._absent = absent or _not_found

    # --- what comes in ----------------------------------------------------------------------------

    def receive(self, request: Request) -> None:
        """Begin a call, or hold it back."""
        if self._is_over:
            return
        if self._is_stalled or self._is_draining:
            self._hold_or_refuse(request)
        elif request.dialect == "kn-sock":
            self._begin(request)
            self._check_capacity()
        else:
            self._run(request)

    def receive_refusal(self, refusal: Refusal) -> None:
        """Answer what was no request, at once or in its turn."""
        if self._is_over:
            return
        if not self._peer_reads or (refusal.in_order and self._is_stalled):
            self._held.append(refusal)
            self._protocol.update_reading()
        else:
            self._begin(refusal)
            if refusal.in_order:
                self._check_capacity()

    def _begin(self, item: Request | Refusal) -> None:
        """Run a request, or send a refusal; those without ids each in their turn."""
        if isinstance(item, Refusal):
            if not item.in_order:
                self._put(item.line)
                return
        elif item.dialect != "kn-sock":
            self._run(item)
            return
        self._in_order.append(item)
        self._run_in_order()

    def _hold_or_refuse(self, request: Request) -> None:
        if self._is_draining:
            self._refuse_in_turn(request, _DRAINING)
        elif len(self._held) >= self._most and self._peer_reads and self._protocol.awaits_replies:
            # Only where reading goes on for the replies that our own calls wait for.
            self._refuse_in_turn(request, _BUSY)
        else:
            self._held.append(request)
            self._protocol.update_reading()

    def _refuse_in_turn(self, request: Request, error: RPCError) -> None:
        if request.dialect != "kn-sock":
            self._refuse(request, error)
            return
        line = self._session.refuse(request, error)
        if line is not None:
            self.receive_refusal(Refusal(line, in_order=True))

    def cancel(self, request_id: Any) -> None:
        """End the call with this id, if it is under way: it may have ended already."""
        key = id_key(request_id)
        if key is None:
            return
        call = self._by_id.get(key)
        if call is not None:
            self._cancel(call)
            return
        for held in self._held:
            if isinstance(held, Request) and held.expects_reply and id_key(held.id) == key:
                self._held.remove(held)
                self._refuse(held, CANCELLED)
                self._check_capacity()
                return

    def _cancel(self, call: Call) -> None:
        call.cancelled = True
        stop = call._stop
        if isinstance(stop, Deferred):
            try:
                stop.cancel()
            except Exception:
                # The method's own canceller; nothing of ours waits for it.
                log.failure("cancelling {method} raised", method=call.method)
        elif isinstance(stop, Job) and stop.withdraw():
            self._refuse(call._request, CANCELLED)
            self._settled(call)

    # --- running ----------------------------------------------------------------------------------

    def _run(self, request: Request) -> None:
        method = self._methods.get(request.method)
        if method is None:
            self._refuse(request, self._absent(request))
            return
        try:
            args, kwargs = method.bind(request.params, request.kwargs)
        except InvalidParams as error:
            self._refuse(request, error)
            return
        call = Call(self._protocol, request)
        if not method.on_reactor and self._runner.uses_threads:
            self._run_in_thread(call, method, args, kwargs)
            return
        token = set_current(call)
        try:
            result = method.function(*args, **kwargs) if kwargs else method.function(*args)
        except BaseException as exception:
            self._refuse(request, self._runner.error_of(call, exception))
            return
        finally:
            reset_current(token)
        if type(result) in _PLAIN:
            self._answer(request, result)
        else:
            self._answer_later(call, result)

    def _run_in_order(self) -> None:
        while self._in_order and self._ordered is None and self._peer_reads and not self._is_over:
            following = self._in_order.popleft()
            if isinstance(following, Refusal):
                self._put(following.line)
            else:
                self._ordered = following
                self._run(following)

    def _run_in_thread(
        self, call: Call, method: Method, args: Sequence[Any], kwargs: dict[str, Any] | None
    ) -> None:
        work = (call, method.function, args, kwargs)
        try:
            call._stop = self._runner.submit(run_as, work, self._thread_done, call)
        except RuntimeError as problem:
            self._refuse(call._request, InternalError(f"no thread can be had: {problem}"))
            return
        self._begun(call)

    def _thread_done(self, job: Job) -> None:
        call: Call = job.owner
        if job.error is None and type(job.result) not in _PLAIN and _is_awaitable(job.result):
            if not isinstance(job.result, Deferred):
                self._go_on_here(call, job.result)
                return
            job.result.addErrback(lambda _: None)
            text = (
                f"{call.method} returned a Deferred from a worker thread; "
                "decorate it with kn_sock.in_reactor, so that it runs where Deferreds may be used"
            )
            log.error("{text}", text=text)
            job.error = InternalError(text)
        self._end_call(call, job.result, job.error)

    def _go_on_here(self, call: Call, awaitable: Any) -> None:
        """Run what a function in a thread gave back to be awaited, unless nobody waits any more."""
        if not call.cancelled:
            self._answer_later(call, awaitable)
            return
        if isinstance(awaitable, types.CoroutineType):
            awaitable.close()
        self._end_call(call, None, CANCELLED)

    def _end_call(self, call: Call, result: Any, error: BaseException | None) -> None:
        """Answer a call that was under way, and go on with what waited for it."""
        try:
            if error is not None:
                self._refuse(call._request, self._runner.error_of(call, error))
            else:
                self._answer(call._request, result)
        finally:
            self._settled(call)

    def _answer_later(self, call: Call, result: Any) -> None:
        """Answer with what a Deferred, a coroutine or another awaitable gives; or at once."""
        if isinstance(result, Deferred):
            deferred = result
        elif _is_awaitable(result):
            coroutine = result if isinstance(result, types.CoroutineType) else _awaited(result)
            deferred = run_as(call, Deferred.fromCoroutine, (coroutine,), None)
        else:
            self._answer(call._request, result)
            return
        call._stop = deferred
        self._begun(call)
        deferred.addCallbacks(
            self._succeeded, self._failed, callbackArgs=(call,), errbackArgs=(call,)
        )

    def _begun(self, call: Call) -> None:
        self._running[call] = None
        if call._request.expects_reply:
            self._by_id[id_key(call._request.id)] = call
        if len(self._running) >= self._most:
            self._check_capacity()

    def _succeeded(self, result: Any, call: Call) -> None:
        self._end_call(call, result, None)

    def _failed(self, failure: Failure, call: Call) -> None:
        # twisted.python.failure: the value always is an exception.
        self._end_call(call, None, cast(BaseException, failure.value))

    # --- answering --------------------------------------------------------------------------------

    def _answer(self, request: Request, result: Any) -> None:
        try:
            line = self._session.answer(request, result)
        except InternalError as problem:
            error = InternalError(f"{request.method}: {problem}")
            log.error("{error}", error=str(error))
            self._refuse(request, error)
            return
        if request is self._ordered:
            self._ordered = None
        if line is not None and not self._is_over:
            self._put(line)

    def _refuse(self, request: Request, error: RPCError | None) -> None:
        if request is self._ordered:
            self._ordered = None
        if error is None or self._is_over:
            return
        line = self._session.refuse(request, error)
        if line is not None:
            self._put(line)
        elif not request.expects_reply:
            # Nothing is ever answered to a notification (section 4.1): the log is all there is.
            log.info(
                "the notification {method} from {peer} failed: {error}",
                method=shown(request.method),
                peer=self._protocol.peer_text,
                error=str(error),
            )

    # --- capacity ---------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether every call that came has been answered."""
        return not (self._running or self._held or self._in_order or self._ordered)

    def wants_more(self, awaits_replies: bool) -> bool:
        """Tell whether to read on.

        As many requests as may be under way are held beside those that are: what a peer sends
        behind them, a cancellation or its goodbye, is still heard. Past that, reading goes on for
        the sake of the replies that our own calls wait for alone, and what else comes is refused.
        """
        if len(self._held) < self._most:
            return self._peer_reads or awaits_replies
        return self._peer_reads and awaits_replies

    def set_peer_reads(self, reads: bool) -> None:
        """Take note whether the peer takes what is written to it; if not, nothing new is begun."""
        self._peer_reads = reads
        if reads:
            self._proceed()
        else:
            # In the middle of a write: nothing may be begun, or closed, from here.
            self._check_capacity()

    @property
    def _is_full(self) -> bool:
        return not self._peer_reads or len(self._running) + len(self._in_order) >= self._most

    def _check_capacity(self) -> None:
        self._is_stalled = bool(self._held) or self._is_full
        self._protocol.update_reading()

    def _settled(self, call: Call) -> None:
        """Take a call off, once it has been answered, and go on with what waited for it."""
        self._running.pop(call, None)
        call._stop = None
        key = id_key(call._request.id)
        if self._by_id.get(key) is call:
            del self._by_id[key]
        if self._is_stalled or self._in_order or self.tells_when_idle:
            self._proceed()

    def _proceed(self) -> None:
        if self._is_over:
            return
        self._run_in_order()
        while self._held and not self._is_full:
            self._begin(self._held.popleft())
        self._check_capacity()
        if self.tells_when_idle and self.is_idle:
            self._protocol.serving_is_idle()

    # --- the end ----------------------------------------------------------------------------------

    def drain(self) -> None:
        """Refuse new calls from now on; those that were read before are run."""
        self._is_draining = True

    def end(self) -> None:
        """Cancel what is under way: nobody waits for it any more."""
        self._is_over = True
        self._held.clear()
        self._in_order.clear()
        for call in list(self._running):
            self._cancel(call)


def _not_found(request: Request) -> RPCError:
    return MethodNotFound(f"Method '{shown(request.method)}' not found")


def _is_awaitable(value: Any) -> bool:
    return hasattr(type(value), "__await__")


async def _awaited(awaitable: Any) -> Any:
    return await awaitable
