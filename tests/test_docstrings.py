"""Docstrings speak one dialect: Args, Returns and Raises, as CONTRIBUTING.md says."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "dino_tutorial"
MODULES = sorted(path for room in ("views", "plots") for path in (PACKAGE / room).glob("*.py"))
ARGUMENT = re.compile(r"^    (\w+(?:, \w+)*): ", re.MULTILINE)
# A section in running text: "Returns (n, 3)", "Raises UserError when", "images: (n, 3, H, W)".
RUNNING = re.compile(r"\bReturns? \(|\bRaises \w|^\W*[a-z_]+(?:, [a-z_]+)*: ", re.MULTILINE)


def documented(path: Path) -> Iterator[tuple[str, str, set[str]]]:
    """Name, docstring and parameters (of a class: of its ``__init__``) of what has a docstring."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or not ast.get_docstring(node):
            continue
        inits = [n for n in node.body if getattr(n, "name", "") == "__init__"]
        function = node if isinstance(node, ast.FunctionDef) else (inits or [None])[0]
        names = set() if function is None else parameters(function.args)
        yield node.name, ast.get_docstring(node), names


def parameters(given: ast.arguments) -> set[str]:
    several = [extra for extra in (given.vararg, given.kwarg) if extra]
    every = (*given.posonlyargs, *given.args, *given.kwonlyargs, *several)
    return {a.arg for a in every} - {"self", "cls"}


def section(text: str, name: str) -> str | None:
    found = re.search(rf"^{name}:\n((?:    .*\n?|\n)+)", text, re.MULTILINE)
    return found and found[1]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_arguments_have_a_section_and_it_names_them_all(path):
    for name, text, known in documented(path):
        listed = section(text, "Args")
        if listed is None:
            continue
        told = {word for names in ARGUMENT.findall(listed) for word in names.split(", ")}
        assert told == known, f"{name}: {sorted(told ^ known)}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_section_is_running_text(path):
    for name, text, _ in documented(path):
        prose = re.sub(r"^(Args|Attributes|Returns|Raises):\n(    .*\n?|\n)+", "", text, flags=re.M)
        assert not RUNNING.search(prose), f"{name}: {RUNNING.search(prose)[0]!r}"


def test_the_rules_see_the_other_dialect():
    for text in ("Blur.\n\nimages: (n, 3)", "Returns (n,) ids.", "Raises UserError when empty."):
        assert RUNNING.search(text)
    assert section("Blur.\n\nArgs:\n    images: (n, 3).\n", "Args") == "    images: (n, 3).\n"
