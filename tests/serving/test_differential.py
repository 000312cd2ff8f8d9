"""The fast path and the ordinary path do the same, whatever comes."""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from kn_sock import MethodTable
from kn_sock._serving import fastpath
from kn_sock.conformance import FUNCS, Case, read_groups
from tests.serving.differential import (
    PLAIN_RESULTS,
    TOKEN,
    Drain,
    EndSending,
    Fire,
    Lose,
    Pass,
    Path,
    RunJobs,
    Script,
    Send,
    Step,
    StopTaking,
    TakeAgain,
    differences,
)


@pytest.fixture(autouse=True)
def logged_errors_are_compared(logged_errors: Any) -> Iterator[None]:
    """Errors in the log are part of what is compared; those of Twisted's own fail the test."""
    yield
    assert [line for line in logged_errors.claim() if "nhandled" in line] == []


# --- the conformance cases ------------------------------------------------------------------------

CASE_METHODS = MethodTable(FUNCS)
CASES = [case for group in read_groups() for case in group.cases]

# A longer case is about its length, and is sent whole alone.
SHORT_BYTES = 700


def script_of(case: Case, *, piece: int | None = None, **keywords: Any) -> Script:
    steps: list[Step] = []
    for exchange in case.exchanges:
        if exchange.sent:
            steps.append(Send(exchange.sent, piece))
        if exchange.ends_sending:
            steps.append(EndSending())
        steps.append(RunJobs())
    probe = b'{"jsonrpc": "2.0", "method": "echo", "params": ["alive"], "id": "probe"}\n'
    return Script((*steps, Send(probe), RunJobs(), Pass(5.0)), funcs=CASE_METHODS, **keywords)


@pytest.mark.parametrize("threads", [True, False], ids=["threads", "reactor"])
@pytest.mark.parametrize("piece", [None, 1], ids=["whole", "bytewise"])
def test_the_conformance_cases(piece: int | None, threads: bool) -> None:
    for case in CASES:
        if piece is None or len(case.sent) <= SHORT_BYTES:
            script = script_of(case, piece=piece, threads=threads)
            assert differences(script) == [], case.title


# --- sessions that random ones rarely have -------------------------------------------------------


def call(method: str, *params: Any, id: Any = 1, **members: Any) -> dict[str, Any]:  # noqa: A002
    return {"jsonrpc": "2.0", "method": method, "params": list(params), "id": id, **members}


def calls(method: str, *params: Any, count: int, first: int = 1) -> list[dict[str, Any]]:
    return [call(method, *params, id=number) for number in range(first, first + count)]


def send(*messages: Any) -> Send:
    return Send(b"".join(json.dumps(message).encode() + b"\n" for message in messages))


def cancel_of(request_id: Any, cancellation: str = "lsp") -> dict[str, Any]:
    method, member = {
        "lsp": ("$/cancelRequest", "id"),
        "mcp": ("notifications/cancelled", "requestId"),
    }[cancellation]
    return {"jsonrpc": "2.0", "method": method, "params": {member: request_id}}


CLOSES = call("now.closes", id=9)

