"""A folder of images: flat or by class, with split folders or without."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from dino_tutorial.datasets.base import ImageDataset
from dino_tutorial.datasets.decode import Source, native_size, open_source, report
from dino_tutorial.errors import UserError

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp"),
    *(".gif", ".tif", ".tiff", ".ppm", ".pgm"),
)
TEST_FOLDERS = ("test", "val", "valid", "validation")  # the first that has images is the test split


def open_folder(
    folder: str | os.PathLike,
    split: str = "train",
    *,
    image_size: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    name: str | None = None,
) -> ImageDataset:
    """Any folder of images.

    *Splits.* With a `train/` folder, that is the training split, and `test/` (else `val/`) the
    test split; whatever lies beside them is left out. Without, or when nothing lies beside
    `train/`, the test split is held out: the images whose relative path hashes to 0 modulo 10,
    about a tenth, the same ones on every machine, and training gets the rest (see `hold_out`).

    *Classes.* The first folder level below the split names the class, in sorted order; deeper
    levels do not matter. Images that lie beside the class folders are listed and left out. A flat
    folder, or one with a single subfolder, is unlabelled: labels -1, no classes.

    *Pictures* become a square canvas: short side resized with antialiasing, centre cropped, EXIF
    orientation honoured, RGB. Unreadable files are listed on stderr and skipped.

    Args:
        folder: where the images are; hidden files and folders are ignored, links are followed.
        split: "train" or "test".
        image_size: S, the side of the canvas in pixels; None keeps the native size if all images
            are squares of one size up to 64 px (judged by a sample), else takes 256.
        limit: keep at most this many images, a sample seeded with `seed`.
        seed: of that sample.
        name: used in reports; None takes the folder's name.

    Raises:
        UserError: the folder is missing, empty, or has no readable image in this split.
    """
    folder = Path(folder).expanduser()
    name = name or folder.resolve().name
    paths = find_images(folder)
    splits = split_paths(paths)
    chosen = splits[split]
    if not chosen:
        raise UserError(
            f"{folder} has too few images to hold out a test split; add images or a test/ folder"
        )
    level = 1 if has_split_folders(paths) else 0
    classes = class_names([*splits["train"], *splits["test"]], level)
    kept, labels = label_paths(chosen, classes, level)
    if len(kept) < len(chosen):
        beside = sorted(set(chosen) - set(kept))
        report(f"{name}: {len(beside)} images beside the class folders are left out", beside)
    return open_source(
        FileSource(folder, kept),
        labels,
        classes if (labels >= 0).all() else (),
        name,
        image_size=image_size or native_size(FileSource(folder, paths)),
        limit=limit,
        seed=seed,
    )


class FileSource(Source):
    """Image files, by their paths relative to a folder."""

    def __init__(self, folder: str | os.PathLike, paths: Sequence[str] | np.ndarray) -> None:
        self._folder = os.fspath(folder)
        # One block of bytes: a list of a million strings would be copied into every loader worker
        # as soon as it touches the reference counts.
        if not isinstance(paths, np.ndarray):
            paths = np.array([os.fsencode(path) for path in paths], dtype=np.bytes_)
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def open(self, index: int) -> Image.Image:
        return Image.open(os.path.join(self._folder, os.fsdecode(self._paths[index])))

    def name(self, index: int) -> str:
        return os.fsdecode(self._paths[index])

    def take(self, indices: Tensor) -> FileSource:
        return FileSource(self._folder, self._paths[indices.numpy()])


def find_images(folder: Path) -> list[str]:
    """Paths of all images below a folder, relative to it, with forward slashes, sorted.

    Raises:
        UserError: there is no such folder, or no image in it.
    """
    if not folder.exists():
        raise UserError(f"there is no folder {folder}; give a folder of images")
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; give a folder of images")
    paths = sorted(walk_images(folder))
    if not paths:
        raise UserError(
            f"no images in {folder}; give a folder with {', '.join(EXTENSIONS)} files, "
            "flat or in one subfolder a class"
        )
    return paths


def walk_images(folder: Path) -> Iterator[str]:
    """The same, one by one and in no order."""
    closed: list[str] = []
    for here, folders, files in os.walk(
        folder, followlinks=True, onerror=lambda error: closed.append(str(error.filename))
    ):
        folders[:] = [
            name
            for name in folders
            if _is_visible(name) and not _links_back(os.path.join(here, name))
        ]
        prefix = os.path.relpath(here, folder).replace(os.sep, "/")
        prefix = "" if prefix == "." else prefix + "/"
        for name in files:
            if _is_visible(name) and name.lower().endswith(EXTENSIONS):
                yield prefix + name
    if closed:
        report(f"{folder}: {len(closed)} folders cannot be opened and are left out", closed)


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _links_back(folder: str) -> bool:
    """Whether a folder is a link to one of its own parents, which would never end."""
    if not os.path.islink(folder):
        return False
    target, parent = os.path.realpath(folder), os.path.realpath(os.path.dirname(folder))
    return os.path.commonpath([target, parent]) == target


def has_split_folders(paths: Sequence[str]) -> bool:
    return any(top(path) == "train" for path in paths)


def split_paths(paths: Sequence[str]) -> dict[str, list[str]]:
    """The paths of each split: by the split folders, else by holding out a tenth."""
    if not has_split_folders(paths):
        return hold_out(paths)
    train = [path for path in paths if top(path) == "train"]
    for test_folder in TEST_FOLDERS:
        test = [path for path in paths if top(path) == test_folder]
        if test:
            return {"train": train, "test": test}
    return hold_out(train)


def top(path: str) -> str:
    """The first folder of a path; empty for a file at the top."""
    return path.partition("/")[0] if "/" in path else ""


def hold_out(names: Sequence[str]) -> dict[str, list[str]]:
    """Split names into "train" and "test": about a tenth is held out, chosen by hash.

    A name is held out if its BLAKE2 hash is 0 modulo 10, so the choice depends on nothing but the
    name: not on the machine, the order, or which other files there are. Only when that leaves one
    side empty is the name with the smallest hash the test split (and a single name is for
    training).
    """
    hashes = [_hash(name) for name in names]
    held = [value % 10 == 0 for value in hashes]
    if all(held) or not any(held):
        held = [len(names) > 1 and value == min(hashes) for value in hashes]
    return {
        "train": [name for name, out in zip(names, held, strict=True) if not out],
        "test": [name for name, out in zip(names, held, strict=True) if out],
    }


def _hash(name: str) -> int:
    # File systems disagree on how to spell an accent; normalising makes them agree.
    spelled = unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape")
    return int.from_bytes(blake2b(spelled, digest_size=8).digest(), "big")


def class_names(paths: Sequence[str], level: int) -> tuple[str, ...]:
    """The class folders at a level (0: at the top), sorted; none if there are fewer than two."""
    names = sorted({name for path in paths if (name := _class_of(path, level))})
    return tuple(names) if len(names) > 1 else ()


def label_paths(
    paths: Sequence[str], classes: Sequence[str], level: int
) -> tuple[list[str], Int[Tensor, " N"]]:
    """The paths that lie in a class folder and their labels; all paths and -1 if none does."""
    index = {name: label for label, name in enumerate(classes)}
    labels = [index.get(_class_of(path, level), -1) for path in paths]
    if all(label == -1 for label in labels):
        return list(paths), torch.tensor(labels)
    kept = [path for path, label in zip(paths, labels, strict=True) if label >= 0]
    return kept, torch.tensor([label for label in labels if label >= 0])


def _class_of(path: str, level: int) -> str:
    """The name of the folder at a level of the path; empty if the file lies above it."""
    parts = path.split("/")
    return parts[level] if len(parts) > level + 1 else ""
