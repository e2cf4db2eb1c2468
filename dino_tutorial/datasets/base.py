"""What every data set of the package looks like: square uint8 pictures and integer labels.

The rest of the package asks for nothing more than this. Pictures come in batches, because both
the renderer and the augmentation work on batches; a `DataLoader` gets them through
`__getitems__` with `collate_fn=identity`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from dino_tutorial.errors import UserError

T = TypeVar("T")


def identity(batch: T) -> T:
    """The collate function for data sets that already return whole batches."""
    return batch


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Pictures on a square canvas of S pixels, with a class label each.

    Attributes:
        name: a short name, used in reports.
        classes: names of the classes; empty when the pictures have no labels.
        labels: (N,) int64; -1 where a picture has no label.
        image_size: S, the side of the canvas in pixels.
        in_memory: True if `images` only copies from memory, so that loading needs no workers.

    A subclass sets these and defines `images`.
    """

    name: str
    classes: tuple[str, ...]
    labels: Int[Tensor, " N"]
    image_size: int
    in_memory: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Int[Tensor, " n"] | None = None) -> UInt8[Tensor, "n 3 S S"]:
        """The pictures at `indices` (all of them if None), uint8 (n, 3, S, S)."""
        raise NotImplementedError

    def __getitems__(
        self, indices: Sequence[int]
    ) -> tuple[UInt8[Tensor, "n 3 S S"], Int[Tensor, " n"]]:
        """A batch for `DataLoader`: pictures uint8 (n, 3, S, S) and labels int64 (n,)."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        return self.images(chosen), self.labels[chosen]

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "3 S S"], int]:
        """One picture, uint8 (3, S, S), and its label."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is outside a data set of {len(self)} pictures")
        images, labels = self.__getitems__([index % len(self)])
        return images[0], int(labels[0])


class ArrayDataset(ImageDataset):
    """Pictures that are already in memory.

    Args:
        images: uint8 (N, 3, S, S).
        labels: int64 (N,), -1 for unlabelled; None labels nothing.
        classes: names of the classes, indexed by label.
        name: a short name, used in reports.

    Raises:
        UserError: the shapes or the type do not fit together.
    """

    in_memory = True

    def __init__(
        self,
        images: UInt8[Tensor, "N 3 S S"],
        labels: Int[Tensor, " N"] | None = None,
        classes: Sequence[str] = (),
        name: str = "array",
    ) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise UserError(
                f"{name}: pictures must be uint8 of shape (N, 3, S, S), "
                f"not {images.dtype} of shape {tuple(images.shape)}"
            )
        if images.shape[2] != images.shape[3]:
            raise UserError(f"{name}: pictures must be square, not {tuple(images.shape[2:])}")
        if labels is None:
            labels = torch.full((len(images),), -1)
        if labels.shape != (len(images),):
            raise UserError(
                f"{name}: {len(images)} pictures need {len(images)} labels, "
                f"not a tensor of shape {tuple(labels.shape)}"
            )
        self.name = name
        self.classes = tuple(classes)
        self.labels = labels.to(torch.int64)
        self.image_size = images.shape[-1]
        self._images = images

    def images(self, indices: Int[Tensor, " n"] | None = None) -> UInt8[Tensor, "n 3 S S"]:
        return self._images if indices is None else self._images[indices]
