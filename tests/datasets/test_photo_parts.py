"""The labelled parts of the book's photographs fit the photographs."""

import json

import numpy as np
import pytest
from PIL import Image

from dino_tutorial import shipped

PATCH = 8
PHOTOS = sorted(shipped("data/photos").glob("*.jpg"))
OUTLINED = json.loads(shipped("data/photos/parts.json").read_text(encoding="utf-8"))


def test_every_photograph_has_parts():
    assert sorted(OUTLINED) == [path.stem for path in PHOTOS]


@pytest.mark.parametrize("path", PHOTOS, ids=lambda path: path.stem)
def test_each_patch_has_a_letter_that_is_explained(path):
    parts, rows = OUTLINED[path.stem].values()
    width, height = Image.open(path).size
    letters = np.array([list(row) for row in rows])
    assert letters.shape == (height // PATCH, width // PATCH)
    assert set(letters.flatten()) == {".", *parts}
    # One to label and some to be right about.
    assert all((letters == part).sum() >= 4 for part in parts)
