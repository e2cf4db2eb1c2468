"""Which patches are masked for the student: rectangular blocks, as in BEiT, iBOT and DINOv2."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dino_tutorial.options import number, ordered, pair, takes, whole
from dino_tutorial.views.params import all_to_device

MIN_BLOCK = 4  # patches that a block covers, unless fewer are left to mask
ASPECT = (0.3, 1 / 0.3)  # height / width of a block, drawn uniformly in the logarithm
N_BLOCKS = 16  # blocks tried for each image; what is then missing is masked patch by patch


class PatchMasks(NamedTuple):
    """The masked patches of a batch, and where they are in it.

    Masks are drawn on the host, so the number M of masked patches is known there, and gathering
    them never waits for the device.

    Attributes:
        masks: (B, N) bool, true where a patch is masked.
        indices: (M,) int64, places of the masked patches in a (B · N, …) tensor.
        weights: (M,) float32, 1 / (masked patches of the same image).
    """

    masks: Bool[Tensor, "B N"]
    indices: Int[Tensor, " M"]
    weights: Float[Tensor, " M"]


@dataclass(frozen=True)
class DrawnMasks:
    """The masks of a batch before it is split: (V, B, N) bool on the host.

    ``drawn[index]`` selects images (a slice, list or tensor), so that the ranks of a distributed
    run can draw for the global batch and each keep its own part.
    """

    masks: Bool[Tensor, "V B N"]

    def __getitem__(self, index: slice | list[int] | Tensor) -> "DrawnMasks":
        return DrawnMasks(self.masks[:, index])

    def to(self, device: torch.device | str) -> PatchMasks:
        """The masks of the V · B crops, view-major, with places and weights, on ``device``."""
        masks = self.masks.flatten(0, 1)
        per_image = masks.sum(dim=1, keepdim=True).clamp(min=1)
        weights = (1 / per_image).expand(masks.shape)[masks]
        indices = masks.flatten().nonzero()[:, 0]
        return PatchMasks(*all_to_device((masks, indices, weights), device))


class BlockDraw(NamedTuple):
    """The random numbers behind the masks of B images, whose blocks are not placed yet.

    Attributes:
        counts: (B,) int64, patches to mask in each image.
        blocks: (tries, 4, B) uniform numbers for area, aspect, top and left of blocks.
        filling: (B, N) uniform numbers, in whose order single patches are masked.
        grid: rows and columns of patches.
    """

    counts: Int[Tensor, " B"]
    blocks: Float[Tensor, "tries 4 B"]
    filling: Float[Tensor, "B N"]
    grid: tuple[int, int]

    def of(self, images: Int[Tensor, " n"]) -> "BlockDraw":
        """The numbers of some of the images."""
        return BlockDraw(
            self.counts[images], self.blocks[..., images], self.filling[images], self.grid
        )

    def placed(self) -> Bool[Tensor, "B N"]:
        """The masks, see :func:`block_masks`."""
        masks = torch.zeros(
            len(self.counts), *self.grid, dtype=torch.bool, device=self.counts.device
        )
        for draw in self.blocks:
            _place_blocks(masks, self.counts, draw)
        return _fill_up(masks.flatten(1), self.counts, self.filling)


@dataclass(frozen=True)
class DrawnBlocks:
    """Masks of blocks, placed only once it is known of which images they are wanted.

    Placing those of 3,072 images takes a fifth of a second of every process; those of the 96 that
    one of 32 processes has, little beside it.

    Attributes:
        draw: the numbers of all images.
        places: (V, B) int64, those of them that are wanted.
    """

    draw: BlockDraw
    places: Int[Tensor, "V B"]

    def __getitem__(self, index: slice | list[int] | Tensor) -> "DrawnBlocks":
        return DrawnBlocks(self.draw, self.places[:, index])

    @property
    def masks(self) -> Bool[Tensor, "V B N"]:
        wanted = self.places.flatten()
        every = torch.equal(wanted, torch.arange(len(self.draw.counts)))
        draw = self.draw if every else self.draw.of(wanted)
        return draw.placed().unflatten(0, self.places.shape)

    def to(self, device: torch.device | str) -> PatchMasks:
        """As :meth:`DrawnMasks.to`."""
        return DrawnMasks(self.masks).to(device)


@takes(n_images=whole(), grid=pair(), ratio=ordered(0, 1), share=number(0, 1))
def block_masks(
    n_images: int,
    grid: tuple[int, int],
    generator: torch.Generator,
    ratio: tuple[float, float] = (0.1, 0.5),
    share: float = 0.5,
) -> Bool[Tensor, "B N"]:
    """Mask blocks of patches in some images of a batch; all images at once.

    ``share`` of the images are masked. Their ratios are stratified: the range is cut into as many
    equal parts as there are masked images, each takes one part and draws its ratio from it. Blocks
    of at least four patches (fewer at the end) are then placed at random until the image has its
    number; one that would mask too many is not placed. What sixteen tries leave missing is masked
    patch by patch, so that the number is exact: ``floor(ratio · N)``, at least 1.

    Args:
        n_images: B, global crops of the batch.
        grid: rows and columns of patches.
        generator: consumed by a fixed amount that depends on ``n_images`` and ``grid`` alone.
        ratio: smallest and largest share of an image's patches to mask.
        share: share of the images that are masked, rounded down.

    Returns:
        (B, N) bool on the generator's device, true where a patch is masked.

    Raises:
        UserError: for an empty grid or a ratio or share outside 0 … 1.

    Source: Bao et al. 2022 (BEiT), algorithm 1; Zhou et al. 2022 (iBOT); facebookresearch/dinov2
    ``collate.py`` (share, strata) and ``masking.py`` (blocks). Filling up is DINOv3's.
    """
    return draw_blocks(n_images, grid, generator, ratio, share).placed()


def draw_blocks(
    n_images: int,
    grid: tuple[int, int],
    generator: torch.Generator,
    ratio: tuple[float, float],
    share: float,
) -> BlockDraw:
    """All random numbers of :func:`block_masks`, and no masks yet."""
    counts = _counts(n_images, grid[0] * grid[1], ratio, share, generator)
    device = generator.device
    blocks = torch.rand(
        N_BLOCKS, 4, n_images, dtype=torch.float64, device=device, generator=generator
    )
    filling = torch.rand(n_images, grid[0] * grid[1], device=device, generator=generator)
    return BlockDraw(counts, blocks, filling, grid)


def _counts(
    n_images: int,
    n_patches: int,
    ratio: tuple[float, float],
    share: float,
    generator: torch.Generator,
) -> Tensor:
    """(B,) patches to mask in each image; 0 for those that are not masked."""
    device = generator.device
    place = torch.rand(n_images, dtype=torch.float64, device=device, generator=generator)
    order = torch.randperm(n_images, device=device, generator=generator)
    n_masked = int(n_images * share)
    stratum = torch.arange(n_images, device=device)
    ratios = ratio[0] + (ratio[1] - ratio[0]) * (stratum + place) / max(n_masked, 1)
    counts = (n_patches * ratios).floor().long().clamp(1, n_patches)
    return torch.where(stratum < n_masked, counts, 0)[order]


def _place_blocks(masks: Tensor, counts: Tensor, draw: Tensor) -> None:
    """Try one block in each image of ``masks`` (B, rows, columns), in place.

    Args:
        masks: changed.
        counts: (B,) patches to mask in each.
        draw: (4, B) uniform numbers for the block's area, aspect, top and left.
    """
    _, rows, columns = masks.shape
    missing = counts - masks.sum(dim=(1, 2))
    smallest = missing.clamp(max=MIN_BLOCK)
    area = smallest + (missing - smallest) * draw[0]
    low, high = (math.log(limit) for limit in ASPECT)
    aspect = (low + (high - low) * draw[1]).exp()
    height, width = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    top = (draw[2] * (rows - height + 1)).floor()
    left = (draw[3] * (columns - width + 1)).floor()
    block = _between(top, height, rows)[:, :, None] & _between(left, width, columns)[:, None, :]
    added = (block & ~masks).sum(dim=(1, 2))
    # As in the reference, a block never spans the whole height or width.
    fits = (added <= missing) & (height < rows) & (width < columns)
    masks |= block & fits[:, None, None]


def _between(start: Tensor, length: Tensor, size: int) -> Tensor:
    """(B, size) bool: the places from ``start`` to ``start + length``."""
    place = torch.arange(size, device=start.device)
    return (place >= start[:, None]) & (place < (start + length)[:, None])


def _fill_up(masks: Tensor, counts: Tensor, uniform: Tensor) -> Tensor:
    """Mask single patches, in the order of ``uniform`` (B, N), until each image has its number."""
    order = uniform.masked_fill(masks, 2.0).argsort(dim=1)  # those masked already come last
    rank = order.argsort(dim=1)
    return masks | (rank < (counts - masks.sum(dim=1))[:, None])
