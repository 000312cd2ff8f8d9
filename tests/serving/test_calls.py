"""How a call ends: over a client and a server that are connected in memory."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks
from twisted.python.failure import Failure

from kn_sock import (
    CallCancelled,
    CallTimeout,
    ConnectionLost,
    ErrorCode,
    InternalError,
    InvalidParams,
    MethodNotFound,
    RemoteError,
    RPCError,
    current_call,
    in_reactor,
    in_thread,
)
from kn_sock.connection import DeferredCallCancelled
from kn_sock.testing import ManualExecutor, MemoryNetwork, Pair, connected_pair
from tests.serving.common import (
    add,
    batched,
    error_of,
    failure_of,
    result_of,
    run_threads,
    value_of,
    values_of,
)


def divide(a: float, b: float) -> float:
    if b == 0:
        raise ValueError("Division by zero is not allowed")
    return a / b


def refuse() -> None:
    raise RPCError(4711, "not today", {"again": "tomorrow"})


class Waits:
    """Methods that take as long as the test wants."""

    def __init__(self) -> None:
        self.deferreds: list[Deferred[Any]] = []
        self.cancelled: list[str] = []

    def deferred(self) -> Deferred[Any]:
        waiting: Deferred[Any] = Deferred(lambda _: self.cancelled.append("deferred"))
        self.deferreds.append(waiting)
        return waiting

    async def coroutine(self) -> Any:
        try:
            return await self.deferred()
        except CancelledError:
            self.cancelled.append("coroutine")
            raise


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def make_pair(network: MemoryNetwork) -> Callable[..., Pair]:
    def make(funcs: Any, **options: Any) -> Pair:
        return connected_pair(funcs, network=network, **options)

    return make


MakePair = Callable[..., Pair]


@pytest.fixture
def pair(make_pair: MakePair, waits: Waits) -> Pair:
    methods = {"deferred": waits.deferred, "coroutine": waits.coroutine}
    return make_pair({"add": add, "divide": divide, "refuse": refuse, **methods})


# --- results and errors ---------------------------------------------------------------------------


def test_positional_named_and_mixed_arguments(pair: Pair) -> None:
    calls = [pair.client.call("add", 1, 2), pair.client.call("add", a=1, b=2)]
    calls.append(pair.client.call("add", 1, b=2))
    pair.pump()
    assert values_of(calls) == [3, 3, 3]


def test_keywords_all_go_to_the_method(make_pair: MakePair) -> None:
    def echo(**kwargs: Any) -> Any:
        return kwargs

    pair = make_pair({"echo": echo})
    names = {"self": 1, "method": 2, "timeout": 3, "args": 4, "kwargs": 5, "call": 6}
    assert result_of(pair, "echo", **names) == names


def test_many_calls_of_one_turn_leave_in_one_write(pair: Pair) -> None:
    written: list[bytes] = []
    write = pair.wire.write
    pair.wire.write = lambda data: (written.append(data), write(data))[1]  # type: ignore[method-assign,func-returns-value]
    outbox = pair.client._channel._outbox  # type: ignore[attr-defined]
    outbox._write = pair.wire.write
    calls = [pair.client.call("add", n, n) for n in range(50)]
    pair.pump()
    assert values_of(calls) == [2 * n for n in range(50)]
    assert len(written) == 1


def test_a_builtin_exception_propagates_with_its_text_alone(pair: Pair) -> None:
    error = error_of(pair, "divide", 1, 0)
    assert isinstance(error, ValueError)
    assert isinstance(error, RemoteError)
    assert str(error) == "Division by zero is not allowed"
    assert error.type_name == "ValueError"
    assert error.remote_traceback is None


def test_a_derived_exception_is_also_the_builtin_it_derives_from(make_pair: MakePair) -> None:
    class Gone(LookupError):
        pass

    def find() -> None:
        raise Gone("no such thing")

    pair = make_pair({"find": find})
    error = error_of(pair, "find")
    assert isinstance(error, LookupError)
    assert isinstance(error, RemoteError)
    assert error.type_name is not None
    assert error.type_name.endswith("Gone")


def test_a_type_error_inside_the_function_is_not_invalid_params(pair: Pair) -> None:
    error = error_of(pair, "add", 1, "x")
    assert isinstance(error, TypeError)
    assert not isinstance(error, InvalidParams)


@pytest.mark.parametrize("args", [(1,), (1, 2, 3)])
def test_a_wrong_number_of_arguments_is_invalid_params(pair: Pair, args: tuple[int, ...]) -> None:
    error = error_of(pair, "add", *args)
    assert isinstance(error, InvalidParams)
    assert "add(" in str(error)


def test_an_unknown_method_is_named(pair: Pair) -> None:
    error = error_of(pair, "nope")
    assert isinstance(error, MethodNotFound)
    assert str(error) == "Method 'nope' not found"


def test_a_method_chooses_its_error(pair: Pair) -> None:
    error = error_of(pair, "refuse")
    assert type(error) is RPCError
    assert (error.code, str(error), error.data) == (4711, "not today", {"again": "tomorrow"})


def test_tracebacks_cross_only_when_shared(make_pair: MakePair) -> None:
    pair = make_pair({"divide": divide}, share_tracebacks=True)
    error = error_of(pair, "divide", 1, 0)
    assert isinstance(error, RemoteError)
    assert error.remote_traceback is not None
    assert error.remote_traceback.startswith("Traceback")
    assert "in divide" in error.remote_traceback
    assert "_serving" not in error.remote_traceback


def test_hidden_errors_carry_a_reference_that_the_log_has(
    make_pair: MakePair, logged_errors: Any
) -> None:
    pair = make_pair({"divide": divide}, expose_errors=False)
    error = error_of(pair, "divide", 1, 0)
    assert isinstance(error, InternalError)
    assert "Division" not in str(error)
    (logged,) = logged_errors.claim()
    assert error.data["reference"] in logged
    assert error.data["reference"] in str(error)
    assert "Division by zero" in logged


def test_hiding_errors_leaves_those_that_the_method_chose(make_pair: MakePair) -> None:
    pair = make_pair({"refuse": refuse}, expose_errors=False)
    assert str(error_of(pair, "refuse")) == "not today"


@pytest.mark.parametrize("result", [object(), {1, object()}, float("nan"), [float("inf")], 1j])
def test_a_result_without_json_form_is_an_error_of_that_call(
    make_pair: MakePair, result: Any, logged_errors: Any
) -> None:
    pair = make_pair({"give": lambda: result, "add": add})
    calls = [pair.client.call("give"), pair.client.call("add", 1, 2)]
    pair.pump()
    error = failure_of(calls[0])
    assert isinstance(error, InternalError)
    assert "give" in str(error)
    assert value_of(calls[1]) == 3
    assert len(logged_errors.claim()) == 1


@pytest.mark.parametrize(
    ("argument", "kind"),
    [(object(), TypeError), (float("nan"), ValueError), ([float("-inf")], ValueError)],
)
def test_an_argument_without_json_form_fails_the_call_at_once(
    pair: Pair, argument: Any, kind: type[Exception]
) -> None:
    assert isinstance(failure_of(pair.client.call("add", argument, 1)), kind)
    assert result_of(pair, "add", 1, 2) == 3


def test_a_method_name_that_is_no_string_is_refused_here(pair: Pair) -> None:
    with pytest.raises(TypeError, match="name"):
        pair.client.call(["add"], 1, 2)  # type: ignore[arg-type]  # the point of the test


LIMIT = {"max_line_bytes": 2048}


@pytest.mark.parametrize(
    ("options", "args", "code"),
    [
        pytest.param(LIMIT, ("big",), ErrorCode.REPLY_TOO_LONG, id="a reply"),
        pytest.param(LIMIT, ("add", "x" * 5000, "y"), ErrorCode.REQUEST_TOO_LONG, id="a request"),
        pytest.param({"client": LIMIT}, ("big",), ErrorCode.REPLY_TOO_LONG, id="the caller's own"),
    ],
)
def test_a_line_over_a_limit_fails_that_call_alone(
    make_pair: MakePair, options: dict[str, Any], args: Any, code: int
) -> None:
    pair = make_pair({"big": lambda: "x" * 5000, "add": add}, **options)
    calls = [pair.client.call(*args), pair.client.call("add", 1, 2)]
    pair.pump()
    error = failure_of(calls[0])
    assert isinstance(error, RPCError)
    assert error.code == code
    assert value_of(calls[1]) == 3


# --- Deferreds, coroutines, threads ---------------------------------------------------------------


def test_replies_come_when_they_are_ready(pair: Pair, waits: Waits) -> None:
    first, second = pair.client.call("deferred"), pair.client.call("coroutine")
    pair.pump()
    waits.deferreds[1].callback("second")
    pair.pump()
    assert value_of(second) == "second"
    assert not first.called
    waits.deferreds[0].callback("first")
    pair.pump()
    assert value_of(first) == "first"


def test_a_deferred_that_fails_is_the_functions_error(pair: Pair, waits: Waits) -> None:
    calls = [pair.client.call("deferred"), pair.client.call("coroutine")]
    pair.pump()
    for deferred in waits.deferreds:
        deferred.errback(KeyError("k"))
    pair.pump()
    for call in calls:
        assert isinstance(failure_of(call), KeyError)


def test_an_awaitable_that_is_no_coroutine_is_awaited(make_pair: MakePair) -> None:
    class Soon:
        def __await__(self) -> Any:
            yield from Deferred.fromCoroutine(self._value())
            return "soon"

        async def _value(self) -> None:
            return None

    pair = make_pair({"soon": in_reactor(lambda: Soon())})
    assert result_of(pair, "soon") == "soon"


@pytest.mark.parametrize("call_timeout", [None, 10])
def test_a_coroutine_from_a_thread_runs_on_the_reactor_and_is_in_flight_no_more_when_it_ends(
    make_pair: MakePair, executor: ManualExecutor, call_timeout: float | None
) -> None:
    async def later() -> str:
        return "later"

    pair = make_pair(
        {"later": lambda: later()}, executor=executor, max_pending=2, call_timeout=call_timeout
    )
    for _ in range(5):
        call = pair.client.call("later")
        run_threads(pair, executor)
        assert value_of(call) == "later"


def test_a_coroutine_from_a_thread_is_not_begun_when_the_call_was_cancelled(
    make_pair: MakePair,
    executor: ManualExecutor,
) -> None:
    began: list[int] = []

    async def later() -> None:
        began.append(1)

    def returns_later() -> Any:
        calling.cancel()
        pair.pump()
        return later()

    pair = make_pair({"later": returns_later}, executor=executor)
    calling = pair.client.call("later")
    run_threads(pair, executor)
    assert isinstance(failure_of(calling), CallCancelled)
    assert began == []


def test_a_deferred_from_a_worker_thread_names_the_decorator(
    make_pair: MakePair, executor: ManualExecutor, logged_errors: Any
) -> None:
    def wrong():  # type: ignore[no-untyped-def]  # an annotation would put it on the reactor
        return Deferred()

    pair = make_pair({"wrong": wrong}, executor=executor)
    call = pair.client.call("wrong")
    run_threads(pair, executor)
    error = failure_of(call)
    assert isinstance(error, InternalError)
    assert "wrong" in str(error)
    assert "in_reactor" in str(error)
    assert len(logged_errors.claim()) == 1


def test_asyncio_code_under_another_reactor_is_told_what_it_needs(make_pair: MakePair) -> None:
    async def sleeps() -> None:
        await asyncio.sleep(0.01)

    pair = make_pair({"sleeps": sleeps})
    assert "--reactor=asyncio" in str(error_of(pair, "sleeps"))


def test_plain_functions_run_in_the_pool_and_marked_ones_where_they_say(
    make_pair: MakePair,
    executor: ManualExecutor,
) -> None:
    ran: list[str] = []

    @in_reactor
    def here() -> None:
        ran.append("here")

    @in_thread
    def there() -> None:
        ran.append("there")

    def plain() -> None:
        ran.append("plain")

    pair = make_pair({"here": here, "there": there, "plain": plain}, executor=executor)
    calls = [pair.client.call(name) for name in ("there", "plain", "here")]
    pair.pump()
    assert ran == ["here"]
    executor.run()
    pair.pump()
    assert ran == ["here", "there", "plain"]
    assert values_of(calls) == [None] * 3


def test_current_call_works_across_await_and_in_threads(
    make_pair: MakePair, executor: ManualExecutor
) -> None:
    seen: list[str] = []
    gate: Deferred[None] = Deferred()

    async def waits() -> None:
        seen.append(current_call().method)
        await gate
        seen.append(current_call().method)

    @in_reactor
    @inlineCallbacks
    def generates() -> Any:
        yield gate
        seen.append(current_call().method)

    def blocks() -> None:
        seen.append(current_call().method)
        assert str(current_call().peer.host) == "127.0.0.1"
        assert current_call().peer_certificate is None
        assert current_call().deadline is None

    funcs = {"waits": waits, "generates": generates, "blocks": blocks}
    pair = make_pair(funcs, executor=executor)
    calls = [pair.client.call(name) for name in funcs]
    pair.pump()
    gate.callback(None)
    executor.run()
    pair.pump()
    assert values_of(calls) == [None] * 3
    assert seen == ["waits", "waits", "generates", "blocks"]


def test_current_call_gives_the_same_call_each_time(make_pair: MakePair) -> None:
    calls: list[Any] = []

    @in_reactor
    def here() -> None:
        calls.extend([current_call(), current_call()])

    pair = make_pair({"here": here})
    pair.client.call("here")
    pair.client.call("here")
    pair.pump()
    first, again, second, _ = calls
    assert first is again
    assert first is not second


@pytest.mark.parametrize("is_asked", [False, True])
def test_what_a_method_left_running_has_its_call_if_it_was_asked_for(is_asked: bool) -> None:
    left: list[Context] = []
    kept: list[Any] = []

    def leaves() -> None:
        left.append(copy_context())
        if is_asked:
            kept.append(current_call())

    executor = ManualExecutor()
    pair = connected_pair({"leaves": leaves}, executor=executor)
    pair.client.call("leaves")
    run_threads(pair, executor)
    # While there is the connection, it can be asked for.
    assert left[0].run(current_call).method == "leaves"
    pair.close()
    del pair
    gc.collect()
    if is_asked:
        assert left[0].run(current_call) is kept[0]
        assert kept[0].peer_text.startswith("127.0.0.1:")
    else:
        with pytest.raises(LookupError, match="the call of leaves has ended, and its connection"):
            left[0].run(current_call)


def test_current_call_outside_a_method_says_so() -> None:
    with pytest.raises(LookupError, match="no call"):
        current_call()


# --- both directions ------------------------------------------------------------------------------


def test_a_method_calls_back_over_the_connection_that_called_it(make_pair: MakePair) -> None:
    async def ask() -> str:
        name = await current_call().connection.call("name")
        return f"hello {name}"

    pair = make_pair({"ask": ask}, client={"funcs": {"name": lambda: "Ada"}})
    assert result_of(pair, "ask") == "hello Ada"


def test_calls_in_both_directions_go_on_past_the_limit(make_pair: MakePair) -> None:
    async def outer(n: int) -> Any:
        return await current_call().connection.call("inner", n)

    pair = make_pair(
        {"outer": outer}, client={"funcs": {"inner": lambda n: -n}, "max_pending": 2}, max_pending=2
    )
    calls = [pair.client.call("outer", n) for n in range(4)]
    pair.pump()
    assert values_of(calls) == [0, -1, -2, -3]


def test_peers_that_call_each_other_go_on_when_one_was_slow(make_pair: MakePair) -> None:
    async def outer(n: int) -> Any:
        return len(await current_call().connection.call("inner", "x" * 200_000))

    pair = make_pair(
        {"outer": outer}, client={"funcs": {"inner": lambda text: text}}, max_pending=1
    )
    pair.wire.peer.is_held = True
    calls = [pair.client.call("outer", n) for n in range(6)]
    pair.pump()
    pair.wire.peer.is_held = False
    pair.pump()
    assert [value_of(call) for call in calls[:1]] == [200_000]
    assert all(call.called for call in calls)
    for call in calls[1:]:
        call.addErrback(lambda failure: failure.trap(RPCError) and None)


# --- timeouts and cancellation --------------------------------------------------------------------


def test_a_timeout_ends_the_call_and_cancels_it_at_the_server(pair: Pair, waits: Waits) -> None:
    call = pair.client.with_options(timeout=2).call("coroutine")
    pair.pump()
    pair.advance(1.9)
    assert not call.called
    pair.advance(0.2)
    error = failure_of(call)
    assert isinstance(error, CallTimeout)
    assert isinstance(error, TimeoutError)
    assert error.maybe_executed is True
    assert waits.cancelled == ["deferred", "coroutine"]


def test_a_timeout_before_the_request_is_written_says_so(pair: Pair) -> None:
    call = pair.client.with_options(timeout=0).call("add", 1, 2)
    pair.network.reactor.advance(0)
    error = failure_of(call)
    assert isinstance(error, CallTimeout)
    assert error.maybe_executed is False


def test_timeouts_of_different_lengths_each_come_in_time(pair: Pair, waits: Waits) -> None:
    calls = {n: pair.client.with_options(timeout=n).call("deferred") for n in (3, 1, 2)}
    endless = pair.client.with_options(timeout=None).call("deferred")
    for n in (1, 2, 3):
        pair.advance(1)
        assert {m for m, call in calls.items() if call.called} == set(range(1, n + 1))
    for call in calls.values():
        assert isinstance(failure_of(call), CallTimeout)
    pair.advance(10_000)
    assert not endless.called
    waits.deferreds[-1].callback("at last")
    pair.pump()
    assert value_of(endless) == "at last"


def test_a_late_reply_is_ignored(pair: Pair, waits: Waits) -> None:
    call = pair.client.with_options(timeout=1).call("deferred")
    pair.pump()
    pair.wire.is_held = True
    pair.advance(1)
    assert isinstance(failure_of(call), CallTimeout)
    waits.deferreds[0].callback("too late")
    pair.pump()
    pair.wire.is_held = False
    assert result_of(pair, "add", 1, 2) == 3


@pytest.mark.parametrize("method", ["deferred", "coroutine"])
def test_cancelling_reaches_the_servers_deferred(pair: Pair, waits: Waits, method: str) -> None:
    call = pair.client.call(method)
    pair.pump()
    call.cancel()
    error = failure_of(call)
    assert isinstance(error, CallCancelled)
    assert isinstance(error, CancelledError)
    pair.pump()
    assert "deferred" in waits.cancelled


def test_a_call_that_is_cancelled_before_it_is_written_is_never_sent(make_pair: MakePair) -> None:
    ran: list[int] = []
    pair = make_pair({"run": lambda: ran.append(1)})
    call = pair.client.call("run")
    call.cancel()
    assert isinstance(failure_of(call), CallCancelled)
    pair.pump()
    assert ran == []


def test_a_queued_call_that_is_cancelled_is_never_run(
    make_pair: MakePair, executor: ManualExecutor
) -> None:
    ran: list[int] = []
    pair = make_pair({"run": ran.append}, executor=executor)
    calls = [pair.client.call("run", n) for n in (1, 2)]
    pair.pump()
    calls[0].cancel()
    assert isinstance(failure_of(calls[0]), CallCancelled)
    run_threads(pair, executor)
    assert ran == [2]
    assert value_of(calls[1]) is None


def test_a_running_function_can_see_that_it_is_cancelled(
    make_pair: MakePair, executor: ManualExecutor
) -> None:
    seen: list[bool] = []

    def watch() -> None:
        call = current_call()
        seen.append(call.cancelled)
        cancel()
        seen.append(call.cancelled)

    pair = make_pair({"watch": watch}, executor=executor)
    calling = pair.client.call("watch")

    def cancel() -> None:
        calling.cancel()
        pair.pump()

    pair.pump()
    executor.run()
    assert isinstance(failure_of(calling), CallCancelled)
    assert seen == [False, True]
    pair.pump()


def test_a_client_that_goes_away_cancels_its_calls(pair: Pair, waits: Waits) -> None:
    call = pair.client.call("coroutine")
    pair.pump()
    pair.close()
    assert isinstance(failure_of(call), ConnectionLost)
    assert waits.cancelled == ["deferred", "coroutine"]


# --- the loss of the connection -------------------------------------------------------------------


def test_loss_fails_every_call_in_order_and_says_which_was_written(
    pair: Pair, waits: Waits
) -> None:
    failed: list[tuple[int, bool]] = []

    def note(failure: Any, n: int) -> None:
        failed.append((n, failure.value.maybe_executed))

    for n in range(3):
        pair.client.call("deferred").addErrback(note, n)
    pair.pump()
    pair.client.call("deferred").addErrback(note, 3)
    pair.wire.lose(ConnectionResetError("cut"))
    assert failed == [(0, True), (1, True), (2, True), (3, False)]


def test_a_call_that_ends_may_cancel_those_that_end_with_it(pair: Pair, waits: Waits) -> None:
    calls = [pair.client.call("deferred") for _ in range(4)]
    outcomes: list[Any] = []

    def cancel_two(failure: Failure) -> None:
        outcomes.append(failure.type)
        calls[1].cancel()
        calls[2].cancel()

    calls[0].addErrback(cancel_two)
    for call in calls[1:]:
        call.addErrback(lambda failure: outcomes.append(failure.type))
    pair.pump()
    pair.wire.lose(ConnectionError("cut"))
    assert outcomes == [
        ConnectionLost,
        DeferredCallCancelled,
        DeferredCallCancelled,
        ConnectionLost,
    ]


def test_a_call_may_cancel_another_whose_reply_was_read_with_its_own(
    pair: Pair, waits: Waits
) -> None:
    """One array for several calls is more than section 6 has, and yet what peers may send."""
    calls = [pair.client.call("deferred") for _ in range(3)]
    pair.pump()
    calls[0].addCallback(lambda _: calls[1].cancel())
    replies = ",".join(f'{{"jsonrpc":"2.0","id":{number},"result":0}}' for number in (1, 2, 3))
    pair.wire.protocol.dataReceived(f"[{replies}]\n".encode())
    assert isinstance(failure_of(calls[1]), CallCancelled)
    assert value_of(calls[2]) == 0


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda wire: wire.lose(ConnectionResetError("cut")), id="the loss"),
        pytest.param(lambda wire: wire.protocol.readConnectionLost(), id="its EOF"),
    ],
)
def test_replies_that_were_read_before_the_end_are_not_lost(
    make_pair: MakePair, end: Callable[[Any], object]
) -> None:
    pair = make_pair({"add": add}, max_pending=5000)
    calls = [pair.client.call("add", n, 0) for n in range(900)]
    far = pair.wire.peer
    far.is_held = True
    pair.pump()
    far.is_held = False
    assert far.deliver()
    end(pair.wire)
    pair.pump()
    assert values_of(calls) == list(range(900))


def test_a_call_after_the_loss_fails_at_once(pair: Pair) -> None:
    pair.wire.lose(ConnectionResetError("cut"))
    error = failure_of(pair.client.call("add", 1, 2))
    assert isinstance(error, ConnectionLost)
    assert isinstance(error, ConnectionError)
    assert error.maybe_executed is False
    assert isinstance(failure_of(pair.client.notify("add", 1, 2)), ConnectionLost)


def test_the_cause_of_the_loss_is_kept(pair: Pair, waits: Waits) -> None:
    call = pair.client.call("deferred")
    pair.pump()
    cut = ConnectionResetError("cut")
    pair.wire.lose(cut)
    assert failure_of(call).__cause__ is cut


def test_a_callback_that_closes_the_connection_does_no_harm(pair: Pair) -> None:
    first = pair.client.call("add", 1, 2)
    second = pair.client.call("add", 3, 4)

    def close(_: Any) -> None:
        pair.client.close()

    first.addCallback(close)
    pair.pump()
    assert isinstance(failure_of(second), ConnectionLost)


def test_a_callback_that_raises_stays_in_its_deferred(pair: Pair) -> None:
    first = pair.client.call("add", 1, 2)
    first.addCallback(lambda _: 1 / 0)
    second = pair.client.call("add", 3, 4)
    pair.pump()
    assert isinstance(failure_of(first), ZeroDivisionError)
    assert value_of(second) == 7


def test_a_line_cut_in_the_middle_runs_nothing(make_pair: MakePair) -> None:
    ran: list[int] = []
    pair = make_pair({"run": lambda: ran.append(1)})
    pair.wire.chunk_bytes = 20
    call = pair.client.call("run")
    pair.network.reactor.advance(0)
    assert pair.wire.deliver()
    pair.wire.lose(ConnectionResetError("cut"))
    assert isinstance(failure_of(call), ConnectionLost)
    assert ran == []


def test_bytes_one_at_a_time_give_the_same_results(pair: Pair) -> None:
    pair.wire.chunk_bytes = pair.wire.peer.chunk_bytes = 1
    calls = [pair.client.call("add", n, 1) for n in range(5)]
    pair.pump()
    assert values_of(calls) == [1, 2, 3, 4, 5]


# --- notifications and batches --------------------------------------------------------------------


def test_a_notification_is_run_and_never_answered(make_pair: MakePair) -> None:
    ran: list[Any] = []
    pair = make_pair({"run": ran.append})
    assert value_of(pair.client.notify("run", 1)) is None
    value_of(pair.client.notify("run"))
    value_of(pair.client.notify("unknown", 1))
    pair.network.reactor.advance(0)
    pair.wire.deliver()
    assert ran == [1]
    assert pair.wire.peer.written == b""


def test_a_batch_gives_results_and_exceptions_in_order(make_pair: MakePair) -> None:
    ran: list[int] = []
    pair = make_pair({"add": add, "divide": divide, "run": ran.append})
    batch = pair.client.batch()
    batch.call("add", 1, 2)
    batch.notify("run", 7)
    batch.call("divide", 1, 0)
    batch.call("nope")
    batch.call("add", "x", b="y")
    sending = batch.send()
    pair.pump()
    results = value_of(sending)
    assert results[0] == 3
    assert isinstance(results[1], ValueError)
    assert isinstance(results[2], MethodNotFound)
    assert results[3] == "xy"
    assert ran == [7]


def test_an_empty_batch_sends_nothing(pair: Pair) -> None:
    assert value_of(pair.client.batch().send()) == []
    pair.network.reactor.advance(0)
    assert pair.wire.written == b""


def test_a_batch_of_notifications_is_done_when_it_is_sent(make_pair: MakePair) -> None:
    ran: list[int] = []
    pair = make_pair({"run": ran.append})
    batch = pair.client.batch()
    batch.notify("run", 1)
    assert value_of(batch.send()) == []
    pair.pump()
    assert ran == [1]


def test_a_batch_is_sent_once(pair: Pair) -> None:
    batch = pair.client.batch()
    batch.call("add", 1, 2)
    batch.send()
    with pytest.raises(RuntimeError, match="sent"):
        batch.send()
    with pytest.raises(RuntimeError, match="sent"):
        batch.call("add", 1, 2)
    pair.pump()


def test_a_batch_over_the_limit_fails_alone_and_beside_a_call_that_waits(
    make_pair: MakePair, waits: Waits
) -> None:
    pair = make_pair({"wait": waits.deferred, "add": add}, max_batch=2)
    batch = [("call", "add", n, n) for n in range(3)]
    alone = batched(pair.client, *batch)
    pair.pump()
    waiting = pair.client.call("wait")
    beside = batched(pair.client, *batch)
    pair.pump()
    for sending in (alone, beside):
        codes = [result.code for result in value_of(sending)]
        assert codes == [ErrorCode.BATCH_TOO_LARGE] * 3
    waits.deferreds[0].callback("still")
    pair.pump()
    assert value_of(waiting) == "still"


def test_a_batch_that_is_cancelled_cancels_its_calls(pair: Pair, waits: Waits) -> None:
    sending = batched(pair.client, ("call", "deferred"), ("call", "coroutine"))
    pair.pump()
    sending.cancel()
    assert isinstance(failure_of(sending), CallCancelled)
    pair.pump()
    assert waits.cancelled == ["deferred", "deferred", "coroutine"]


def test_a_member_cancelled_alone_does_not_hold_up_the_batch(pair: Pair, waits: Waits) -> None:
    sending = batched(
        pair.client.with_options(timeout=1), ("call", "deferred"), ("call", "add", 1, 2)
    )
    pair.pump()
    pair.advance(1)
    timeout, other = value_of(sending)
    assert isinstance(timeout, CallTimeout)
    assert isinstance(other, CallTimeout)


# --- the proxy and the options --------------------------------------------------------------------


def test_remote_makes_dotted_names(make_pair: MakePair) -> None:
    pair = make_pair({"calc.add": add, "add": add})
    calls = [pair.client.remote.add(1, 2), pair.client.remote.calc.add(3, b=4)]
    pair.pump()
    assert values_of(calls) == [3, 7]


def test_an_option_that_does_not_exist_is_refused(pair: Pair) -> None:
    with pytest.raises(TypeError):
        pair.client.with_options(timeuot=3)
    with pytest.raises(ValueError, match="timeout"):
        pair.client.with_options(timeout=-1)


# --- dialects -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["2.0", "1.0", "kn-sock"])
def test_every_dialect_calls_and_propagates_errors(make_pair: MakePair, dialect: str) -> None:
    pair = make_pair({"add": add, "divide": divide}, client={"dialect": dialect})
    calls = [pair.client.call("add", 1, 2), pair.client.call("divide", 1, 0)]
    calls.append(pair.client.call("add", 3, 4))
    pair.pump()
    assert value_of(calls[0]) == 3
    assert str(failure_of(calls[1])) == "Division by zero is not allowed"
    assert value_of(calls[2]) == 7


def test_the_kn_sock_dialect_is_answered_in_order_one_at_a_time(
    make_pair: MakePair, waits: Waits
) -> None:
    pair = make_pair({"wait": waits.deferred, "add": add}, client={"dialect": "kn-sock"})
    slow = pair.client.call("wait")
    quick = pair.client.call("add", a=1, b=2)
    pair.pump()
    assert not quick.called
    waits.deferreds[0].callback("done")
    pair.pump()
    assert value_of(slow) == "done"
    assert value_of(quick) == 3


def test_a_call_given_up_in_the_kn_sock_dialect_leaves_the_others_right(
    make_pair: MakePair, waits: Waits
) -> None:
    pair = make_pair({"wait": waits.deferred, "add": add}, client={"dialect": "kn-sock"})
    slow = pair.client.with_options(timeout=1).call("wait")
    quick = pair.client.call("add", 1, 2)
    pair.pump()
    pair.advance(1)
    assert isinstance(failure_of(slow), CallTimeout)
    assert not quick.called
    waits.deferreds[0].callback("late")
    pair.pump()
    assert value_of(quick) == 3


def test_a_line_that_cannot_be_read_keeps_its_turn_in_the_kn_sock_dialect(
    make_pair: MakePair, waits: Waits
) -> None:
    pair = make_pair(
        {"wait": waits.deferred, "add": add},
        client={"dialect": "kn-sock"},
        max_line_bytes=1024,
    )
    slow = pair.client.call("wait")
    too_long = pair.client.call("add", "x" * 2000, "")
    pair.pump()
    assert not slow.called
    waits.deferreds[0].callback("done")
    pair.pump()
    assert value_of(slow) == "done"
    assert "max_line_bytes" in str(failure_of(too_long))


def test_what_a_dialect_has_no_place_for_is_refused_here(make_pair: MakePair) -> None:
    old = make_pair({"add": add}, client={"dialect": "1.0"})
    assert isinstance(failure_of(old.client.call("add", a=1, b=2)), TypeError)
    batch = old.client.batch()
    batch.call("add", 1, 2)
    assert isinstance(failure_of(batch.send()), TypeError)


def test_the_kn_sock_dialect_has_no_notifications(make_pair: MakePair) -> None:
    pair = make_pair({"add": add}, client={"dialect": "kn-sock"})
    assert isinstance(failure_of(pair.client.notify("add", 1, 2)), TypeError)


# --- what every server has ------------------------------------------------------------------------


def test_ping_and_discover(make_pair: MakePair) -> None:
    def scale(value: float, by: int = 2) -> float:
        """Scale a value."""
        return value * by

    pair = make_pair({"scale": scale})
    ping, discover = pair.client.call("rpc.ping"), pair.client.call("rpc.discover")
    pair.pump()
    assert value_of(ping) == "pong"
    document = value_of(discover)
    (method,) = document["methods"]
    assert method["name"] == "scale"
    assert method["summary"] == "Scale a value."
    assert [(p["name"], p["required"]) for p in method["params"]] == [
        ("value", True),
        ("by", False),
    ]
    assert method["params"][0]["schema"] == {"type": "number"}
