"""Logging in, over a client and a server that are connected in memory, and by bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.cred.checkers import ANONYMOUS, FilePasswordDB, ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import ILogObserver, LogLevel, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

from kn_sock import (
    ConnectFailed,
    ConnectionLost,
    LoginFailed,
    MethodNotFound,
    NotAuthenticated,
    RPCClientService,
    RPCError,
    RPCServerFactory,
    connect,
    current_call,
)
from kn_sock.auth import IMethods, IToken, MethodsRealm, PasswordChecker, TokenChecker
from kn_sock.testing import ManualExecutor, MemoryNetwork, Pair, connected_pair

SECRETS = ("correct horse", "battery staple", "t0ken-of-bob")


def add(a: int, b: int) -> int:
    return a + b


def who() -> str | None:
    return current_call().identity


FUNCS = {"add": add, "who": who}


def portal_for(realm: Any = None, *checkers: Any) -> Portal:
    """Make a portal for ada, who has a password, and bob, who has a token."""
    given = checkers or (
        PasswordChecker({"ada": "correct horse"}),
        TokenChecker({"t0ken-of-bob": "bob"}),
    )
    return Portal(realm or MethodsRealm(), given)


class Outcome:
    """What became of a Deferred."""

    def __init__(self, deferred: Deferred[Any]) -> None:
        self.value: Any = None
        self.is_there = False
        deferred.addBoth(self._take)

    def _take(self, outcome: Any) -> None:
        self.is_there = True
        self.value = outcome.value if isinstance(outcome, Failure) else outcome


@implementer(ILogObserver)
class Logged:
    """What was logged during a test."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def __call__(self, event: Any) -> None:
        self.events.append(event)

    def lines(self, level: LogLevel | None = None) -> list[str]:
        events = [e for e in self.events if level is None or e["log_level"] is level]
        return [formatEvent(event) for event in events]

    def logins(self) -> list[str]:
        """Give the lines that tell of logins."""
        lines = self.lines(LogLevel.info)
        return [line for line in lines if ": logged in" in line or ": login" in line]

    def everything(self) -> str:
        """Give all that an observer could write, failures with their tracebacks."""
        failures = [e["log_failure"].getTraceback() for e in self.events if "log_failure" in e]
        return repr(self.events) + "".join(self.lines()) + "".join(failures)


@pytest.fixture
def logged() -> Iterator[Logged]:
    observer = Logged()
    globalLogPublisher.addObserver(observer)
    yield observer
    globalLogPublisher.removeObserver(observer)


MakePair = Callable[..., Pair]


@pytest.fixture
def make_pair(network: MemoryNetwork, logged: Logged) -> Iterator[MakePair]:
    def make(funcs: Any = FUNCS, portal: Portal | None = None, **options: Any) -> Pair:
        return connected_pair(funcs, network=network, portal=portal or portal_for(), **options)

    yield make
    text = logged.everything()
    assert not [secret for secret in SECRETS if secret in text]


def answer(pair: Pair, method: str, *args: Any, **kwargs: Any) -> Any:
    """Call, deliver, and give the result or the error."""
    outcome = Outcome(pair.client.call(method, *args, **kwargs))
    pair.pump()
    assert outcome.is_there
    return outcome.value


class FakePeer(Protocol):
    """A peer that keeps what it gets."""

    def __init__(self) -> None:
        self.received = b""
        self.is_closed = False

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Any = None) -> None:
        self.is_closed = True


class Raw:
    """A server in memory, and a peer of it that speaks bytes."""

    def __init__(self, network: MemoryNetwork, portal: Portal, **options: Any) -> None:
        options = {"threads": 0, **options}
        self.factory = RPCServerFactory(FUNCS, reactor=network.reactor, portal=portal, **options)
        network.listen(self.factory)
        peers: list[Any] = []
        network.connect(Factory.forProtocol(FakePeer)).addCallback(peers.append)
        self.peer: FakePeer = peers[0]
        self.network = network
        self.wire = network.wires[-1]

    def send(self, *messages: Any) -> list[Any]:
        """Send lines, let everything settle, and give the replies that came since."""
        self.wire.write(b"".join(json.dumps(one).encode() + b"\n" for one in messages))
        self.network.pump()
        return self.replies()

    def replies(self) -> list[Any]:
        received, self.peer.received = self.peer.received, b""
        return [json.loads(line) for line in received.splitlines()]


MakeRaw = Callable[..., Raw]


@pytest.fixture
def make_raw(network: MemoryNetwork) -> MakeRaw:
    def make(portal: Portal | None = None, **options: Any) -> Raw:
        return Raw(network, portal or portal_for(), **options)

    return make


@implementer(ICredentialsChecker)
class FakeChecker:
    """A checker that answers when the test says so."""

    credentialInterfaces = (IUsernamePassword, IToken)

    def __init__(self) -> None:
        self.asked: list[Deferred[Any]] = []
        self.cancelled = 0

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        deferred: Deferred[Any] = Deferred(self._cancel)
        self.asked.append(deferred)
        return deferred

    def _cancel(self, _: object) -> None:
        self.cancelled += 1


