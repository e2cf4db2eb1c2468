"""A folder of images: flat or by class, with split folders or without."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from dino_tutorial.datasets.base import ImageDataset, digest
from dino_tutorial.datasets.decode import Source, native_size, open_image, open_source, report
from dino_tutorial.errors import UserError, printable
from dino_tutorial.files import kind_of, unreadable, user_path

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp"),
    *(".gif", ".tif", ".tiff", ".ppm", ".pgm"),
)
TRAIN_FOLDERS = ("train", "training")
# The first of these that has images is the test split.
TEST_FOLDERS = ("test", "testing", "val", "valid", "validation")
BESIDE_A_SPLIT = {"set", "data", "dataset", "images", "imgs", "split"}  # training_set, test-images


def open_folder(
    folder: str | os.PathLike,
    split: str = "train",
    *,
    image_size: int | None = None,
    fit: str = "center",
    limit: int | None = None,
    seed: int = 0,
    name: str | None = None,
) -> ImageDataset:
    """Any folder of images.

    *Splits.* `train/` or `training/` is the training split, and beside it `test/` or `testing/`,
    else `val/`, `valid/` or `validation/`, the test split, however these names are capitalised;
    whatever else lies there is listed and left out. They may lie one folder deeper, or in each
    class folder. Without them, or when nothing lies beside `train/`, the test split is held out:
    the images whose relative path hashes to 0 modulo 10, about a tenth, the same ones on every
    machine, and training gets the rest (see `hold_out`). A `train/` beside folders that are no
    split's is a class.

    *Classes.* The first folder level below the split names the class, in sorted order; deeper
    levels do not matter. Images that lie beside the class folders are listed and left out. A flat
    folder, or one with a single subfolder, is unlabelled: labels -1, no classes. A split whose
    images lie in no class folder is unlabelled too, and knows the classes of the other.

    *Images* come on a square canvas, EXIF orientation honoured, RGB: the centre square, its side
    resized with antialiasing, or the whole of an image, made smaller where it is larger than the
    canvas. Unreadable files are listed on stderr and skipped.

    Args:
        folder: where the images are; hidden files and folders are ignored, links are followed,
            and an image that is met more than once counts once.
        split: "train" or "test".
        image_size: S, the side of the canvas in pixels; None keeps the native size if all images
            are squares of one size up to 64 px (judged by a sample), else takes 256.
        fit: what of an image lies on the canvas: "center", its centre square, or "whole", all of
            it in its own shape, see :meth:`ImageDataset.placed`.
        limit: keep at most this many images, a sample seeded with `seed`.
        seed: of that sample.
        name: used in reports; None takes the folder's name.

    Raises:
        UserError: the folder is missing, empty, or has no readable image in this split.
    """
    folder = user_path(folder)
    name = name or printable(folder.resolve().name)
    paths, links = find_files(folder)
    layout = find_layout(paths)
    splits = split_paths(layout, links, folder, name)
    chosen = splits[split]
    if not chosen:
        raise UserError(
            f"{folder} has too few images to hold out a test split; add images or a test/ folder"
        )
    level = layout.class_level
    classes = class_names([*splits["train"], *splits["test"]], level)
    kept, labels = label_paths(chosen, classes, level)
    if len(kept) < len(chosen):
        beside = sorted(set(chosen) - set(kept))
        report(f"{name}: {len(beside)} images beside the class folders are left out", beside)
    return open_source(
        FileSource(folder, kept),
        labels,
        tuple(map(printable, classes)),
        name,
        image_size=image_size or native_size(FileSource(folder, paths)),
        fit=fit,
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
        return open_image(os.path.join(self._folder, os.fsdecode(self._paths[index])))

    def name(self, index: int) -> str:
        return os.fsdecode(self._paths[index])

    def take(self, indices: Tensor) -> FileSource:
        return FileSource(self._folder, self._paths[indices.numpy()])

    def contents(self) -> tuple[str, str]:
        places = (os.path.join(self._folder, self.name(n)) for n in range(len(self)))
        sizes, times = self.hash_files(places)
        return digest(self._paths.tobytes(), sizes), times


def find_images(folder: Path) -> list[str]:
    """Paths of all images below a folder, relative to it, with forward slashes, sorted.

    An image that is met more than once, by links, counts once.

    Raises:
        UserError: there is no such folder, or no image in it.
    """
    paths, links = find_files(folder)
    return sorted(_without_repeats(paths, links, folder, str(folder)))


def find_files(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Such paths, and where those that lead through a link really are."""
    kind = kind_of(folder)
    if not kind:
        raise UserError(f"there is no folder {folder}; give a folder of images")
    if kind != "folder":
        raise UserError(f"{folder} is a file; give a folder of images")
    links: dict[str, str] = {}
    paths = sorted(walk_images(folder, links))
    if not paths:
        raise UserError(
            f"no images in {folder}; give a folder with {', '.join(EXTENSIONS)} files, "
            "flat or in one subfolder a class"
        )
    return paths, links


