"""What the chapter on curation says of the drawn images, and no record holds."""

import re
from pathlib import Path
from types import SimpleNamespace

import nbformat
import torch

from dino_tutorial.curation.command import SCENE_POOL
from dino_tutorial.datasets.decode import seeded_subset
from dino_tutorial.datasets.scenes import sets

CHAPTER = Path(__file__).resolve().parents[2] / "book" / "curating-data.ipynb"


def test_the_uncurated_images_are_as_the_chapter_says(monkeypatch):
    nothing = SimpleNamespace(images=torch.empty(0))
    monkeypatch.setattr(sets, "render", lambda *_: nothing)  # labels do not wait for pixels
    pool = sets.uncurated_pool(SCENE_POOL, look="pattern")
    group = torch.where(pool.duplicate_of < 0, torch.arange(SCENE_POOL), pool.duplicate_of)
    drawn = seeded_subset(SCENE_POOL, 2048, 0)
    repeated = len(drawn) - len(group[drawn].unique())
    text = "\n".join(cell.source for cell in nbformat.read(CHAPTER, 4).cells)
    assert re.findall(r"(\d+) of the 2,048 uncurated images repeat", text) == [str(repeated)]
    rarest = pool.labels[drawn][pool.labels[drawn] >= 0].bincount().min().item()
    assert re.findall(r"on (\d+) of the 2,048 uncurated images", text) == [str(rarest)]
