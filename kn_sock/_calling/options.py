"""Call options, attribute proxy and batch, shared by all clients.

Pure. Each client determines what they return: a Deferred or a plain value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from kn_sock._declarations import check_flag, check_seconds
from kn_sock.options import options_from

T = TypeVar("T")

DEFAULT_TIMEOUT = 30.0


@dataclasses.dataclass(frozen=True)
class CallOptions:
    """How a call is made, beside what is called.

    Attributes:
        timeout: seconds to wait for the reply; ``None`` for no limit.
        propagate_deadline: whether the timeout is sent to the peer, in the 2.0 dialect.
        traceparent: the trace that calls belong to, sent to the peer in the 2.0 dialect;
            ``None`` for none.
        idempotent: whether the method may be run twice: a call that was written when the connection
            was lost is then sent once more, over a new one.
    """

    timeout: float | None = DEFAULT_TIMEOUT
    propagate_deadline: bool = False
    traceparent: str | None = None
    idempotent: bool = False

    def __post_init__(self) -> None:
        check_seconds("timeout", self.timeout)
        check_flag("propagate_deadline", self.propagate_deadline)
        check_flag("idempotent", self.idempotent)
        if self.traceparent is not None and not isinstance(self.traceparent, str):
            raise TypeError(f"traceparent must be a string or None, not {self.traceparent!r:.60}")

    def timeout_to_send(self, timeout: float | None) -> float | None:
        """Return the time limit that is sent to the peer, in seconds; ``None`` for none."""
        return timeout if self.propagate_deadline else None

    def replaced(self, changes: Mapping[str, Any]) -> CallOptions:
        """Return these options with some of them changed.

        Raises:
            TypeError: there is no option of that name.
        """
        return options_from(CallOptions, {**dataclasses.asdict(self), **changes})


def check_method(method: object) -> None:
    """Raise unless *method* can be the name of a method."""
    if not isinstance(method, str):
        raise TypeError(f"the first argument is the method's name, a string, not {method!r:.60}")


class Remote(Generic[T]):
    """Calls by attribute: ``remote.add(10, 20)``; dots make dotted names.

    Every attribute is taken for a remote name, but for those that begin with two underscores.
    """

    __slots__ = ("__call", "__name")

    def __init__(self, call: Callable[..., T], name: str = "") -> None:
        self.__call = call
        self.__name = name

    def __getattr__(self, name: str) -> Remote[T]:
        if name.startswith("__"):
            raise AttributeError(name)
        return Remote(self.__call, f"{self.__name}.{name}" if self.__name else name)

    def __call__(self, /, *args: Any, **kwargs: Any) -> T:
        if not self.__name:
            raise TypeError("name the method to call: remote.add(10, 20)")
        return self.__call(self.__name, *args, **kwargs)

    def __repr__(self) -> str:
        return f"<remote {self.__name or 'methods'}>"


class BatchEntry(NamedTuple):
    """One member of a batch."""

    method: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    is_call: bool


class Batch(Generic[T]):
    """Collects calls and notifications, to send them as one JSON-RPC batch.

    Spec: JSON-RPC 2.0, section 6.
    """

    def __init__(self, send: Callable[[list[BatchEntry]], T]) -> None:
        self._send = send
        self._entries: list[BatchEntry] = []
        self._is_sent = False

    def call(self, method: str, /, *args: Any, **kwargs: Any) -> None:
        """Add a call; its result takes the next place in what `send` gives."""
        self._add(method, args, kwargs, is_call=True)

    def notify(self, method: str, /, *args: Any, **kwargs: Any) -> None:
        """Add a notification; it has no place in what `send` gives."""
        self._add(method, args, kwargs, is_call=False)

    def _add(self, method: str, args: Any, kwargs: Any, *, is_call: bool) -> None:
        check_method(method)
        if self._is_sent:
            raise RuntimeError("this batch has been sent; begin a new one")
        self._entries.append(BatchEntry(method, args, kwargs, is_call))

    def send(self) -> T:
        """Send the batch, once.

        Returns:
            The calls' results in order, with the exception in the place of a call that failed. From
            a Twisted connection, a Deferred that fires with that list; it fails only where the
            whole batch could not be sent.

        Raises:
            RuntimeError: it has been sent already.
        """
        if self._is_sent:
            raise RuntimeError("this batch has been sent; begin a new one")
        self._is_sent = True
        return self._send(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
