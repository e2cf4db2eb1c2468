"""Public data sets through torchvision, which downloads them with progress and checks their sums.

torchvision is used to fetch and to read the annotations; the images are decoded like those of
any folder, so orientation, canvas and unreadable files are treated alike everywhere.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dino_tutorial.datasets.base import ArrayDataset, ImageDataset
from dino_tutorial.datasets.decode import ArraySource, native_size, open_source, seeded_subset
from dino_tutorial.datasets.folder import FileSource, open_folder
from dino_tutorial.errors import UserError
from dino_tutorial.files import user_path

TORCHVISION_SETS = {
    "cifar10": "CIFAR-10: 50,000 + 10,000 photos of 32 px, 10 classes (163 MiB download)",
    "cifar100": "CIFAR-100: 50,000 + 10,000 photos of 32 px, 100 classes (161 MiB)",
    "stl10": "STL-10: 5,000 + 8,000 photos of 96 px, 10 classes (2.5 GiB)",
    "stl10-unlabeled": "STL-10: trains on its 100,000 unlabelled photos of 96 px (2.5 GiB)",
    "imagenette": "Imagenette: 9,469 + 3,925 photos, 10 ImageNet classes, 160 px (94 MiB)",
    "pets": "Oxford-IIIT Pet: 3,680 + 3,669 photos of 37 breeds (774 MiB)",
    "flowers102": "Flowers102: 1,020 + 6,149 photos of 102 species (329 MiB)",
    "eurosat": "EuroSAT: 27,000 satellite images of 64 px, 10 land uses, a tenth held out (90 MiB)",
    "imagenet": "ImageNet-1k: your own copy with train/<class>/ and val/<class>/, no download",
}
# What has to lie in the set's folder when there is no network, as torchvision lays it out.
LAYOUT = {
    "cifar10": "cifar-10-python.tar.gz as cifar-10-batches-py/",
    "cifar100": "cifar-100-python.tar.gz as cifar-100-python/",
    "stl10": "stl10_binary.tar.gz as stl10_binary/",
    "imagenette": "imagenette2-160.tgz (or -320, or the full one) as imagenette2-160/",
    "pets": "images.tar.gz and annotations.tar.gz in oxford-iiit-pet/",
    "flowers102": "102flowers.tgz, imagelabels.mat and setid.mat in flowers-102/",
    "eurosat": "EuroSAT.zip in eurosat/ as eurosat/2750/",
}
TIMEOUT = 30.0  # seconds without an answer before a download counts as failed
IMAGENETTE_SIZE = 160


def default_root() -> Path:
    """Where data sets are kept: $DINO_TUTORIAL_DATA, else .cache/dino_tutorial in the home."""
    chosen = os.environ.get("DINO_TUTORIAL_DATA")
    return user_path(chosen or "~/.cache/dino_tutorial")


def open_torchvision(
    name: str,
    split: str = "train",
    *,
    image_size: int | None = None,
    fit: str = "center",
    root: str | os.PathLike | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> ImageDataset:
    """One of `TORCHVISION_SETS`, downloaded on first use.

    The official splits are used (validation serves as test for Imagenette and ImageNet, trainval
    trains for the pets). EuroSAT has none: a tenth is held out by hash of the file name, as for
    folders. `stl10-unlabeled` trains on the unlabelled images and tests on the labelled test split.

    A set is looked for in `root/NAME` and then in `root` itself, in torchvision's layout. A
    download goes to a temporary folder beside it and is renamed when it is complete and checked,
    so one that was interrupted is never taken for whole.

    Args:
        name: key of `TORCHVISION_SETS`.
        split: "train" or "test".
        image_size: S, the side of the canvas in pixels; None takes the size of the images (32, 64
            or 96), 160 for Imagenette, 256 for photos of mixed sizes. Imagenette comes in versions
            of 160 px, 320 px and full size; the smallest that covers S is used.
        fit: "center" or "whole", as in `open_folder`; the sets of small squares are as they are.
        root: folder of data sets; None takes `default_root()`. ImageNet has to be there already.
        limit: keep at most this many images, a sample seeded with `seed`.
        seed: of that sample.

    Raises:
        UserError: the set is not there and cannot be downloaded; the sentence says why.
    """
    root = default_root() if root is None else user_path(root)
    if name == "imagenet":
        return _open_imagenet(root, split, image_size=image_size, fit=fit, limit=limit, seed=seed)
    if name == "imagenette":
        image_size = image_size or IMAGENETTE_SIZE
    try:
        data, folder = _obtain(name, split, image_size, root)
    except ImportError as error:  # SciPy, which Flowers102's annotations need
        raise UserError(f"{name} needs a package that is missing: {error}") from error
    options: dict[str, Any] = {"fit": fit, "limit": limit, "seed": seed}
    if name == "imagenette":
        dataset = open_folder(data._size_root, split, image_size=image_size, name=name, **options)
        dataset.classes = tuple(synonyms[0] for synonyms in data.classes)
        return dataset
    if name == "eurosat":
        return open_folder(
            folder / "eurosat" / "2750", split, image_size=image_size, name=name, **options
        )
    if name in ("pets", "flowers102"):
        paths = data._images if name == "pets" else data._image_files
        relative = [path.relative_to(folder).as_posix() for path in paths]
        source = FileSource(folder, relative)
        size = image_size or native_size(source)
        labels = torch.tensor(data._labels)
        return open_source(source, labels, data.classes, name, image_size=size, **options)
    return _from_arrays(name, data, image_size, limit, seed)


def _obtain(name: str, split: str, image_size: int | None, root: Path) -> tuple[Any, Path]:
    """torchvision's data set and the folder it lies in, downloaded if need be."""
    folder = root / _folder_name(name, image_size)
    problem = ""
    for place in (folder, root):
        try:
            return _torchvision(name, place, split, image_size, download=False), place
        except (RuntimeError, OSError) as error:
            problem = problem or str(error)
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(
            f"{folder} is there but not a complete copy of {name} ({_one_line(problem)}); "
            "complete it, or remove it to download the set again"
        )
    try:
        _download(name, split, image_size, folder)
        return _torchvision(name, folder, split, image_size, download=False), folder
    except (RuntimeError, OSError, EOFError, shutil.ReadError) as error:
        reason = _one_line(str(getattr(error, "reason", error)) or type(error).__name__)
        raise UserError(
            f"{name} is not in {root} and cannot be downloaded ({reason}); connect to the "
            f"internet, or unpack {LAYOUT[_base_name(name)]} in {folder}"
        ) from error


