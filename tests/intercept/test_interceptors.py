"""Interceptors at the end that serves: what is around a call, and what becomes of it."""

from __future__ import annotations

import contextlib
import contextvars
from decimal import Decimal
from typing import Any

import pytest
from twisted.cred.portal import Portal
from twisted.internet.defer import CancelledError, Deferred, succeed

from kn_sock import (
    InvalidParams,
    MethodNotFound,
    NotAuthenticated,
    RemoteError,
    RPCError,
    RPCServerFactory,
    ServedCall,
    current_call,
    in_reactor,
)
from kn_sock.auth import MethodsRealm, PasswordChecker
from kn_sock.testing import ManualExecutor, MemoryNetwork, MemoryReactor, connected_pair
from tests.intercept.interceptors import (
    catching,
    fails,
    ordered,
    passes,
    passes_plainly,
    refusing,
    waiting,
    watching,
)
from tests.serving.common import (
    CANCEL,
    RawClient,
    batched,
    called,
    outcome_of,
    request,
    run_threads,
)


def add(a: int, b: int) -> int:
    return a + b


FUNCS = {"add": add, "fails": fails}


CALL = request(1, "add", 1, 2)


# --- the shape ------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["the server", "the client"])
def test_the_first_is_outermost(network: MemoryNetwork, end: str) -> None:
    seen: list[str] = []

    def measured(a: int, b: int) -> int:
        seen.append("the call")
        return a + b

    options: dict[str, Any] = {"interceptors": ordered(seen, "first", "second")}
    options = {"client": options} if end == "the client" else options
    pair = connected_pair({"add": measured}, network=network, **options)
    assert called(pair, "add", 1, 2) == 3
    assert seen == ["before first", "before second", "the call", "after second", "after first"]


class Awaitable:
    def __init__(self, deferred: Deferred[Any]) -> None:
        self._deferred = deferred

    def __await__(self) -> Any:
        return self._deferred.__await__()


def as_awaitable(call: ServedCall, proceed: Any) -> Any:
    return Awaitable(proceed())


class Counting:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self, call: ServedCall, proceed: Any) -> Deferred[Any]:
        self.count += 1
        result: Deferred[Any] = proceed()
        return result


@pytest.mark.parametrize("interceptor", [passes, passes_plainly, as_awaitable, Counting()])
def test_it_may_be_any_function(network: MemoryNetwork, interceptor: Any) -> None:
    pair = connected_pair(FUNCS, network=network, interceptors=[interceptor])
    assert called(pair, "add", 1, 2) == 3
    assert isinstance(called(pair, "fails"), ValueError)


def test_it_may_give_a_result_of_its_own(network: MemoryNetwork) -> None:
    def answers(call: ServedCall, proceed: Any) -> str:
        return f"{call.method} was not run"

    async def doubles(call: ServedCall, proceed: Any) -> Any:
        return 2 * await proceed()

    pair = connected_pair(FUNCS, network=network, interceptors=[doubles, answers])
    assert called(pair, "fails") == "fails was not run" * 2


def test_it_may_refuse(network: MemoryNetwork) -> None:
    pair = connected_pair(FUNCS, network=network, interceptors=[refusing()])
    error = called(pair, "add", 1, 2)
    assert (error.code, str(error), error.data) == (403, "not from here", {"seconds": 3})


def test_what_it_raises_by_mistake_is_told_like_what_a_function_raises(
    network: MemoryNetwork,
) -> None:
    def mistaken(call: ServedCall, proceed: Any) -> Any:
        raise KeyError("oops")

    pair = connected_pair(FUNCS, network=network, interceptors=[mistaken])
    error = called(pair, "add", 1, 2)
    assert isinstance(error, RemoteError)
    assert error.type_name == "KeyError"


def test_it_may_try_again(network: MemoryNetwork) -> None:
    tries: list[int] = []

    def flaky() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise OSError("not yet")
        return len(tries)

    async def tries_again(call: ServedCall, proceed: Any) -> Any:
        while True:
            try:
                return await proceed()
            except OSError:
                pass

    pair = connected_pair({"flaky": flaky}, network=network, interceptors=[tries_again])
    assert called(pair, "flaky") == 3