SESSIONS: dict[str, Script] = {
    "more requests than one turn handles": Script(
        (send(*calls("now.echo", 1, count=1200)), send(*calls("echo", 2, count=600)), RunJobs())
    ),
    "the server stops between two turns": Script(
        (send(*calls("echo", 1, count=700)), Drain(), RunJobs(), send(call("now.echo", 1)))
    ),
    "a plain result that is too long for its line": Script(
        (send(call("now.result", "escapes"), call("result", "string1k", id=2)), RunJobs()),
        {"max_line_bytes": 1024},
    ),
    "a batch whose replies are too long together": Script(
        (
            send(calls("now.result", "escapes", count=5)),
            send([*calls("now.echo", 1, count=3), *calls("result", "escapes", count=4, first=4)]),
            RunJobs(),
        ),
        {"max_line_bytes": 17_000},
    ),
    "a peer that takes nothing while threads end": Script(
        (
            send(*calls("result", "escapes", count=90)),
            StopTaking(),
            RunJobs(40),
            RunJobs(),
            send(*calls("now.echo", 1, count=3)),
            TakeAgain(),
        ),
        {"max_line_bytes": 17_000},
    ),
    "a peer that takes nothing while it sends": Script(
        (
            send(*calls("now.result", "escapes", count=30)),
            StopTaking(),
            send(*calls("now.result", "escapes", count=90)),
            send(calls("now.result", "string5k", count=90)),
            TakeAgain(),
        ),
        {"max_line_bytes": 17_000},
    ),
    "a function closes its connection": Script((send(call("echo", 1), CLOSES, call("now.echo")),)),
    "a function closes its connection, in a batch": Script(
        (send([call("now.echo", 1), CLOSES, call("now.echo", 2, id=2), call("echo", 3, id=3)]),)
    ),
    "a function closes its connection while a thread runs another": Script(
        (
            send(call("slow", 1), call("echo", 2, id=2)),
            RunJobs(1, during=(StopTaking(tells=False), send(CLOSES))),
            RunJobs(),
            TakeAgain(),
        )
    ),
    "a function aborts its connection": Script(
        (send(call("slow", 1), call("now.aborts", id=2), call("now.echo", 1, id=3)), RunJobs())
    ),
    "the peer sends no more while threads run": Script(
        (send(*calls("echo", 1, count=3)), EndSending(), RunJobs(2), RunJobs())
    ),
    "the server stops while threads run": Script(
        (send(*calls("slow", 1, count=3)), RunJobs(1, during=(Drain(), RunJobs(1))), RunJobs())
    ),
    "as many calls as may be in flight, and cancellations": Script(
        (
            send(*calls("slow", 1, count=5), call("now.echo", 6, id=6), cancel_of(2), cancel_of(5)),
            RunJobs(1, during=(send(cancel_of(1), call("now.who", id=7)),)),
            RunJobs(),
        ),
        {"max_pending": 2},
    ),
    "an id that is in flight twice": Script(
        (
            send(call("slow", 1), call("slow", 2), call("now.later"), call("now.echo", 3)),
            send(cancel_of(1)),
            RunJobs(),
            Fire(value="fired"),
            send(call("echo", 4)),
            RunJobs(),
        )
    ),
    "a later call ends first": Script(
        (
            send(call("slow", 1), call("echo", 2, id=2), call("slow", 3, id=3)),
            RunJobs(1, during=(RunJobs(1), RunJobs(1, during=(Pass(0.5),)))),
        )
    ),
    "time passes while a call waits for a thread": Script(
        (
            send(call("slow", 1), call("echo", 2, id=2), call("echo", 3, id=3, timeout=1)),
            Pass(2.0),
            RunJobs(1, during=(Pass(1.0),)),
            RunJobs(),
        )
    ),
    "the server's limit passes": Script(
        (
            send(call("slow", 1), call("now.later", id=2), call("now.who", id=3)),
            Pass(3.0),
            RunJobs(),
        ),
        {"call_timeout": 2.0},
    ),
    "a trace, a notification and named arguments": Script(
        (
            send(
                call("now.who", traceparent="00-1"),
                {"jsonrpc": "2.0", "method": "now.who", "params": []},
                call("now.some", 1, id=2, kwargs={"c": 5}),
                {"method": "now.who", "params": [], "id": 3},
                {"method": "now.who", "params": []},
                {"jsonrpc": "2.0", "method": "now.echo", "id": 4, "params": {"value": 1}},
            ),
        )
    ),
    "calls before and after a login": Script(
        (
            send(call("now.echo", 1), call("rpc.login", "wrong", id=2)),
            send(call("rpc.login", TOKEN, id=3), call("now.who", id=4), call("echo", 1, id=5)),
            RunJobs(),
        ),
        wants_login=True,
    ),
    "two peers whose threads end together": Script(
        (
            send(*calls("slow", 1, count=3)),
            Send(b"".join(send(one).data for one in calls("echo", 2, count=3)), peer=1),
            RunJobs(2),
            RunJobs(1, delivers=False),
            Lose(),
            RunJobs(),
        ),
        peers=2,
    ),
    "a function raises, a thread too, and arguments are wrong": Script(
        (
            send(
                *(call(f"{where}{name}", *params) for where in ("", "now.") for name, params in (
                    ("raises", ["no"]), ("add", [1]), ("add", [1, 2, 3]), ("add", [1, "2"]),
                    ("len", [1]), ("refuses", []), ("echo", [10**30]), ("result", ["past"]),
                ))
            ),
            RunJobs(),
        ),
        {"share_tracebacks": True},
    ),
}  # fmt: skip


