"""One call that this end makes, and what outlives the connection that it was written to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from kn_sock.errors import ErrorCode

if TYPE_CHECKING:
    from kn_sock.errors import ConnectionLost, RPCError


class BatchCalls(Protocol):
    """What the calls of one batch share."""

    calls: list[ClientCall]


class RetryQueue(Protocol):
    """What outlives a connection, and may send over the next one what this one leaves open."""

    def move(self, call: ClientCall) -> bool:
        """Send a call to another server, as this one refuses it and has run nothing of it."""

    def take_over(self, left: list[UnfinishedWrite], loss: ConnectionLost) -> None:
        """Mark the writes that it takes over; the others fail."""


class Resend:
    """What it takes to send a line once more: to run a call twice, or at another server.

    Attributes:
        line: the line.
        may_run_twice: whether it is sent again although it may have been run.
        loss: how the connection was lost that it was written to, once it was.
        refusals: how many servers have refused it, and run nothing.
        deadline: when its time is up, in the clock's seconds; ``None`` for no limit.
        sent_over: the connection that it was sent over last.
    """

    __slots__ = ("deadline", "line", "loss", "may_run_twice", "refusals", "sent_over")

    def __init__(self, line: bytes, *, may_run_twice: bool = True) -> None:
        self.line = line
        self.may_run_twice = may_run_twice
        self.loss: ConnectionLost | None = None
        self.refusals = 0
        self.deadline: float | None = None
        self.sent_over: object = None


class ClientCall(Struct, eq=False):
    """One call that waits for its reply. What is done with the outcome is the subclass's.

    Attributes:
        method: the name, for the text of errors.
        timeout: seconds to wait for the reply; ``None`` for no limit.
    """

    method: str
    timeout: float | None
    call_id: int = 0
    line_number: int = 0
    # What the calls of one batch share; None for a call alone.
    unit: BatchCalls | None = None
    # Notified of the loss of the connection; for a batch, by its first call.
    keeper: RetryQueue | None = None
    # Shared by the calls of a batch; None if the call must not be run twice.
    again: Resend | None = None

    @property
    def was_written_before(self) -> bool:
        """Whether it was written to an earlier connection, so that it may have been run."""
        return self.again is not None and self.again.loss is not None

    def succeed(self, result: Any) -> None:
        """Set the result. Reactor: its thread."""
        raise NotImplementedError

    def fail(self, error: BaseException) -> None:
        """Set the error. Reactor: its thread."""
        raise NotImplementedError

    def answered_with(self, error: RPCError) -> None:
        """End with the error that the peer answered, or go to another server if there is one."""
        is_movable = self.keeper is not None and self.again is not None and self.unit is None
        if error.code == ErrorCode.SERVER_BUSY and is_movable and self.keeper.move(self):  # type: ignore[union-attr]  # not None
            return
        self.fail(error)


class UnfinishedWrite:
    """What one line asked for, and the end of the connection left open.

    Attributes:
        calls: the calls that wait for a reply.
        line: the line; ``None`` if it was written.
        deadline: when their time is up, in the clock's seconds; ``None`` for no limit.
        is_taken: whether somebody takes it over; the calls fail otherwise.
    """

    __slots__ = ("calls", "deadline", "is_taken", "line")

    def __init__(self, calls: list[ClientCall], line: bytes | None, deadline: float | None) -> None:
        self.calls = calls
        self.line = line
        self.deadline = deadline
        self.is_taken = False

    @property
    def is_whole(self) -> bool:
        """Whether no call of the line has ended yet."""
        unit = self.calls[0].unit
        return unit is None or len(self.calls) == len(unit.calls)
