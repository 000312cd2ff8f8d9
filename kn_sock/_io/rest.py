"""What is left of a read when the turn of its connection ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

from kn_sock._wire.framing import Line, OverlongLine

if TYPE_CHECKING:
    from kn_sock._wire.batches import BatchReply
    from kn_sock._wire.events import Event
    from kn_sock._wire.messages import Message


class Rest:
    """What is left of a read or of a batch when the turn ends.

    Args:
        messages: what is served next.
        reply: collects the replies, if these are members of a batch.
        factor: how many bytes a member takes decoded for each that it takes packed; 0 if none of
            them takes many.
        events: what is left of a batch with odd members.
    """

    __slots__ = ("events", "factor", "messages", "reply")

    def __init__(
        self,
        messages: list[Message],
        reply: BatchReply | None = None,
        factor: float = 0,
        events: Iterator[Event[Any] | None] | None = None,
    ) -> None:
        self.messages = messages
        self.reply = reply
        self.factor = factor
        self.events = events


Work: TypeAlias = Line | OverlongLine | Rest
