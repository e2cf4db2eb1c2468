"""Patch features as colours: principal components common to several images, drawn as RGB.

Equal colours in two images mean similar features, because the basis and the scaling are common.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from dino_tutorial.errors import UserError
from dino_tutorial.options import takes, tensor, whole


@takes(finite=True, patches=tensor("B N D", "float"), n_components=whole(low=-(2**31)))
def patch_pca(
    patches: Float[Tensor, "B N D"], n_components: int = 3, foreground: bool = True
) -> Float[Tensor, "B N n"]:
    """Principal components of patch features, in one basis common to all images.

    With ``foreground`` a first analysis of all patches splits them by the sign of its first
    component; the smaller side is taken as foreground, and the components returned are those of
    the foreground alone, as in DINOv2's figure 1 (Oquab et al. 2024, section 7.5). The papers
    choose signs by eye; here they are fixed: in each direction the largest loading is positive.

    Args:
        patches: (B, N, D).
        n_components: n, at most D.
        foreground: split as said; otherwise all patches count.

    Returns:
        (B, N, n) float32, centred and not rescaled; NaN on the background.
        :func:`component_colors` makes colours of three.
    """
    if patches.ndim != 3 or not 1 <= n_components <= patches.shape[-1]:
        raise UserError(
            f"patch_pca takes patches (B, N, D) and from 1 to D components, not "
            f"{tuple(patches.shape)} and {n_components}"
        )
    points = patches.detach().flatten(0, 1).double()
    kept = torch.ones(len(points), dtype=torch.bool, device=points.device)
    if foreground:
        positive = _principal_components(points, 1)[:, 0] > 0
        kept = positive if positive.sum() * 2 <= len(points) else ~positive
    result = points.new_full((len(points), n_components), float("nan"))
    if kept.any():
        result[kept] = _principal_components(points[kept], n_components)
    return result.unflatten(0, patches.shape[:2]).float()


@takes()
def component_colors(components: Float[Tensor, "*rows n"]) -> Float[Tensor, "*rows n"]:
    """Components as colours: each channel from its 1st to its 99th percentile to 0..1.

    The percentiles are those of all foreground patches of all images together, so a few extreme
    patches do not wash out the rest, and a colour means the same everywhere. A channel without
    spread becomes 0.

    Args:
        components: (..., n), as of :func:`patch_pca`; a patch with a NaN is background.

    Returns:
        (..., n) in 0..1; NaN on the background.
    """
    components = components.float()
    shown = components.isfinite().all(dim=-1)
    colors = torch.full_like(components, float("nan"))
    if shown.any():
        points = components[shown]
        low, high = points.quantile(points.new_tensor([0.01, 0.99]), dim=0)
        span = torch.where(high - low > 1e-12, high - low, 1.0)
        colors[shown] = ((points - low) / span).clamp(0, 1)
    return colors


def _principal_components(points: Float[Tensor, "M D"], n: int) -> Float[Tensor, "M n"]:
    """Coordinates (M, n) of centred points (M, D) along their directions of largest variance."""
    centred = points - points.mean(dim=0)
    directions = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -n:].flip(1)  # (D, n)
    largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
    return centred @ (directions * largest.sign())
