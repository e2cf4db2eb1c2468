"""Every value of every preset says where it comes from, on its line or in a comment above it."""

import re
from pathlib import Path

import pytest

from dino_tutorial import configure, shipped
from dino_tutorial.methods import METHODS
from dino_tutorial.options import flatten
from dino_tutorial.runs import config
from dino_tutorial.runs.config import PRESETS, read_config

RESULTS = shipped("data/results")
FOLDER = Path(config.__file__).parent / "presets"
FILES = sorted(FOLDER.glob("*.yaml"))
# A paper by its year, a file of a reference repository, or a choice of this package's own.
SOURCE = re.compile(r"chosen here\b|et al\. (19|20)\d\d|and Favaro 2016|\w+-?research/\w+", re.I)


def sources(text: str) -> dict[tuple[str, str], str]:
    """The comment of each value, by preset and key; "" where there is none.

    It stands on the value's own line, or else it is the nearest one above, in the same block:
    the lines between two empty ones.
    """
    found, above, preset, was_comment = {}, "", "", False
    for line in text.splitlines():
        code, _, comment = (part.strip() for part in line.partition("#"))
        if not line.strip():
            above = ""
        elif not code:
            above = f"{above} {comment}" if was_comment else comment
        elif line.startswith(" "):
            found[preset, code.partition(":")[0]] = comment or above
        else:
            preset = code.rstrip(":")
        was_comment = not code
    return found


def unsourced(text: str) -> list[tuple[str, str]]:
    return [value for value, comment in sources(text).items() if not SOURCE.search(comment)]


def test_there_is_a_file_for_each_method():
    assert {path.stem for path in FILES} == {*METHODS, "common"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_value_carries_its_source(path):
    text = path.read_text(encoding="utf-8")
    assert unsourced(text) == []
    values = config._read_presets(path.stem)
    assert set(sources(text)) == {(preset, key) for preset in values for key in values[preset]}
    assert {name.partition("@")[0] for name in values} == set(PRESETS)


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("laptop:\n  a: 1\n", [("laptop", "a")]),
        ("# Small numbers.\nlaptop:\n  a: 1\n", [("laptop", "a")]),
        ("# Chosen here: small.\nlaptop:\n  a: 1\n  b: 2\n", []),
        ("# Chosen here: small.\n\nlaptop:\n  a: 1\n", [("laptop", "a")]),
        ("laptop:\n  a: 1  # Grill et al. 2020\n  b: 2\n", [("laptop", "b")]),
        (
            "laptop:\n  # facebookresearch/dino\n  # main_dino.py\n  a: 1\n  # no\n  b: 2\n",
            [("laptop", "b")],
        ),
        ("# Chosen here.\nlaptop:\n  a: 1\n\ngpu:\n  a: 2\n", [("gpu", "a")]),
    ],
)
def test_a_value_without_a_source_is_found(text, missing):
    assert unsourced(text) == missing


@pytest.mark.parametrize("method", ["byol", "dino", "dinov2", "simclr"])
def test_the_records_on_cifar10_have_the_preset_s_settings(method):
    """They were trained on a folder of its images, in bf16, and so had to be told all of them."""
    stored = flatten(read_config(RESULTS / f"{method}-cifar10-s0" / "config.yaml"))
    ours = flatten(configure(method, "cifar10", "laptop"))
    told = ("views.", "model.", "objective.", "optim.", "train.epochs", "train.batch_size")
    compared = [key for key in ours if key.startswith(told)]
    assert len(compared) > 30
    assert {key: stored[key] for key in compared} == {key: ours[key] for key in compared}
