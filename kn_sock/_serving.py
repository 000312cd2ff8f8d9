"""The serving half of a connection: calls that the peer made, until each of them is answered.

Where a method runs is `_runner`'s, and when it may begin `_admission`'s; here is what is under way,
and how a call ends.
"""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol, cast

from msgspec import UNSET
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from kn_sock._admission import Admission
from kn_sock._call import Call, current, run_as
from kn_sock._codec import (
    LEAST_INT,
    MOST_INT,
    PLAIN_BYTES,
    Message,
    Success,
    encode_error,
    is_plain,
)
from kn_sock._deadlines import Deadlines
from kn_sock._outbox import Outbox
from kn_sock._reports import CallReports
from kn_sock._runner import CANCELLED, Runner
from kn_sock._session import BatchReply, Refusal, Request, Session, id_key
from kn_sock._stats import EXIT, outcome_of
from kn_sock._verdicts import deferred_in_thread, no_thread, not_found, too_late
from kn_sock._workers import Lane
from kn_sock.errors import ErrorCode, InternalError, InvalidParams, RPCError
from kn_sock.methods import Method

log = Logger()

set_current = current.set
reset_current = current.reset

_numbers = itertools.count(1)

# So many of the longest lines may wait for a peer that does not read.
_UNREAD_LINES: Final = 16
_UNREAD_ERROR = RPCError(
    ErrorCode.REPLY_TOO_LONG, "the reply was dropped: too much waits to be read before it"
)

# Stands for what stops a call that a thread has, or is to have.
_IN_THREAD: Final = object()

# Results of these types are certainly no Deferred, coroutine or other awaitable.
_PLAIN: Final = frozenset({int, str, float, bool, type(None), dict, list, tuple, bytes})