@implementer(IRealm)
class FakeRealm:
    """A realm with one avatar, that counts those who log out."""

    def __init__(self, avatar: Any = None, problem: Exception | None = None) -> None:
        self.avatar = FUNCS if avatar is None else avatar
        self.problem = problem
        self.minds: list[Any] = []
        self.logouts = 0

    def requestAvatar(self, avatarId: Any, mind: Any, *interfaces: Any) -> Any:
        self.minds.append(mind)
        return succeed((IMethods, self.avatar, self.logout))

    def logout(self) -> None:
        self.logouts += 1
        if self.problem is not None:
            raise self.problem


# --- before the login -----------------------------------------------------------------------------


def test_nothing_but_ping_and_login_answers_before_a_login(make_pair: MakePair) -> None:
    pair = make_pair()
    assert answer(pair, "rpc.ping") == "pong"
    wanted = [
        answer(pair, "add", 1, 2),
        answer(pair, "add", "wrong"),
        answer(pair, "nothing"),
        answer(pair, "rpc.discover"),
        answer(pair, "rpc.nothing"),
        answer(pair, "$/nothing"),
        answer(pair, ""),
    ]
    # Not even by the text is it told which of them are there.
    assert {(type(one), one.code, str(one)) for one in wanted} == {
        (NotAuthenticated, -32002, str(wanted[0]))
    }
    assert "credentials=" in str(wanted[0])


def test_every_dialect_is_told_to_log_in(make_raw: MakeRaw) -> None:
    server = make_raw()
    modern, old, oldest = server.send(
        {"jsonrpc": "2.0", "id": 1, "method": "add", "params": [1, 2]},
        {"id": 2, "method": "add", "params": [1, 2]},
        {"method": "add", "params": [1, 2]},
    )
    assert modern["error"]["code"] == -32002
    assert old == {"id": 2, "result": None, "error": modern["error"]["message"]}
    assert oldest == {"error": modern["error"]["message"]}


def test_each_member_of_a_batch_is_told_to_log_in(make_raw: MakeRaw) -> None:
    server = make_raw()
    members = [
        {"jsonrpc": "2.0", "id": 1, "method": "add", "params": [1, 2]},
        {"jsonrpc": "2.0", "method": "add", "params": [1, 2]},
        {"jsonrpc": "2.0", "id": 2, "method": "rpc.ping"},
        {"jsonrpc": "2.0", "id": 3, "method": "nothing"},
    ]
    ((first, second, third),) = server.send(members)
    assert (first["id"], first["error"]["code"]) == (1, -32002)
    assert (second["id"], second["result"]) == (2, "pong")
    assert (third["id"], third["error"]["code"]) == (3, -32002)


def test_notifications_before_a_login_are_dropped_with_one_line(
    make_pair: MakePair, logged: Logged
) -> None:
    told: list[int] = []
    pair = make_pair({"tell": told.append})
    for number in range(5):
        pair.client.notify("tell", number)
    pair.client.notify("$/progress", 1)
    pair.pump()
    assert told == []
    (line,) = logged.lines(LogLevel.info)
    assert "the notification tell came before a login" in line
    assert answer(pair, "rpc.login", "ada", "correct horse")
    pair.client.notify("tell", 6)
    pair.pump()
    assert told == [6]


def test_a_server_without_a_portal_has_no_login(network: MemoryNetwork) -> None:
    pair = connected_pair(FUNCS, network=network)
    assert isinstance(answer(pair, "rpc.login", "ada", "correct horse"), MethodNotFound)
    assert answer(pair, "who") is None


# --- logging in -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "kwargs", "identity"),
    [
        (("ada", "correct horse"), {}, "ada"),
        ((), {"username": "ada", "password": "correct horse"}, "ada"),
        (({"username": "ada", "password": "correct horse"},), {}, "ada"),
        (("t0ken-of-bob",), {}, "bob"),
        ((), {"token": "t0ken-of-bob"}, "bob"),
        (({"token": "t0ken-of-bob"},), {}, "bob"),
    ],
)
def test_a_login_opens_the_connection(
    make_pair: MakePair, logged: Logged, args: Any, kwargs: Any, identity: str
) -> None:
    pair = make_pair()
    assert answer(pair, "rpc.login", *args, **kwargs) == {"identity": identity}
    assert answer(pair, "who") == identity
    assert answer(pair, "add", 1, 2) == 3
    assert isinstance(answer(pair, "nothing"), MethodNotFound)
    assert logged.logins() == [f"127.0.0.1:50000: logged in as '{identity}'"]


def test_the_older_dialects_log_in_too(make_raw: MakeRaw) -> None:
    server = make_raw()
    replies = server.send(
        {"id": 1, "method": "rpc.login", "params": ["ada", "correct horse"]},
        {"id": 2, "method": "who", "params": []},
    )
    assert replies == [
        {"id": 1, "result": {"identity": "ada"}, "error": None},
        {"id": 2, "result": "ada", "error": None},
    ]


def test_the_kn_sock_dialect_waits_for_its_login(make_raw: MakeRaw) -> None:
    checker = FakeChecker()
    server = make_raw(portal_for(None, checker))
    login = {"method": "rpc.login", "kwargs": {"token": "t0ken-of-bob"}}
    assert server.send(login, {"method": "who"}) == []
    checker.asked[0].callback(b"bob")
    server.network.pump()
    assert server.replies() == [{"result": {"identity": "bob"}}, {"result": "bob"}]


