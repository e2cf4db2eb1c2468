"""Data sets: embedded scenes, public sets, folders of images, shards; all opened by name."""

from __future__ import annotations

import difflib
import os

from dino_tutorial.datasets.base import ArrayDataset, ImageDataset, identity
from dino_tutorial.datasets.davis import Davis, Video
from dino_tutorial.datasets.folder import open_folder
from dino_tutorial.datasets.hub import HUB, open_hub
from dino_tutorial.datasets.settings import FITS
from dino_tutorial.datasets.shards import is_shards, open_shards, write_shards
from dino_tutorial.datasets.torchvision_sets import TORCHVISION_SETS, open_torchvision
from dino_tutorial.errors import UserError
from dino_tutorial.files import kind_of, user_path
from dino_tutorial.options import check_whole, takes

__all__ = [
    "DATASETS",
    "ArrayDataset",
    "Davis",
    "Video",
    "ImageDataset",
    "describe",
    "identity",
    "open_dataset",
    "write_shards",
]

#: What :func:`open_dataset` opens by name: a sentence on each.
DATASETS = {
    "patterns": "scenes drawn by code, kinds told by form and pattern: 10,000 + 2,000, 10 classes, "
    "any size, no download",
    "scenes": "the same with kinds told by colour more than by form",
    **TORCHVISION_SETS,
}
LOOKS = {"patterns": "pattern", "scenes": "colour"}  # what tells the kinds of these scenes apart
SCENES = {"train": 10_000, "test": 2_000}  # how many are drawn when nobody says
SCENE_SIZE = 32  # px
LARGEST_CANVAS = 4096  # px
LARGEST_LIMIT = 10**9  # images


def open_dataset(
    name: str | os.PathLike,
    split: str = "train",
    *,
    image_size: int | None = None,
    fit: str = "center",
    root: str | os.PathLike | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> ImageDataset:
    """A data set by its name, or by the path of a folder of images or of tar shards.

    Args:
        name: a key of `DATASETS`; `hf:` and a name on the Hugging Face hub, which needs the extra
            `hub` (see `open_hub`); a folder (see `open_folder`); a `.tar` file, a folder of them or
            a pattern of shards (see `open_shards`). A folder called like a registered set is
            reached with `./` before it.
        split: "train" or "test".
        image_size: S, the side of the square canvas in pixels; None takes the set's own: 32 for
            scenes; the native size of small square images; 160 for Imagenette; else 256.
        fit: what of a photograph lies on the canvas: "center" is its centre square, "whole" all of
            it in its own shape, for training; see :meth:`ImageDataset.placed`.
        root: where downloaded sets are kept; None takes $DINO_TUTORIAL_DATA, else
            `.cache/dino_tutorial` in the home folder. Folders and shards ignore it.
        limit: keep this many images: a random sample seeded with `seed`, classes balanced only in
            expectation. Of the scenes, this many are drawn.
        seed: of that sample; for scenes, of the scenes.

    Raises:
        UserError: the name, the split or a value makes no sense, or the set cannot be had.
    """
    name = os.fspath(user_path(name)) if str(name).startswith("~") else _text(name)
    _check(split, image_size, fit, limit, seed)
    if name in LOOKS:
        from dino_tutorial.datasets.scenes import SceneDataset  # the only set that needs a renderer

        n = limit or SCENES[split]
        return SceneDataset(split, size=image_size or SCENE_SIZE, n=n, seed=seed, look=LOOKS[name])
    if name in TORCHVISION_SETS:
        return open_torchvision(
            name, split, image_size=image_size, fit=fit, root=root, limit=limit, seed=seed
        )
    if name.startswith(HUB):
        return open_hub(name, split, image_size=image_size, fit=fit, limit=limit, seed=seed)
    if is_shards(name):
        return open_shards(name, split, image_size=image_size, fit=fit, limit=limit, seed=seed)
    if name and kind_of(name):
        return open_folder(name, split, image_size=image_size, fit=fit, limit=limit, seed=seed)
    raise _unknown(name)


def _text(name: str | os.PathLike[str]) -> str:
    try:
        text = os.fspath(name)
    except TypeError:
        text = None
    if not isinstance(text, str) or "\0" in text:
        raise UserError(
            f"a data set's name or a path was expected, not {name!r:.80}: one of "
            f"{', '.join(DATASETS)}, or a folder of images"
        )
    return text


@takes()
def describe(dataset: ImageDataset) -> str:
    """One line about a data set: name, number of images, classes, size, memory."""
    labelled = bool(dataset.classes) and bool((dataset.labels >= 0).any())
    classes = f"{len(dataset.classes)} classes" if labelled else "no labels"
    mebibytes = len(dataset) * 3 * dataset.image_size**2 / 2**20
    memory = f"{mebibytes:,.0f} MiB" + (" in memory" if dataset.in_memory else " decoded on demand")
    size = f"{dataset.image_size} x {dataset.image_size} px"
    return f"{dataset.name}: {len(dataset):,} images, {classes}, {size}, {memory}"


def _check(split: str, image_size: int | None, fit: str, limit: int | None, seed: int) -> None:
    if split not in ("train", "test"):
        raise UserError(f"there is no split {split!r:.40}; choose train or test")
    if fit not in FITS:
        raise UserError(f"there is no fit {fit!r:.40}; choose {' or '.join(FITS)}")
    if image_size is not None:
        check_whole("image_size", image_size, 1, LARGEST_CANVAS, "pixels")
    check_whole("seed", seed, 0, 2**63 - 1)
    if limit is not None:
        check_whole("limit", limit, 1, LARGEST_LIMIT, "images")


def _unknown(name: str) -> UserError:
    if os.sep in name or name.startswith(("~", ".")):
        return UserError(
            f"there is no folder or file {name}; give an existing folder of images or .tar shards"
        )
    close = difflib.get_close_matches(name.lower(), DATASETS, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    return UserError(
        f"there is no data set {name!r}.{hint} Give the path of a folder of images or .tar shards, "
        f"or one of {', '.join(DATASETS)}"
    )
