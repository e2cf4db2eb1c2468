"""Data sets made of scenes: splits with ground truth."""

from __future__ import annotations

import torch
from torch import Tensor

from dino_tutorial.datasets.base import ImageDataset
from dino_tutorial.datasets.scenes.factors import CLASSES, sample_factors
from dino_tutorial.datasets.scenes.render import render
from dino_tutorial.errors import UserError


def boxes_of(masks: Tensor) -> Tensor:
    """The smallest boxes around masks: bool (n, H, W) -> int64 (n, 4), (x0, y0, x1, y1).

    x1 and y1 are exclusive, so x1 - x0 is the width in pixels; an empty mask gives zeros.
    """
    sides = []
    for hit in (masks.any(1), masks.any(2)):  # columns, then rows
        hit = hit.to(torch.uint8)
        some = hit.any(1)
        first = hit.argmax(1)
        last = hit.shape[1] - hit.flip(1).argmax(1)
        sides += [first * some, last * some]
    return torch.stack((sides[0], sides[2], sides[1], sides[3]), 1)


class SceneDataset(ImageDataset):
    """Scenes of one split, drawn once and kept.

    Args:
        split: "train", "val" or "test"; they share no scene.
        size: side of the canvas in pixels.
        n: number of scenes.
        seed: another seed gives other scenes, with the same classes.
    """

    classes = CLASSES
    in_memory = True

    def __init__(self, split: str = "train", size: int = 32, n: int = 10000, seed: int = 0) -> None:
        if n < 1:
            raise UserError(f"A set of scenes needs at least one scene, not {n}.")
        self.name = "scenes"
        self.split = split
        self.image_size = size
        self._factors = sample_factors(torch.arange(n), split, seed)
        self.labels = self._factors["class"]
        self._images: Tensor | None = None

    def factors(self, indices: Tensor | None = None) -> dict[str, Tensor]:
        """The integers that the scenes are drawn from, int64 (n,) by name."""
        if indices is None:
            return dict(self._factors)
        return {name: values[indices] for name, values in self._factors.items()}

    def images(self, indices: Tensor | None = None) -> Tensor:
        if self._images is None:
            self._images = render(self._factors, self.image_size).images
        return self._images if indices is None else self._images[indices]

    def masks(self, indices: Tensor | None = None) -> Tensor:
        """Where the labelled object is seen, bool (n, S, S)."""
        return render(self.factors(indices), self.image_size).mask

    def depth(self, indices: Tensor | None = None) -> Tensor:
        """Distance from the camera, float32 (n, S, S), in units of half the canvas."""
        return render(self.factors(indices), self.image_size).depth

    def boxes(self, indices: Tensor | None = None) -> Tensor:
        """Boxes around the masks, int64 (n, 4): x0, y0, x1, y1 in pixels, ends exclusive."""
        return boxes_of(self.masks(indices))
