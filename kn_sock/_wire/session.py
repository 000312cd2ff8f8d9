"""One endpoint of a connection without its I/O: the same at both ends.

Lines go in and events come out; calls and answers go in and lines come out. Here are the ids, the
table of calls that wait for a reply, the batches and the order of replies. No Twisted, no socket,
no clock, no thread, no logging: what to do with an event is the caller's. No input raises.

Spec: JSON-RPC 2.0 sections 4 to 6, JSON-RPC 1.0 section 1, kn-sock 0.3.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sized
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from msgspec import UNSET, Raw, Struct, UnsetType

from kn_sock._wire import codec
from kn_sock._wire.codec import (
    LONG_BYTES,
    PLAIN_BYTES,
    UNREADABLE,
    Dialect,
    Head,
    Member,
    Message,
    NoMessageError,
    RequestId,
    Success,
    decode_batch,
    decode_long,
    decode_message,
    encode_plain_members,
    encode_result,
)
from kn_sock._wire.framing import PREFIX_BYTES, Line, OverlongLine
from kn_sock._wire.requests import RequestEncoder
from kn_sock.errors import ErrorCode, InternalError, InvalidRequest, RPCError, error_from_wire

NO_HEAD = Head(UNSET, "2.0", False)

# Where the dialect has ids.
_NONE_IN_ORDER: deque[int] = deque(maxlen=0)

# Whatever the caller wants to find again when a reply comes.
P = TypeVar("P")


class Request(Struct, eq=False, gc=False):
    """The peer calls one of our methods, or notifies us.

    The collector does not look at it. Whoever begins it takes its arguments out of it, which lead
    anywhere.
    """

    id: RequestId | UnsetType
    method: str
    params: list[Any] | dict[str, Any] | UnsetType | None
    kwargs: dict[str, Any] | UnsetType | None
    dialect: Dialect
    expects_reply: bool
    batch: BatchReply | None = None
    # When it was read, in the reactor's seconds: None where it has ended by the end of that read.
    since: float | None = None
    # Seconds for which the caller still waits, when it came.
    timeout: float | None = None
    traceparent: str | None = None
    # When it has to be over, in the reactor's seconds: whoever serves it finds that out.
    deadline: float | None = None
    # By which its deadline finds it; 0 where it has none.
    number: int = 0
    # The error that was sent in place of its result, if one was.
    replaced_by: RPCError | None = None


class Cancel(Struct):
    """The peer gave up the call with this id."""

    id: Any


class Answered(Struct, Generic[P]):
    """A call of ours has its result."""

    pending: P
    result: Any


class Failed(Struct, Generic[P]):
    """A call of ours has its error."""

    pending: P
    error: RPCError


class Refusal(Struct):
    """What came was no request; this line answers it."""

    line: bytes
    # Whether it has its turn after the answers to what came before, as kn-sock 0.3 has no ids.
    in_order: bool = False


class UnmatchedError(Struct):
    """The peer reports something it could not read; which call it was, it could not say."""

    error: RPCError


class ProtocolViolation(Struct):
    """The peer broke the protocol so that nothing it says can be matched to a call any more."""

    reason: str


Event: TypeAlias = (
    Request | Cancel | Answered[P] | Failed[P] | Refusal | UnmatchedError | ProtocolViolation
)


def _refusal(text: str, request_id: RequestId | UnsetType) -> Refusal:
    known = None if request_id is UNSET else request_id
    return Refusal(codec.encode_error("2.0", known, InvalidRequest(text)))


def _seconds(timeout: Any) -> float | None:
    """Read the time that a caller waits; what is no such thing is not ours, and ignored."""
    if type(timeout) not in (int, float):
        return None
    try:
        return float(timeout)
    except OverflowError:
        # Longer than any clock counts.
        return None


class BatchReply:
    """The replies to one batch, gathered until the last is there."""

    __slots__ = ("awaited", "limit", "parts", "plain", "room", "size")

    def __init__(self, awaited: int, limit: int) -> None:
        self.awaited = awaited
        self.limit = limit
        self.parts: list[bytes] = []
        # Plain replies, encoded all at once; each is counted as it is put here.
        self.plain: list[Success] = []
        self.size = 0
        # So many more may be put there before it has to be asked whether there is room: each counts
        # for the longest, until it is encoded.
        self.room = limit // PLAIN_BYTES

    def add(self, line: bytes) -> None:
        """Add one reply, a line with its newline."""
        self.encode_plain()
        self.parts.append(line[:-1])
        self.size += len(line)
        self.room = (self.limit - self.size) // PLAIN_BYTES
        self.awaited -= 1

    def has_room(self) -> bool:
        """Tell whether one more plain reply is certain to be within the limit."""
        self.encode_plain()
        return self.room > 0

    def encode_plain(self) -> None:
        """Encode the plain replies, so that ``size`` tells of all."""
        if self.plain:
            part = encode_plain_members(self.plain)
            self.parts.append(part)
            self.plain.clear()
            self.size += len(part) + 1
            self.room = (self.limit - self.size) // PLAIN_BYTES

    def line(self) -> bytes | None:
        """Give the whole reply once it is there; ``None`` before, and for mere notifications."""
        if self.awaited:
            return None
        if self.plain:
            self.parts.append(encode_plain_members(self.plain))
            self.plain.clear()
        if not self.parts:
            return None
        line = b"[%b]\n" % b",".join(self.parts)
        # Once.
        self.parts = []
        if len(line) <= self.limit:
            return line
        # Mere errors, too many of them: one stands for all.
        return codec.encode_error("2.0", None, codec.reply_too_long(len(line), self.limit))


class Session(Generic[P]):
    """Correlates requests and replies, in both directions.

    Args:
        writer: writes our own calls. What comes in is answered in its own dialect.
        max_line_bytes: the longest line that we send; a longer reply becomes an error.
        max_batch: the most members of a batch that we accept.
        unversioned: the dialect of requests with an id and without ``jsonrpc``.
    """

    _first_id: int | None = None
    _last_id = 0
    # kn-sock 0.3 sends no ids: its replies come in the order of the requests.
    _unanswered = _NONE_IN_ORDER
    #: Replies to calls that had ended.
    late_replies = 0

    def __init__(
        self,
        writer: RequestEncoder | None = None,
        *,
        max_line_bytes: int = 4 * 1024 * 1024,
        max_batch: int = 1000,
        unversioned: Literal["1.0", "2.0"] = "1.0",
    ) -> None:
        self.writer = writer or RequestEncoder()
        # The empty name is no notification's, where calls cannot be given up.
        self._cancel_method, self._cancel_member = self.writer.cancellation or ("", "")
        self._unversioned = unversioned
        self.dialect = self.writer.dialect
        self._max_line_bytes = max_line_bytes
        self._max_batch = max_batch
        #: The calls that wait for a reply, in the order in which they were made.
        self.pending: dict[int, P] = {}
        if self.dialect == "kn-sock":
            self._unanswered = deque()

    # --- lines in ---------------------------------------------------------------------------------

    def receive(self, line: Line) -> Event[P] | list[Event[P]] | None:
        """Say what a line means.

        Returns:
            One event, a list of them for a batch, or ``None`` where there is nothing to do: a reply
            that is late.
        """
        try:
            message = decode_message(line) if len(line) < LONG_BYTES else decode_long(line)
        except UNREADABLE as problem:
            return self.receive_unusual(line, problem)
        return self.receive_message(message)

    def receive_message(self, message: Message) -> Event[P] | None:
        """Say what a message means, that was decoded alone."""
        if message.method is UNSET:
            return self._receive_reply(message)
        return self._receive_request(message)

    def receive_overlong(self, line: OverlongLine) -> Event[P] | None:
        """Say what a line means that was too long to be read: an error, for its call if known."""
        limit = self._max_line_bytes
        head = codec.read_head(line.prefix)
        if head.is_reply:
            text = f"the reply is longer than max_line_bytes ({limit:,}); ask for less"
            return self._fail_unread(head, RPCError(ErrorCode.REPLY_TOO_LONG, text))
        text = f"the line is longer than max_line_bytes ({limit:,}); nothing in it was run"
        request_id = None if head.request_id is UNSET else head.request_id
        error = RPCError(ErrorCode.REQUEST_TOO_LONG, text)
        return self._refusal_of(NoMessageError(error, head.dialect, request_id))

    def _fail_unread(self, head: Head, error: RPCError) -> Event[P] | None:
        """Give a reply that cannot be read to its call, as an error."""
        request_id = head.request_id
        if self._is_answered_in_order:
            request_id = self._unanswered.popleft()
        if type(request_id) is int:
            pending = self.pending.pop(request_id, None)
            if pending is not None:
                return Failed(pending, error)
            if self._was_issued(request_id):
                self.late_replies += 1
                return None
        return ProtocolViolation(f"{error}; which call it belongs to cannot be known")

    def _receive_request(self, message: Message, batch: BatchReply | None = None) -> Event[P]:
        request_id = message.id
        jsonrpc = message.jsonrpc
        if jsonrpc == "2.0":
            dialect: Dialect = "2.0"
            expects_reply = request_id is not UNSET
            if not expects_reply and message.method == self._cancel_method:
                params = message.params
                return Cancel(params.get(self._cancel_member) if isinstance(params, dict) else None)
        elif jsonrpc is not UNSET or (batch is not None and not self._is_versionless(message)):
            return _refusal('jsonrpc must be the string "2.0"', request_id)
        elif request_id is UNSET:
            dialect = "kn-sock"
            expects_reply = True
        else:
            dialect = self._unversioned
            expects_reply = request_id is not None
        params, kwargs = message.params, message.kwargs
        # What a method keeps in them may lead here, as a traceback does.
        message.params = message.kwargs = UNSET
        return Request(
            request_id,
            message.method,  # type: ignore[arg-type]  # told apart from a reply by its method
            params,
            kwargs,
            dialect,
            expects_reply,
            batch if expects_reply else None,
            None,
            _seconds(message.timeout),
            message.traceparent if isinstance(message.traceparent, str) else None,
        )

    def _is_versionless(self, message: Message) -> bool:
        """Whether a request is one of 2.0 but for its version, where such are taken."""
        return self._unversioned == "2.0" and message.id is not UNSET

    def receive_batch(self, line: Line) -> tuple[list[Message], BatchReply] | None:
        """Decode a line as a batch all whose members are messages; ``None`` where it is none.

        What is wrong with it, if it looked like one, `receive_unusual` says.
        """
        if self._is_answered_in_order:
            return None
        messages = decode_batch(line, self._most_members)
        return None if messages is None else (messages, self._reply_to(messages))

    def _reply_to(self, members: Sized) -> BatchReply:
        return BatchReply(len(members), self._max_line_bytes)

    def receive_member(self, message: Message, reply: BatchReply) -> Event[P] | None:
        """Say what a member of a batch means; what is no request is answered in *reply*."""
        if message.method is UNSET:
            event = self._receive_reply(message)
        else:
            event = self._receive_request(message, reply)
        if isinstance(event, Refusal):
            reply.add(event.line)
            return None
        if not isinstance(event, Request) or not event.expects_reply:
            reply.awaited -= 1
        return event

    def receive_unusual(
        self, line: Line, problem: BaseException
    ) -> Event[P] | list[Event[P]] | None:
        """Say what a line means that is no single message as they commonly are.

        Args:
            line: the line.
            problem: what `decode_message` raised at it.
        """
        try:
            found = codec.decode_unusual(line, self._most_members, problem)
        except NoMessageError as error:
            head = codec.read_head(bytes(line[:PREFIX_BYTES]))
            if (head.is_reply and self.pending) or (self.dialect == "kn-sock" and self._unanswered):
                text = f"the peer's reply cannot be read: {error}"
                return self._fail_unread(head, InternalError(text))
            return self._refusal_of(error)
        if isinstance(found, list):
            if self._is_answered_in_order:
                return self._fail_unread(NO_HEAD, InternalError("the peer replied with an array"))
            return self._receive_batch(found)
        if found.method is UNSET:
            return self._receive_reply(found)
        return self._receive_request(found)

    @property
    def _most_members(self) -> int:
        # The replies to a batch of ours may be more than we would take of requests.
        return max(self._max_batch, len(self.pending))

    def _refusal_of(self, problem: NoMessageError) -> Refusal:
        dialect = self._unversioned if problem.dialect == "1.0" else problem.dialect
        line = codec.encode_error(dialect, problem.request_id, problem.error)
        return Refusal(line, in_order=dialect == "kn-sock")

    def _receive_batch(self, members: list[Member]) -> Event[P] | list[Event[P]] | None:
        if not members:
            return _refusal("a batch has at least one member", UNSET)
        if len(members) > self._most_members:
            text = f"the batch has more members than max_batch ({self._max_batch:,})"
            error = RPCError(ErrorCode.BATCH_TOO_LARGE, text)
            return Refusal(codec.encode_error("2.0", None, error))
        reply = self._reply_to(members)
        events: list[Event[P]] = []
        for member in members:
            event = self._receive_raw_member(member, reply)
            if event is not None:
                events.append(event)
        line = reply.line()
        if line is not None:
            events.append(Refusal(line))
        return events

    def _receive_raw_member(self, member: Member, reply: BatchReply) -> Event[P] | None:
        if isinstance(member, NoMessageError):
            # A batch is JSON-RPC 2.0, whatever its members look like.
            member.dialect = "2.0"
            reply.add(self._refusal_of(member).line)
            return None
        if isinstance(member, list):
            reply.add(_refusal("a batch cannot hold a batch", UNSET).line)
            return None
        return self.receive_member(member, reply)

    def _receive_reply(self, message: Message) -> Event[P] | None:
        reply_id = message.id
        error, result = message.error, message.result
        # What their reader keeps in them may lead here, as a traceback does.
        message.error = message.result = UNSET
        if error is UNSET and result is not UNSET and type(reply_id) is int:
            # The common case, without the questions below.
            pending = self.pending.pop(reply_id, None) if self.dialect != "kn-sock" else None
            if pending is not None:
                return Answered(pending, result)
        is_in_order = self._is_answered_in_order
        if error is UNSET and result is UNSET:
            if is_in_order:
                pass
            elif type(reply_id) is not int or reply_id not in self.pending:
                return _refusal("a request has a method, a reply a result or an error", reply_id)
        elif error is None:
            error = UNSET
        if is_in_order:
            reply_id = self._unanswered.popleft()
        if type(reply_id) is int:
            pending = self.pending.pop(reply_id, None)
            if pending is None:
                if self._was_issued(reply_id):
                    self.late_replies += 1
                    return None
                return ProtocolViolation(
                    f"a reply came to the call {reply_id}, which was never made"
                )
            if error is not UNSET:
                return Failed(pending, error_from_wire(error))
            if result is UNSET:
                text = "the peer's reply has neither a result nor an error"
                return Failed(pending, InternalError(text))
            return Answered(pending, result)
        if reply_id is None and self.dialect == "1.0" and message.jsonrpc is UNSET:
            # To a notification, which has no reply by JSON-RPC 1.0, section 1.3: Go's servers have.
            return None
        if error is not UNSET and (reply_id is None or message.jsonrpc == "2.0"):
            return UnmatchedError(error_from_wire(error))
        if reply_id is UNSET and self.pending and self.dialect != "kn-sock":
            return ProtocolViolation(
                "the peer replies without ids, as kn-sock 0.3 does; "
                'connect to it with dialect="kn-sock"'
            )
        return ProtocolViolation("a reply came that belongs to no call")

    @property
    def _is_answered_in_order(self) -> bool:
        """Whether the next line of the peer is the reply to the oldest call, whatever it holds."""
        return self.dialect == "kn-sock" and bool(self._unanswered)

    def _was_issued(self, request_id: int) -> bool:
        return self._first_id is not None and self._first_id <= request_id <= self._last_id

    # --- answers out ------------------------------------------------------------------------------

    def answer(self, request: Request, result: Any) -> bytes | None:
        """Write a result; ``None`` where nothing is to be sent, or not yet.

        Raises:
            InternalError: the result has no JSON form. The request still waits for its answer.
        """
        if not request.expects_reply:
            return None
        line = encode_result(request.dialect, request.id, result)
        if len(line) > self._max_line_bytes or request.batch is not None:
            return self._answer_within_limits(request, line, is_result=True)
        return line

    def refuse(self, request: Request, error: RPCError) -> bytes | None:
        """Write an error; ``None`` where nothing is to be sent, or not yet. Never raises."""
        if not request.expects_reply:
            return None
        line = codec.encode_error(request.dialect, request.id, error)
        if len(line) > self._max_line_bytes or request.batch is not None:
            return self._answer_within_limits(request, line)
        return line

    def _answer_within_limits(
        self, request: Request, line: bytes, *, is_result: bool = False
    ) -> bytes | None:
        limit = self._max_line_bytes
        batch = request.batch
        size = len(line)
        if batch is not None:
            batch.encode_plain()
            size += batch.size
        if size > limit:
            error = codec.reply_too_long(size, limit)
            line = codec.encode_error(request.dialect, request.id, error)
            if is_result:
                request.replaced_by = error
            if len(line) > limit:
                # The id alone is that long.
                line = codec.encode_error(request.dialect, None, error)
        if batch is None:
            return line
        batch.add(line)
        return batch.line()

    # --- calls out --------------------------------------------------------------------------------

    def expect(self, request_id: int, pending: P) -> None:
        """Register a call that is about to be sent."""
        # Ids taken on several threads may be registered out of order.
        if self._first_id is None or request_id < self._first_id:
            self._first_id = request_id
        if request_id > self._last_id:
            self._last_id = request_id
        self.pending[request_id] = pending
        if self.dialect == "kn-sock":
            self._unanswered.append(request_id)

    def forget(self, request_id: int, *, was_sent: bool) -> None:
        """Drop a call that was given up; its reply, if it comes, is late."""
        self.pending.pop(request_id, None)
        if not was_sent and self.dialect == "kn-sock":
            self._unanswered.remove(request_id)

    def take_all_pending(self) -> list[P]:
        """Empty the table: the connection is gone, and nothing will be answered any more."""
        taken = list(self.pending.values())
        self.pending.clear()
        self._unanswered.clear()
        return taken


def id_key(request_id: Any) -> Any:
    """Make ids comparable, the way a cancel names them, without taking 1 for 1.0 or true."""
    if isinstance(request_id, Raw):
        # A fraction, in its own text.
        return float, float(bytes(request_id))
    kind = type(request_id)
    if kind is int or kind is str:
        return request_id
    return (kind, request_id) if kind is float else None
