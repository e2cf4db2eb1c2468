"""WebDataset shards: tar files whose members `KEY.jpg`, `KEY.cls`, `KEY.json` are one sample.

Shards are made for streaming, but a stream can shuffle only within a buffer, and its order depends
on how many workers read it. Here the tar headers are read once, and after that each image is one
seek and one read. So the training loop's order is exactly the one that it drew, for shards as for
folders, and a run that is resumed sees what it would have seen. On an object store, where seeks
are slow, use the `webdataset` package's streams instead.
"""

from __future__ import annotations

import glob
import io
import json
import os
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from dino_tutorial.datasets.base import ImageDataset, digest
from dino_tutorial.datasets.decode import Source, native_size, open_image, open_source, report
from dino_tutorial.datasets.folder import TEST_FOLDERS, TRAIN_FOLDERS, hold_out, walk_images
from dino_tutorial.errors import UserError, printable
from dino_tutorial.files import kind_of, make_folder, replacing, user_path
from dino_tutorial.options import takes, whole

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
LARGEST_LABEL = 1_000_000  # beyond this an integer is an identifier, not a class
MOST_SHARDS = 100_000  # that a pattern names
MOST_LABEL = 2**20  # bytes of a label; what is larger is none
BLOCK = 512  # bytes; tar pads everything to it


@dataclass
class Sample:
    """An image in a shard: where its bytes are, and what it shows (a class index, a name)."""

    key: str
    shard: int
    offset: int = -1
    size: int = 0
    label: int | None = None
    class_name: str | None = None


def open_shards(
    pattern: str | os.PathLike,
    split: str = "train",
    *,
    image_size: int | None = None,
    fit: str = "center",
    limit: int | None = None,
    seed: int = 0,
) -> ImageDataset:
    """Tar shards, read at random through an index of their members.

    *Splits.* If some shards have the word "train" or "training" in their path (`train/0.tar`,
    `x-train-0.tar`) and some "test" or "testing" (else "val", "valid", "validation"), these are
    the splits, and other shards are listed and left out. Otherwise the test split is held out by
    hash of the sample's key, about a tenth (see `folder.hold_out`).

    *Labels* come from `.cls` (an integer, or a class name) or `.json` (its "label" or "class"). A
    sample with both an index and a name names that class. Names alone are numbered in sorted
    order. Samples without a label get -1.

    Damaged shards are listed on stderr, and what can be read of them is used.

    Args:
        pattern: a `.tar` file, a folder of them, or a pattern such as `shards-{000..003}.tar` or
            `shards-*.tar`.
        split: "train" or "test".
        image_size: S, the side of the canvas in pixels; None decides as `open_folder` does.
        fit: "center" or "whole", as there.
        limit: keep at most this many images, a sample seeded with `seed`.
        seed: of that sample.

    Raises:
        UserError: there is no such shard, or no readable image in this split.
    """
    pattern = os.fspath(user_path(pattern))
    name = printable(Path(pattern).resolve().name.removesuffix(".tar"))
    paths = find_shards(pattern)
    by_split = shards_by_split(paths)
    if by_split is not None:
        others = [path for path in paths if path not in by_split["train"] | by_split["test"]]
        if others:
            report(f"{name}: {len(others)} shards beside train and test are left out", others)
    samples = index_shards(paths, name)
    if not samples:
        raise UserError(
            f"{pattern}: no {', '.join(IMAGE_EXTENSIONS)} image in its shards: "
            "give .tar files of images, whole ones"
        )
    classes, labels = label_samples(samples, pattern)
    if by_split is None:
        keys = set(hold_out([sample.key for sample in samples])[split])
        chosen = [n for n, sample in enumerate(samples) if sample.key in keys]
    else:
        chosen = [n for n, sample in enumerate(samples) if paths[sample.shard] in by_split[split]]
    if not chosen:
        raise UserError(f"{pattern} has no image for the {split} split; add shards")
    source = ShardSource(paths, samples)
    return open_source(
        source.take(torch.tensor(chosen)),
        labels[chosen],
        tuple(map(printable, classes)),
        name,
        image_size=image_size or native_size(source),
        fit=fit,
        limit=limit,
        seed=seed,
    )


