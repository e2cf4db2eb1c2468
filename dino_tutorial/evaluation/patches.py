"""Frozen patch tokens, and how a map of them reaches every pixel: what dense evaluations share."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from dino_tutorial.errors import UserError
from dino_tutorial.evaluation.features import LabelledImages, extract_features
from dino_tutorial.options import takes


@takes()
def extract_patches(
    encoder: nn.Module, dataset: LabelledImages, *, with_cls: bool = False, **options
) -> Float[Tensor, "n N D"]:
    """The patch tokens of every image, in the order of the data set.

    Args:
        encoder: a vision transformer; ``forward_features(images).patches`` is (B, N, D).
        dataset: images whose sides are multiples of the patch.
        with_cls: put the image's class token beside each patch, as DINOv2's linear depth does.
        options: of :func:`extract_features` (``batch_size``, ``device``, ``mean``, ``std``, …).

    Returns:
        (n, N, D) float32 on the CPU, patches row by row; (n, N, 2·D) with ``with_cls``.

    Raises:
        UserError: the encoder has no patch tokens, or the data set is empty.
    """
    patch_size_of(encoder)
    flat = _FlatPatches(encoder, with_cls)
    features, _ = extract_features(flat, dataset, **options)
    return features.unflatten(1, (-1, flat.width))


def patch_size_of(encoder: nn.Module) -> int:
    """The side of a patch in pixels; a UserError for an encoder without patches."""
    if not (hasattr(encoder, "forward_features") and hasattr(encoder, "patch_size")):
        raise UserError(
            f"{type(encoder).__name__} has no patch tokens: use a vision transformer for dense "
            f"evaluations"
        )
    return encoder.patch_size


class _FlatPatches(nn.Module):
    """An encoder whose feature of an image is all of its patches in one row, (B, N·D)."""

    def __init__(self, encoder: nn.Module, with_cls: bool):
        super().__init__()
        self.encoder, self.with_cls, self.width = encoder, with_cls, 0

    def forward(self, x: Tensor) -> Tensor:
        found = self.encoder.forward_features(x)
        patches = found.patches
        if self.with_cls:
            patches = torch.cat([patches, found.cls[:, None].expand_as(patches)], dim=-1)
        self.width = patches.shape[-1]
        return patches.flatten(1)


def upsample(maps: Float[Tensor, "B C h w"], size: tuple[int, int]) -> Float[Tensor, "B C H W"]:
    """Maps (B, C, h, w), one value a patch, to (B, C, H, W), one a pixel, bilinearly."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def upsampling_matrices(
    grid: tuple[int, int], size: tuple[int, int], like: Tensor
) -> tuple[Float[Tensor, "H h"], Float[Tensor, "W w"]]:
    """:func:`upsample` as two matrices (H, h) and (W, w): ``rows @ map @ columns.T``."""

    def matrix(patches: int, pixels: int) -> Tensor:
        one_hot = torch.eye(patches, dtype=like.dtype, device=like.device)[:, None]
        return F.interpolate(one_hot, size=pixels, mode="linear", align_corners=False)[:, 0].T

    return matrix(grid[0], size[0]), matrix(grid[1], size[1])


def standardisation(
    patches: Float[Tensor, "n N D"],
) -> tuple[Float[Tensor, " D"], Float[Tensor, " D"]]:
    """Mean and standard deviation (D,) of each dimension over all patches (n, N, D)."""
    std, mean = torch.std_mean(patches.flatten(0, 1), dim=0, correction=0)
    return mean, std.clamp_min(1e-6 * std.max().clamp_min(1e-6))  # a constant says nothing


def split_images(
    n: int, fraction: float, seed: int
) -> tuple[Int[Tensor, " chosen"], Int[Tensor, " rest"]]:
    """Indices of the images that choose and of those that train: a random, fixed split."""
    n_chosen = round(fraction * n)
    if not 1 <= n_chosen < n:
        raise UserError(
            f"a validation part of {fraction} of {n} training images leaves nothing to choose by "
            f"or to train on: use more images"
        )
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return order[:n_chosen], order[n_chosen:]


def check_grid(patches: Tensor, grid: tuple[int, int]) -> None:
    """Make sure that patches (n, N, D) lie in a grid."""
    if patches.shape[1] != grid[0] * grid[1]:
        raise UserError(
            f"patches of shape {tuple(patches.shape)} do not fit a grid of {grid[0]} by {grid[1]}: "
            f"pass (n, {grid[0] * grid[1]}, D)"
        )


def check_dense(patches: Tensor, truth: Tensor, grid: tuple[int, int], name: str) -> None:
    """Make sure that patch tokens (n, N, D) and maps (n, H, W) belong together."""
    fits = patches.ndim == 3 and patches.shape[1] == grid[0] * grid[1] and len(patches) > 0
    if not fits or truth.ndim != 3 or len(truth) != len(patches):
        raise UserError(
            f"{name} images need patches (n, {grid[0] * grid[1]}, D) for a grid of {grid[0]} by "
            f"{grid[1]} and maps (n, H, W), n at least 1, not {tuple(patches.shape)} and "
            f"{tuple(truth.shape)}"
        )
    if not patches.isfinite().all():
        raise UserError(f"{name} patches hold NaN or infinity: the encoder has diverged")