@pytest.mark.parametrize("is_observed", [True, False], ids=["observed", "unobserved"])
@pytest.mark.parametrize("name", SESSIONS)
def test_a_session(name: str, is_observed: bool) -> None:
    assert differences(replace(SESSIONS[name], is_observed=is_observed)) == []


# --- random sessions ------------------------------------------------------------------------------

ABSENT = object()
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

# What is called: mostly as it should be.
CALLS: list[tuple[Any, Any]] = [
    ("echo", [1]),
    ("echo", ["text"]),
    ("echo", []),
    ("echo", [1, 2]),
    ("echo", {"value": 1}),
    ("echo", {"valve": 1}),
    ("echo", None),
    ("echo", ABSENT),
    ("echo", "text"),
    ("add", [1, 2]),
    ("add", [1, "2"]),
    ("add", [1.0, True]),
    ("add", [2**64, 1]),
    ("add", {"a": 1, "b": 2}),
    ("some", [1]),
    ("some", [1, 2]),
    ("some", [1, 2.5]),
    ("some", [1, 2.5, 3]),
    ("some", {"a": 1, "c": 2}),
    ("rest", ABSENT),
    ("rest", [1, 2, 3]),
    ("named", [1]),
    ("named", {"a": 1}),
    ("words", ["a"]),
    ("words", {"text": "a", "more": 1}),
    *[("result", [name]) for name in PLAIN_RESULTS],
    ("result", ["no such result"]),
    ("raises", ABSENT),
    ("raises", ["x" * 300]),
    ("refuses", ABSENT),
    ("refuses", [-32603, "é", {"a": 1}]),
    ("refuses", [-32001, "not in time", {"maybe_executed": False}]),
    *[(name, ABSENT) for name in ("badly", "unsayable", "gives_up", "loop")],
    *[(name, ABSENT) for name in ("leaves", "interrupts")],
    *[(name, ABSENT) for name in ("later", "stubborn", "deaf", "steps", "coroutine") * 2],
    *[(name, ABSENT) for name in ("slow", "slow", "slow", "who", "who")],
    *[(name, ABSENT) for name in ("notifies", "closes", "aborts")],
    ("asks_back", [1, 2]),
    ("at_once", [None]),
    ("at_once", [10**30]),
    ("fails_at_once", ABSENT),
    ("sums", [1, 2]),
    ("sums", ["a"]),
    ("len", [[1]]),
    ("len", [1]),
    ("len", [[], []]),
    ("getattr", [1]),
    ("no such method", [1]),
    ("", [1]),
    (5, [1]),
]
OTHERS: list[tuple[Any, Any]] = [
    ("rpc.ping", ABSENT),
    ("rpc.ping", [1]),
    ("rpc.discover", ABSENT),
    ("rpc.stats", ABSENT),
    ("rpc.login", [TOKEN]),
    ("rpc.login", ["wrong"]),
]

# Few, so that some are in flight twice.
IDS = [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2, 3]
ODD_IDS = [ABSENT, ABSENT, None, "1", "a", 0, -1, 1.0, 1.5, 2**53 + 1, 2**70, True, [1], {"a": 1}]
EXTRAS: list[dict[str, Any]] = [
    *({"kwargs": value} for value in ({}, {"c": 3}, {"value": 1}, None, [1])),
    *({"timeout": value} for value in (0, 0.5, 5, -1, True, None, "1", 10**400)),
    *({"traceparent": value} for value in (TRACE, "x", None, 5)),
    {"unknown": 1},
    {"timeout": 0.5, "traceparent": TRACE, "kwargs": {}},
]


def request_of(
    call: tuple[Any, Any], where: str, request_id: Any, version: Any, extra: dict[str, Any]
) -> dict[str, Any]:
    method, params = call
    if isinstance(method, str) and not method.startswith("rpc."):
        method = where + method
    members = {"jsonrpc": version, "method": method, "params": params, "id": request_id, **extra}
    return {name: value for name, value in members.items() if value is not ABSENT}