def test_calls_that_are_held_during_a_login_run_when_it_is_done(make_raw: MakeRaw) -> None:
    checker = FakeChecker()
    server = make_raw(portal_for(None, checker), max_pending=1)
    login = {"jsonrpc": "2.0", "id": 1, "method": "rpc.login", "params": ["t0ken-of-bob"]}
    assert server.send(login, {"jsonrpc": "2.0", "id": 2, "method": "who"}) == []
    checker.asked[0].callback(b"bob")
    server.network.pump()
    assert [reply["result"] for reply in server.replies()] == [{"identity": "bob"}, "bob"]


@pytest.mark.parametrize("dialect", ["2.0", "kn-sock"])
def test_little_is_held_for_who_has_not_logged_in(make_raw: MakeRaw, dialect: str) -> None:
    checker = FakeChecker()
    server = make_raw(portal_for(None, checker), max_pending=1)
    members = {"jsonrpc": "2.0", "id": 1} if dialect == "2.0" else {}
    login = {**members, "method": "rpc.login", "params": ["t0ken-of-bob"]}
    server.send(login, *[{**members, "method": "add", "params": [1, 2]}] * 100)
    server.send({**members, "method": "add", "params": ["x" * 5000, "y"]})
    serving = server.wire.peer.protocol._serving
    assert serving.calls_waiting <= (16 if dialect == "2.0" else 101)
    assert serving.replies.account.total == 0
    checker.asked[0].callback(b"bob")
    server.network.pump()


def test_a_line_before_the_login_is_short(make_raw: MakeRaw) -> None:
    server = make_raw()
    long = {"jsonrpc": "2.0", "id": 1, "method": "add", "params": ["x" * 70_000]}
    (reply,) = server.send(long)
    assert reply["error"]["code"] == -32007
    assert reply["error"]["message"] == (
        "the line is longer than a line may be before the login (65,536 bytes); "
        "nothing in it was run"
    )
    login = {"jsonrpc": "2.0", "id": 2, "method": "rpc.login", "params": ["t0ken-of-bob"]}
    server.send(login)
    (reply,) = server.send({**long, "params": [1, 2], "more": "x" * 70_000})
    assert reply["result"] == 3


def test_a_login_and_a_call_may_share_a_batch_where_the_checker_answers_at_once(
    make_raw: MakeRaw,
) -> None:
    login = {"jsonrpc": "2.0", "id": 1, "method": "rpc.login", "params": ["t0ken-of-bob"]}
    (replies,) = make_raw().send([login, {"jsonrpc": "2.0", "id": 2, "method": "who"}])
    assert [reply["result"] for reply in replies] == [{"identity": "bob"}, "bob"]


def test_a_login_is_of_its_own_connection_alone(network: MemoryNetwork) -> None:
    pair = connected_pair(FUNCS, network=network, portal=portal_for())
    other = Outcome(connect(network, reactor=network.reactor, threads=0)).value
    assert answer(pair, "rpc.login", "ada", "correct horse")
    called = Outcome(other.call("who"))
    network.pump()
    assert isinstance(called.value, NotAuthenticated)


def test_a_method_in_a_thread_knows_who_called(make_pair: MakePair) -> None:
    executor = ManualExecutor()
    pair = make_pair(executor=executor)
    assert answer(pair, "rpc.login", "ada", "correct horse")
    outcome = Outcome(pair.client.call("who"))
    pair.pump()
    executor.run()
    pair.pump()
    assert outcome.value == "ada"


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        (("ada", "correct horse", "more"), {}),
        ((5,), {}),
        (("ada", None), {}),
        ((), {"username": "ada"}),
        ((), {"password": "correct horse"}),
        ((), {"username": "ada", "token": "t0ken-of-bob"}),
        ((), {"username": "ada", "password": "correct horse", "token": "t0ken-of-bob"}),
        ((), {"username": "ada", "password": 5}),
        ((), {"username": "ada", "pasword": "correct horse"}),
        (("ada",), {"password": "correct horse"}),
        (({"username": "ada"},), {}),
        (({"username": "ada", "password": 5},), {}),
        ((["ada", "correct horse"],), {}),
    ],
)
def test_a_login_of_another_form_is_refused_at_once_and_is_no_try(
    make_pair: MakePair, args: Any, kwargs: Any
) -> None:
    pair = make_pair()
    for _ in range(5):
        error = answer(pair, "rpc.login", *args, **kwargs)
        assert error.code == -32602
        assert not [secret for secret in SECRETS if secret in str(error)]
    assert pair.network.factory.failed_logins == 0
    assert answer(pair, "rpc.login", "ada", "correct horse")


def test_a_second_login_is_refused_and_changes_nothing(make_pair: MakePair) -> None:
    pair = make_pair()
    assert answer(pair, "rpc.login", "ada", "correct horse")
    error = answer(pair, "rpc.login", "t0ken-of-bob")
    assert error.code == -32600
    assert "logged in already" in str(error)
    assert answer(pair, "who") == "ada"


# --- what one may call ----------------------------------------------------------------------------


def test_an_avatar_decides_what_its_owner_may_call(network: MemoryNetwork) -> None:
    tables: Any = {"ada": FUNCS, "bob": {"add": add}}
    portal = portal_for(MethodsRealm(choose=tables.__getitem__))
    pair = connected_pair(None, network=network, portal=portal)
    other = Outcome(connect(network, reactor=network.reactor, credentials="t0ken-of-bob"))
    network.pump()
    assert answer(pair, "rpc.login", "ada", "correct horse")
    assert answer(pair, "who") == "ada"
    outcomes = [Outcome(other.value.call(name)) for name in ("who", "rpc.discover")]
    outcomes.append(Outcome(other.value.call("add", 1, 2)))
    network.pump()
    assert isinstance(outcomes[0].value, MethodNotFound)
    assert [method["name"] for method in outcomes[1].value["methods"]] == ["add"]
    assert outcomes[2].value == 3