class Connection(Protocol):
    """What is asked of the connection whose calls are served."""

    peer_text: str
    reactor: Any
    read_at: float

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
        outbox: sends them.
        runner: runs the methods.
    """

    def __init__(
        self,
        protocol: Connection,
        session: Session[Any],
        outbox: Outbox,
        runner: Runner,
    ) -> None:
        self._protocol = protocol
        self._outbox = outbox
        self._put = outbox.put
        self._session = session
        self._runner = runner
        self._methods: Mapping[str, Method] = runner.methods
        self._absent: Callable[[Request], RPCError | None] = _not_found
        self._most = runner.options.max_pending
        self._call_timeout = runner.options.call_timeout
        self._reports = CallReports(protocol, runner.reports)
        # None where calls that succeed are told to nobody, and cost nothing.
        self._records = self._reports if runner.reports.wants_all else None
        session.replaced = self._report
        # By their ids, or by themselves where they have none, or another has the same.
        self._running: dict[Any, Call] = {}
        self._admission = Admission(
            self._most,
            self._running,
            run=self._run,
            put=outbox.put,
            refuse=self._refuse_unbegun,
            update_reading=protocol.update_reading,
            guard=self._guarded,
        )
        # Requests with a deadline, and the calls that they became, by a number of their own.
        self._timed: dict[int, Request | Call] = {}
        self._deadlines: Deadlines | None = None
        self._lane: Lane | None = None
        self._is_over = False
        # Bytes of replies since the peer stopped reading; None while it reads.
        self._unread: int | None = None
        self._is_proceeding = self._must_proceed = False
        #: Whether the protocol is to be told when every call has been answered.
        self.tells_when_idle = False
        # The methods that `take` may call, by name: none where each call is looked at first.
        self._at_once: Mapping[str, Method] = {}
        self._guarded()

    def _guarded(self) -> None:
        """Take note whether requests may begin as they come."""
        options = self._runner.options
        looks_at_each = (
            self._admission.is_guarded
            or self._is_over
            or options.call_timeout is not None
            or options.max_line_bytes < PLAIN_BYTES
            or bool(options.interceptors)
        )
        self._at_once = {} if looks_at_each else self._methods

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
        self._reports.is_of_stranger = absent is not None
        self._guarded()

    @property
    def _wants_login(self) -> bool:
        """Whether what is not in the table may be there after a login."""
        return self._absent is not _not_found

    # --- what comes in ----------------------------------------------------------------------------

    def take(
        self,
        messages: list[Message],
        otherwise: Callable[[Message], object],
        batch: BatchReply | None = None,
    ) -> None:
        """Serve common requests; what is anything else goes to *otherwise*, in its turn.

        Common is a request of the 2.0 dialect with an id, when nothing stands in its way. All that
        is done for others by many functions is done here by one: it is what nearly every call comes
        by.

        Args:
            messages: what came, in order.
            otherwise: gets what is no common request.
            batch: the batch that they are members of, if they are.
        """
        protocol, outbox = self._protocol, self._outbox
        replies = outbox.replies if batch is None else batch.plain
        uses_threads = self._runner.uses_threads
        for message in messages:
            method = self._at_once.get(message.method)  # type: ignore[arg-type]  # UNSET is no name
            if (
                method is None
                or message.jsonrpc != "2.0"
                or message.id is UNSET
                or message.kwargs is not UNSET
                or message.timeout is not UNSET
                or message.traceparent is not UNSET
            ):
                otherwise(message)
                continue
            args: Any = message.params
            kwargs: Any = None
            request = Request(message.id, method.name, UNSET, UNSET, "2.0", True, batch)
            if (
                type(args) is not list
                or not method.required <= len(args) <= method.most
                or (method.kinds is not None and method.kinds != [*map(type, args)])
            ):
                try:
                    args, kwargs = method.bind(args, None)
                except InvalidParams as error:
                    self._refuse(request, error)
                    continue
            call = Call(protocol, request)
            if uses_threads and not method.on_reactor:
                call._is_common = batch is None and type(message.id) is int
                self._run_in_thread(call, method, args, kwargs)
                continue
            token = set_current(call)
            try:
                result = method.function(*args, **kwargs) if kwargs else method.function(*args)
            except BaseException as exception:
                call._is_over = True
                self._refuse(request, self._runner.error_of(call, exception), exception)
                continue
            finally:
                reset_current(token)
            if type(result) not in _PLAIN:
                self._answer_later(call, result)
                continue
            call._is_over = True
            if (
                type(message.id) is not int
                or self._is_over
                or not (
                    (type(result) is int and LEAST_INT <= result <= MOST_INT) or is_plain(result)
                )
            ):
                self._answer(request, result)
                continue
            if batch is not None:
                batch.awaited -= 1
            elif not replies:
                outbox.begin()
            replies.append(Success("2.0", message.id, result))
            if self._records is not None:
                self._records.ended(request)
        if batch is not None and not self._is_over:
            line = batch.line()
            if line is not None:
                self._put(line)

    def receive(self, request: Request) -> None:
        """Begin a call, or hold it back."""
        if self._is_over:
            return
        if request.timeout is not None or self._call_timeout is not None:
            self._set_deadline(request)
        if self._admission.is_guarded or request.dialect == "kn-sock":
            request.since = self._protocol.read_at
            self._admission.receive(request, awaits_replies=self._protocol.awaits_replies)
        else:
            self._run(request)

    def receive_refusal(self, refusal: Refusal) -> None:
        """Answer what was no request, at once or in its turn."""
        if not self._is_over:
            self._reports.unreadable()
            self._admission.receive_refusal(refusal)

    def cancel(self, request_id: Any) -> None:
        """End the call with this id, if it is under way: it may have ended already."""
        key = id_key(request_id)
        if key is None:
            return
        call = self._running.get(key)
        if call is not None:
            self._reports.cancelled()
            self._cancel(call)
            return
        held = self._admission.withdraw(key)
        if held is not None:
            self._reports.cancelled()
            self._refuse(held, CANCELLED)
            self._admission.check_capacity()

    def _cancel(self, call: Call) -> None:
        """Stop a call; one that no thread has yet ends here."""
        call.cancelled = True
        stop = call._stop
        if isinstance(stop, Deferred):
            try:
                stop.cancel()
            except Exception:
                # The method's own canceller; nothing of ours waits for it.
                log.failure("cancelling {method} raised", method=call.method)
        elif stop is _IN_THREAD:
            self._end_waiting(call, CANCELLED)

    def _end_waiting(self, call: Call, verdict: RPCError) -> bool:
        """End a call that waits for a thread; ``False`` where one has it already."""
        if not self._own_lane().withdraw(call):
            return False
        self._refuse(call._request, verdict)
        self._settled(call)
        return True

    # --- deadlines --------------------------------------------------------------------------------

    def _set_deadline(self, request: Request) -> None:
        """Find out when a request has to be over: by what its caller waits, and our own limit."""
        limits = (request.timeout, self._call_timeout)
        seconds = min(limit for limit in limits if limit is not None)
        reactor = self._protocol.reactor
        request.deadline = reactor.seconds() + seconds
        if self._deadlines is None:
            self._deadlines = Deadlines(reactor, self._timed, self._expire)
        request.number = next(_numbers)
        self._timed[request.number] = request
        self._deadlines.add(request.number, max(0.0, seconds), len(self._timed))

    def _is_too_late(self, request: Request) -> bool:
        deadline = request.deadline
        return deadline is not None and bool(deadline <= self._protocol.reactor.seconds())

    def _expire(self, number: int) -> None:
        """End what has not ended in time."""
        late = self._timed[number]
        if isinstance(late, Call):
            is_in_thread = late._stop is _IN_THREAD
            unbegun = too_late(maybe_executed=False)
            if is_in_thread and self._end_waiting(late, unbegun):
                return
            # Answered now; what comes of it later has no reader any more.
            # A job that could not be taken back was begun, whatever it looks like.
            was_begun = is_in_thread or self._was_begun(late)
            self._refuse(late._request, too_late(maybe_executed=was_begun))
            late._is_answered = True
            self._cancel(late)
            if self._admission.has_waiting:
                # A thread may keep it for ever, and those behind it have their turn now.
                self._proceed()
        elif self._admission.drop(late):
            self._refuse(late, too_late(maybe_executed=False))
            self._admission.check_capacity()
        # Those that wait for the replies before theirs are refused in their turn.

    def _was_begun(self, call: Call) -> bool:
        """Tell whether the method has begun of a call that no thread is asked to run."""
        return True

    # --- running ----------------------------------------------------------------------------------

    def _run(self, request: Request) -> None:
        if request.deadline is not None and self._is_too_late(request):
            self._refuse(request, too_late(maybe_executed=False))
            return
        method = self._methods.get(request.method)
        if method is None:
            self._refuse_absent(request)
            return
        try:
            args, kwargs = method.bind(request.params, request.kwargs)
        except InvalidParams as error:
            self._refuse(request, error)
            return
        request.params = request.kwargs = UNSET
        call = Call(self._protocol, request)
        if not method.on_reactor and self._runner.uses_threads:
            self._run_in_thread(call, method, args, kwargs)
            return
        token = set_current(call)
        try:
            result = method.function(*args, **kwargs) if kwargs else method.function(*args)
        except BaseException as exception:
            call._is_over = True
            self._refuse(request, self._runner.error_of(call, exception), exception)
            return
        finally:
            reset_current(token)
        if type(result) in _PLAIN:
            call._is_over = True
            self._answer(request, result)
        else:
            self._answer_later(call, result)

    def _refuse_absent(self, request: Request) -> None:
        """Answer a request whose method is not there, or not for this caller."""
        error = self._absent(request)
        if error is not None:
            self._refuse(request, error)
            return
        self._leave_turn(request)
        outcome = outcome_of(ErrorCode.NOT_AUTHENTICATED)
        self._reports.ended(request, outcome, is_known=False)

    def _run_in_thread(
        self, call: Call, method: Method, args: Sequence[Any], kwargs: dict[str, Any] | None
    ) -> None:
        call._function, call._args, call._kwargs = method.function, args, kwargs
        try:
            self._runner.submit(call, self._lane or self._own_lane())
        except RuntimeError as problem:
            self._refuse(call._request, no_thread(problem))
            return
        call._stop = _IN_THREAD
        self._begun(call)

    def _own_lane(self) -> Lane:
        """Give the place among the connections that wait for threads; most never need one."""
        if self._lane is None:
            self._lane = self._runner.new_lane(self._jobs_ended)
        return self._lane

    def _jobs_ended(self) -> None:
        """Answer the calls whose functions have ended in threads; the common ones in one pass."""
        ended = self._own_lane().ended
        outbox, replies, running = self._outbox, self._outbox.replies, self._running
        # Those that end meanwhile are told of anew, so that others have their turn.
        for _ in range(len(ended)):
            call = ended.popleft()
            result = call._result
            if (
                not (type(call) is Call and call._is_common and call._error is None)
                or self._is_over
                or self._unread is not None
                or not (
                    (type(result) is int and LEAST_INT <= result <= MOST_INT) or is_plain(result)
                )
            ):
                try:
                    self._end_job(call)
                except Exception:
                    log.failure("delivering the result of a method failed")
                continue
            call._is_over = True
            call._stop = None
            del running[call._key]
            if not replies:
                outbox.begin()
            replies.append(Success("2.0", call._request.id, result))
            if self._records is not None:
                self._records.ended(call._request)
            if self._admission.is_guarded or self.tells_when_idle:
                self._proceed()

    def _end_job(self, call: Any) -> None:
        """Answer one call whose function has ended in a thread."""
        result, error = call._result, call._error
        # They may lead back to it.
        call._result = call._error = None
        if error is None and type(result) not in _PLAIN and is_awaitable(result):
            if not isinstance(result, Deferred):
                self._go_on_here(call, result)
                return
            result.addErrback(lambda _: None)
            error = deferred_in_thread(call.method)
        self._end_call(call, result, error)

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
        call._is_over = True
        try:
            if call._is_answered:
                if error is not None:
                    # It may ask for the end of the process.
                    self._runner.error_of(call, error)
            elif error is not None:
                self._refuse(call._request, self._runner.error_of(call, error), error)
            else:
                self._answer(call._request, result)
        finally:
            self._settled(call)

    def _answer_later(self, call: Call, result: Any) -> None:
        """Answer with what a Deferred, a coroutine or another awaitable gives; or at once."""
        if isinstance(result, Deferred):
            deferred = result
        elif is_awaitable(result):
            coroutine = result if isinstance(result, types.CoroutineType) else _awaited(result)
            deferred = run_as(call, Deferred.fromCoroutine, (coroutine,), None)
        else:
            call._is_over = True
            self._answer(call._request, result)
            return
        call._stop = deferred
        self._begun(call)
        deferred.addCallbacks(
            self._succeeded, self._failed, callbackArgs=(call,), errbackArgs=(call,)
        )

    def _begun(self, call: Call) -> None:
        request, running = call._request, self._running
        key = id_key(request.id)
        if key is None or key in running:
            key = call
        call._key = key
        running[key] = call
        if request.since is None:
            request.since = self._protocol.read_at
        if request.number:
            self._timed[request.number] = call
        if len(running) >= self._most:
            self._admission.check_capacity()

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
            self._refuse(request, InternalError(f"{request.method}: {problem}"))
            return
        self._leave_turn(request)
        if line is not None and not self._is_over:
            if self._unread is not None:
                short = self._within_unread(request, line, self._unread)
                if short is not line:
                    request.is_replaced = True
                    self._report(request, _UNREAD_ERROR)
                line = short
            self._put(line)
        if self._records is not None and not request.is_replaced:
            self._records.ended(request)

    def _within_unread(self, request: Request, line: bytes, unread: int) -> bytes:
        """Let no more than so many bytes of replies wait for a peer that does not read."""
        most = _UNREAD_LINES * self._runner.options.max_line_bytes
        if unread + len(line) > most:
            text = f"the reply was dropped: more than {most:,} bytes wait to be read before it"
            error = RPCError(ErrorCode.REPLY_TOO_LONG, text)
            if request.batch is None:
                instead = self._session.refuse(request, error) or line
            else:
                instead = encode_error("2.0", None, error)
            # What is an error already, and as short, stays as it is.
            line = min(line, instead, key=len)
        self._unread = unread + len(line)
        return line

    def _leave_turn(self, request: Request) -> None:
        """Take note that a request is answered."""
        if request.dialect == "kn-sock":
            self._admission.answered(request)
        if request.number:
            self._timed.pop(request.number, None)

    def _refuse(
        self, request: Request, error: RPCError | None, raised: BaseException | None = None
    ) -> None:
        self._leave_turn(request)
        if error is None:
            self._reports.ended(request, EXIT)
            return
        self._report(request, error, raised)
        if self._is_over:
            return
        line = self._session.refuse(request, error)
        if line is not None:
            if self._unread is not None:
                line = self._within_unread(request, line, self._unread)
            self._put(line)

    def _refuse_unbegun(self, request: Request, error: RPCError) -> bytes | None:
        """Write the refusal of a request that was never let in; it is sent in its turn."""
        self._leave_turn(request)
        self._report(request, error)
        return self._session.refuse(request, error)

    def _report(
        self, request: Request, error: RPCError, raised: BaseException | None = None
    ) -> None:
        is_known = request.method in self._methods
        self._reports.failed(request, error, raised, is_known=is_known)

    # --- capacity ---------------------------------------------------------------------------------

    @property
    def calls_in_flight(self) -> int:
        """How many calls have begun, and not ended."""
        return len(self._running)

    @property
    def calls_waiting(self) -> int:
        """How many calls were read, and have not begun."""
        return len(self._admission.waiting)

    @property
    def is_idle(self) -> bool:
        """Whether every call that came has been answered."""
        return not self._running and self._admission.is_empty

    def wants_more(self, awaits_replies: bool) -> bool:
        """Tell whether to read on."""
        return self._admission.wants_more(awaits_replies)

    def set_peer_reads(self, reads: bool) -> None:
        """Take note whether the peer takes what is written to it; if not, nothing new is begun."""
        self._unread = None if reads else self._unread or 0
        self._admission.set_peer_reads(reads)
        if reads:
            self._proceed()
        else:
            # In the middle of a write: nothing may be begun, or closed, from here.
            self._admission.check_capacity()

    def _settled(self, call: Call) -> None:
        """Take a call off, once it has been answered, and go on with what waited for it."""
        self._running.pop(call._key, None)
        call._stop = None
        if self._admission.has_waiting or self.tells_when_idle:
            self._proceed()

    def _proceed(self) -> None:
        if self._is_over:
            return
        if self._is_proceeding:
            # A call that ended as soon as it began: the next is begun below, and not inside it.
            self._must_proceed = True
            return
        self._is_proceeding = self._must_proceed = True
        try:
            while self._must_proceed:
                self._must_proceed = False
                self._admission.proceed()
        finally:
            self._is_proceeding = False
        if self.tells_when_idle and self.is_idle:
            self._protocol.serving_is_idle()

    # --- the end ----------------------------------------------------------------------------------

    def drain(self) -> None:
        """Refuse new calls from now on; those that were read before are run."""
        self._admission.drain()

    def end(self) -> None:
        """Cancel what is under way: nobody waits for it any more."""
        if self._is_over:
            return
        self._is_over = True
        self._at_once = {}
        running = list(self._running.values())
        begun = [call._request for call in running if not call._is_answered]
        self._reports.end([*begun, *self._admission.waiting])
        self._admission.end()
        self._timed.clear()
        if self._deadlines is not None:
            self._deadlines.stop()
        for call in running:
            self._cancel(call)


def _not_found(request: Request) -> RPCError:
    return not_found(request.method)


def is_awaitable(value: Any) -> bool:
    """Tell whether a result is still to be awaited."""
    return hasattr(type(value), "__await__")


async def _awaited(awaitable: Any) -> Any:
    return await awaitable