def walk_images(folder: Path, links: dict[str, str] | None = None) -> Iterator[str]:
    """Paths of images one by one, in no order; ``links`` gets the real places of some.

    A folder is entered once as itself and once by a link, so that rings of links end and no
    folder that a link names is missed. Training folders come first.
    """
    closed: list[str] = []
    linked: set[str] = set()  # real places of folders that were entered by a link
    waiting = [("", os.path.realpath(folder), False)]
    while waiting:
        prefix, real, by_link = waiting.pop()
        try:
            with os.scandir(os.path.join(folder, prefix)) as found:
                entries = sorted(found, key=lambda one: (_is_train(one.name), one.name))
        except OSError as error:
            if not prefix:
                raise unreadable(folder) from None
            closed.append(str(error.filename))
            continue
        for entry in entries:
            if not _is_visible(entry.name):
                continue
            is_link = entry.is_symlink()
            if _is_folder(entry):
                place = os.path.realpath(entry.path) if is_link else os.path.join(real, entry.name)
                if (by_link or is_link) and place in linked:
                    continue
                if by_link or is_link:
                    linked.add(place)
                waiting.append((f"{prefix}{entry.name}/", place, by_link or is_link))
            elif entry.name.lower().endswith(EXTENSIONS):
                path = prefix + entry.name
                if links is not None and (by_link or is_link):
                    links[path] = os.path.realpath(entry.path)
                yield path
    if closed:
        report(f"{folder}: {len(closed)} folders cannot be opened and are left out", closed)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _without_repeats(
    paths: Sequence[str], links: dict[str, str], folder: Path, name: str
) -> list[str]:
    """The paths without those that lead, by a link, to an image that an earlier one leads to.

    A path without links goes before all that have some.
    """
    if not links:
        return list(paths)
    top, seen, kept, repeated = os.path.realpath(folder), set(), set(), []
    for path in sorted(paths, key=links.__contains__):
        real = links.get(path) or os.path.join(top, path)
        if real in seen:
            repeated.append(path)
        else:
            seen.add(real)
            kept.add(path)
    if repeated:
        report(f"{name}: {len(repeated)} links to images that are there are left out", repeated)
    return [path for path in paths if path in kept]


@dataclass(frozen=True)
class Layout:
    """How the images of a folder are sorted into splits and classes.

    Attributes:
        train: paths for training; all of them where folders name no splits, none where all
            are test splits.
        test: paths of the test split; none where it has to be held out of ``train``.
        left_out: paths that belong to neither.
        class_level: which folder of a path names its class, 0 the first.
        taken_as_class: whether a folder of a split's name is a class among others.
    """

    train: list[str]
    test: list[str]
    left_out: list[str]
    class_level: int
    taken_as_class: bool = False