def test_discovery_shows_what_one_may_call(make_pair: MakePair) -> None:
    pair = make_pair({"more": add}, portal_for(MethodsRealm({"add": add})))
    assert answer(pair, "rpc.login", "ada", "correct horse")
    found = answer(pair, "rpc.discover")
    assert [method["name"] for method in found["methods"]] == ["add"]
    assert isinstance(answer(pair, "more", 1, 2), MethodNotFound)


def test_any_avatar_that_has_functions_will_do(make_pair: MakePair) -> None:
    class Account:
        def __init__(self) -> None:
            self.functions = {"add": add}

    realm = FakeRealm(Account())
    pair = make_pair(None, portal_for(realm))
    assert answer(pair, "rpc.login", "ada", "correct horse")
    assert answer(pair, "add", 1, 2) == 3
    # The realm may call its user back.
    assert realm.minds == [pair.server]


def test_a_portal_is_one_of_twisteds(network: MemoryNetwork) -> None:
    with pytest.raises(TypeError, match="portal"):
        RPCServerFactory(FUNCS, reactor=network.reactor, portal=PasswordChecker({"a": "b"}))  # type: ignore[arg-type]


def test_without_a_portal_there_must_be_functions(network: MemoryNetwork) -> None:
    with pytest.raises(TypeError, match="functions"):
        RPCServerFactory(None, reactor=network.reactor)


def test_checkers_of_twisted_will_do(make_pair: MakePair, tmp_path: Any) -> None:
    (tmp_path / "passwords").write_text("ada:correct horse\n")
    portal = portal_for(None, FilePasswordDB(str(tmp_path / "passwords")))
    assert answer(make_pair(portal=portal), "rpc.login", "ada", "correct horse")


# --- tries that fail ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (("ada", "battery staple"), "login as 'ada' refused (try 1 of 3)"),
        (("eve", "correct horse"), "login as 'eve' refused (try 1 of 3)"),
        (("a\nb", "battery staple"), "login as 'a\\nb' refused (try 1 of 3)"),
        (("e" * 500, "battery staple"), f"login as '{'e' * 59}…' refused (try 1 of 3)"),
        (("battery staple",), "login by token refused (try 1 of 3)"),
    ],
)
def test_a_failed_try_is_answered_late_and_logged_without_the_secret(
    make_pair: MakePair, logged: Logged, args: Any, line: str
) -> None:
    pair = make_pair()
    outcome = Outcome(pair.client.call("rpc.login", *args))
    pair.pump()
    pair.advance(0.99)
    assert not outcome.is_there
    pair.advance(0.02)
    assert isinstance(outcome.value, NotAuthenticated)
    assert str(outcome.value) == "the credentials were not accepted"
    assert logged.lines(LogLevel.warn) == [f"127.0.0.1:50000: {line}"]
    assert pair.network.factory.failed_logins == 1
    assert isinstance(answer(pair, "who"), NotAuthenticated)
    assert answer(pair, "rpc.login", "ada", "correct horse")


def test_a_few_failures_close_the_connection_each_later_than_the_one_before(
    make_pair: MakePair,
) -> None:
    pair = make_pair()
    for delay in (1, 2, 4):
        outcome = Outcome(pair.client.call("rpc.login", "ada", "battery staple"))
        pair.pump()
        pair.advance(delay - 0.01)
        assert not outcome.is_there
        pair.advance(0.02)
        assert isinstance(outcome.value, NotAuthenticated)
    pair.pump()
    assert isinstance(answer(pair, "rpc.ping"), ConnectionLost)
    assert pair.network.factory.failed_logins == 3


def test_tries_that_wait_in_line_are_as_few_and_as_late(make_raw: MakeRaw) -> None:
    checker = FakeChecker()
    raw = make_raw(portal_for(None, checker))
    line = {"method": "rpc.login", "params": ["ada", "battery staple"]}
    assert raw.send(*[line] * 9) == []
    for tries, delay in enumerate((1, 2, 4), 1):
        assert len(checker.asked) == tries
        checker.asked[-1].errback(UnauthorizedLogin())
        raw.network.reactor.advance(delay - 0.01)
        raw.network.pump()
        assert raw.replies() == []
        raw.network.reactor.advance(0.02)
        raw.network.pump()
        assert raw.replies()[:1] == [{"error": "the credentials were not accepted"}]
    assert raw.peer.is_closed
    assert len(checker.asked) == 3
    assert raw.factory.failed_logins == 3


def test_tries_that_wait_in_line_are_as_late_where_the_checker_is_quick(make_raw: MakeRaw) -> None:
    raw = make_raw()
    raw.send(*[{"method": "rpc.login", "params": ["ada", "battery staple"]}] * 3)
    for delay in (1, 2, 3.9):
        assert not raw.peer.is_closed
        raw.network.reactor.advance(delay)
        raw.network.pump()
    assert not raw.peer.is_closed
    raw.network.reactor.advance(0.2)
    raw.network.pump()
    assert raw.peer.is_closed
    assert raw.replies() == [{"error": "the credentials were not accepted"}] * 3