def requests(
    *,
    ids: list[Any] = IDS,
    versions: list[Any] = ["2.0"],  # noqa: B006  # nobody changes it
    extras: list[dict[str, Any]] = [{}],  # noqa: B006  # likewise
    calls: list[tuple[Any, Any]] = CALLS,
) -> st.SearchStrategy[dict[str, Any]]:
    """Requests, by default those that the fast path serves if what is called allows it."""
    return st.builds(
        request_of,
        st.sampled_from(calls),
        st.sampled_from(["", "now."]),
        st.sampled_from(ids),
        st.sampled_from(versions),
        st.sampled_from(extras),
    )


VERSIONS = ["1.0", ABSENT, ABSENT, 2.0, None]

# Each differs in one thing alone from those that the fast path serves; the last in everything.
odd_requests = st.one_of(
    requests(ids=ODD_IDS),
    requests(versions=VERSIONS),
    requests(extras=EXTRAS),
    requests(calls=OTHERS),
    requests(
        ids=IDS + ODD_IDS, versions=["2.0", *VERSIONS], extras=[{}, *EXTRAS], calls=CALLS + OTHERS
    ),
)


def cancels() -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(cancel_of, st.sampled_from(IDS + ODD_IDS[2:]), st.sampled_from(["lsp", "mcp"]))


REPLIES = [
    {"jsonrpc": "2.0", "result": 3, "id": 1},
    {"jsonrpc": "2.0", "error": {"code": 5, "message": "no"}, "id": 1},
    {"jsonrpc": "2.0", "result": 3, "id": 2},
]
STRANGE: list[Any] = [1, None, "text", [], {}, [[]], {"jsonrpc": "2.0"}, [1, {}], {"id": 1}]
GARBAGE = [b"{", b"\xff\xfe", b"", b"\r", b"[1,", b"x" * 2000, b'{"method": "echo"} x', b"[" * 2000]

members = st.one_of(
    requests(),
    requests(),
    requests(),
    odd_requests,
    odd_requests,
    cancels(),
    st.sampled_from([*REPLIES, *STRANGE]),
)
messages = st.one_of(members, members, members, st.lists(members, min_size=2, max_size=6))
lines = st.one_of(
    *[messages.map(lambda message: json.dumps(message).encode())] * 9,
    st.sampled_from(GARBAGE),
)
texts = st.lists(lines, min_size=3, max_size=8).map(lambda many: b"\n".join([*many, b""]))

peers = st.sampled_from([0, 0, 0, 1])
sends = st.builds(Send, texts, st.sampled_from([None, None, None, None, 1, 50, 300]), peers)
fires = st.builds(
    Fire, st.integers(0, 2), st.sampled_from([1, None, "x" * 5000, ValueError("late"), print])
)
events = st.one_of(
    fires,
    fires,
    st.builds(Pass, st.sampled_from([0.1, 0.6, 2.0, 30.0])),
    st.builds(StopTaking, peers, st.booleans()),
    st.builds(TakeAgain, peers),
)
ends = st.one_of(st.builds(EndSending, peers), st.just(Drain()), st.builds(Lose, peers))
runs = st.builds(
    RunJobs,
    st.sampled_from([1, 2, 3, None, None]),
    st.lists(st.one_of(sends, events, st.builds(RunJobs), ends), max_size=3).map(tuple),
    st.sampled_from([True, True, False]),
)
# Each sends something, and then whatever comes of it happens.
rounds = st.tuples(sends, st.one_of(st.none(), events), st.one_of(st.none(), runs, runs), events)


def steps_of(
    every: list[tuple[Step | None, ...]], end: Step | None, place: int
) -> tuple[Step, ...]:
    """Put the rounds one after the other, and the connection's end in between."""
    found = [step for each in every for step in each if step is not None]
    if end is not None:
        found.insert(place % (len(found) + 1), end)
    return tuple(found)


steps = st.builds(
    steps_of,
    st.lists(rounds, min_size=2, max_size=4),
    st.one_of(st.none(), ends),
    st.integers(2, 15),
)

