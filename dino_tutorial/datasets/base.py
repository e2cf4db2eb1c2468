"""What every data set of the package looks like: square uint8 images and integer labels.

The rest of the package asks for nothing more than this. Images come in batches, because both
the renderer and the augmentation work on batches; a `DataLoader` gets them through
`__getitems__` with `collate_fn=identity`.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dino_tutorial.errors import UserError

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

    A subclass sets these and defines `images`.
    """

    name: str
    classes: tuple[str, ...]
    labels: Tensor
    image_size: int
    in_memory: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Tensor | None = None) -> Tensor:
        """The images at `indices` (all of them if None), uint8 (n, 3, S, S)."""
        raise NotImplementedError

    def fingerprint(self) -> dict[str, Any]:
        """What tells whether these are the images of another day; JSON values.

        Returns:
            ``images``, their number; ``contents``, a hash of what they are (for files, of their
            names and sizes) and of their labels; ``times``, a hash of when files were changed
            last, which copying them changes too, empty for what is no file.
        """
        contents, times = self._contents()
        return {
            "images": len(self),
            "contents": digest(contents, self.image_size, self.labels.numpy().tobytes()),
            "times": times,
        }

    def _contents(self) -> tuple[str, str]:
        """Hashes of what the images come from, and of times; a set drawn by code has its name."""
        return self.name, ""

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """A batch for `DataLoader`: images uint8 (n, 3, S, S) and labels int64 (n,)."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        return self.images(chosen), self.labels[chosen]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One image, uint8 (3, S, S), and its label."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is outside a data set of {len(self)} images")
        images, labels = self.__getitems__([index % len(self)])
        return images[0], int(labels[0])


class ArrayDataset(ImageDataset):
    """Images that are already in memory.

    Args:
        images: uint8 (N, 3, S, S), a tensor or an array.
        labels: whole numbers (N,), -1 for unlabelled; None labels nothing.
        classes: names of the classes, indexed by label.
        name: a short name, used in reports.
        origin: hashes of the files that they come from and of their times, see
            :meth:`ImageDataset.fingerprint`; None hashes the pixels.

    Raises:
        UserError: the shapes or the type do not fit together.
    """

    in_memory = True

    def __init__(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        classes: Sequence[str] = (),
        name: str = "array",
        origin: tuple[str, str] | None = None,
    ) -> None:
        images = torch.as_tensor(images)  # an array will do
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise UserError(
                f"{name}: images must be uint8 of shape (N, 3, S, S), "
                f"not {images.dtype} of shape {tuple(images.shape)}"
            )
        if images.shape[2] != images.shape[3]:
            raise UserError(f"{name}: images must be square, not {tuple(images.shape[2:])}")
        labels = torch.full((len(images),), -1) if labels is None else torch.as_tensor(labels)
        if labels.is_floating_point() and not (labels == labels.round()).all():
            raise UserError(f"{name}: labels have to be whole numbers, and some are not")
        if labels.shape != (len(images),):
            raise UserError(
                f"{name}: {len(images)} images need {len(images)} labels, "
                f"not a tensor of shape {tuple(labels.shape)}"
            )
        self.name = name
        self.classes = tuple(classes)
        self.labels = labels.to(torch.int64)
        self.image_size = images.shape[-1]
        self._images = images
        self._origin = origin

    def _contents(self) -> tuple[str, str]:
        return self._origin or (digest(self._images.contiguous().numpy().tobytes()), "")

    def images(self, indices: Tensor | None = None) -> Tensor:
        return self._images if indices is None else self._images[indices]