def test_credentials_that_no_checker_takes_are_refused_like_others(make_pair: MakePair) -> None:
    pair = make_pair(portal=portal_for(None, PasswordChecker({"ada": "correct horse"})))
    outcome = Outcome(pair.client.call("rpc.login", "t0ken-of-bob"))
    pair.pump()
    assert not outcome.is_there
    pair.advance(1)
    assert str(outcome.value) == "the credentials were not accepted"


def test_the_delay_counts_from_the_beginning_of_the_try(make_pair: MakePair) -> None:
    checker = FakeChecker()
    pair = make_pair(portal=portal_for(None, checker))
    outcome = Outcome(pair.client.call("rpc.login", "ada", "battery staple"))
    pair.pump()
    pair.advance(0.7)
    checker.asked[0].errback(UnauthorizedLogin())
    pair.advance(0.29)
    assert not outcome.is_there
    pair.advance(0.02)
    assert isinstance(outcome.value, NotAuthenticated)
    outcome = Outcome(pair.client.call("rpc.login", "ada", "battery staple"))
    pair.pump()
    pair.advance(7)
    checker.asked[1].errback(UnauthorizedLogin())
    pair.pump()
    assert isinstance(outcome.value, NotAuthenticated)


def test_one_try_is_under_way_at_a_time(make_pair: MakePair) -> None:
    checker = FakeChecker()
    pair = make_pair(portal=portal_for(None, checker))
    first = Outcome(pair.client.call("rpc.login", "ada", "battery staple"))
    pair.pump()
    second = answer(pair, "rpc.login", "ada", "correct horse")
    assert isinstance(second, NotAuthenticated)
    assert "in progress" in str(second)
    checker.asked[0].errback(UnauthorizedLogin())
    # It is in flight until it is answered.
    assert "in progress" in str(answer(pair, "rpc.login", "ada", "correct horse"))
    pair.advance(1)
    assert first.is_there
    assert len(checker.asked) == 1


@pytest.mark.parametrize("is_checked", [False, True])
def test_a_try_that_is_cancelled_counts_and_takes_its_time(
    make_pair: MakePair, is_checked: bool
) -> None:
    checker = FakeChecker()
    pair = make_pair(portal=portal_for(None, checker))
    calling = pair.client.call("rpc.login", "ada", "battery staple")
    Outcome(calling)
    pair.pump()
    if is_checked:
        checker.asked[0].errback(UnauthorizedLogin())
    calling.cancel()
    pair.pump()
    assert checker.cancelled == (0 if is_checked else 1)
    assert "in progress" in str(answer(pair, "rpc.login", "ada", "battery staple"))
    pair.advance(1)
    outcome = Outcome(pair.client.call("rpc.login", "ada", "battery staple"))
    pair.pump()
    assert len(checker.asked) == 2
    checker.asked[1].errback(UnauthorizedLogin())
    pair.advance(1.9)
    assert not outcome.is_there
    pair.advance(0.2)
    assert outcome.is_there


def test_a_try_that_is_cancelled_and_succeeds_opens_nothing(make_pair: MakePair) -> None:
    class Deaf(FakeChecker):
        """Its answer comes although it was cancelled."""

        def _cancel(self, deferred: Any) -> None:
            deferred.callback(b"ada")

    realm = FakeRealm()
    pair = make_pair(portal=portal_for(realm, Deaf()))
    calling = pair.client.call("rpc.login", "ada", "correct horse")
    Outcome(calling)
    pair.pump()
    calling.cancel()
    pair.pump()
    assert realm.logouts == 1
    assert isinstance(answer(pair, "who"), NotAuthenticated)


@pytest.mark.parametrize("said", [None, False, True, b"", "", iter([b"ada"]), object()])
def test_a_checker_that_gives_no_identity_lets_nobody_in(
    make_raw: MakeRaw, logged_errors: Any, said: Any
) -> None:
    checker = FakeChecker()
    raw = make_raw(portal_for(None, checker))
    raw.send({"jsonrpc": "2.0", "id": 1, "method": "rpc.login", "params": ["ada", "x"]})
    checker.asked[0].callback(said)
    raw.network.reactor.advance(1)
    raw.network.pump()
    (refused,) = raw.replies()
    assert refused["error"]["message"] == "the credentials were not accepted"
    (answer,) = raw.send({"jsonrpc": "2.0", "id": 2, "method": "who"})
    assert answer["error"]["code"] == -32002
    (line,) = logged_errors.claim()
    assert "could not be checked (try 1 of 3): TypeError" in line


@pytest.mark.parametrize(
    ("said", "identity"), [(b"ada", "ada"), ("ada", "ada"), (7, "7"), (0, "0"), (ANONYMOUS, "")]
)
def test_an_identity_is_text_bytes_a_number_or_nobodys(
    make_raw: MakeRaw, said: Any, identity: str
) -> None:
    checker = FakeChecker()
    raw = make_raw(portal_for(None, checker))
    raw.send({"jsonrpc": "2.0", "id": 1, "method": "rpc.login", "params": ["ada", "x"]})
    checker.asked[0].callback(said)
    raw.network.pump()
    (answer,) = raw.replies()
    assert answer["result"] == {"identity": identity}