# --- what it sees ---------------------------------------------------------------------------------


def test_it_has_the_call_and_its_arguments(network: MemoryNetwork) -> None:
    seen: list[Any] = []

    async def looks(call: ServedCall, proceed: Any) -> Any:
        assert current_call() is call
        seen.append((call.method, list(call.args), dict(call.kwargs), call.is_notification))
        result = await proceed()
        assert current_call() is call
        return result

    raw = RawClient(network, FUNCS, interceptors=[looks])
    for given in ({}, {"params": {"a": 1, "b": 2}}, {"params": [1], "kwargs": {"b": 2}}):
        assert raw.ask({**CALL, **given})[0]["result"] == 3
    assert raw.ask({"jsonrpc": "2.0", "method": "add", "params": [1, 2]}) == []
    # As the function gets them: what was named and has a place comes by position.
    assert seen == [*[("add", [1, 2], {}, False)] * 3, ("add", [1, 2], {}, True)]


def test_the_trace_and_the_deadline_reach_it(network: MemoryNetwork) -> None:
    seen: list[Any] = []

    looks = watching(seen, lambda call: (call.traceparent, call.remaining, call.peer_text))
    raw = RawClient(network, FUNCS, interceptors=[looks])
    raw.ask({**CALL, "traceparent": "00-1-2-01", "timeout": 2.5})
    assert seen == [("00-1-2-01", 2.5, "127.0.0.1:50000")]


def test_the_arguments_are_those_that_the_function_gets_and_may_be_changed(
    network: MemoryNetwork,
) -> None:
    def later(when: Decimal, *, by: int = 0) -> Any:
        return [str(when), by]

    seen: list[Any] = []

    async def changes(call: ServedCall, proceed: Any) -> Any:
        seen.append(list(call.args))
        call.kwargs = {"by": 7}
        return await proceed()

    pair = connected_pair({"later": later}, network=network, interceptors=[changes])
    assert called(pair, "later", "1.50") == ["1.50", 7]
    assert seen == [[Decimal("1.50")]]


@pytest.mark.parametrize(
    ("method", "args", "kind", "given"),
    [
        ("nope", (1,), MethodNotFound, [1]),
        ("add", (1,), InvalidParams, [1]),
        ("add", ("1", 2), InvalidParams, ["1", 2]),
    ],
)
def test_what_cannot_be_called_passes_through_it(
    network: MemoryNetwork, method: str, args: Any, kind: type[RPCError], given: Any
) -> None:
    seen: list[Any] = []

    looks = watching(seen, lambda call: (call.method, call.args))
    pair = connected_pair(FUNCS, network=network, interceptors=[looks, catching(seen, RPCError)])
    assert isinstance(called(pair, method, *args), kind)
    assert seen == [(method, given), kind]


def test_named_arguments_that_do_not_fit_are_there_as_they_came(network: MemoryNetwork) -> None:
    seen: list[Any] = []

    watches = watching(seen, lambda call: (list(call.args), dict(call.kwargs)))
    pair = connected_pair(FUNCS, network=network, interceptors=[watches])
    called(pair, "add", c=1)
    called(pair, "nope", 1, c=2)
    assert seen == [([], {"c": 1}), ([1], {"c": 2})]


def test_the_server_s_own_methods_pass_through_it_and_a_cancellation_does_not(
    network: MemoryNetwork,
) -> None:
    seen: list[str] = []

    pair = connected_pair(FUNCS, network=network, interceptors=[watching(seen)])
    assert called(pair, "rpc.ping") == "pong"
    pair.client.notify("$/cancelRequest", id=99)
    pair.pump()
    assert seen == ["rpc.ping"]


def test_batch_members_and_notifications_pass_through_it_one_by_one(
    network: MemoryNetwork,
) -> None:
    seen: list[Any] = []

    async def watches(call: ServedCall, proceed: Any) -> Any:
        seen.append((list(call.args), call.is_notification))
        if call.args[0] == 2:
            raise RPCError(7, "not two")
        return await proceed()

    pair = connected_pair(FUNCS, network=network, interceptors=[watches])
    calls = [("call", "add", first, 0) for first in (1, 2, 3)]
    sending = batched(pair.client, *calls, ("notify", "add", 4, 0))
    pair.pump()
    one, two, three = outcome_of(sending)
    assert (one, two.code, three) == (1, 7, 3)
    assert seen == [([1, 0], False), ([2, 0], False), ([3, 0], False), ([4, 0], True)]


