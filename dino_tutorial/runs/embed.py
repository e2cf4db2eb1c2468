"""`dino-tutorial embed`: the features of every image of a folder, with its name, as one file."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from dino_tutorial.datasets import LARGEST_CANVAS
from dino_tutorial.datasets.every import NamedImages, open_every
from dino_tutorial.errors import UserError
from dino_tutorial.evaluation import normalize
from dino_tutorial.evaluation.parts import store_parts
from dino_tutorial.evaluation.patches import patch_size_of
from dino_tutorial.files import kind_of, make_folder, user_path
from dino_tutorial.files.locks import locked
from dino_tutorial.models import VisionTransformer
from dino_tutorial.options import check_whole
from dino_tutorial.parallel import process_group
from dino_tutorial.runs.encoders import OpenedEncoder
from dino_tutorial.runs.environment import choose_device
from dino_tutorial.runs.feature_files import FORMATS, StoredFeatures, check_parquet, write_features

ARRAYS = ("features", "patches")
ROWS = 256  # images in a part, and at once: what an interruption can cost

Features = Callable[[Tensor], dict[str, Tensor]]  # uint8 (B, 3, S, S) to what is stored of them


def embed(
    opened: OpenedEncoder,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    patches: bool = False,
    image_size: int | None = None,
    device: str = "auto",
    rows: int = ROWS,
) -> str | None:
    """Write the features of all images, one row each; go on where an earlier call stopped.

    What is done lies in the folder ``OUT.parts`` until the file is written. Images that cannot be
    read are named on stderr and have no row.

    Args:
        opened: see :func:`~dino_tutorial.runs.encoders.open_encoder`.
        data: a folder, all of whose images are taken, or the name of a data set, whose two splits
            are. Images become squares as for :func:`dino_tutorial.evaluate`.
        out: the file to write: ``.npz``, ``.parquet`` or ``.csv``.
        patches: store the patch tokens too (N, P, D), in float16, which takes an ``.npz``.
        image_size: side of the square that the encoder sees; None is the encoder's own.
        device: auto, cpu, cuda or mps.
        rows: images in a part, which are described at once.

    Returns:
        A sentence about the file; None in all processes but the first when torchrun started
        several.

    Raises:
        UserError: for anything that the caller can mend.
    """
    path = _check_out(user_path(out), patches)
    size = opened.image_size if image_size is None else image_size
    check_whole("image_size", size, 1, LARGEST_CANVAS, "pixels")
    if patches:
        patch_size_of(opened.encoder)
    torch_device = choose_device(device)
    with process_group(torch_device.type) as processes:
        torch_device = choose_device(device, processes.local_rank)
        features = features_of(opened.encoder.to(torch_device).eval(), torch_device, patches)
        names = list(features(torch.zeros(1, 3, size, size, dtype=torch.uint8)))  # fits the size
        images = open_every(data, size)
        with _folder_of_parts(path, processes.is_main) as parts:
            arrays = store_parts(
                len(images.paths),
                names,
                lambda indices: describe(images, features, indices),
                parts,
                {"weights": opened.digest, "image_size": size, "patches": patches}
                | images.fingerprint(),
                rows=rows,
                batch_size=rows,
                processes=processes,
            )
            if not processes.is_main:
                return None
            notes = {"encoder": Path(opened.name).name, "weights": opened.digest}
            stored = StoredFeatures(
                images.paths,
                images.labels.numpy(),
                images.classes,
                arrays,
                notes | {"image_size": size},
            )
            readable = stored.readable()
            if readable.any():
                write_features(path, stored, readable)
            told = _told(path, stored, int(readable.sum()))
            _clear(parts)
    if not readable.any():
        raise UserError(
            f"{images.name}: none of the {len(readable)} image files can be read: give images that "
            f"an image viewer can open"
        )
    return told


def _check_out(path: Path, patches: bool) -> Path:
    if path.suffix not in FORMATS:
        raise UserError(f"{path} has to end in {', '.join(FORMATS)}: give --out such a name")
    if patches and path.suffix != ".npz":
        raise UserError(f"{path} has no room for patches: let --out end in .npz, or leave them out")
    if kind_of(path.parent) != "folder":
        raise UserError(f"there is no folder {path.parent}: make it first")
    if kind_of(path) == "folder":
        raise UserError(f"{path} is a folder: name a file with --out")
    if path.suffix == ".parquet":
        check_parquet()
    return path


@contextlib.contextmanager
def _folder_of_parts(path: Path, is_main: bool) -> Iterator[Path]:
    """Where what is done lies until the file is whole; nothing is left where nothing was done."""
    parts = path.with_name(f"{path.name}.parts")
    if not is_main:
        yield parts
        return
    make_folder(parts)
    try:
        with locked(parts, "wait for its end, or take another --out"):
            try:
                yield parts
            except BaseException:
                if not any(parts.rglob("*.npy")):
                    _clear(parts)
                raise
    finally:
        with contextlib.suppress(OSError):  # somebody else's files stay
            parts.rmdir()


def _clear(parts: Path) -> None:
    """Remove what was written there, and nothing else."""
    for name in ARRAYS:
        shutil.rmtree(parts / name, ignore_errors=True)
    with contextlib.suppress(OSError):
        (parts / "identity.json").unlink()


def features_of(encoder: nn.Module, device: torch.device, patches: bool = False) -> Features:
    """A function from pixels, uint8 (B, 3, S, S), to ``features`` (B, D) float32 and, if asked
    for, ``patches`` (B, P, D) float16, on the CPU."""

    @torch.no_grad()
    def features(pixels: Tensor) -> dict[str, Tensor]:
        images = normalize(pixels.to(device, non_blocking=True))
        if not patches:
            return {"features": encoder(images).float().cpu()}
        found = cast(VisionTransformer, encoder).forward_features(images)
        return {"features": found.cls.float().cpu(), "patches": found.patches.half().cpu()}

    return features


def describe(images: NamedImages, features: Features, indices: Tensor) -> dict[str, Tensor]:
    """What is stored of the images at ``indices``; NaN where one cannot be read.

    Raises:
        UserError: the encoder gives no numbers.
    """
    pixels, readable = images.read(indices)
    found = features(pixels)
    if not found["features"].isfinite().all():
        raise UserError(
            "the features hold NaN or infinity, for the encoder that makes them has diverged: name "
            "another one"
        )
    for values in found.values():
        values[~readable] = torch.nan
    return found


def _told(path: Path, stored: StoredFeatures, written: int) -> str:
    width = stored.arrays["features"].width
    parts = [f"{written:,} images", f"features of {width} numbers"]
    if "patches" in stored.arrays:
        parts.append(f"{stored.arrays['patches'].width:,} patches of each in float16")
    if stored.classes:
        parts.append(f"{len(stored.classes)} classes")
    if left_out := len(stored.files) - written:
        parts.append(f"{left_out:,} that cannot be read are left out")
    return f"{path}: {', '.join(parts)}"
