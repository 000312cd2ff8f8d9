from __future__ import annotations

import ast
import functools
import graphlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kn_sock

HOUSE = Path(kn_sock.__file__).parent

# Which module may import which others of ours. An arrow that is not here is a decision to take, and
# to draw in the documentation's map too.
ARROWS: dict[str, set[str]] = {
    "_version": set(),
    "_text": set(),
    "errors": {"_text"},
    "_framing": set(),
    "_documents": {"_framing"},
    "_options": set(),
    "_served": {"errors", "_session"},
    "_call": {"_served", "_session"},
    "_stats": {"errors"},
    "_verdicts": {"errors", "_text"},
    "_access_log": set(),
    "_prometheus": {"_stats"},
    "_interceptors": set(),
    "_workers": set(),
    "_outbox": {"_codec"},
    "_deadlines": set(),
    "_codec": {"errors", "_framing", "_text"},
    "_writer": {"_codec"},
    "_session": {"errors", "_framing", "_codec", "_writer"},
    "_verbs": {"_options"},
    "_conversion": set(),
    "methods": {"errors", "_text", "_conversion"},
    "_discover": {"methods", "_conversion"},
    "_outgoing": {"errors", "_options", "_session", "_outbox", "_deadlines"},
    "connection": {"errors", "_writer", "_verbs", "_outgoing", "_served"},
    "_peer": set(),
    "_sending": set(),
    "_watches": set(),
    "_refusing": {"errors", "_codec", "_sending"},
    "_reports": {"errors", "_text", "_session", "_stats", "_access_log"},
    "_observing": {"methods", "_options", "_stats", "_access_log", "_prometheus", "_reports"},
    "_runner": {"errors", "methods", "_options", "_served", "_workers", "_outbox", "_reports"},
    "_admission": {"errors", "_session"},
    "_answering": {
        "errors",
        "_codec",
        "_outbox",
        "_reports",
        "_runner",
        "_session",
        "_stats",
        "methods",
    },
    "_time_limits": {"_served", "_deadlines", "_session"},
    "_serving": {
        "errors",
        "_admission",
        "_answering",
        "_served",
        "_codec",
        "_outbox",
        "_runner",
        "_session",
        "_stats",
        "_time_limits",
        "_verdicts",
        "_workers",
        "methods",
    },
    "_common": {
        "errors",
        "_served",
        "_codec",
        "_serving",
        "_session",
        "_verdicts",
        "methods",
    },
    "_intercepted_serving": {
        "errors",
        "_call",
        "_served",
        "_interceptors",
        "_serving",
        "_session",
        "_verdicts",
        "methods",
    },
    "_intercepted_calls": {"errors", "_served", "_interceptors", "_verbs", "connection"},
    "_intercepted_batch": {
        "errors",
        "_served",
        "_interceptors",
        "_intercepted_calls",
        "_outgoing",
        "_verbs",
        "connection",
    },
    "_settings": {"_outbox", "_runner", "_verbs", "_writer", "connection"},
    "_inbound": {
        "_codec",
        "_framing",
        "_outbox",
        "_outgoing",
        "_serving",
        "_session",
        "_settings",
        "_watches",
    },
    "protocol": {
        "errors",
        "methods",
        "_codec",
        "_common",
        "_documents",
        "_framing",
        "_inbound",
        "_intercepted_serving",
        "_options",
        "_outbox",
        "_outgoing",
        "_peer",
        "_reports",
        "_sending",
        "_session",
        "_settings",
        "_tls",
        "_watches",
        "_writer",
        "connection",
    },
    "_waiting": {"errors", "_options", "_writer", "_outgoing", "protocol"},
    "auth": {"methods"},
    "_pem": set(),
    "_login": {
        "_version",
        "_text",
        "errors",
        "methods",
        "_call",
        "_session",
        "_discover",
        "auth",
        "protocol",
    },
    "_endpoints": set(),
    "_dial": {"errors", "_options", "_endpoints"},
    "_tls": set(),
    "_credentials": {"errors", "connection"},
    "_failover": {
        *("errors", "_options", "_dial", "_tls", "_credentials", "connection", "protocol"),
    },
    "_redial": {"errors", "_options", "protocol"},
    "_listening": {"_peer"},
    "server": {
        "_listening",
        "auth",
        "_pem",
        "_login",
        "_refusing",
        "_version",
        "_writer",
        "_options",
        "_outbox",
        "_peer",
        "_runner",
        "_discover",
        "_intercepted_batch",
        "_observing",
        "_stats",
        "methods",
        "protocol",
        "_settings",
    },
    "metrics": {"_listening", "_peer", "_prometheus"},
    "client": {
        "_credentials",
        "_version",
        "_codec",
        "_options",
        "_verbs",
        "_outbox",
        "_runner",
        "_writer",
        "_waiting",
        "_endpoints",
        "_failover",
        "_redial",
        "_discover",
        "_intercepted_batch",
        "_interceptors",
        "_observing",
        "methods",
        "connection",
        "protocol",
        "_settings",
    },
    "_reactor_thread": {"errors", "_outbox"},
    "_future": set(),
    "_link": {
        "_future",
        "_credentials",
        "_verbs",
        "_outgoing",
        "_options",
        "_waiting",
        "_failover",
        "_redial",
        "_reactor_thread",
        "connection",
        "protocol",
        "client",
    },
    "blocking": {
        "_listening",
        "_credentials",
        "_served",
        "errors",
        "_codec",
        "_options",
        "_verbs",
        "_endpoints",
        "_failover",
        "_interceptors",
        "_link",
        "_reactor_thread",
        "methods",
        "connection",
        "client",
        "server",
    },
    "rpc": {"blocking"},
    "_names": set(),
    "tap": {
        "_version",
        "_access_log",
        "_listening",
        "_names",
        "_options",
        "_pem",
        "_prometheus",
        "_stats",
        "auth",
        "methods",
        "metrics",
        "server",
    },
    "testing": {"methods", "connection", "protocol", "client", "server"},
    # It examines servers from outside: of ours it takes the way to make a connection.
    "conformance": {"_endpoints", "_dial", "__init__"},
    "__init__": {
        "_version",
        "_options",
        "_call",
        "_intercepted_calls",
        "_stats",
        "errors",
        "methods",
        "connection",
        "protocol",
        "server",
        "client",
        "blocking",
    },
}

