"""The cases as data: what is sent, and the expected replies. No I/O."""

from __future__ import annotations

import ast
import dataclasses
import json
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

_FILE: Final = Path(__file__).with_name("cases.txt")


@dataclasses.dataclass(frozen=True)
class Exchange:
    """What is sent in one go, and what is answered to it.

    Attributes:
        sent: the bytes.
        expected: the patterns of the replies.
        ends_sending: whether the writing side is shut down after *sent*.
    """

    sent: bytes
    expected: tuple[Any, ...]
    ends_sending: bool = False


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing that a server has to get right.

    Attributes:
        section: the section of the specification, or what it is about.
        name: what is special about it, unique with its section in its group.
        exchanges: on one connection, one after the other.
        is_closed: whether the server then closes the connection.
        in_order: whether the replies come in the order in which they are expected.
    """

    section: str
    name: str
    exchanges: tuple[Exchange, ...]
    is_closed: bool = False
    in_order: bool = False

    @property
    def title(self) -> str:
        """The section and the name, as in the file."""
        return f"[{self.section}] {self.name}"

    @property
    def sent(self) -> bytes:
        """All that is sent."""
        return b"".join(exchange.sent for exchange in self.exchanges)


@dataclasses.dataclass(frozen=True)
class Group:
    """The cases of one specification.

    Attributes:
        name: what the cases hold a server to.
        probe: an exchange that shows that a connection lives.
        cases: the cases, in their order.
    """

    name: str
    probe: Exchange
    cases: tuple[Case, ...]


def read_groups(text: str | None = None) -> tuple[Group, ...]:
    """Read a file of cases; by default the one that comes with the library.

    Raises:
        ValueError: the text is not as its first lines say; the message has the number of the line.
    """
    if text is None:
        text = _FILE.read_text("utf-8")
    reader = _Reader()
    for number, line in enumerate(text.split("\n"), 1):
        try:
            reader.take(line)
        except (ValueError, SyntaxError) as problem:
            raise ValueError(f"line {number}: {problem}") from problem
    return reader.groups()


class _Reader:
    def __init__(self) -> None:
        self._groups: list[tuple[str, list[Case]]] = []
        self._begin("", "")

    def take(self, line: str) -> None:
        mark, _, rest = line.partition(" ")
        if not line or mark == "#" or line == "#":
            return
        if mark == "===":
            self._end()
            self._groups.append((rest, []))
            self._begin("", "")
        elif line.startswith("["):
            self._end()
            section, _, name = line[1:].partition("] ")
            self._begin(section, name)
        elif mark == "-->":
            self._send(rest.strip(" ").encode() + b"\n")
        elif mark == "-b>":
            self._send(_bytes_of(ast.parse(rest.strip(), mode="eval").body))
        elif mark == "-x>":
            self._send(b"")
            self._ends_sending = True
        elif mark == "<--":
            self._expected.append(parse(rest.encode()))
        elif mark == "<-b":
            self._expected.append(ast.literal_eval(rest))
        elif mark == "<-x":
            self._is_closed = True
        elif line == "in order":
            self._in_order = True
        else:
            raise ValueError(f"this begins like nothing that there is: {line[:20]!r}")

    def _begin(self, section: str, name: str) -> None:
        self._section, self._name = section, name
        self._exchanges: list[Exchange] = []
        self._sent: list[bytes] = []
        self._expected: list[Any] = []
        self._ends_sending = self._is_closed = self._in_order = False

    def _send(self, data: bytes) -> None:
        if self._expected:
            self._end_exchange()
        self._sent.append(data)

    def _end_exchange(self) -> None:
        self._exchanges.append(
            Exchange(b"".join(self._sent), tuple(self._expected), self._ends_sending)
        )
        self._sent, self._expected, self._ends_sending = [], [], False

    def _end(self) -> None:
        if not self._groups:
            return
        if not self._sent:
            raise ValueError(f"nothing is sent before this line, in {self._name or 'the group'!r}")
        self._end_exchange()
        case = Case(
            self._section, self._name, tuple(self._exchanges), self._is_closed, self._in_order
        )
        cases = self._groups[-1][1]
        if any(case.title == other.title for other in cases):
            raise ValueError(f"{case.title} is there twice")
        cases.append(case)

    def groups(self) -> tuple[Group, ...]:
        self._end()
        return tuple(
            Group(name, cases[0].exchanges[0], tuple(cases[1:])) for name, cases in self._groups
        )


def _bytes_of(node: ast.expr) -> bytes:
    if isinstance(node, ast.Constant) and isinstance(node.value, bytes):
        return node.value
    if isinstance(node, ast.BinOp):
        if isinstance(node.op, ast.Add):
            return _bytes_of(node.left) + _bytes_of(node.right)
        if isinstance(node.op, ast.Mult) and isinstance(node.right, ast.Constant):
            count = node.right.value
            if isinstance(count, int):
                return _bytes_of(node.left) * count
    raise ValueError("only bytes literals are sent, joined by + and repeated by *")


# --- replies --------------------------------------------------------------------------------------


def parse(line: bytes) -> Any:
    """Read a reply with a reader that has nothing to do with the library's own.

    Numbers keep every digit: those with a fraction or an exponent become `decimal.Decimal`.

    Raises:
        ValueError: it is not JSON in UTF-8, or an object has a name twice.
    """

    def no_constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    return json.loads(
        line.decode("utf-8"),
        parse_float=Decimal,
        parse_constant=no_constant,
        object_pairs_hook=_object,
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("an object has a name twice")
    return made


_KINDS: Final[dict[str, Any]] = {
    "any": lambda value: True,
    "text": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
}


def is_reply(pattern: Any, reply: Any) -> bool:
    """Whether a reply is the expected one; the members of a batch in any order."""
    if isinstance(pattern, list) and isinstance(reply, list):
        return are_replies(pattern, reply)
    return matches(pattern, reply)


def are_replies(patterns: list[Any] | tuple[Any, ...], replies: list[Any]) -> bool:
    """Whether these are the expected replies, in any order."""
    if not patterns:
        return not replies
    return len(patterns) == len(replies) and any(
        is_reply(patterns[0], reply)
        and are_replies(patterns[1:], replies[:index] + replies[index + 1 :])
        for index, reply in enumerate(replies)
    )


def matches(pattern: Any, value: Any) -> bool:
    """Compare a value with a pattern: exactly, but for ``<…>``, and the data of an error."""
    if isinstance(pattern, str) and pattern.startswith("<") and pattern.endswith(">"):
        return any(_is_one_of(term, value) for term in pattern[1:-1].split(" or "))
    if isinstance(pattern, dict) and isinstance(value, dict):
        given = dict(value)
        if {"code", "message"} <= set(pattern) and "data" not in pattern:
            given.pop("data", None)
        return pattern.keys() == given.keys() and all(
            matches(pattern[name], given[name]) for name in pattern
        )
    if isinstance(pattern, list) and isinstance(value, list):
        return len(pattern) == len(value) and all(map(matches, pattern, value))
    # True is no 1 here, and 1 no 1.0.
    return type(pattern) is type(value) and bool(pattern == value)


def _is_one_of(term: str, value: Any) -> bool:
    if term.startswith("not "):
        return not _is_one_of(term.removeprefix("not "), value)
    kind = _KINDS.get(term)
    return kind(value) if kind else matches(parse(term.encode()), value)