def find_layout(paths: Sequence[str]) -> Layout:
    """The layout of a folder, from the paths of its images."""
    tops = {_folder_of(path, 0) for path in paths}
    if _are_splits(tops):
        return _by_split(paths, level=0, class_level=1)
    if len(tops) == 1 and _are_splits({_folder_of(path, 1) for path in paths}):
        return _by_split(paths, level=1, class_level=2)
    inner = {_split_of(_folder_of(path, 1)) for path in paths}
    if len(tops) > 1 and "train" in inner and len(inner) > 1 and None not in inner:
        return _by_split(paths, level=1, class_level=0)
    named = {top: _split_of(top) for top in tops if top}
    if len(named) > 1 and None not in named.values() and "train" not in named.values():
        return Layout([], list(paths), [], 1)
    taken = len(named) > 1 and "train" in named.values()
    return Layout(list(paths), [], [], 0, taken)


def _by_split(paths: Sequence[str], level: int, class_level: int) -> Layout:
    """The layout whose splits are told by the folders of a level."""
    splits: dict[str | None, list[str]] = {}
    for path in paths:
        splits.setdefault(_split_of(_folder_of(path, level)), []).append(path)
    tests = next((word for word in TEST_FOLDERS if word in splits), "")
    left_out = [path for word in splits.keys() - {"train", tests} for path in splits[word]]
    return Layout(splits["train"], splits.get(tests, []), sorted(left_out), class_level)


def _are_splits(names: set[str]) -> bool:
    """Whether folders of one level are splits: one for training, and either one for testing or
    no other folder at all."""
    splits = {_split_of(name) for name in names if name}
    return "train" in splits and (len(splits - {None}) > 1 or None not in splits)


def _split_of(name: str) -> str | None:
    """ "train", or one of `TEST_FOLDERS`, that the name of a folder means; None for other names."""
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word]
    telling = [word for word in words if word not in BESIDE_A_SPLIT]
    if len(telling) != 1:
        return None
    if telling[0] in TRAIN_FOLDERS:
        return "train"
    return telling[0] if telling[0] in TEST_FOLDERS else None


def _is_train(name: str) -> bool:
    return _split_of(name) == "train"


def _folder_of(path: str, level: int) -> str:
    """The folder at a level of a path, 0 the first; empty if the file lies above it."""
    parts = path.split("/")
    return parts[level] if len(parts) > level + 1 else ""


def split_paths(
    layout: Layout, links: dict[str, str], folder: Path, name: str
) -> dict[str, list[str]]:
    """The paths of each split, by the layout, else by holding out a tenth; each image once.

    What is left out, or could have been meant otherwise, is told on stderr.

    Raises:
        UserError: the folders are called like test splits, and none like a training split.
    """
    if not layout.train:
        names = " and ".join(sorted({_folder_of(path, 0) for path in layout.test}))
        raise UserError(
            f"{folder} has {names}, but no folder for training: call one of them train, or give "
            "one of them alone"
        )
    tell_layout(layout, name)
    once = _without_repeats([*layout.train, *layout.test], links, folder, name)
    if not layout.test:
        return hold_out(once)
    test = set(layout.test)
    return {
        "train": [path for path in once if path not in test],
        "test": [path for path in once if path in test],
    }


def tell_layout(layout: Layout, name: str) -> None:
    """Tell on stderr what a layout leaves out, and what could have been meant otherwise."""
    if layout.left_out:
        count = len(layout.left_out)
        report(f"{name}: {count} images beside train and test are left out", layout.left_out)
    if layout.taken_as_class:
        report(
            f"{name}: the folders beside train are no test split, so train is taken for a class; "
            "the classes are",
            class_names(layout.train, layout.class_level),
        )


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
    names = sorted({name for path in paths if (name := _folder_of(path, level))})
    return tuple(names) if len(names) > 1 else ()


def label_paths(
    paths: Sequence[str], classes: Sequence[str], level: int
) -> tuple[list[str], Int[Tensor, " N"]]:
    """The paths that lie in a class folder and their labels; all paths and -1 if none does."""
    index = {name: label for label, name in enumerate(classes)}
    labels = [index.get(_folder_of(path, level), -1) for path in paths]
    if all(label == -1 for label in labels):
        return list(paths), torch.tensor(labels)
    kept = [path for path, label in zip(paths, labels, strict=True) if label >= 0]
    return kept, torch.tensor([label for label in labels if label >= 0])