def test_calls_without_ids_keep_their_order(network: MemoryNetwork) -> None:
    gates: list[Deferred[Any]] = []

    async def waits(call: ServedCall, proceed: Any) -> Any:
        gates.append(Deferred())
        await gates[-1]
        return await proceed()

    raw = RawClient(network, FUNCS, interceptors=[waits])
    assert raw.ask(*({"method": "add", "params": [each, 0]} for each in range(3))) == []
    assert len(gates) == 1, "one at a time"
    for each in range(3):
        gates[each].callback(None)
        assert raw.ask() == [{"result": each}]


@pytest.mark.parametrize("is_intercepted", [False, True])
@pytest.mark.parametrize("request_id", [{}, {"jsonrpc": "2.0", "id": 1}])
def test_many_that_waited_are_run_one_after_the_other_and_not_inside_each_other(
    network: MemoryNetwork, is_intercepted: bool, request_id: dict[str, Any]
) -> None:
    gate: Deferred[Any] = Deferred()

    @in_reactor
    def waits() -> Deferred[Any]:
        return gate

    @in_reactor
    def has_ended() -> Deferred[int]:
        return succeed(1)

    options: dict[str, Any] = {"interceptors": [passes]} if is_intercepted else {}
    most = 1000 if not request_id else 1
    funcs = {"waits": waits, "has_ended": has_ended}
    raw = RawClient(network, funcs, max_pending=most, **options)
    rest = [{**request_id, "method": "has_ended"}] * 900
    assert raw.ask({**request_id, "method": "waits"}, *rest) == []
    gate.callback(0)
    assert [each["result"] for each in raw.ask()] == [0, *[1] * 900]


# --- threads --------------------------------------------------------------------------------------

setting: contextvars.ContextVar[str] = contextvars.ContextVar("setting", default="unset")


def test_it_runs_before_a_thread_is_taken(network: MemoryNetwork, executor: ManualExecutor) -> None:
    gate: Deferred[Any] = Deferred()

    pair = connected_pair(FUNCS, network=network, executor=executor, interceptors=[waiting(gate)])
    calling = pair.client.call("add", 1, 2)
    pair.pump()
    assert len(executor) == 0
    gate.callback(None)
    assert executor.run() == 1
    pair.pump()
    assert outcome_of(calling) == 3


def test_what_it_sets_is_there_in_the_thread(
    network: MemoryNetwork, executor: ManualExecutor
) -> None:
    async def sets(call: ServedCall, proceed: Any) -> Any:
        setting.set(call.method)
        return await proceed()

    def reads() -> str:
        return f"{setting.get()} of {current_call().method}"

    pair = connected_pair(
        {"reads": reads, "here": in_reactor(lambda: setting.get())},
        network=network,
        executor=executor,
        interceptors=[sets],
    )
    calling = pair.client.call("reads")
    run_threads(pair, executor)
    assert outcome_of(calling) == "reads of reads"
    assert called(pair, "here") == "here"
    assert setting.get() == "unset"


def test_what_a_function_in_a_thread_raises_or_gives_to_be_awaited_passes_through_it(
    network: MemoryNetwork, executor: ManualExecutor, logged_errors: Any
) -> None:
    async def later() -> str:
        return "later"

    kinds: list[str] = []

    async def watches(call: ServedCall, proceed: Any) -> Any:
        try:
            result = await proceed()
        except Exception as problem:
            kinds.append(type(problem).__name__)
            raise
        kinds.append(result)
        return result

    funcs = {"fails": fails, "later": lambda: later(), "wrong": lambda: succeed(3)}
    pair = connected_pair(funcs, network=network, executor=executor, interceptors=[watches])
    outcomes = []
    for name in funcs:
        calling = pair.client.call(name)
        run_threads(pair, executor)
        outcomes.append(outcome_of(calling))
    assert isinstance(outcomes[0], ValueError)
    assert outcomes[1] == "later"
    assert "in_reactor" in str(outcomes[2])
    assert kinds == ["ValueError", "later", "InternalError"]
    assert len(logged_errors.claim()) == 1


