"""Which of the peer's calls may begin, and when: a number at once, those without ids in turn."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Mapping, Sized
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from msgspec import UNSET

from kn_sock._serving.budget import Account, Use
from kn_sock._wire.encoding import PLAIN_BYTES
from kn_sock._wire.events import Refusal, Request, id_key
from kn_sock._wire.weight import pack, unpack
from kn_sock.errors import ErrorCode, RPCError

if TYPE_CHECKING:
    from kn_sock.methods.signature import Method
    from kn_sock.options import ServerOptions

_BUSY = RPCError(
    ErrorCode.SERVER_BUSY, "too many calls are in flight on this connection; try again later"
)
_DRAINING = RPCError(
    ErrorCode.SERVER_BUSY, "the server is stopping and takes no new calls; nothing was run"
)


#: The methods that may be called by the fast path, while it may not be taken.
NO_METHODS: Final[Mapping[str, Method]] = {}


class Path(NamedTuple):
    """A way to serve what one read brought, and to answer calls that have ended in threads."""

    serve: Callable[..., None]
    deliver: Callable[..., None]


def may_bypass(options: ServerOptions, admission: Admission | None) -> bool:
    """Whether requests may begin as they come, without a look at each: see `fastpath`.

    A limit or a feature that has to look at each request belongs here.
    """
    return not (
        (admission is not None and admission.is_guarded)
        or options.call_timeout is not None
        or options.serve_interceptors
        or options.max_line_bytes < PLAIN_BYTES
    )


class Admission:
    """The requests of one connection that were read and have not begun.

    Args:
        most: how many calls may be in flight at once.
        running: the calls in flight.
        account: counts the bytes that the connection's calls take.
        seconds: the reactor's time.
        run: begins a request.
        put: sends a line.
        refuse: encodes the refusal of a request.
        update_reading: called when `wants_more` may have changed.
        guard: called when `is_guarded` has changed.
    """

    def __init__(
        self,
        most: int,
        running: Sized,
        account: Account,
        *,
        seconds: Callable[[], float],
        run: Callable[[Request], object],
        put: Callable[[bytes], object],
        refuse: Callable[[Request, RPCError], bytes | None],
        update_reading: Callable[[], object],
        guard: Callable[[], object],
    ) -> None:
        self._most = most
        self._running = running
        self._account = account
        self._seconds = seconds
        # When the turn is over in which `proceed` begins what waits.
        self._until = math.inf
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
            self.refuse(request, _DRAINING)
        elif not self.is_guarded:
            self._begin(request)
            self.check_capacity()
        elif self._holds_most and self._peer_reads and awaits_replies:
            # Reading continues only for the replies to our own calls.
            self.refuse(request, _BUSY)
        else:
            self._pack(request)
            self._held.append(request)
            self._update_reading()

    def _pack(self, request: Request) -> None:
        """Pack the arguments of a request that waits, if they are many."""
        if not request.weight or request.counted:
            return
        request.counted = request.weight
        # Nested more deeply than they can be packed, they stay as they are.
        with contextlib.suppress(ValueError):
            request.packed = pack(request.params, request.kwargs)
            request.params = request.kwargs = UNSET
            request.counted = len(request.packed)
        self._account.add(Use.WAITING, request.counted)

    def _unpack(self, request: Request) -> None:
        """Restore the arguments of a request whose turn it is."""
        self._release(request)
        packed, request.packed = request.packed, None
        if packed is not None:
            request.params, request.kwargs = unpack(packed)

    def _release(self, request: Request) -> None:
        """Count a request no longer: it does not wait any more."""
        if request.counted:
            self._account.add(Use.WAITING, -request.counted)
            request.counted = 0

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
        # Replies without ids are matched by their order alone, so nothing may overtake them.
        return refusal.in_order or self._ordered is not None or bool(self._in_order)

    def _begin(self, item: Request | Refusal) -> None:
        """Run a request, or send a refusal; those without ids each in their turn."""
        if isinstance(item, Refusal):
            if not self._has_its_turn(item):
                self._put(item.line)
                return
        elif not item.dialect.answers_in_order:
            self._unpack(item)
            self._run(item)
            return
        self._in_order.append(item)
        self._run_in_order()
        if self._in_order and isinstance(item, Request) and self._in_order[-1] is item:
            self._pack(item)

    def _run_in_order(self) -> None:
        while self._may_run_in_order:
            following = self._in_order.popleft()
            if isinstance(following, Refusal):
                self._put(following.line)
            else:
                self._ordered = following
                self._unpack(following)
                self._run(following)

    @property
    def _may_run_in_order(self) -> bool:
        is_next = bool(self._in_order) and self._ordered is None
        return is_next and self._peer_reads and not self._is_over and not self._is_turn_over

    def refuse(self, request: Request, error: RPCError | None) -> None:
        """Refuse a request, in its turn if it has one; without an error nothing is answered."""
        line = None if error is None else self._refuse(request, error)
        if line is None:
            return
        if request.dialect.answers_in_order:
            self.receive_refusal(Refusal(line, in_order=True))
        else:
            self._put(line)

    def withdraw(self, key: Any) -> Request | None:
        """Remove and return the request with this id, if it is held."""
        for held in self._held:
            if isinstance(held, Request) and held.expects_reply and id_key(held.id) == key:
                self._held.remove(held)
                self._release(held)
                return held
        return None

    def drop(self, request: Request) -> bool:
        """Remove this request; ``False`` if it is not held, or has its turn."""
        try:
            self._held.remove(request)
        except ValueError:
            return False
        self._release(request)
        return True

    def answered(self, request: Request) -> None:
        """Free the turn of a request that was answered."""
        if request is self._ordered:
            self._ordered = None

    # --- capacity ---------------------------------------------------------------------------------

    @property
    def waiting(self) -> list[Request]:
        """The requests that have not begun."""
        return [one for one in (*self._held, *self._in_order) if isinstance(one, Request)]

    @property
    def count(self) -> int:
        """How many messages wait: requests that have not begun, and refusals in their turn."""
        return len(self._held) + len(self._in_order)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits, and nothing has its turn."""
        return not (self._held or self._in_order or self._ordered)

    def wants_more(self, awaits_replies: bool) -> bool:
        """Whether to read on.

        As many requests as may be in flight are held besides, so that a cancellation or an EOF
        behind them is still read. Past that, and without room in the budget, reading continues only
        if our own calls wait for replies, and new requests are refused.
        """
        if not self._holds_most:
            return self._peer_reads or awaits_replies
        return self._peer_reads and awaits_replies

    @property
    def _holds_most(self) -> bool:
        """Whether as much waits as may."""
        return len(self._held) >= self._most or not self._account.may_read

    def set_peer_reads(self, reads: bool) -> None:
        """Set whether the peer reads what is written to it; if not, nothing new begins."""
        self._peer_reads = reads

    @property
    def _is_full(self) -> bool:
        in_flight = len(self._running) + len(self._in_order)
        # One call goes on in any case: what uses up the budget may wait for it.
        has_room = self._account.may_begin or not in_flight
        return not (self._peer_reads and in_flight < self._most and has_room)

    def check_capacity(self) -> None:
        """Update whether requests are held back."""
        was_guarded = self.is_guarded
        self.is_guarded = self._is_draining or bool(self._held) or self._is_full
        if self.is_guarded is not was_guarded:
            self._guard()
        self._update_reading()

    @property
    def has_waiting(self) -> bool:
        """Whether the end of a call may let another begin."""
        return self.is_guarded or bool(self._in_order)

    def proceed(self, until: float) -> bool:
        """Begin what may begin now; ``False`` if some of it is left at that time."""
        self._until = until
        self._run_in_order()
        while self._held and not self._is_full and not self._is_turn_over:
            self._begin(self._held.popleft())
        is_done = not self._is_turn_over
        self._until = math.inf
        self.check_capacity()
        return is_done

    @property
    def _is_turn_over(self) -> bool:
        return self._until is not math.inf and self._seconds() >= self._until

    def drain(self) -> None:
        """Refuse new calls from now on; those that were read before are run."""
        self._is_draining = self.is_guarded = True
        self._guard()

    def end(self) -> None:
        """Discard what waits: the connection has ended."""
        self._is_over = True
        self._held.clear()
        self._in_order.clear()