class ShardSource(Source):
    """Images inside tar files, by shard, offset and size."""

    def __init__(self, paths: Sequence[str], samples: Sequence[Sample]) -> None:
        self._paths = list(paths)
        # Arrays, not lists of objects, for the reason given in `FileSource`.
        self._keys = np.array([os.fsencode(sample.key) for sample in samples], dtype=np.bytes_)
        self._place = np.array([(s.shard, s.offset, s.size) for s in samples], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._keys)

    def open(self, index: int) -> Image.Image:
        shard, offset, size = self._place[index].tolist()
        with open(self._paths[shard], "rb") as file:
            file.seek(offset)
            return open_image(io.BytesIO(file.read(size)))

    def name(self, index: int) -> str:
        shard = self._paths[self._place[index, 0]]
        return f"{os.path.basename(shard)}:{os.fsdecode(self._keys[index])}"

    def contents(self) -> tuple[str, str]:
        sizes, times = self.hash_files(self._paths)
        return digest(self._keys.tobytes(), self._place.tobytes(), sizes), times

    def take(self, indices: Tensor) -> ShardSource:
        part = ShardSource(self._paths, [])
        part._keys, part._place = self._keys[indices.numpy()], self._place[indices.numpy()]
        return part


def is_shards(name: str) -> bool:
    """Whether a name means shards: a `.tar` file or pattern, or a folder that has tar files and
    no image."""
    path = user_path(name) if name else Path()
    if not name or kind_of(path) != "folder":
        return name.endswith(".tar")
    return next(walk_images(path), None) is None and any(path.rglob("*.tar"))


def find_shards(pattern: str) -> list[str]:
    """The existing shards that a path, folder or pattern names; missing ones are listed.

    Raises:
        UserError: there is none.
    """
    if os.path.isdir(pattern):
        paths = sorted(str(path) for path in Path(pattern).rglob("*.tar"))
    elif os.path.isfile(pattern):
        paths = [pattern]
    else:
        paths = []
        for path in expand_braces(pattern):
            paths += sorted(glob.glob(path)) if glob.has_magic(path) else [path]
    existing = [path for path in paths if os.path.isfile(path)]
    if not existing:
        raise UserError(f"there is no shard {pattern}; give a .tar file, a folder or a pattern")
    if len(existing) < len(paths):
        missing = sorted(set(paths) - set(existing))
        report(f"{pattern}: {len(missing)} of {len(paths)} shards are missing", missing)
    return existing