# --- how it ends ----------------------------------------------------------------------------------


def test_a_cancellation_ends_what_the_interceptor_waits_for(network: MemoryNetwork) -> None:
    ended: list[str] = []

    async def waits(call: ServedCall, proceed: Any) -> Any:
        try:
            await Deferred()
        except CancelledError:
            ended.append(f"cancelled: {call.cancelled}")
            raise

    raw = RawClient(network, FUNCS, interceptors=[waits])
    raw.ask(CALL)
    (reply,) = raw.ask(CANCEL)
    assert reply["error"]["code"] == -32800
    assert ended == ["cancelled: True"]


def test_a_cancellation_reaches_the_method_through_it(network: MemoryNetwork) -> None:
    ended: list[str] = []

    async def waits() -> None:
        try:
            await Deferred()
        except CancelledError:
            ended.append("the method")
            raise

    async def watches(call: ServedCall, proceed: Any) -> Any:
        try:
            return await proceed()
        finally:
            ended.append("the interceptor")

    pair = connected_pair({"waits": waits}, network=network, interceptors=[watches, passes_plainly])
    calling = pair.client.call("waits")
    pair.pump()
    calling.addErrback(lambda _: None)
    calling.cancel()
    pair.pump()
    assert ended == ["the method", "the interceptor"]


def test_an_interceptor_that_goes_on_after_a_cancellation_runs_nothing(
    network: MemoryNetwork,
) -> None:
    ran: list[int] = []

    async def stubborn(call: ServedCall, proceed: Any) -> Any:
        with contextlib.suppress(CancelledError):
            await Deferred()
        return await proceed()

    raw = RawClient(network, {"run": lambda: ran.append(1)}, interceptors=[stubborn])
    raw.ask(request(1, "run"))
    assert raw.ask(CANCEL)[0]["error"]["code"] == -32800
    assert ran == []


def test_a_call_that_waits_for_a_thread_is_taken_back(
    network: MemoryNetwork, executor: ManualExecutor
) -> None:
    raw = RawClient(network, FUNCS, executor=executor, interceptors=[passes])
    raw.ask(request(1, "fails"))
    assert len(executor) == 1
    assert raw.ask(CANCEL)[0]["error"]["code"] == -32800
    executor.run()
    assert raw.ask() == []


def test_a_function_that_a_thread_has_is_waited_for(
    network: MemoryNetwork, executor: ManualExecutor
) -> None:
    """As without interceptors: it sees ``cancelled``, and what it returns is sent, and late."""
    raw: RawClient

    def runs() -> bool:
        assert raw.ask(CANCEL) == []
        return current_call().cancelled

    raw = RawClient(network, {"runs": runs}, executor=executor, interceptors=[passes])
    raw.ask(request(1, "runs"))
    executor.run()
    assert raw.ask() == [{"jsonrpc": "2.0", "id": 1, "result": True}]


def test_a_function_in_a_thread_has_its_call_though_an_interceptor_has_answered(
    network: MemoryNetwork, executor: ManualExecutor
) -> None:
    seen: list[Any] = []

    def early(call: ServedCall, proceed: Any) -> str:
        proceed()
        return "early"

    def late(value: int) -> None:
        call: Any = current_call()
        seen.append((call.method, call.args))

    raw = RawClient(network, {"late": late}, executor=executor, interceptors=[early])
    replies = raw.ask(request(1, "late", 42))
    assert replies == [{"jsonrpc": "2.0", "id": 1, "result": "early"}]
    executor.run()
    assert [(method, list(args)) for method, args in seen] == [("late", [42])]


def test_an_interceptor_may_give_up_a_function_that_a_thread_has(
    network: MemoryNetwork, executor: ManualExecutor
) -> None:
    gone: list[bool] = []
    raw: RawClient

    def runs() -> str:
        raw.pair.advance(5)
        gone.append(current_call().cancelled)
        return "unheard"

    def bounded(call: ServedCall, proceed: Any) -> Any:
        return proceed().addTimeout(5, call.reactor)

    raw = RawClient(network, {"runs": runs}, executor=executor, interceptors=[bounded])
    raw.ask(request(1, "runs"))
    executor.run()
    (reply,) = raw.ask()
    assert reply["error"]["data"]["type"] == "TimeoutError"
    assert gone == [True]


