"""Every ``train`` command that a page prints is one that the command line would take."""

import json
import re
import shlex
from pathlib import Path

import pytest

from dino_tutorial import configure
from dino_tutorial.cli import build_parser
from dino_tutorial.options import parse_assignments
from dino_tutorial.runs.checks import check_batch, check_learning_rate, check_lengths, check_patches

ROOT = Path(__file__).resolve().parents[2]
COMMAND = re.compile(r"(?:dino-tutorial|-m dino_tutorial) (train [^\n`|#;]+)")
# Words that stand for something, and f-strings: no command yet.
OPEN = re.compile(r"METHOD|SEED|…|\{|\.\.\.")


def texts():
    for path in (ROOT / "README.md", *(ROOT / "book").rglob("*.md")):
        yield path, path.read_text(encoding="utf-8")
    for path in (ROOT / "book").rglob("*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "markdown":
                yield path, "".join(cell["source"])


def commands():
    for path, text in texts():
        for found in COMMAND.findall(text.replace("\\\n", " ")):
            if not OPEN.search(found):
                yield path.name, found.strip().rstrip(".,:)*")


COMMANDS = sorted(set(commands()))


def test_pages_have_commands():
    assert len(COMMANDS) >= 8
    assert len({page for page, _ in COMMANDS}) >= 5


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_it_would_start(page, command):
    options = build_parser().parse_args(shlex.split(command))
    changes = parse_assignments(options.changes)
    config = configure(
        options.method, options.data or "scenes", options.preset or "laptop", changes
    )
    assert check_lengths(config) is None
    check_learning_rate(config)
    check_patches(config)
    check_batch(config)