def test_a_checker_whose_canceller_raises_strands_nothing(
    make_raw: MakeRaw, logged_errors: Any
) -> None:
    class Raises(FakeChecker):
        def _cancel(self, deferred: Any) -> None:
            raise ZeroDivisionError

    raw = make_raw(portal_for(None, Raises()))
    raw.send({"jsonrpc": "2.0", "id": 1, "method": "rpc.login", "params": ["ada", "x"]})
    (server,) = raw.factory.connections
    closed = server.when_closed()
    raw.wire.loseConnection()
    raw.network.pump()
    assert closed.called
    assert raw.factory.drain().called
    assert {*logged_errors.claim()} == {"cancelling a login raised"}


def test_a_login_whose_answer_nobody_gets_is_none(make_pair: MakePair) -> None:
    checker = FakeChecker()
    pair = make_pair(portal=portal_for(None, checker))
    pair.client.notify("rpc.login", "ada", "correct horse")
    pair.pump()
    assert checker.asked == []
    assert isinstance(answer(pair, "who"), NotAuthenticated)


def test_a_stranger_fills_no_log(make_raw: MakeRaw, logged: Logged) -> None:
    server = make_raw()
    for method in ("rpc.login", "rpc.ping", "add", "rpc.discover", "$/nothing", "x" * 1000):
        for params in ([], [5], ["ada", "battery staple"], {"pasword": "battery staple"}):
            server.send(*[{"jsonrpc": "2.0", "method": method, "params": params}] * 10)
    assert server.send({"jsonrpc": "2.0", "id": 1, "method": "rpc.ping", "params": [5]})
    (line,) = logged.lines()
    assert "came before a login: dropped, as others will be" in line


class Broken:
    """A checker, a realm and an avatar that fail, each with the secret in its text."""

    credentialInterfaces = (IUsernamePassword,)

    def requestAvatarId(self, credentials: Any) -> Any:
        raise KeyError(credentials.password)

    def requestAvatar(self, avatarId: Any, mind: Any, *interfaces: Any) -> Any:
        raise RuntimeError(SECRETS[0])


RIGHT = PasswordChecker({"ada": "correct horse"})


@pytest.mark.parametrize(
    ("realm", "checker", "kind"),
    [
        (MethodsRealm(), Broken(), "KeyError"),
        (Broken(), RIGHT, "RuntimeError"),
        (FakeRealm({"add": "no function"}), RIGHT, "TypeError"),
        (FakeRealm({"rpc.add": add}), RIGHT, "ValueError"),
        (MethodsRealm(choose=lambda identity: None), RIGHT, "TypeError"),
    ],
)
def test_what_fails_at_the_server_is_told_to_the_log_alone(
    make_pair: MakePair, logged_errors: Any, realm: Any, checker: Any, kind: str
) -> None:
    pair = make_pair(portal=portal_for(realm, checker))
    outcome = Outcome(pair.client.call("rpc.login", "ada", "correct horse"))
    pair.pump()
    assert not outcome.is_there
    pair.advance(1)
    assert str(outcome.value) == "the credentials were not accepted"
    (line,) = logged_errors.claim()
    assert "login as 'ada' could not be checked" in line
    assert kind in line
    assert "File " in line
    assert isinstance(answer(pair, "who"), NotAuthenticated)
    if isinstance(realm, FakeRealm):
        assert realm.logouts == 1


# --- how long it may take -------------------------------------------------------------------------


def test_a_connection_that_does_not_log_in_is_closed(make_pair: MakePair, logged: Logged) -> None:
    pair = make_pair(login_timeout=5)
    pair.advance(4.9)
    assert answer(pair, "rpc.ping") == "pong"
    pair.advance(0.2)
    assert isinstance(answer(pair, "rpc.ping"), ConnectionLost)
    assert logged.lines(LogLevel.warn) == ["127.0.0.1:50000: no login within 5 s: closed"]


def test_a_connection_that_logged_in_has_all_the_time(make_pair: MakePair) -> None:
    pair = make_pair(login_timeout=5)
    assert answer(pair, "rpc.login", "ada", "correct horse")
    pair.advance(3600)
    assert answer(pair, "who") == "ada"


def test_a_checker_that_never_answers_is_given_up(make_pair: MakePair) -> None:
    checker = FakeChecker()
    pair = make_pair(portal=portal_for(None, checker), login_timeout=5)
    outcome = Outcome(pair.client.call("rpc.login", "ada", "correct horse"))
    pair.pump()
    pair.advance(5)
    assert isinstance(outcome.value, ConnectionLost)
    assert checker.cancelled == 1
    assert not pair.network.factory.connections


def test_a_try_whose_own_time_is_up_counts_and_takes_its_time(make_pair: MakePair) -> None:
    pair = make_pair(call_timeout=0.5)
    outcome = Outcome(pair.client.call("rpc.login", "ada", "battery staple"))
    pair.pump()
    pair.advance(0.5)
    assert outcome.value.code == -32001
    assert "in progress" in str(answer(pair, "rpc.login", "ada", "correct horse"))
    pair.advance(0.5)
    assert answer(pair, "rpc.login", "ada", "correct horse") == {"identity": "ada"}


def test_there_may_be_no_limit(make_pair: MakePair) -> None:
    pair = make_pair(login_timeout=None)
    pair.advance(1e6)
    assert answer(pair, "rpc.login", "ada", "correct horse")


# --- the end --------------------------------------------------------------------------------------


