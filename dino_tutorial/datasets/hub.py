"""Data sets of the Hugging Face hub, ``hf:OWNER/NAME``, through the library ``datasets``."""

from __future__ import annotations

import io
from importlib import import_module
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dino_tutorial.datasets.base import ImageDataset, digest
from dino_tutorial.datasets.decode import Source, native_size, open_image, open_source
from dino_tutorial.datasets.folder import hold_out
from dino_tutorial.errors import UserError
from dino_tutorial.files import describe_error

HUB = "hf:"
TESTS = ("test", "validation", "valid", "val")  # the first that is there is the test split


def open_hub(
    name: str,
    split: str = "train",
    *,
    image_size: int | None = None,
    fit: str = "center",
    limit: int | None = None,
    seed: int = 0,
) -> ImageDataset:
    """A data set of the hub, downloaded by ``datasets`` to where that library keeps its files.

    Its first column of images is taken, and its column ``label``, or else its first one of
    classes, for the labels. Without a split ``test`` or ``validation`` a tenth of ``train`` is held
    out, chosen by the number of the row.

    Args:
        name: ``hf:`` and the name on the hub.
        split: "train" or "test".
        image_size: S, the side of the canvas in pixels; None as for folders.
        fit: "center" or "whole", see :func:`dino_tutorial.datasets.open_dataset`.
        limit: keep this many images, see `seeded_subset`.
        seed: of that sample.

    Raises:
        UserError: the library is missing, the set cannot be had, or it has no images.
    """
    library = _library()
    splits = _load(library, name)
    tests = [test for test in TESTS if test in splits]
    if split == "train" or not tests:
        if "train" not in splits:
            raise UserError(f"{name} has no split train, only {', '.join(splits)}: take another")
        rows = splits["train"]
    else:
        rows = splits[tests[0]]
    if not tests:
        chosen = hold_out([str(number) for number in range(len(rows))])[split]
        rows = rows.select([int(number) for number in chosen])
    column = _column(rows, "image", "Image")
    if column is None:
        raise UserError(f"{name} has no column of images: take a data set of images")
    label = _column(rows, "label", "ClassLabel")
    classes = () if label is None else tuple(rows.features[label].names)
    labels = [-1] * len(rows) if label is None else list(rows[label])
    rows = rows.cast_column(column, library.Image(decode=False))  # decoded here, as all others are
    source = HubSource(rows, column)
    return open_source(
        source,
        torch.tensor([-1 if one is None else one for one in labels], dtype=torch.int64),
        classes,
        name.removeprefix(HUB),
        image_size=image_size or native_size(source),
        fit=fit,
        limit=limit,
        seed=seed,
    )


def _library() -> Any:
    try:
        return import_module("datasets")
    except ImportError:
        raise UserError(
            "data sets of the hub need the library datasets: pip install 'dino-tutorial[hub]'"
        ) from None


def _load(library: Any, name: str) -> Any:
    """Its splits by name."""
    try:
        return library.load_dataset(name.removeprefix(HUB))
    except Exception as error:  # of the library, the hub, the network or the disk
        raise UserError(
            f"{name} cannot be had ({describe_error(error)}): check its name on the hub, the "
            f"network and, where it is gated, that you are logged in"
        ) from None


def _column(rows: Any, preferred: str, kind: str) -> str | None:
    """The column of a kind of feature, the one of the usual name before others."""
    found = [name for name, feature in rows.features.items() if type(feature).__name__ == kind]
    return preferred if preferred in found else next(iter(found), None)


class HubSource(Source):
    """Rows with a column of encoded images."""

    def __init__(self, rows: Any, column: str) -> None:
        self._rows, self._column = rows, column

    def __len__(self) -> int:
        return len(self._rows)

    def open(self, index: int) -> Image.Image:
        content = self._rows[int(index)][self._column]
        encoded = content["bytes"]
        return open_image(io.BytesIO(encoded) if encoded is not None else content["path"])

    def name(self, index: int) -> str:
        return f"row {index}"

    def take(self, indices: Tensor) -> HubSource:
        return HubSource(self._rows.select(indices.tolist()), self._column)

    def contents(self) -> tuple[str, str]:
        # the library's hash of the files and of all that was done with them since
        return digest(str(self._rows._fingerprint), len(self)), ""
