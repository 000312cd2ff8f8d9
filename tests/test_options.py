from __future__ import annotations

import dataclasses
import math
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest

from kn_sock._declarations import check_count, check_seconds, declarations
from kn_sock.options import (
    CLIENT_ALIASES,
    SERVER_ALIASES,
    ServerOptions,
    default_threads,
    without_aliases,
)
from kn_sock.tap import Options


def test_the_limits_are_those_that_are_documented() -> None:
    options = ServerOptions()
    assert options.max_line_bytes == 4 * 1024 * 1024
    assert options.max_pending == 1000
    assert options.max_batch == 1000
    assert options.drain_timeout == 10.0
    assert options.expose_errors is True
    assert options.share_tracebacks is False
    assert options.framing == "lines"
    assert options.unversioned == "1.0"
    assert options.cancellation == "lsp"
    assert options.executor is None


@pytest.mark.parametrize(("cores", "threads"), [(1, 5), (8, 12), (28, 32), (64, 32), (None, 5)])
def test_the_number_of_threads_follows_that_of_the_cores(
    cores: int | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert default_threads() == threads
    assert ServerOptions().threads == threads


@pytest.mark.parametrize(
    ("name", "least"), [("max_line_bytes", 1024), ("max_pending", 1), ("max_batch", 1)]
)
def test_a_limit_has_a_least_value(name: str, least: int) -> None:
    allowed: dict[str, Any] = {name: least}
    assert getattr(ServerOptions(**allowed), name) == least
    refused: dict[str, Any] = {name: least - 1}
    with pytest.raises(ValueError, match=f"{name} must be at least {least}, not {least - 1}"):
        ServerOptions(**refused)


def test_no_threads_at_all_are_allowed() -> None:
    assert ServerOptions(threads=0).threads == 0
    with pytest.raises(ValueError, match="threads must be at least 0, not -1"):
        ServerOptions(threads=-1)


@pytest.mark.parametrize("name", ["max_line_bytes", "max_pending", "max_batch", "threads"])
@pytest.mark.parametrize("value", ["5000", 5000.0, None, True, [5000]])
def test_a_limit_is_a_whole_number(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a whole number, not"):
        ServerOptions(**{name: value})


@pytest.mark.parametrize("value", [None, 0, 2.5])
def test_draining_takes_seconds_or_as_long_as_it_takes(value: float | None) -> None:
    assert ServerOptions(drain_timeout=value).drain_timeout == value


@pytest.mark.parametrize(
    ("value", "error"), [(-1, ValueError), (math.nan, ValueError), ("5", TypeError)]
)
def test_refuses_a_drain_timeout_that_is_none(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="drain_timeout must"):
        ServerOptions(drain_timeout=value)


@pytest.mark.parametrize("value", ["line", "Lines", "", None, 1])
def test_refuses_a_framing_that_is_none_and_says_which_there_are(value: Any) -> None:
    with pytest.raises(ValueError, match="framing must be lines or documents, not") as caught:
        ServerOptions(framing=value)
    assert str(caught.value).endswith(repr(value))


@pytest.mark.parametrize("name", ["expose_errors", "share_tracebacks"])
@pytest.mark.parametrize("value", ["no", 0, None])
def test_a_switch_is_true_or_false(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} must be True or False, not {value!r}"):
        ServerOptions(**{name: value})


@pytest.mark.parametrize("value", [4, "threads", ThreadPoolExecutor, ProcessPoolExecutor(1)])
def test_refuses_an_executor_that_has_no_threads(value: Any) -> None:
    with pytest.raises(TypeError, match="executor must be an Executor that has threads, not"):
        ServerOptions(executor=value)


def test_takes_an_executor() -> None:
    with ThreadPoolExecutor(1) as executor:
        assert ServerOptions(executor=executor).executor is executor


def test_options_cannot_be_changed_nor_given_by_position() -> None:
    options: Any = ServerOptions()
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.max_batch = 5
    kind: Any = ServerOptions
    with pytest.raises(TypeError):
        kind(1024)


def test_an_unknown_option_is_named() -> None:
    options: dict[str, Any] = {"max_lines": 5}
    with pytest.raises(TypeError, match="max_lines"):
        ServerOptions(**options)


# Options that only Python code can set; twistd has flags of its own for some of them.
OBJECTS = {
    *("executor", "serve_interceptors", "call_interceptors"),
    *("access_log", "metrics", "stats"),
}
# A text for each other option, and the value that it becomes.
TEXTS: dict[str, tuple[str, Any]] = {
    "max_line_bytes": ("2048", 2048),
    "max_pending": ("7", 7),
    "max_batch": ("8", 8),
    "max_containers": ("20000", 20_000),
    "max_buffered_bytes": ("1000000", 1_000_000),
    "max_total_buffered_bytes": ("2000000", 2_000_000),
    "max_connections": ("9", 9),
    "threads": ("3", 3),
    "call_timeout": ("1.5", 1.5),
    "idle_timeout": ("2.5", 2.5),
    "ping_interval": ("30", 30.0),
    "keepalive": ("none", None),
    "send_timeout": ("none", None),
    "drain_timeout": ("4", 4.0),
    "login_timeout": ("5", 5.0),
    "login_rate": ("30", 30),
    "expose_errors": ("no", False),
    "share_tracebacks": ("yes", True),
    "strict_annotations": ("yes", True),
    "forbid_unknown_fields": ("no", False),
    "framing": ("documents", "documents"),
    "unversioned": ("2.0", "2.0"),
    "cancellation": ("mcp", "mcp"),
}


def test_every_option_has_a_text_form_or_is_an_object() -> None:
    declared = declarations(ServerOptions)
    assert {name for name, one in declared.items() if one.read is None} == OBJECTS
    assert declared.keys() - OBJECTS == TEXTS.keys()


@pytest.mark.parametrize("name", TEXTS)
def test_an_option_with_a_text_form_has_a_flag_with_help_that_sets_it(name: str) -> None:
    text, value = TEXTS[name]
    flag = name.replace("_", "-")
    (row,) = [row for row in Options.optParameters if row[0] == flag]
    assert len(str(row[3])) > 10
    options = Options()
    options.parseOptions(["--funcs", "mymod.FUNCS", f"--{flag}", text])
    assert options["server_options"][name] == value
    assert getattr(ServerOptions(**options["server_options"]), name) == value


def test_an_option_that_is_not_declared_is_an_error() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class MoreOptions(ServerOptions):
        max_colours: complex = 3j

    with pytest.raises(TypeError, match=r"MoreOptions\.max_colours is not declared as an option"):
        declarations(MoreOptions)
    with pytest.raises(TypeError, match="max_colours"):
        MoreOptions()


@pytest.mark.parametrize("name", ["serve_interceptors", "call_interceptors"])
@pytest.mark.parametrize("wrong", [print, "print", None, [print, 3], {print}])
def test_interceptors_are_a_list_of_functions(name: str, wrong: Any) -> None:
    given: dict[str, Any] = {name: wrong}
    with pytest.raises(TypeError, match=name):
        ServerOptions(**given)
    allowed: dict[str, Any] = {name: [print]}
    assert getattr(ServerOptions(**allowed), name) == [print]


def test_counts_and_seconds_are_checked_by_name() -> None:
    check_count("lines", 3, least=3)
    check_seconds("wait", None)
    check_seconds("wait", 0)
    with pytest.raises(ValueError, match="lines must be at least 4, not 3"):
        check_count("lines", 3, least=4)
    with pytest.raises(TypeError, match="wait must be a number of seconds"):
        check_seconds("wait", False)


@pytest.mark.parametrize(
    ("name", "wrong", "complaint"),
    [
        ("unversioned", "1", "unversioned must be 1.0 or 2.0, not '1'"),
        ("cancellation", None, "cancellation must be lsp, mcp or none, not None"),
    ],
)
def test_a_choice_is_one_of_those_that_there_are(name: str, wrong: Any, complaint: str) -> None:
    refused: dict[str, Any] = {name: wrong}
    with pytest.raises(ValueError, match=f"^{complaint}$"):
        ServerOptions(**refused)


def test_interceptors_have_older_names_that_mean_the_other_thing_at_the_other_end() -> None:
    given = {"interceptors": [print], "callback_interceptors": [len], "threads": 2}
    assert without_aliases(given, SERVER_ALIASES) == {
        "serve_interceptors": [print],
        "call_interceptors": [len],
        "threads": 2,
    }
    assert without_aliases(given, CLIENT_ALIASES) == {
        "call_interceptors": [print],
        "serve_interceptors": [len],
        "threads": 2,
    }
    with pytest.raises(TypeError, match="interceptors is an older name of serve_interceptors"):
        without_aliases({"interceptors": [], "serve_interceptors": []}, SERVER_ALIASES)