def test_the_end_of_the_connection_is_the_logout(make_pair: MakePair) -> None:
    realm = FakeRealm()
    pair = make_pair(portal=portal_for(realm))
    assert answer(pair, "rpc.login", "ada", "correct horse")
    assert realm.logouts == 0
    pair.close()
    assert realm.logouts == 1


def test_a_logout_that_fails_is_logged(make_pair: MakePair, logged_errors: Any) -> None:
    pair = make_pair(portal=portal_for(FakeRealm(problem=OSError("no"))))
    assert answer(pair, "rpc.login", "ada", "correct horse")
    pair.close()
    assert logged_errors.claim() == ["logging out failed"]
    assert not pair.network.factory.connections


def test_a_peer_that_goes_away_during_its_login_logs_nobody_in(
    make_pair: MakePair, logged: Logged
) -> None:
    checker, realm = FakeChecker(), FakeRealm()
    pair = make_pair(portal=portal_for(realm, checker))
    Outcome(pair.client.call("rpc.login", "ada", "correct horse"))
    pair.pump()
    pair.wire.lose(ConnectionResetError("cut"))
    assert checker.cancelled == 1
    assert realm.minds == []
    assert logged.logins() == ["127.0.0.1:50000: login as 'ada' cancelled (try 1 of 3)"]


def test_an_avatar_that_comes_too_late_is_logged_out(make_pair: MakePair) -> None:
    class Slow(FakeRealm):
        """Its avatar comes when the test says so, whether it was cancelled or not."""

        def __init__(self) -> None:
            super().__init__()
            self.asked: Deferred[Any] = Deferred(lambda _: None)

        def requestAvatar(self, avatarId: Any, mind: Any, *interfaces: Any) -> Any:
            return self.asked.addErrback(lambda _: (IMethods, FUNCS, self.logout))

    realm = Slow()
    pair = make_pair(portal=portal_for(realm))
    Outcome(pair.client.call("rpc.login", "ada", "correct horse"))
    pair.pump()
    pair.wire.lose(ConnectionResetError("cut"))
    assert realm.logouts == 1


def test_a_server_that_stops_finishes_the_login_and_takes_no_other(make_pair: MakePair) -> None:
    checker = FakeChecker()
    pair = make_pair(portal=portal_for(None, checker))
    login = Outcome(pair.client.call("rpc.login", "ada", "correct horse"))
    pair.pump()
    drained = Outcome(pair.network.factory.drain())
    late = answer(pair, "rpc.login", "ada", "correct horse")
    assert late.code == -32009
    assert not drained.is_there
    checker.asked[0].callback(b"ada")
    pair.pump()
    assert login.value == {"identity": "ada"}
    assert drained.is_there


def test_a_server_without_a_portal_pays_nothing_for_it(network: MemoryNetwork) -> None:
    pair = connected_pair(FUNCS, network=network)
    (protocol,) = network.factory.connections
    assert protocol._serving.replies.methods is protocol.context.runner.methods
    assert len(network.reactor.getDelayedCalls()) == 0
    pair.close()


# --- the client -----------------------------------------------------------------------------------

PASSWORD = ("ada", "correct horse")


def listen(network: MemoryNetwork, portal: Portal | None = None, funcs: Any = FUNCS) -> Any:
    portal = portal or portal_for()
    factory = RPCServerFactory(funcs, reactor=network.reactor, portal=portal, threads=0)
    network.listen(factory)
    return factory


def connected(network: MemoryNetwork, **options: Any) -> Outcome:
    outcome = Outcome(connect(network, reactor=network.reactor, threads=0, **options))
    network.pump()
    return outcome


@pytest.mark.parametrize("dialect", ["2.0", "1.0", "kn-sock"])
@pytest.mark.parametrize(
    ("credentials", "identity"), [(PASSWORD, "ada"), ("t0ken-of-bob", "bob"), ([*PASSWORD], "ada")]
)
def test_a_client_logs_in_before_anything_else(
    network: MemoryNetwork, dialect: str, credentials: Any, identity: str
) -> None:
    listen(network)
    prepared: list[Any] = []

    async def prepare(connection: Any) -> None:
        prepared.append(await connection.call("who"))

    connection = connected(
        network, credentials=credentials, dialect=dialect, on_connected=prepare
    ).value
    called = Outcome(connection.call("who"))
    network.pump()
    assert called.value == identity
    assert prepared == [identity]


@pytest.mark.parametrize("dialect", ["2.0", "1.0", "kn-sock"])
def test_a_refused_login_is_a_connection_that_failed(network: MemoryNetwork, dialect: str) -> None:
    listen(network)
    outcome = connected(network, credentials=("ada", "battery staple"), dialect=dialect)
    network.reactor.advance(1)
    network.pump()
    error = outcome.value
    assert isinstance(error, LoginFailed)
    assert isinstance(error, ConnectFailed)
    assert isinstance(error, OSError)
    assert "the credentials were not accepted" in str(error)
    assert isinstance(error.__cause__, RPCError)
    assert dialect != "2.0" or isinstance(error.__cause__, NotAuthenticated)
    # The connection is of no use to anybody.
    assert not network.factory.connections


def test_a_server_without_a_login_is_none_to_log_in_at(network: MemoryNetwork) -> None:
    network.listen(RPCServerFactory(FUNCS, reactor=network.reactor, threads=0))
    error = connected(network, credentials=PASSWORD).value
    assert isinstance(error, LoginFailed)
    assert "the server has no login: leave credentials= out" in str(error)