@pytest.mark.parametrize("threads", [False, True])
def test_a_deadline_ends_the_call_with_its_interceptors(
    network: MemoryNetwork, executor: ManualExecutor, threads: bool
) -> None:
    ended: list[str] = []

    async def waits(call: ServedCall, proceed: Any) -> Any:
        try:
            if threads:
                return await proceed()
            await Deferred()
        finally:
            ended.append("ended")

    raw = RawClient(network, FUNCS, executor=executor, interceptors=[waits], call_timeout=3.0)
    raw.ask(CALL)
    (reply,) = raw.after(3)
    assert (reply["error"]["code"], reply["error"]["data"]) == (-32001, {"maybe_executed": False})
    assert ended == ["ended"]
    executor.run()
    assert raw.ask() == []


def test_a_deadline_says_that_the_method_had_begun(network: MemoryNetwork) -> None:
    async def waits() -> None:
        await Deferred()

    raw = RawClient(network, {"waits": waits}, interceptors=[passes], call_timeout=3.0)
    raw.ask(request(1, "waits"))
    assert raw.after(3)[0]["error"]["data"] == {"maybe_executed": True}


def test_calls_of_an_interceptor_inherit_the_deadline(network: MemoryNetwork) -> None:
    async def asks(call: ServedCall, proceed: Any) -> Any:
        await call.connection.with_options(propagate_deadline=True).call("who")
        return await proceed()

    raw = RawClient(network, FUNCS, interceptors=[asks])
    (asked,) = raw.ask({**CALL, "id": 7, "timeout": 4.0})
    assert (asked["method"], asked["timeout"]) == ("who", 4.0)


def test_the_end_of_the_connection_ends_what_is_under_way(network: MemoryNetwork) -> None:
    ended: list[str] = []

    async def waits(call: ServedCall, proceed: Any) -> Any:
        try:
            await Deferred()
        finally:
            ended.append("ended")

    pair = connected_pair(FUNCS, network=network, interceptors=[waits])
    pair.client.call("add", 1, 2).addErrback(lambda _: None)
    pair.pump()
    pair.close()
    assert ended == ["ended"]


def test_exit_through_it_stops_the_server(network: MemoryNetwork, logged_errors: Any) -> None:
    def leave() -> None:
        raise SystemExit(3)

    pair = connected_pair({"leave": leave}, network=network, interceptors=[passes])
    pair.client.call("leave").addErrback(lambda _: None)
    pair.advance(0)
    assert network.reactor.is_stopped
    assert len(logged_errors.claim()) == 1


def test_draining_waits_for_what_its_interceptors_hold(network: MemoryNetwork) -> None:
    gate: Deferred[Any] = Deferred()

    pair = connected_pair(FUNCS, network=network, interceptors=[waiting(gate)])
    calling = pair.client.call("add", 1, 2)
    pair.pump()
    drained = network.factory.drain()
    pair.pump()
    assert not drained.called
    gate.callback(None)
    pair.pump()
    assert outcome_of(calling) == 3
    assert drained.called


def test_without_interceptors_nothing_of_them_is_used() -> None:
    factory = RPCServerFactory(FUNCS, reactor=MemoryReactor())
    assert factory._context.intercepting is None
    assert factory.options.serve_interceptors == ()


# --- where callers have to log in -----------------------------------------------------------------


def test_strangers_and_secrets_come_to_no_interceptor(network: MemoryNetwork) -> None:
    seen: list[str] = []

    portal = Portal(MethodsRealm(), [PasswordChecker({"ada": "secret"})])
    pair = connected_pair(FUNCS, network=network, portal=portal, interceptors=[watching(seen)])
    error = called(pair, "add", 1, 2)
    assert isinstance(error, NotAuthenticated)
    pair.client.notify("add", 1, 2)
    assert called(pair, "rpc.login", "ada", "secret") == {"identity": "ada"}
    assert seen == []
    assert called(pair, "add", 1, 2) == 3
    assert isinstance(called(pair, "nope"), MethodNotFound)
    assert seen == ["add", "nope"]