def _torchvision(name: str, folder: Path, split: str, size: int | None, download: bool) -> Any:
    """torchvision's own object; RuntimeError or OSError if it is not there."""
    from torchvision import datasets as sets  # takes seconds

    train = split == "train"
    match name:
        case "cifar10":
            return sets.CIFAR10(folder, train=train, download=download)
        case "cifar100":
            return sets.CIFAR100(folder, train=train, download=download)
        case "stl10":
            return sets.STL10(folder, split=split, download=download)
        case "stl10-unlabeled":
            return sets.STL10(folder, split="unlabeled" if train else "test", download=download)
        case "imagenette":
            version = _imagenette_version(size)
            part = "train" if train else "val"
            return sets.Imagenette(folder, split=part, size=version, download=download)
        case "pets":
            part = "trainval" if train else "test"
            return sets.OxfordIIITPet(folder, split=part, download=download)
        case "flowers102":
            return sets.Flowers102(folder, split=split, download=download)
        case "eurosat":
            return sets.EuroSAT(folder, download=download)
    raise ValueError(f"no torchvision set is called {name!r}")


def _imagenette_version(size: int | None) -> str:
    size = size or IMAGENETTE_SIZE
    return "160px" if size <= 160 else "320px" if size <= 320 else "full"


def _base_name(name: str) -> str:
    return "stl10" if name == "stl10-unlabeled" else name


def _folder_name(name: str, size: int | None) -> str:
    return f"{name}-{_imagenette_version(size)}" if name == "imagenette" else _base_name(name)


def _download(name: str, split: str, size: int | None, folder: Path) -> None:
    """Fetch a set into a temporary folder and rename it to `folder` once it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.partial-", dir=folder.parent))
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        _torchvision(name, partial, split, size, download=True)
        partial.chmod(0o755)  # as made by mkdtemp, nobody else could read it
        if not (folder.is_dir() and any(folder.iterdir())):  # unless another process was faster
            partial.rename(folder)
    finally:
        socket.setdefaulttimeout(patience)
        shutil.rmtree(partial, ignore_errors=True)


def _one_line(text: str) -> str:
    return text.splitlines()[0].rstrip(".") if text else ""


def _from_arrays(
    name: str, data: Any, image_size: int | None, limit: int | None, seed: int
) -> ImageDataset:
    """CIFAR and STL-10, which torchvision holds as arrays (N, H, W, 3) and (N, 3, H, W)."""
    labels = torch.as_tensor(np.asarray(data.labels if name.startswith("stl") else data.targets))
    pixels = data.data.transpose(0, 2, 3, 1) if name.startswith("stl") else data.data
    labels = labels.to(torch.int64)
    classes = tuple(data.classes) if (labels >= 0).any() else ()
    if image_size not in (None, pixels.shape[1]):
        source = ArraySource(pixels)
        return open_source(
            source, labels, classes, name, image_size=image_size, limit=limit, seed=seed
        )
    chosen = seeded_subset(len(labels), limit, seed)
    if chosen is not None:
        pixels, labels = pixels[chosen.numpy()], labels[chosen]
    return ArrayDataset(torch.from_numpy(pixels.transpose(0, 3, 1, 2)), labels, classes, name)


def _open_imagenet(root: Path, split: str, **options: Any) -> ImageDataset:
    for folder in (root / "imagenet", root):
        if (folder / "train").is_dir() and (folder / "val").is_dir():
            return open_folder(folder, split, name="imagenet", **options)
    raise UserError(
        f"imagenet cannot be downloaded for you and is not in {root}: name the folder that has "
        "train/<class>/ and val/<class>/ as the root (torchvision.datasets.ImageNet unpacks the "
        "official archives so)"
    )
