"""Which of the peer's calls may begin, and when: so many at once, those without ids in their turn.

What a call does once it has begun is `_serving`'s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sized
from typing import Any

from kn_sock._wire.encoding import PLAIN_BYTES
from kn_sock._wire.events import Refusal, Request, id_key
from kn_sock.errors import ErrorCode, RPCError
from kn_sock.options import ServerOptions

_BUSY = RPCError(
    ErrorCode.SERVER_BUSY, "too many calls are under way on this connection; try again later"
)
_DRAINING = RPCError(
    ErrorCode.SERVER_BUSY, "the server is stopping and takes no new calls; nothing was run"
)


def may_bypass(options: ServerOptions, admission: Admission | None) -> bool:
    """Whether requests may begin as they come, without a look at each: see `fastpath`.

    A limit or a feature that has to look at each request belongs here.
    """
    return not (
        (admission is not None and admission.is_guarded)
        or options.call_timeout is not None
        or options.interceptors
        or options.max_line_bytes < PLAIN_BYTES
    )


class Admission:
    """The requests of one connection that were read and have not begun.

    Args:
        most: how many calls may be under way at once.
        running: those that are.
        run: begins a request.
        put: sends a line.
        refuse: answers a request with an error; gives the line where it is not sent yet.
        update_reading: called when `wants_more` may tell something else than before.
        guard: called when `is_guarded` has changed.
    """

    def __init__(
        self,
        most: int,
        running: Sized,
        *,
        run: Callable[[Request], object],
        put: Callable[[bytes], object],
        refuse: Callable[[Request, RPCError], bytes | None],
        update_reading: Callable[[], object],
        guard: Callable[[], object],
    ) -> None:
        self._most = most
        self._running = running
        self._run = run
        self._put = put
        self._refuse = refuse
        self._update_reading = update_reading
        # Read from the wire, and not begun: past the most, or while the peer does not read.
        self._held: deque[Request | Refusal] = deque()
        # kn-sock 0.3 sends no ids: one call at a time, in order.
        self._in_order: deque[Request | Refusal] = deque()
        self._ordered: Request | None = None
        self._peer_reads = True
        self._is_over = False
        self._is_draining = False
        self._guard = guard
        #: Whether a request has to come by `receive`, rather than be run at once.
        self.is_guarded = False

    def receive(self, request: Request, *, awaits_replies: bool) -> None:
        """Begin a request, hold it back, or refuse it.

        Args:
            request: what came.
            awaits_replies: whether calls of our own wait for this peer's replies.
        """
        if self._is_draining:
            self._refuse_in_turn(request, _DRAINING)
        elif not self.is_guarded:
            self._begin(request)
            self.check_capacity()
        elif len(self._held) >= self._most and self._peer_reads and awaits_replies:
            # Only where reading goes on for the replies that our own calls wait for.
            self._refuse_in_turn(request, _BUSY)
        else:
            self._held.append(request)
            self._update_reading()

    def receive_refusal(self, refusal: Refusal) -> None:
        """Answer what was no request, at once or in its turn."""
        in_order = self._has_its_turn(refusal)
        if not self._peer_reads or (in_order and self.is_guarded):
            self._held.append(refusal)
            self._update_reading()
        else:
            self._begin(refusal)
            if in_order:
                self.check_capacity()

    def _has_its_turn(self, refusal: Refusal) -> bool:
        # Replies without ids are told apart by their order alone, so nothing may overtake them.
        return refusal.in_order or self._ordered is not None or bool(self._in_order)

    def _begin(self, item: Request | Refusal) -> None:
        """Run a request, or send a refusal; those without ids each in their turn."""
        if isinstance(item, Refusal):
            if not self._has_its_turn(item):
                self._put(item.line)
                return
        elif not item.dialect.answers_in_order:
            self._run(item)
            return
        self._in_order.append(item)
        self._run_in_order()

    def _run_in_order(self) -> None:
        while self._in_order and self._ordered is None and self._peer_reads and not self._is_over:
            following = self._in_order.popleft()
            if isinstance(following, Refusal):
                self._put(following.line)
            else:
                self._ordered = following
                self._run(following)

    def _refuse_in_turn(self, request: Request, error: RPCError) -> None:
        line = self._refuse(request, error)
        if line is None:
            return
        if request.dialect.answers_in_order:
            self.receive_refusal(Refusal(line, in_order=True))
        else:
            self._put(line)

    def withdraw(self, key: Any) -> Request | None:
        """Take back the request with this id, if it is held."""
        for held in self._held:
            if isinstance(held, Request) and held.expects_reply and id_key(held.id) == key:
                self._held.remove(held)
                return held
        return None

    def drop(self, request: Request) -> bool:
        """Take back this request; ``False`` where it is not held, or has its turn."""
        try:
            self._held.remove(request)
        except ValueError:
            return False
        return True

    def answered(self, request: Request) -> None:
        """Take note that a request is answered: the next one may have its turn."""
        if request is self._ordered:
            self._ordered = None

    # --- capacity ---------------------------------------------------------------------------------

    @property
    def waiting(self) -> list[Request]:
        """The requests that have not begun."""
        return [one for one in (*self._held, *self._in_order) if isinstance(one, Request)]

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits, and nothing has its turn."""
        return not (self._held or self._in_order or self._ordered)

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

    @property
    def _is_full(self) -> bool:
        return not self._peer_reads or len(self._running) + len(self._in_order) >= self._most

    def check_capacity(self) -> None:
        """Find out anew whether requests are to be held back."""
        was_guarded = self.is_guarded
        self.is_guarded = self._is_draining or bool(self._held) or self._is_full
        if self.is_guarded is not was_guarded:
            self._guard()
        self._update_reading()

    @property
    def has_waiting(self) -> bool:
        """Whether the end of a call may let another begin."""
        return self.is_guarded or bool(self._in_order)

    def proceed(self) -> None:
        """Begin what may begin now."""
        self._run_in_order()
        while self._held and not self._is_full:
            self._begin(self._held.popleft())
        self.check_capacity()

    def drain(self) -> None:
        """Refuse new calls from now on; those that were read before are run."""
        self._is_draining = self.is_guarded = True
        self._guard()

    def end(self) -> None:
        """Forget what waits: nobody waits for it any more."""
        self._is_over = True
        self._held.clear()
        self._in_order.clear()
