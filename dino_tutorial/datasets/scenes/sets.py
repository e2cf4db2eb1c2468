"""Data sets made of scenes: splits with ground truth, clips, an uncurated pool, curated seeds."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from dino_tutorial.datasets.base import ImageDataset
from dino_tutorial.datasets.scenes.drawing import RenderedScenes, check_look, check_size, render
from dino_tutorial.datasets.scenes.factors import (
    CLASSES,
    CLUTTER,
    FULL,
    RANGES,
    Factors,
    sample_factors,
)
from dino_tutorial.options import takes, tensor, whole


@takes(masks=tensor("n>=0 H W", "bool"))
def boxes_of(masks: Bool[Tensor, "n H W"]) -> Int[Tensor, "n 4"]:
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


FEW = 64  # scenes that are drawn alone before all are drawn and kept


class SceneDataset(ImageDataset):
    """Scenes of one split, drawn once and kept.

    Args:
        split: "train", "val" or "test"; they share no scene.
        size: side of the canvas in pixels.
        n: number of scenes.
        seed: another seed gives other scenes, with the same classes.
        look: what tells the kinds apart, "colour" or "pattern".
    """

    classes = CLASSES
    in_memory = True

    @takes(n=whole(1, 10**8), size=whole(), seed=whole(0, 2**63 - 1))
    def __init__(
        self,
        split: str = "train",
        size: int = 32,
        n: int = 10000,
        seed: int = 0,
        look: str = "colour",
    ) -> None:
        check_size(size)
        check_look(look)
        self.name = "patterns" if look == "pattern" else "scenes"
        self.look = look
        self.split = split
        self.image_size = size
        self._factors = sample_factors(torch.arange(n), split, seed)
        self.labels = self._factors["class"]
        self._images: Tensor | None = None
        self._drawn = 0  # one by one, so far

    def factors(self, indices: Int[Tensor, " n"] | None = None) -> Factors:
        """The integers that the scenes are drawn from, int64 (n,) by name."""
        if indices is None:
            return dict(self._factors)
        return {name: values[indices] for name, values in self._factors.items()}

    def scenes(self, indices: Int[Tensor, " n"] | None = None) -> RenderedScenes:
        """Images with all their ground truth, drawn anew."""
        return render(self.factors(indices), self.image_size, self.look)

    def images(self, indices: Int[Tensor, " n"] | None = None) -> UInt8[Tensor, "n 3 S S"]:
        if self._images is None:
            if indices is not None and self._drawn + len(indices) <= FEW:
                self._drawn += len(indices)
                return self.scenes(indices).images  # a look at a few needs no others
            self._images = self.scenes().images
        return self._images if indices is None else self._images[indices]

    def masks(self, indices: Int[Tensor, " n"] | None = None) -> Bool[Tensor, "n S S"]:
        """Where the labelled object is seen, bool (n, S, S)."""
        return self.scenes(indices).mask

    def depth(self, indices: Int[Tensor, " n"] | None = None) -> Float[Tensor, "n S S"]:
        """Distance from the camera, float32 (n, S, S), in units of half the canvas."""
        return self.scenes(indices).depth

    def boxes(self, indices: Int[Tensor, " n"] | None = None) -> Int[Tensor, "n 4"]:
        """Boxes around the masks, int64 (n, 4): x0, y0, x1, y1 in pixels, ends exclusive."""
        return boxes_of(self.masks(indices))


class Clips(NamedTuple):
    """Short videos.

    Attributes:
        frames: uint8 (n, T, 3, S, S).
        masks: bool (n, T, S, S), where the labelled object is seen.
        labels: int64 (n,).
    """

    frames: UInt8[Tensor, "n T 3 S S"]
    masks: Bool[Tensor, "n T S S"]
    labels: Int[Tensor, " n"]


def _speeds(n: int, name: str, most: int, seed: int) -> Tensor:
    """Integers in [-most, most], (n,), hashed like the factors of other scenes."""
    other = sample_factors(torch.arange(n), "speeds", seed)[name]
    return other * (2 * most + 1) // RANGES[name] - most


@takes(n=whole(1, 10**6), frames=whole(1, 10**5), size=whole(), seed=whole(0, 2**63 - 1))
def make_clips(
    n: int, frames: int = 8, size: int = 32, seed: int = 0, look: str = "colour"
) -> Clips:
    """Videos in which the object glides, turns and comes nearer, over clutter that drifts.

    Speeds are whole numbers of factor units a frame, so that frame t needs no frame before it.

    Args:
        n: number of videos.
        frames: T, images a video.
        size: side of the canvas in pixels.
    """
    start = sample_factors(torch.arange(n), "clips", seed)
    # Start near the middle, so that the object is still in the image at the end.
    for name in ("x", "y"):
        start[name] = (start[name] + FULL) // 3
    speeds = {
        "x": _speeds(n, "x", FULL // 24, seed),
        "y": _speeds(n, "y", FULL // 24, seed),
        "scale": _speeds(n, "scale", FULL // 40, seed),
        "angle": _speeds(n, "angle", FULL // 24, seed),
    }
    for i in range(CLUTTER):
        for axis in ("x", "y"):
            speeds[f"clutter{i}_{axis}"] = _speeds(n, f"clutter{i}_{axis}", FULL // 40, seed)
    time = torch.arange(frames)
    moved = {name: values.repeat_interleave(frames) for name, values in start.items()}
    for name, speed in speeds.items():
        moved[name] = (start[name][:, None] + speed[:, None] * time).flatten()
    scenes = render(moved, size, look)
    return Clips(
        scenes.images.view(n, frames, 3, size, size),
        scenes.mask.view(n, frames, size, size),
        start["class"],
    )


class Pool(NamedTuple):
    """Images as a crawl would find them.

    Attributes:
        images: uint8 (n, 3, S, S).
        labels: int64 (n,), -1 where there is no object; for measuring, not for training.
        duplicate_of: int64 (n,), the earlier image that this one nearly repeats, or -1.
    """

    images: UInt8[Tensor, "n 3 S S"]
    labels: Int[Tensor, " n"]
    duplicate_of: Int[Tensor, " n"]


JUNK_SHARE = 4  # one image of the pool in so many shows no object
DUPLICATE_SHARE = 5  # one in so many nearly repeats an earlier one


@takes(n=whole(1, 10**8), size=whole(), seed=whole(0, 2**63 - 1))
def uncurated_pool(n: int = 20000, size: int = 32, seed: int = 0, look: str = "colour") -> Pool:
    """A long-tailed pool: class c is 1 / (c + 1) as frequent as class 0; junk; near-duplicates.

    A near-duplicate has the object moved and turned a little and the exposure changed.

    Args:
        n: number of images.
        size: side of the canvas in pixels.
    """
    index = torch.arange(n)
    factors = sample_factors(index, "pool", seed)
    dice = sample_factors(index, "dice", seed)  # what happens to each image, apart from the scene
    # Zipf's law in whole numbers: 2520 = lcm(1..10) is divided without remainder.
    steps = torch.tensor([2520 // (c + 1) for c in range(len(CLASSES))]).cumsum(0)
    draw = dice["x"] * int(steps[-1]) // FULL
    factors["class"] = torch.searchsorted(steps, draw, right=True)
    factors["present"] = (dice["y"] * JUNK_SHARE // FULL == 0).to(torch.int64)
    repeats = (dice["scale"] * DUPLICATE_SHARE // FULL == 0) & (index > 0)
    source = torch.where(repeats, dice["lattice"] * index.clamp(max=1 << 30) >> 31, index)
    # A repeat of a repeat repeats the first; sources lie earlier, so this ends.
    while (source[source] != source).any():
        source = source[source]
    factors = {name: values[source] for name, values in factors.items()}
    nudges = (("x", 3000), ("y", 3000), ("angle", 1500), ("exposure", 12000))
    for name, most in nudges:
        nudge = dice[f"clutter0_{name}" if name != "exposure" else name]
        factors[name] = factors[name] + (source != index) * (nudge * 2 * most // FULL - most)
    labels = torch.where(factors["present"] == 0, factors["class"], -1)
    return Pool(
        render(factors, size, look).images, labels, torch.where(source != index, source, -1)
    )


@takes(per_class=whole(1, 10**6), size=whole(), seed=whole(0, 2**63 - 1))
def curated_seeds(
    per_class: int = 20, size: int = 32, seed: int = 0, look: str = "colour"
) -> tuple[UInt8[Tensor, "n 3 S S"], Int[Tensor, " n"]]:
    """A small balanced set to retrieve with: images uint8 (n, 3, S, S), labels int64 (n,)."""
    labels = torch.arange(len(CLASSES)).repeat_interleave(per_class)
    factors = sample_factors(torch.arange(len(labels)), "seeds", seed)
    factors["class"] = labels
    return render(factors, size, look).images, labels
