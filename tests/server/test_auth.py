"""Checkers and realms by themselves: who somebody is, and what they may call."""

from __future__ import annotations

import hmac
import types
from pathlib import Path
from typing import Any

import pytest
from twisted.cred.checkers import ANONYMOUS
from twisted.cred.credentials import ICredentials, IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure
from zope.interface import Interface, implementer
from zope.interface.verify import verifyObject

from kn_sock import MethodTable
from kn_sock._client.credentials import Credentials
from kn_sock._credentials import Password, Token, identity_text
from kn_sock.auth import (
    EVERYTHING,
    IMethods,
    IToken,
    MethodsRealm,
    PasswordChecker,
    TokenChecker,
    TokenFile,
    functions_of,
)


def add(a: Any, b: Any) -> Any:
    return a + b


def outcome_of(deferred: Deferred[Any]) -> Any:
    outcomes: list[Any] = []
    deferred.addBoth(outcomes.append)
    (outcome,) = outcomes
    return outcome.value if isinstance(outcome, Failure) else outcome


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, bytes]]:
    """What is compared by the one function that takes the same time for all."""
    pairs: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def record(one: Any, other: Any) -> bool:
        pairs.append((one, other))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", record)
    return pairs


# --- checkers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "password", "identity"),
    [
        ("ada", "correct horse", b"ada"),
        ("grüße", "käse", "grüße".encode()),
        ("ada", "correct hors", None),
        ("ada", "", None),
        ("eve", "correct horse", None),
        ("eve", "", None),
        ("", "", None),
        ("\ud800", "\udfff", None),
    ],
)
def test_a_password_is_checked(name: str, password: str, identity: bytes | None) -> None:
    checker = PasswordChecker({"ada": "correct horse", "grüße": "käse"})
    outcome = outcome_of(checker.requestAvatarId(Password(name, password)))
    if identity is None:
        assert isinstance(outcome, UnauthorizedLogin)
    else:
        assert outcome == identity


@pytest.mark.parametrize("name", ["ada", "eve"])
def test_a_password_is_compared_in_constant_time_whether_its_user_is_known_or_not(
    compared: list[tuple[bytes, bytes]], name: str
) -> None:
    checker = PasswordChecker({"ada": "correct horse"})
    outcome_of(checker.requestAvatarId(Password(name, "wrong")))
    ((one, other),) = compared
    # Digests: their lengths are the same, whatever those of the secrets are.
    assert len(one) == len(other) == 32


@pytest.mark.parametrize(
    ("token", "identity"),
    [("t1", b"ada"), ("t3", b"bob"), ("t", None), ("t11", None), ("", None), ("\ud800", None)],
)
def test_a_token_is_checked(token: str, identity: bytes | None) -> None:
    checker = TokenChecker({"t1": "ada", "t2": "ada", "t3": "bob"})
    outcome = outcome_of(checker.requestAvatarId(Token(token)))
    if identity is None:
        assert isinstance(outcome, UnauthorizedLogin)
    else:
        assert outcome == identity


@pytest.mark.parametrize("token", ["t1", "t3", "wrong"])
def test_a_token_is_compared_with_each_that_is_known(
    compared: list[tuple[bytes, bytes]], token: str
) -> None:
    checker = TokenChecker({"t1": "ada", "t2": "ada", "t3": "bob"})
    outcome_of(checker.requestAvatarId(Token(token)))
    assert len(compared) == 3