def test_a_login_that_is_not_answered_ends_with_connect_timeout(network: MemoryNetwork) -> None:
    listen(network, portal_for(None, FakeChecker()))
    outcome = connected(network, credentials=PASSWORD, connect_timeout=3)
    network.reactor.advance(3)
    network.pump()
    assert isinstance(outcome.value, ConnectFailed)
    assert "the login was not answered within 3 s" in str(outcome.value)
    assert not network.factory.connections


def test_a_connection_that_is_lost_during_the_login_failed(network: MemoryNetwork) -> None:
    listen(network, portal_for(None, FakeChecker()))
    outcome = connected(network, credentials=PASSWORD)
    network.wires[-1].lose(ConnectionResetError("cut"))
    network.pump()
    assert isinstance(outcome.value, ConnectFailed)
    assert not isinstance(outcome.value, LoginFailed)
    assert "login" in str(outcome.value)


def test_a_server_that_shows_the_arguments_does_not_bring_the_secret_into_the_error(
    network: MemoryNetwork, logged: Logged
) -> None:
    class Foreign(Protocol):
        def dataReceived(self, data: bytes) -> None:
            message = json.loads(data)
            text = f"what is {message['params']}?"
            error = {"code": -32602, "message": text, "data": message["params"]}
            assert self.transport is not None
            reply = {"jsonrpc": "2.0", "id": message["id"], "error": error}
            self.transport.write(json.dumps(reply).encode() + b"\n")

    network.listen(Factory.forProtocol(Foreign))
    error = connected(network, credentials=PASSWORD).value
    assert isinstance(error, LoginFailed)
    shown = Failure(error).getTraceback() + repr(error) + repr(error.__cause__)
    shown += repr(vars(error.__cause__)) + repr(getattr(error.__cause__, "__context__", None))
    assert "ada" in shown
    assert "correct horse" not in shown + logged.everything()


def test_a_service_logs_in_on_each_connection(network: MemoryNetwork) -> None:
    factory = listen(network)
    service = RPCClientService(
        network,
        reactor=network.reactor,
        threads=0,
        credentials=PASSWORD,
        retry_policy=lambda attempts: 1.0,
    )
    service.startService()
    outcome = Outcome(service.call("who"))
    network.pump()
    assert outcome.value == "ada"
    network.wires[-1].lose(ConnectionResetError("cut"))
    waits = Outcome(service.call("who"))
    network.reactor.advance(1)
    network.pump()
    assert waits.value == "ada"
    assert len(network.wires) == 2
    assert factory.failed_logins == 0
    service.stopService()
    network.pump()


def test_a_service_that_is_refused_says_so_to_those_who_wait_and_tries_again(
    network: MemoryNetwork, logged: Logged
) -> None:
    checker = PasswordChecker({"ada": "battery staple"})
    portal = portal_for(None, checker)
    listen(network, portal)
    service = RPCClientService(
        network,
        reactor=network.reactor,
        threads=0,
        credentials=PASSWORD,
        retry_policy=lambda attempts: 1.0,
    )
    service.startService()
    waits = Outcome(service.call("who"))
    network.pump()
    network.reactor.advance(1)
    network.pump()
    assert isinstance(waits.value, LoginFailed)
    assert waits.value.maybe_executed is False
    # The password has been set right, there.
    portal.registerChecker(RIGHT)
    later = Outcome(service.call("who"))
    network.reactor.advance(1)
    network.pump()
    assert later.value == "ada"
    service.stopService()
    network.pump()
    assert "correct horse" not in logged.everything()


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (5, TypeError),
        (b"sesame", TypeError),
        (("ada", b"sesame"), TypeError),
        ({"ada": "sesame"}, TypeError),
        ("", ValueError),
        ((), ValueError),
        (("ada", ""), ValueError),
        (("ada", "sesame", "more"), ValueError),
    ],
)
def test_credentials_that_are_none_are_refused_without_being_shown(
    network: MemoryNetwork, given: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match="credentials are") as caught:
        connect(network, reactor=network.reactor, credentials=given)
    assert "sesame" not in str(caught.value)


@implementer(ICredentialsChecker)
class Undecided:
    """Never comes to a decision."""

    credentialInterfaces = (IUsernamePassword,)

    def requestAvatarId(self, credentials: Any) -> Deferred[Any]:
        return Deferred()


@pytest.mark.parametrize("interceptors", [[], [lambda _, proceed: proceed()]])
def test_a_login_that_takes_too_long_is_answered_at_its_deadline(
    interceptors: list[Any], network: MemoryNetwork
) -> None:
    factory = RPCServerFactory(
        FUNCS,
        reactor=network.reactor,
        portal=portal_for(None, Undecided()),
        interceptors=interceptors,
        call_timeout=5,
    )
    network.listen(factory)
    received: list[bytes] = []

    class Receiving(Protocol):
        def dataReceived(self, data: bytes) -> None:
            received.append(data)

    network.connect(Factory.forProtocol(Receiving))
    network.wires[-1].write(
        b'{"jsonrpc":"2.0","id":1,"method":"rpc.login","params":["ada","correct horse"]}\n'
    )
    network.pump()
    network.reactor.advance(6)
    network.pump()
    assert b"the time for the call has passed" in b"".join(received)
