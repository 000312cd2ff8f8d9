"""The order of the packages, and what the pure ones may not import."""

from __future__ import annotations

import ast
import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kn_sock

PACKAGE = Path(kn_sock.__file__).parent

# Each of these may import what stands in the lines above it, and its own package.
LAYERS = [
    ["_version", "_display", "_credentials"],
    ["errors"],
    ["_exceptions"],
    ["_declarations"],
    ["options"],
    ["_wire", "methods"],
    ["_io"],
    ["_observe"],
    ["_calling"],
    ["_serving"],
    ["calls", "connection"],
    ["_intercept"],
    ["protocol"],
    ["auth"],
    ["_client", "_server"],
    ["client", "server"],
    ["metrics"],
    ["_blocking", "tap", "testing"],
    ["blocking"],
    ["rpc", "__init__"],
    ["conformance"],
]
RANKS = {name: rank for rank, names in enumerate(LAYERS) for name in names}

# The longest chain of imports, in modules.
LONGEST_CHAIN = 11

# Lines of a module and of a function, at most; and those that have more, which may not grow.
MODULE_LINES = 400
FUNCTION_LINES = 50
LONG_MODULES = {"kn_sock.protocol": 439}
# The loop of the fast path: a function more would be a call more for each request.
LONG_FUNCTIONS = {"kn_sock._serving.fastpath.serve": 98}

PURE = ["_declarations", "_display", "errors", "options", "_wire", "methods"]
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


def dotted(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


MODULES = {dotted(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def room_of(module: str) -> str:
    """Name the package, or the module at the top, that a module belongs to."""
    return module.split(".")[1] if "." in module else "__init__"


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
    tree = ast.parse(MODULES[module].read_text("utf-8"))
    return list(imports_below(tree, in_functions=in_functions))


def own_imports_of(module: str, *, in_functions: bool = True) -> set[str]:
    found = set()
    for name in imports_of(module, in_functions=in_functions):
        if name.split(".")[0] == "kn_sock":
            found.add(name if name in MODULES else name.rpartition(".")[0])
    return found - {module}


@functools.cache
def chain_from(module: str) -> tuple[str, ...]:
    chains = [chain_from(other) for other in own_imports_of(module, in_functions=False)]
    return (module, *max(chains, key=len, default=()))


def test_finds_the_imports_of_a_module() -> None:
    assert {"kn_sock.errors", "kn_sock._wire.framing"} <= own_imports_of("kn_sock._wire.session")
    assert "twisted.internet.reactor" in imports_of("kn_sock.server")


def test_every_module_has_its_place() -> None:
    assert {room_of(module) for module in MODULES} == set(RANKS)


def test_the_map_in_the_documentation_has_every_module() -> None:
    text = (PACKAGE.parent / "docs" / "architecture.rst").read_text("utf-8")
    # The rooms of these explain themselves.
    rooms = {"testing", "conformance", "__init__"}
    missing = {
        module
        for module in MODULES
        if room_of(module) not in rooms
        and not module.endswith("__init__")
        and f"``{module.rpartition('.')[2]}``" not in text
    }
    assert missing == set()


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_from_the_layers_below(module: str) -> None:
    room = room_of(module)
    upwards = {
        other
        for other in own_imports_of(module)
        if room_of(other) != room and RANKS[room_of(other)] >= RANKS[room]
    }
    assert upwards == set()


def test_the_longest_chain_of_imports_is_short() -> None:
    longest = max((chain_from(module) for module in MODULES), key=len)
    assert len(longest) <= LONGEST_CHAIN, " > ".join(longest)


def test_no_module_is_long() -> None:
    long = {module: len(file.read_text("utf-8").splitlines()) for module, file in MODULES.items()}
    assert {
        module: lines
        for module, lines in long.items()
        if lines > LONG_MODULES.get(module, MODULE_LINES)
    } == {}


def test_no_function_is_long() -> None:
    found = {}
    for module, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or 0) - node.body[0].lineno + 1
                name = f"{module}.{node.name}"
                if lines > LONG_FUNCTIONS.get(name, FUNCTION_LINES):
                    found[name] = lines
    assert found == {}


@pytest.mark.parametrize("module", [name for name in MODULES if room_of(name) in PURE])
def test_the_core_knows_no_input_or_output(module: str) -> None:
    assert {name.split(".")[0] for name in imports_of(module)} & IMPURE == set()


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_the_reactor_when_it_is_imported(module: str) -> None:
    assert "twisted.internet.reactor" not in imports_of(module, in_functions=False)


def users_of(package: str) -> set[str]:
    return {
        room_of(module)
        for module in MODULES
        if any(name.split(".")[0] == package for name in imports_of(module))
    }


def test_only_the_wire_names_a_json_library() -> None:
    # What examines servers must not share its reader with the server that it examines.
    assert users_of("json") == {"_wire", "conformance"}
    # The others use its Struct, and its types.
    assert users_of("msgspec") <= {
        "_wire",
        "methods",
        "calls",
        "_serving",
        "_calling",
        "_intercept",
    }


def test_the_plugin_of_twistd_imports_nothing_of_ours() -> None:
    plugin = PACKAGE.parent / "twisted" / "plugins" / "kn_sock_plugin.py"
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
    paths = [str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