options = st.fixed_dictionaries(
    {},
    optional={
        "max_pending": st.sampled_from([1, 2, 3]),
        "max_batch": st.sampled_from([2, 3]),
        "max_line_bytes": st.sampled_from([1024, 17_000, 40_000]),
        "call_timeout": st.sampled_from([0.5, 2.0]),
        "idle_timeout": st.just(20.0),
        "send_timeout": st.just(1.0),
        "drain_timeout": st.sampled_from([None, 1.0]),
        "framing": st.just("documents"),
        "unversioned": st.just("2.0"),
        "cancellation": st.sampled_from(["mcp", "none"]),
        "expose_errors": st.just(False),
        "share_tracebacks": st.just(True),
    },
)
# Most limits keep the fast path from being taken, or hide what comes after them.
some_options: st.SearchStrategy[dict[str, Any]] = st.one_of(st.just({}), st.just({}), options)

scripts = st.builds(
    Script,
    steps,
    some_options,
    threads=st.sampled_from([True, True, False]),
    is_observed=st.sampled_from([True, True, False]),
    wants_login=st.sampled_from([False, False, False, True]),
    peers=st.just(2),
)


@given(scripts)
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def test_random_sessions(script: Script) -> None:
    assert differences(script) == []


# --- a wrong fast path is caught ------------------------------------------------------------------

# What it does wrong, and how: text of its module, and what stands there instead.
MUTANTS: dict[str, tuple[str, str]] = {
    "answers a notification": ("or message.id is UNSET", ""),
    "takes any version": ('message.jsonrpc != "2.0"', "False"),
    "drops named arguments, deadlines and traces": (
        "or not (message.kwargs is message.timeout is message.traceparent is UNSET)",
        "",
    ),
    "does not count the most arguments": ("<= len(args) <= method.most", "<= len(args)"),
    "does not count the least arguments": (
        "not method.required <= len(args) <=",
        "not len(args) <=",
    ),
    "does not look at the types of arguments": ("method.kinds is not None", "False"),
    "runs every function on the reactor": (
        "if submit is not None and not method.on_reactor",
        "if False",
    ),
    "ignores that an id is in flight already": ("or key in running", ""),
    "forgets when a call was read": ("key, since, True", "key, 0.0, True"),
    "forgets a call that a thread runs": ("running[key] = call", "pass"),
    "leaves the current call behind": ("run(set_current, call)", "set_current(call)"),
    "does not log what a function raised": ("None, exception)", "None, RuntimeError())"),
    "does not look whether a result can be encoded": (
        "or not ((type(result) is int and LEAST_INT <= result <= MOST_INT) or is_plain(result))\n"
        "            or (batch",
        "or (batch",
    ),
    "forgets that a member is answered": ("batch.awaited -= 1", "pass"),
    "does not report a call": (
        'replies.append(Success("2.0", key, result))\n        if records is not None:',
        'replies.append(Success("2.0", key, result))\n        if False:',
    ),
    "does not answer a batch": ("dispatcher.replies.end_batch(batch)", "pass"),
    "takes an error in a thread for a result": ("or call.error is not None", ""),
    "keeps a call that has ended in a thread": ("del running[call.key]", "pass"),
    "does not report a call that ran in a thread": (
        "call.key, result))\n        if records is not None:",
        "call.key, result))\n        if False:",
    ),
}


def mutant_of(old: str, new: str) -> Path:
    """Return the fast path with one piece of its module's text replaced."""
    source = inspect.getsource(fastpath)
    assert source.count(old) == 1, f"{old!r} is not there once; adapt the mutant to the source"
    made: Any = types.ModuleType("mutant_of_fastpath")
    exec(compile(source.replace(old, new), str(fastpath.__file__), "exec"), vars(made))
    path: Path = made.FAST
    return path


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_fast_path_is_caught(name: str) -> None:
    mutant = mutant_of(*MUTANTS[name])

    def is_caught(script: Script) -> bool:
        try:
            return differences(script, mutant) != []
        except Exception:
            # The mutant itself may fail.
            return True

    find(
        scripts,
        is_caught,
        settings=settings(
            max_examples=2000,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