@pytest.mark.parametrize("kind", [PasswordChecker, TokenChecker])
@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"secret": ""}, ValueError),
        ({"": "secret"}, ValueError),
        ({"secret": 5}, TypeError),
        ({b"secret": "secret"}, TypeError),
        ({"secret": None}, TypeError),
    ],
)
def test_a_checker_refuses_what_is_no_secret_without_showing_it(
    kind: Any, given: Any, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        kind(given)
    assert "secret" not in str(caught.value)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text("# whose they are\n\nt1 ada\nt3   Bob the builder \n", "utf-8")
    return path


@pytest.mark.parametrize(
    ("token", "identity"), [("t1", b"ada"), ("t3", b"Bob the builder"), ("#", None), ("t", None)]
)
def test_a_file_has_tokens(token_file: Path, token: str, identity: bytes | None) -> None:
    outcome = outcome_of(TokenFile(token_file).requestAvatarId(Token(token)))
    if identity is None:
        assert isinstance(outcome, UnauthorizedLogin)
    else:
        assert outcome == identity


def test_a_file_of_tokens_may_change(token_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(token_file.parent)
    checker = TokenFile("tokens")
    monkeypatch.chdir("/")
    token_file.write_text("t2 eve\n")
    assert isinstance(outcome_of(checker.requestAvatarId(Token("t1"))), UnauthorizedLogin)
    assert outcome_of(checker.requestAvatarId(Token("t2"))) == b"eve"
    token_file.unlink()
    assert isinstance(outcome_of(checker.requestAvatarId(Token("t2"))), FileNotFoundError)


def test_a_file_without_tokens_is_refused_and_not_shown(token_file: Path, tmp_path: Path) -> None:
    token_file.write_text("t1 ada\nsesame\n")
    with pytest.raises(ValueError, match="line 2 is not a token") as caught:
        TokenFile(token_file)
    assert "sesame" not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        TokenFile(tmp_path / "nowhere")


def test_nothing_shows_a_secret() -> None:
    things = [
        Password("ada", "sesame"),
        Token("sesame"),
        PasswordChecker({"ada": "sesame"}),
        TokenChecker({"sesame": "ada"}),
        Credentials(("ada", "sesame")),
        Credentials("sesame"),
    ]
    assert not any("sesame" in repr(thing) for thing in things)
    assert "ada" in repr(things[0])


def test_credentials_are_what_checkers_of_twisted_ask_for() -> None:
    assert verifyObject(IUsernamePassword, Password("ada", "sesame"))
    assert verifyObject(IToken, Token("sesame"))
    assert ICredentials.providedBy(Token("sesame"))
    assert Password("ada", "sesame").checkPassword(b"sesame")


# --- realms ---------------------------------------------------------------------------------------


class Unrelated(Interface):
    """Not what we ask a realm for."""


def avatar_of(realm: MethodsRealm, identity: Any = b"ada") -> Any:
    outcome = outcome_of(realm.requestAvatar(identity, None, IMethods))
    if isinstance(outcome, Exception):
        return outcome
    interface, avatar, logout = outcome
    assert interface is IMethods
    assert logout() is None
    return avatar


def test_a_realm_gives_everybody_the_same() -> None:
    realm = MethodsRealm({"add": add})
    assert verifyObject(IRealm, realm)
    assert verifyObject(IMethods, avatar_of(realm))
    table = avatar_of(realm).functions
    assert list(table) == ["add"]
    assert avatar_of(realm, b"bob").functions is table


def test_a_realm_without_functions_gives_all_that_the_server_has() -> None:
    assert avatar_of(MethodsRealm()) is EVERYTHING


def test_a_realm_chooses_by_identity() -> None:
    asked: list[str] = []

    def choose(identity: str) -> Any:
        asked.append(identity)
        functions: Any = {"add": add} if identity == "ada" else {}
        return succeed(functions) if identity == "ada" else functions

    realm = MethodsRealm(choose=choose)
    assert list(avatar_of(realm).functions) == ["add"]
    assert list(avatar_of(realm, b"bob").functions) == []
    assert list(avatar_of(realm, ANONYMOUS).functions) == []
    assert asked == ["ada", "bob", ""]


def test_a_realm_that_chooses_nothing_at_all_is_no_way_in() -> None:
    assert isinstance(avatar_of(MethodsRealm(choose=lambda identity: None)), TypeError)


def test_a_realm_has_avatars_of_one_kind() -> None:
    outcome = outcome_of(MethodsRealm().requestAvatar(b"ada", None, Unrelated))
    assert isinstance(outcome, NotImplementedError)


def test_a_realm_is_given_functions_or_a_choice() -> None:
    with pytest.raises(ValueError, match="not both"):
        MethodsRealm({"add": add}, choose=lambda identity: {})
    with pytest.raises(TypeError, match="cannot be called"):
        MethodsRealm({"add": 5})


class Account:
    """An avatar: what it offers is its methods."""

    def balance(self) -> int:
        return 5


class AccountWithTable:
    """An avatar that names what it offers."""

    functions = {"add": add}  # noqa: RUF012  # read only

    def forget(self) -> None:
        """Not offered."""


class Mathematics:
    """An avatar one of whose methods is called as the attribute is."""

    def functions(self) -> list[str]:
        return ["sin", "cos"]


@implementer(IMethods)
class Declared:
    """An avatar that says that it is one: its own methods are not offered, whatever it holds."""

    def __init__(self, functions: Any) -> None:
        self.functions = functions


@pytest.mark.parametrize(
    ("avatar", "names"),
    [
        ({"add": add}, ["add"]),
        ({"functions": add}, ["functions"]),
        (MethodTable({"add": add}), ["add"]),
        (Account(), ["balance"]),
        (AccountWithTable(), ["add"]),
        (Mathematics(), ["functions"]),
        (Declared(Account()), ["balance"]),
        (types.SimpleNamespace(functions={"add": add}), ["add"]),
    ],
)
def test_an_avatar_is_functions_or_has_them(avatar: Any, names: list[str]) -> None:
    assert list(MethodTable(functions_of(avatar))) == names


def test_an_avatar_that_declares_nothing_offers_nothing() -> None:
    assert functions_of(Declared(None)) is None


def test_an_identity_is_text_and_different_bytes_are_different_texts() -> None:
    assert identity_text("grüße".encode()) == identity_text("grüße") == "grüße"
    assert identity_text(ANONYMOUS) == ""
    assert len({identity_text(one) for one in (b"\xff", b"\\xff", b"\xfe", "ÿ".encode())}) == 4