PURE = [
    *("_text", "errors", "_framing", "_documents", "_codec", "_writer", "_session", "_admission"),
    *("_conversion", "methods", "_verbs", "_options", "_discover", "_stats", "_verdicts"),
]
IMPURE = {
    "twisted",
    "zope",
    "socket",
    "socketserver",
    "ssl",
    "select",
    "selectors",
    "asyncio",
    "time",
    "threading",
    "_thread",
    "queue",
    "logging",
    "signal",
    "subprocess",
}

# A package stands here as one module.
MODULES = sorted(
    path.stem for path in HOUSE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imports_below(node: ast.AST, *, in_functions: bool) -> Iterator[str]:
    """Give the dotted names that are imported when the code runs."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are written out"
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif is_type_checking(child):
            assert isinstance(child, ast.If)
            for other in child.orelse:
                yield from imports_below(other, in_functions=in_functions)
        elif in_functions or not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from imports_below(child, in_functions=in_functions)


@functools.cache
def imports_of(module: str, *, in_functions: bool = True) -> list[str]:
    package = HOUSE / module
    files = sorted(package.glob("*.py")) if package.is_dir() else [HOUSE / f"{module}.py"]
    return [
        name
        for file in files
        for name in imports_below(ast.parse(file.read_text("utf-8")), in_functions=in_functions)
    ]


def own_imports_of(module: str) -> set[str]:
    names = [name.split(".") for name in imports_of(module) if name.split(".")[0] == HOUSE.name]
    # What is taken from the top of the package is its __init__'s.
    found = {name[1] if name[1] in MODULES else "__init__" for name in names}
    return found - {module}


def test_finds_the_imports_of_a_module() -> None:
    assert {"errors", "_framing", "_codec", "_writer"} == own_imports_of("_session")
    assert "json" in imports_of("_codec")
    assert "twisted.internet.reactor" in imports_of("server")


def test_every_module_has_its_place() -> None:
    assert set(MODULES) - set(ARROWS) == set()


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_it_may(module: str) -> None:
    assert own_imports_of(module) - ARROWS[module] == set()


def test_no_arrow_points_back() -> None:
    graphlib.TopologicalSorter(ARROWS).prepare()


@pytest.mark.parametrize("module", PURE)
def test_the_core_knows_no_input_or_output(module: str) -> None:
    assert {name.split(".")[0] for name in imports_of(module)} & IMPURE == set()
    assert ARROWS[module] <= set(PURE)


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_the_reactor_when_it_is_imported(module: str) -> None:
    assert "twisted.internet.reactor" not in imports_of(module, in_functions=False)


def users_of(package: str) -> set[str]:
    return {
        module
        for module in MODULES
        if any(name.split(".")[0] == package for name in imports_of(module))
    }


def test_only_the_codec_names_a_json_library() -> None:
    # What examines servers must not share its reader with the server that it examines.
    assert users_of("json") == {"_codec", "conformance"}
    assert users_of("msgspec") <= {
        "_codec",
        "_session",
        "methods",
        "_discover",
        "_call",
        "_served",
        "_conversion",
        "_common",
        "_serving",
        "_intercepted_serving",
        # For its Struct alone.
        "_outgoing",
    }


def test_the_plugin_of_twistd_imports_nothing_of_ours() -> None:
    plugin = HOUSE.parent / "twisted" / "plugins" / "kn_sock_plugin.py"
    names = imports_below(ast.parse(plugin.read_text("utf-8")), in_functions=True)
    assert {name.split(".")[0] for name in names} == {"twisted"}


IMPORTING = """
import logging, signal, sys, threading, warnings
before = (list(logging.root.handlers), logging.root.level, warnings.showwarning,
          list(warnings.filters), signal.getsignal(signal.SIGINT), sys.stdout, sys.excepthook)
import kn_sock
after = (list(logging.root.handlers), logging.root.level, warnings.showwarning,
         list(warnings.filters), signal.getsignal(signal.SIGINT), sys.stdout, sys.excepthook)
assert before == after, (before, after)
assert "twisted.internet.reactor" not in sys.modules
assert threading.active_count() == 1, threading.enumerate()
"""


def test_importing_it_changes_nothing_in_the_process() -> None:
    paths = [str(HOUSE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
