"""What every data set of the package looks like: uint8 images on a square canvas and labels.

The rest of the package asks for nothing more than this. Images come in batches, because both
the renderer and the augmentation work on batches; a `DataLoader` gets them through
`__getitems__` with `collate_fn=identity`.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, TypeVar

import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from dino_tutorial.errors import UserError
from dino_tutorial.options.arguments import as_tensor, shown

T = TypeVar("T")


def digest(*parts: object) -> str:
    """A hash of bytes, and of anything else by its text."""
    total = blake2b(digest_size=16)
    for part in parts:
        piece = part if isinstance(part, bytes) else repr(part).encode("utf-8", "backslashreplace")
        total.update(len(piece).to_bytes(8, "big") + piece)
    return total.hexdigest()


def identity(batch: T) -> T:
    """The collate function for data sets that already return whole batches."""
    return batch


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """Images on a square canvas of S pixels, with a class label each.

    Attributes:
        name: a short name, used in reports.
        classes: names of the classes; empty when the images have no labels.
        labels: (N,) int64; -1 where an image has no label.
        image_size: S, the side of the canvas in pixels.
        in_memory: True if `images` only copies from memory, so that loading needs no workers.
        padded: True if images may fill a part of their canvas only, which `placed` tells.

    A subclass sets these and defines `images`; `placed` too, if it is padded.
    """

    name: str
    classes: tuple[str, ...]
    labels: Int[Tensor, " N"]
    image_size: int
    in_memory: bool = False
    padded: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Int[Tensor, " n"] | None = None) -> UInt8[Tensor, "n 3 S S"]:
        """The images at `indices` (all of them if None), uint8 (n, 3, S, S)."""
        raise NotImplementedError

    def placed(
        self, indices: Int[Tensor, " n"] | None = None
    ) -> tuple[UInt8[Tensor, "n 3 S S"], Int[Tensor, "n 2"]]:
        """The images at `indices` (all of them if None), and how much of its canvas each fills.

        Returns:
            uint8 (n, 3, S, S), and int64 (n, 2), height and width in pixels: an image lies in the
            top left corner of its canvas, what is beyond it is black.
        """
        images = self.images(indices)
        return images, torch.full((len(images), 2), self.image_size)

    def fingerprint(self) -> dict[str, Any]:
        """What tells whether these are the images of another day; JSON values.

        Returns:
            ``images``, their number; ``contents``, a hash of what they are (for files, of their
            names and sizes) and of their labels; ``times``, a hash of when files were changed
            last, which copying them changes too, empty for what is no file.
        """
        contents, times = self._contents()
        placed = ("padded",) if self.padded else ()
        return {
            "images": len(self),
            "contents": digest(contents, self.image_size, self.labels.numpy().tobytes(), *placed),
            "times": times,
        }

    def _contents(self) -> tuple[str, str]:
        """Hashes of what the images come from, and of times; a set drawn by code has its name."""
        return self.name, ""

    def __getitems__(
        self, indices: Sequence[int]
    ) -> tuple[UInt8[Tensor, "n 3 S S"], Int[Tensor, " n"]]:
        """A batch for `DataLoader`: images uint8 (n, 3, S, S) and labels int64 (n,)."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        return self.images(chosen), self.labels[chosen]

    def __getitem__(self, index: int) -> tuple[UInt8[Tensor, "3 S S"], int]:
        """One image, uint8 (3, S, S), and its label."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is outside a data set of {len(self)} images")
        images, labels = self.__getitems__([index % len(self)])
        return images[0], int(labels[0])


def _names(classes: Sequence[str]) -> tuple[str, ...]:
    if isinstance(classes, str) or not isinstance(classes, Sequence):
        raise UserError(f"classes are a list of names, not {shown(classes)}")
    return tuple(classes)


class ArrayDataset(ImageDataset):
    """Images that are already in memory.

    Args:
        images: uint8 (N, 3, S, S), a tensor or an array.
        labels: whole numbers (N,), -1 for unlabelled; None labels nothing.
        classes: names of the classes, indexed by label.
        name: a short name, used in reports.
        origin: hashes of the files that they come from and of their times, see
            :meth:`ImageDataset.fingerprint`; None hashes the pixels.
        sizes: (N, 2) height and width of what each image fills of its canvas, from the top left
            corner on; None is all of it.

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
        origin: tuple[str, str] | None = None,
        sizes: Int[Tensor, "N 2"] | None = None,
    ) -> None:
        images = as_tensor(images)  # an array will do
        if not isinstance(images, Tensor):
            raise UserError(
                f"{name}: images must be uint8 of shape (N, 3, S, S), not {shown(images)}"
            )
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise UserError(
                f"{name}: images must be uint8 of shape (N, 3, S, S), "
                f"not {images.dtype} of shape {tuple(images.shape)}"
            )
        if images.shape[2] != images.shape[3]:
            raise UserError(f"{name}: images must be square, not {tuple(images.shape[2:])}")
        labels = torch.full((len(images),), -1) if labels is None else as_tensor(labels)
        if not isinstance(labels, Tensor) or labels.is_complex():
            raise UserError(f"{name}: labels must be whole numbers (N,), not {shown(labels)}")
        if labels.is_floating_point() and not (labels == labels.round()).all():
            raise UserError(f"{name}: labels have to be whole numbers, and some are not")
        if labels.shape != (len(images),):
            raise UserError(
                f"{name}: {len(images)} images need {len(images)} labels, "
                f"not a tensor of shape {tuple(labels.shape)}"
            )
        self.name = name
        self.classes = _names(classes)
        if len(labels) and self.classes and int(labels.max()) >= len(self.classes):
            raise UserError(
                f"{name}: a label is {int(labels.max())}, but there are {len(self.classes)} "
                "classes: name as many as there are labels"
            )
        self.labels = labels.to(torch.int64)
        self.image_size = images.shape[-1]
        self._images = images
        self._origin = origin
        self._sizes = sizes
        self.padded = sizes is not None

    def _contents(self) -> tuple[str, str]:
        return self._origin or (digest(self._images.contiguous().numpy().tobytes()), "")

    def images(self, indices: Int[Tensor, " n"] | None = None) -> UInt8[Tensor, "n 3 S S"]:
        return self._images if indices is None else self._images[indices]

    def placed(
        self, indices: Int[Tensor, " n"] | None = None
    ) -> tuple[UInt8[Tensor, "n 3 S S"], Int[Tensor, "n 2"]]:
        if self._sizes is None:
            return super().placed(indices)
        return self.images(indices), self._sizes if indices is None else self._sizes[indices]