def expand_braces(pattern: str) -> list[str]:
    """`a{00..02}` becomes a00, a01, a02 and `{x,y}` becomes x, y, as in a shell."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    inside = match.group(1)
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    if numbers:
        first, last = numbers.groups()
        width = len(first) if first.startswith("0") else 0
        if len(last) > 9 or int(last) - int(first) >= MOST_SHARDS:
            raise UserError(
                f"{pattern[:80]} names more than {MOST_SHARDS:,} shards: give a folder or a "
                f"pattern with *"
            )
        choices = [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]
    else:
        choices = inside.split(",")
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [path for choice in choices for path in expand_braces(before + choice + after)]


def shards_by_split(paths: Sequence[str]) -> dict[str, set[str]] | None:
    """Shards whose paths say which split they are; None if they do not say both."""
    parent = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    words = {
        path: set(re.split(r"[^a-z]+", os.path.relpath(os.path.abspath(path), parent).lower()))
        for path in paths
    }
    train = {path for path in paths if words[path] & set(TRAIN_FOLDERS)}
    for word in TEST_FOLDERS:
        test = {path for path in paths if word in words[path]}
        if train and test:
            return {"train": train - test, "test": test}
    return None


def index_shards(paths: Sequence[str], name: str) -> list[Sample]:
    """All samples with an image, in the order of the shards; damaged shards are listed."""
    samples: list[Sample] = []
    damaged: list[str] = []
    bar = tqdm(paths, desc=f"index {name}", unit=" shards", leave=False, delay=1, disable=None)
    for shard, path in enumerate(bar):
        found, problem = scan_shard(path, shard)
        samples += found
        if problem:
            damaged.append(f"{os.path.basename(path)} ({problem}; {len(found)} images found)")
    if damaged:
        report(f"{name}: {len(damaged)} of {len(paths)} shards are damaged", damaged)
    return samples


def scan_shard(path: str, shard: int) -> tuple[list[Sample], str | None]:
    """Read the headers and labels of one shard: its samples, and what is wrong with it if anything.

    Members with one key (the path up to the first dot of the file name) are one sample.
    """
    samples: dict[str, Sample] = {}
    end = 0
    problem = None
    try:
        length = os.path.getsize(path)
        with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.offset_data + member.size > length:
                    problem = "it ends in the middle of a file"
                    break
                end = member.offset_data + -(-member.size // BLOCK) * BLOCK
                if member.isreg() and not member.issparse():
                    _add_member(samples, member, file, shard)
            file.seek(end)
            if problem is None and file.read(BLOCK) != bytes(BLOCK):
                problem = "it is cut short or has a broken header"
    except (tarfile.TarError, OSError, EOFError) as error:
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        if end == 0:
            problem = "not an uncompressed tar file"
    return [sample for sample in samples.values() if sample.size], problem


def _add_member(
    samples: dict[str, Sample], member: tarfile.TarInfo, file: io.BufferedReader, shard: int
) -> None:
    folder, slash, base = member.name.rpartition("/")
    stem, _, extension = base.partition(".")
    extension = extension.lower()
    if not stem or extension not in (*IMAGE_EXTENSIONS, "cls", "json"):
        return
    key = folder + slash + stem
    sample = samples.setdefault(key, Sample(key, shard))
    if extension in IMAGE_EXTENSIONS:
        sample.offset, sample.size = member.offset_data, member.size
        return
    if member.size > MOST_LABEL:
        return
    file.seek(member.offset_data)
    for value in _label_values(file.read(member.size), extension):
        if isinstance(value, int) and not isinstance(value, bool):
            sample.label = value
        elif isinstance(value, str):
            sample.class_name = value


def _label_values(content: bytes, extension: str) -> list[object]:
    """What a `.cls` or `.json` member says: integers are indices, other text is a name."""
    try:
        text = content.decode("utf-8").strip()
        if extension == "cls":
            return [int(text) if re.fullmatch(r"-?\d+", text) else text]
        values = json.loads(text)
    except (ValueError, RecursionError):  # not text, or not JSON: no label
        return []
    return [values.get("label"), values.get("class")] if isinstance(values, dict) else []


def label_samples(
    samples: Sequence[Sample], where: str
) -> tuple[tuple[str, ...], Int[Tensor, " N"]]:
    """Class names and labels (N,) of all samples.

    Raises:
        UserError: an index is too large to be one.
    """
    highest = max((sample.label for sample in samples if sample.label is not None), default=-1)
    if highest > LARGEST_LABEL:
        raise UserError(f"{where}: label {highest} is no class index; number the classes from 0")
    if highest >= 0:
        names = {s.label: s.class_name for s in samples if s.label is not None and s.class_name}
        classes = tuple(names.get(label, str(label)) for label in range(highest + 1))
        labels = [-1 if sample.label is None else max(sample.label, -1) for sample in samples]
        return classes, torch.tensor(labels)
    classes = tuple(sorted({sample.class_name for sample in samples if sample.class_name}))
    index = {name: label for label, name in enumerate(classes)}
    return classes, torch.tensor([index.get(sample.class_name, -1) for sample in samples])


@takes(per_shard=whole())
def write_shards(
    dataset: ImageDataset, folder: str | os.PathLike, per_shard: int = 1000
) -> list[Path]:
    """Write a data set as shards `shard-000000.tar`, … that WebDataset readers understand.

    Each sample is `KEY.png` (lossless, so reading gives the same pixels back) and, if it has a
    label, `KEY.cls` with its index and `KEY.json` with `{"label": index, "class": name}`. The same
    data set gives the same bytes. To keep the splits, write them to `FOLDER/train` and
    `FOLDER/test`.

    Args:
        dataset: any data set of the package.
        folder: made if need be; must hold no shard yet.
        per_shard: samples in a shard.

    Returns:
        the paths of the shards.

    Raises:
        UserError: the folder has shards already, or `per_shard` is not positive.
    """
    folder = user_path(folder)
    if folder.is_dir() and any(folder.glob("*.tar")):
        raise UserError(f"{folder} has shards already; remove them or choose another folder")
    make_folder(folder)
    paths = []
    for number, start in enumerate(range(0, len(dataset), per_shard)):
        path = folder / f"shard-{number:06d}.tar"
        with (
            replacing(path) as temporary,
            tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            for index in range(start, min(start + per_shard, len(dataset))):
                _write_sample(tar, dataset, index)
        paths.append(path)
    return paths


def _write_sample(tar: tarfile.TarFile, dataset: ImageDataset, index: int) -> None:
    pixels, label = dataset[index]
    image = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(image, "PNG")
    members = {"png": image.getvalue()}
    if label >= 0:
        members["cls"] = str(label).encode()
        if label < len(dataset.classes):
            named = {"label": label, "class": dataset.classes[label]}
            members["json"] = json.dumps(named).encode()
    for extension, content in members.items():
        header = tarfile.TarInfo(f"{index:08d}.{extension}")
        header.size = len(content)
        tar.addfile(header, io.BytesIO(content))
