"""Position embeddings for another grid of patches: interpolated, or multiplied by constants.

Both give the same up to rounding. Bicubic interpolation is linear in what it interpolates and
treats rows and columns alike, so it is a product with one small matrix from each side. On a GPU the
gradient of a product is the same every time, that of ``interpolate`` is not; and a product can be
compiled for sizes that are not known yet. The CPU keeps ``interpolate``, whose bits all runs on it
have had.
"""

from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

OFFSET = 0.1  # of a patch, too much: once meant against rounding, see `resample_grid`


def resample_grid(
    grid: Float[Tensor, "h w D"], height: int, width: int, mode: str
) -> Float[Tensor, "H W D"]:
    """Bicubic interpolation of position embeddings, in float32 at least.

    Args:
        grid: (h, w, D), row by row; on any device.
        height, width: H and W, of the new grid.
        mode: "antialias", as timm and DINOv2 with registers have it, or "offset", a tenth of a
            patch more than the size and no antialiasing, as DINO and DINOv2 without registers
            have it: weights that were trained with it have to be used with it.
    """
    if grid.device.type in ("cpu", "meta") and not torch.compiler.is_compiling():
        return interpolate_grid(grid, height, width, mode)
    rows, columns, _ = grid.shape
    with torch.autocast(grid.device.type, enabled=False):
        grid = grid if grid.dtype == torch.float64 else grid.float()
        over_rows = _constant(rows, height, mode, grid)
        over_columns = _constant(columns, width, mode, grid)
        narrow = over_columns @ grid  # (h, W, D)
        return (over_rows @ narrow.flatten(1)).unflatten(1, (width, -1))


def interpolate_grid(
    grid: Float[Tensor, "h w D"], height: int, width: int, mode: str
) -> Float[Tensor, "H W D"]:
    """:func:`resample_grid` by ``torch.nn.functional.interpolate``."""
    rows, columns, _ = grid.shape
    maps = grid.permute(2, 0, 1)[None]
    if maps.dtype in (torch.float16, torch.bfloat16):  # interpolated in full: few kernels know
        maps = maps.float()
    if mode == "offset":
        scale = ((height + OFFSET) / rows, (width + OFFSET) / columns)
        maps = F.interpolate(maps, scale_factor=scale, mode="bicubic")
    else:
        maps = F.interpolate(maps, size=(height, width), mode="bicubic", antialias=True)
    return maps[0].permute(1, 2, 0)


def resampling_matrix(
    length: int,
    size: int,
    mode: str,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "size length"]:
    """The matrix (size, length) that resamples ``length`` places to ``size``; rows sum to 1.

    Output i lies at (i + 1/2) · scale − 1/2 of the input, and takes from input j what Keys' cubic
    says of their distance. Antialiasing stretches the cubic by the scale where the grid shrinks,
    and leaves out what lies beyond the border; otherwise the border is repeated.

    Args:
        length, size: places before and after.
        mode: as in :func:`resample_grid`.
    """
    scale = length / (size + OFFSET) if mode == "offset" else length / size
    places = torch.arange(size, dtype=dtype, device=device)[:, None]
    if mode == "offset":
        inputs = torch.arange(length, dtype=dtype, device=device)
        taps = (places + 0.5) * scale - 0.5
        first = taps.floor() - 1 + torch.arange(4, dtype=dtype, device=device)  # (size, 4)
        weight = _cubic(taps - first, a=-0.75)
        hits = first.clamp(0, length - 1)[..., None] == inputs  # (size, 4, length)
        return (weight[..., None] * hits).sum(dim=1)
    stretch = max(scale, 1.0)
    centers = torch.arange(length, dtype=dtype, device=device) + 0.5
    weight = _cubic((centers - (places + 0.5) * scale) / stretch, a=-0.5)
    return weight / weight.sum(dim=1, keepdim=True)


def _cubic(x: Tensor, a: float) -> Tensor:
    """Keys' cubic kernel; torch has a = −1/2 with antialiasing and −3/4 without."""
    x = x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def _constant(length: int, size: int, mode: str, like: Tensor) -> Tensor:
    """A resampling matrix as ``like`` is: out of the cache, or as a part of what is compiled."""
    if torch.compiler.is_compiling():
        return resampling_matrix(length, size, mode, like.dtype, like.device)
    return _kept(length, size, mode, like.dtype, like.device)


@cache
def _kept(length: int, size: int, mode: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    return resampling_matrix(length, size, mode).to(dtype).to(device)
