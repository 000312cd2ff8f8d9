"""What the documentation says of texts, pages and diagrams is so."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

TOP = Path(__file__).resolve().parents[2]
DOCS = TOP / "docs"

SOURCE = "".join(path.read_text("utf-8") for path in sorted((TOP / "kn_sock").rglob("*.py")))
# A text that stands on several lines of the source, as one.
JOINED = re.sub(r"""["']\s*\n\s*f?["']""", "", SOURCE).replace('\\"', '"')

# The texts of Python, of msgspec and of OpenSSL.
FOREIGN = (
    "Address already in use",
    "missing a required argument",
    "certificate verify",
    "Expected",
)


def texts_of(page: str) -> list[str]:
    """Return the errors that a page explains: the terms of its definition lists."""
    return re.findall(r"(?m)^``(.+?)``(?: \(.*\))?$", (DOCS / page).read_text("utf-8"))


def test_errors_are_explained() -> None:
    assert len(texts_of("troubleshooting.rst")) > 20


@pytest.mark.parametrize("text", texts_of("troubleshooting.rst"))
def test_an_error_that_is_explained_is_one_of_ours(text: str) -> None:
    pieces = [piece.strip(" :;,()`") for piece in text.split("…")]
    for piece in pieces:
        if len(piece) > 8 and not piece.startswith(FOREIGN):
            assert piece in JOINED, piece


def module_in_docs(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_diagrams_are_those_that_the_script_draws() -> None:
    diagrams = module_in_docs("diagrams").DIAGRAMS
    assert len(diagrams) == 3
    for name, drawing in diagrams.items():
        assert (DOCS / "diagrams" / f"{name}.svg").read_text("utf-8") == drawing


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "index.rst").read_text("utf-8")
    pages = {path.stem for path in DOCS.glob("*.rst")} - {"index"}
    assert {page for page in pages if f"   {page}\n" not in index} == set()


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.rst")))
def test_no_simple_tables(page: str) -> None:
    # A wrapped cell in their first column would become a row of its own.
    assert not re.search(r"(?m)^ *=+ +=+", (DOCS / page).read_text("utf-8"))
