"""Every name that the notation page gives is a name in the package's code."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "book" / "notation.md").read_text("utf-8")
CODE = "\n".join(path.read_text("utf-8") for path in (ROOT / "dino_tutorial").rglob("*.py"))
# The second column of the tables headed "in code".
TABLES = re.findall(r"^\| symbol \| in code \|.*\n\|[-| ]+\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
CELLS = [row.split("|")[2] for table in TABLES for row in table.splitlines()]
NAMES = sorted({name for cell in CELLS for name in re.findall(r"`\.?(\w+)(?:\(\))?`", cell)})


def test_there_are_names():
    assert len(TABLES) > 2 and len(NAMES) > 15


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_in_the_code(name):
    assert re.search(rf"\b{name}\b", CODE)
