"""Every name that the notation page gives is a name in the package's code, not in prose alone."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "book" / "notation.md").read_text("utf-8")
# The second column of the tables headed "in code", and the first of those headed "name".
IN_CODE = re.findall(r"^\| symbol \| in code \|.*\n\|[-| ]+\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
NAMED = re.findall(r"^\| name \|.*\n\|[-| ]+\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
CELLS = [row.split("|")[2] for table in IN_CODE for row in table.splitlines()]
CELLS += [row.split("|")[1] for table in NAMED for row in table.splitlines()]
NAMES = sorted({name for cell in CELLS for name in re.findall(r"`\.?(\w+)(?:\(\))?`", cell)})


def names_in(node: ast.AST) -> Iterator[str]:
    """What a piece of code gives a name to, or calls by it: the keys of a log are strings."""
    for field in ("id", "arg", "attr", "name"):
        if isinstance(name := getattr(node, field, None), str):
            yield name
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


CODE = {
    name
    for path in (ROOT / "dino_tutorial").rglob("*.py")
    for node in ast.walk(ast.parse(path.read_text("utf-8")))
    for name in names_in(node)
}


def test_there_are_names():
    assert len(IN_CODE) > 2 and len(NAMED) == 1 and len(NAMES) > 19


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_in_the_code(name):
    assert name in CODE


def test_a_word_of_a_docstring_is_no_name():
    code = ast.parse('def f(images):\n    "Look at pictures."\n    return {"loss": images.mean()}')
    found = {name for node in ast.walk(code) for name in names_in(node)}
    assert {"f", "images", "loss", "mean"} <= found and "pictures" not in found
