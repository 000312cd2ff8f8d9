"""One endpoint of a connection without its I/O: the same at both ends.

Lines go in and events come out; calls and replies go in and lines come out. A session owns the ids,
the table of pending calls, the batches and the order of replies. It uses no Twisted, socket, clock,
thread or logging. The caller acts on the events. No input raises.

Spec: JSON-RPC 2.0 sections 4 to 6, JSON-RPC 1.0 section 1, kn-sock 0.3.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Generic, Literal

from msgspec import UNSET, UnsetType

from kn_sock._display import safe_repr
from kn_sock._wire.answers import encode_answer, encode_refusal
from kn_sock._wire.batches import BatchReply
from kn_sock._wire.decoding import (
    LONG_BYTES,
    UNREADABLE,
    Member,
    NoMessageError,
    decode_batch,
    decode_long,
    decode_message,
    decode_unusual,
    error_from_wire,
    time_limit_of,
)
from kn_sock._wire.dialects import JSONRPC_1, JSONRPC_2, KN_SOCK, Dialect
from kn_sock._wire.events import (
    Answered,
    Cancel,
    Event,
    Failed,
    P,
    ProtocolViolation,
    Refusal,
    Request,
    Role,
    Stray,
    UnmatchedError,
)
from kn_sock._wire.framing import PREFIX_BYTES, Line, OverlongLine
from kn_sock._wire.heads import NO_HEAD, Head, read_head
from kn_sock._wire.requests import RequestEncoder
from kn_sock.errors import ErrorCode, InternalError, InvalidRequest, RPCError

if TYPE_CHECKING:
    from kn_sock._wire.messages import Message, RequestId

_NONE_IN_ORDER: deque[int] = deque(maxlen=0)


def _refusal(text: str, request_id: RequestId | UnsetType) -> Refusal:
    known_id = None if request_id is UNSET else request_id
    return Refusal(JSONRPC_2.encode_error(known_id, InvalidRequest(text)))


class Session(Generic[P]):
    """Correlates requests and replies, in both directions.

    Args:
        encoder: encodes our own calls. What comes in is answered in its own dialect.
        max_line_bytes: the longest line that we send; a longer reply becomes an error.
        max_batch: the most members of a batch that we accept.
        unversioned: the dialect of requests with an id and without ``jsonrpc``.
        role: what is expected from the peer.
    """

    __slots__ = (
        "_cancel_member",
        "_cancel_method",
        "_first_id",
        "_last_id",
        "_max_batch",
        "_max_line_bytes",
        "_role",
        "_unanswered",
        "_unread",
        "_unversioned",
        "dialect",
        "encoder",
        "late_replies",
        "pending",
    )

    def __init__(
        self,
        encoder: RequestEncoder | None = None,
        *,
        max_line_bytes: int = 4 * 1024 * 1024,
        max_batch: int = 1000,
        unversioned: Literal["1.0", "2.0"] = "1.0",
        role: Role = Role.PEER,
    ) -> None:
        self.encoder = encoder or RequestEncoder()
        # Without cancellations, the empty name matches no notification.
        self._cancel_method, self._cancel_member = self.encoder.cancellation or ("", "")
        self._unversioned = JSONRPC_2 if unversioned == "2.0" else JSONRPC_1
        self.dialect = self.encoder.dialect
        self._max_line_bytes = max_line_bytes
        self._max_batch = max_batch
        self._role = role
        #: The calls that wait for a reply, in the order in which they were made.
        self.pending: dict[int, P] = {}
        self._first_id: int | None = None
        self._last_id = 0
        # Without ids, replies come in the order of the requests.
        self._unanswered: deque[int] = deque() if self.dialect.answers_in_order else _NONE_IN_ORDER
        #: Replies to calls that had ended.
        self.late_replies = self._unread = 0

    # --- lines in ---------------------------------------------------------------------------------

    def receive(self, line: Line) -> Event[P] | list[Event[P]] | None:
        """Return the meaning of a line.

        Returns:
            One event, a list of events for a batch, or ``None`` if there is nothing to do, as for a
            late reply.
        """
        try:
            message = decode_message(line) if len(line) < LONG_BYTES else decode_long(line)
        except UNREADABLE as problem:
            return self.receive_unusual(line, problem)
        return self.receive_message(message)

    def receive_message(self, message: Message) -> Event[P] | None:
        """Return the meaning of a message that is not a member of a batch."""
        if message.method is UNSET:
            return self._receive_reply(message)
        return self._receive_request(message)

    def receive_overlong(self, line: OverlongLine) -> Event[P] | None:
        """Return an error for a line that was too long, for its call if that is known."""
        limit = self._max_line_bytes
        head = read_head(line.prefix)
        if head.is_reply:
            text = f"the reply is longer than max_line_bytes ({limit:,}); ask for less"
            return self._fail_unread(head, RPCError(ErrorCode.REPLY_TOO_LONG, text))
        excess = line.excess or f"is longer than max_line_bytes ({limit:,})"
        text = f"the line {excess}; nothing in it was run"
        error = RPCError(ErrorCode.REQUEST_TOO_LONG, text)
        return self._unreadable(NoMessageError(error, head.dialect, head.known_id), line.prefix)

    def _fail_unread(self, head: Head, error: RPCError) -> Event[P] | None:
        """Fail the call whose reply cannot be read."""
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
        reason = f"{error}; which call it belongs to cannot be known"
        # Without calls in flight, nothing waits for it.
        return ProtocolViolation(reason) if self.pending else self._stray(reason)

    def _stray(self, reason: str) -> Stray | ProtocolViolation:
        """Return the event for a reply that belongs to no call."""
        return Stray(reason) if self._role is Role.SERVER else ProtocolViolation(reason)

    def _receive_request(self, message: Message, batch: BatchReply | None = None) -> Event[P]:
        request_id = message.id
        jsonrpc = message.jsonrpc
        if jsonrpc == "2.0":
            dialect: Dialect = JSONRPC_2
            expects_reply = request_id is not UNSET
            if not expects_reply and message.method == self._cancel_method:
                params = message.params
                return Cancel(params.get(self._cancel_member) if isinstance(params, dict) else None)
        elif jsonrpc is not UNSET or (batch is not None and not self._is_versionless(message)):
            return _refusal('jsonrpc must be the string "2.0"', request_id)
        elif request_id is UNSET:
            dialect = KN_SOCK
            expects_reply = True
        else:
            dialect = self._unversioned
            expects_reply = request_id is not None
        params, kwargs = message.params, message.kwargs
        # A method may keep them, for instance in a traceback, and so refer back to the message.
        message.params = message.kwargs = UNSET
        return Request(
            request_id,
            message.method,  # type: ignore[arg-type]  # a reply has no method
            params,
            kwargs,
            dialect,
            expects_reply,
            batch if expects_reply else None,
            None,
            None if message.timeout is UNSET else time_limit_of(message.timeout),
            message.traceparent if isinstance(message.traceparent, str) else None,
        )

    def _is_versionless(self, message: Message) -> bool:
        """Whether a request without a version is one of 2.0, by the option *unversioned*."""
        return self._unversioned is JSONRPC_2 and message.id is not UNSET

    def receive_batch(self, line: Line) -> tuple[list[Message], BatchReply] | None:
        """Decode a batch; ``None`` if the line is not certainly one: see `receive_unusual`."""
        if self._is_answered_in_order:
            return None
        messages = decode_batch(line, self._most_members)
        if messages is None:
            return None
        return messages, BatchReply(len(messages), self._max_line_bytes)

    def receive_member(self, message: Message, reply: BatchReply) -> Event[P] | None:
        """Return the meaning of a member of a batch; what is no request is answered in *reply*."""
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
        """Return the meaning of a line that did not decode as a single message.

        Args:
            line: the line.
            problem: what `decode_message` raised at it.
        """
        try:
            found = decode_unusual(line, self._most_members, problem)
        except NoMessageError as error:
            if not line.strip():
                return None
            head = read_head(bytes(line[:PREFIX_BYTES]))
            if (head.is_reply and self.pending) or (
                self.dialect.answers_in_order and self._unanswered
            ):
                text = f"the peer's reply cannot be read: {error}"
                return self._fail_unread(head, InternalError(text))
            if error.is_reply:
                return self._stray(f"a reply came that belongs to no call: {error}")
            return self._unreadable(error, line)
        if isinstance(found, list):
            if self._is_answered_in_order:
                return self._fail_unread(NO_HEAD, InternalError("the peer replied with an array"))
            return self._receive_batch(found)
        if found.method is UNSET:
            return self._receive_reply(found)
        return self._receive_request(found)

    @property
    def _most_members(self) -> int:
        # Replies to a batch of ours may outnumber the requests that we accept.
        return max(self._max_batch, len(self.pending))

    def _unreadable(self, problem: NoMessageError, line: Line) -> Refusal | ProtocolViolation:
        """Return the event for a line that is no message."""
        self._unread += 1
        # A peer that answers every line would answer the refusal as well, and so on.
        if self._unread > self._role.value:
            shown = safe_repr(bytes(line[:PREFIX_BYTES]).decode("utf-8", "replace"))
            return ProtocolViolation(f"the peer answered '{shown}': is this a JSON-RPC server?")
        return self._refusal_of(problem)

    def _refusal_of(self, problem: NoMessageError) -> Refusal:
        dialect = self._unversioned if problem.dialect is JSONRPC_1 else problem.dialect
        line = dialect.encode_error(problem.request_id, problem.error)
        return Refusal(line, in_order=dialect.answers_in_order)

    def _receive_batch(self, members: list[Member]) -> Event[P] | list[Event[P]] | None:
        if not members:
            return _refusal("a batch has at least one member", UNSET)
        if len(members) > self._most_members:
            text = f"the batch has more members than max_batch ({self._max_batch:,})"
            error = RPCError(ErrorCode.BATCH_TOO_LARGE, text)
            return Refusal(JSONRPC_2.encode_error(None, error))
        reply = BatchReply(len(members), self._max_line_bytes)
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
            # A batch is JSON-RPC 2.0, whatever its members are.
            member.dialect = JSONRPC_2
            if member.is_reply:
                reply.awaited -= 1
                return self._stray(f"a reply came that belongs to no call: {member}")
            reply.add(self._refusal_of(member).line)
            return None
        if isinstance(member, list):
            reply.add(_refusal("a batch cannot hold a batch", UNSET).line)
            return None
        return self.receive_member(member, reply)

    def _receive_reply(self, message: Message) -> Event[P] | None:
        reply_id = message.id
        error, result = message.error, message.result
        # The caller may keep them, for instance in a traceback, and so refer back to the message.
        message.error = message.result = UNSET
        if error is UNSET and result is not UNSET and type(reply_id) is int:
            # The common case, without the checks below.
            pending = (
                self.pending.pop(reply_id, None) if not self.dialect.answers_in_order else None
            )
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
                return self._stray(f"a reply came to the call {reply_id}, which was never made")
            if error is not UNSET:
                return Failed(pending, error_from_wire(error))
            if result is UNSET:
                text = "the peer's reply has neither a result nor an error"
                return Failed(pending, InternalError(text))
            return Answered(pending, result)
        if reply_id is None and self.dialect.answers_notifications and message.jsonrpc is UNSET:
            # The reply to a notification, against section 1.3 of JSON-RPC 1.0.
            return None
        if error is not UNSET and (reply_id is None or message.jsonrpc == "2.0"):
            return UnmatchedError(error_from_wire(error))
        if reply_id is UNSET and self.pending and not self.dialect.answers_in_order:
            return ProtocolViolation(
                "the peer replies without ids, as kn-sock 0.3 does; "
                'connect to it with dialect="kn-sock"'
            )
        return self._stray("a reply came that belongs to no call")

    @property
    def _is_answered_in_order(self) -> bool:
        """Whether the next line is the reply to the oldest call, whatever it contains."""
        return self.dialect.answers_in_order and bool(self._unanswered)

    def _was_issued(self, request_id: int) -> bool:
        return self._first_id is not None and self._first_id <= request_id <= self._last_id

    # --- answers out ------------------------------------------------------------------------------

    def answer(self, request: Request, result: Any) -> bytes | None:
        """Return the encoded reply; see `encode_answer`."""
        return encode_answer(request, result, self._max_line_bytes)

    def refuse(self, request: Request, error: RPCError) -> bytes | None:
        """Return the encoded error; see `encode_refusal`."""
        return encode_refusal(request, error, self._max_line_bytes)

    # --- calls out --------------------------------------------------------------------------------

    def register(self, request_id: int, pending: P) -> None:
        """Register a call before it is sent."""
        # Ids that were taken on several threads may be registered out of order.
        if self._first_id is None or request_id < self._first_id:
            self._first_id = request_id
        if request_id > self._last_id:
            self._last_id = request_id
        self.pending[request_id] = pending
        if self.dialect.answers_in_order:
            self._unanswered.append(request_id)

    def discard(self, request_id: int, *, was_sent: bool) -> None:
        """Remove a cancelled call; its reply, if it comes, is late."""
        self.pending.pop(request_id, None)
        if not was_sent and self.dialect.answers_in_order:
            self._unanswered.remove(request_id)

    def take_all_pending(self) -> list[P]:
        """Remove and return all pending calls: the connection is gone."""
        taken = list(self.pending.values())
        self.pending.clear()
        self._unanswered.clear()
        return taken
