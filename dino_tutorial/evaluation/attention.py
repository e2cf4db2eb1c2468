"""Does the class token look at the object? Attention masks against true masks.

Two ways to give an image with several heads one score, and they are not the same question:

* **best head**: every head is scored against the truth and the best one counts. The truth picks
  the head, so the number rises with the number of heads even for noise. The published figures
  on PASCAL VOC 2012 (DINO 45.9, supervised 27.3, random 22.0; Caron et al. 2021, figure 4) show
  "the best head"; DINO's release has no code for it, so the exact protocol is not known here.
* **mean head**: attention is averaged over heads first and the mask of that is scored. The truth
  picks nothing.

Either means something only beside an untrained encoder scored alike (which the caller passes
through the same functions), a box in the middle, and the whole image.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from dino_tutorial.errors import UserError
from dino_tutorial.options import check_broadcast, number, pair, takes, tensor


@takes(finite=True, attention=tensor("B heads ...", "float"), grid=pair())
def cls_attention(
    attention: Float[Tensor, "B heads T T"] | Float[Tensor, "B heads N"], grid: tuple[int, int]
) -> Float[Tensor, "B heads N"]:
    """How the class token divides its attention among the patches, summing to 1: (B, heads, N).

    Args:
        attention: (B, heads, T, T) as of ``VisionTransformer.get_attention``, tokens in the order
            class token, registers, patches; or already (B, heads, N).
        grid: (h, w) in patches, N = h·w.
    """
    n_patches = grid[0] * grid[1]
    if attention.ndim == 4 and attention.shape[-1] > n_patches:
        attention = attention[:, :, 0, -n_patches:]
    if attention.ndim != 3 or attention.shape[-1] != n_patches:
        raise UserError(
            f"attention of shape {tuple(attention.shape)} does not fit a grid of {grid[0]} by "
            f"{grid[1]} patches: pass (B, heads, T, T) or (B, heads, {n_patches})"
        )
    total = attention.sum(dim=-1, keepdim=True)
    if not (attention.amin() >= 0 and total.amin() > 0):
        raise UserError("attention holds shares below 0, or none at all: pass it after its softmax")
    return attention / total


@takes(
    finite=True,
    attention=tensor("B heads ...", "float"),
    grid=pair(),
    mass=number(-1e9, 1e9),
    size=pair(none=True),
)
def attention_masks(
    attention: Float[Tensor, "B heads T T"] | Float[Tensor, "B heads N"],
    grid: tuple[int, int],
    mass: float = 0.6,
    size: tuple[int, int] | None = None,
) -> Bool[Tensor, "B heads H W"]:
    """For each head, the fewest patches that hold ``mass`` of the class token's attention.

    Args:
        attention: (B, heads, T, T) or (B, heads, N), as for :func:`cls_attention`.
        grid: (h, w) in patches.
        mass: between 0 and 1; DINO draws and scores masks with 0.6.
        size: (H, W) in pixels to enlarge the masks to, without smoothing; None keeps (h, w).

    Returns:
        Boolean (B, heads, H, W), or (B, heads, h, w).

    Source: DINO's ``visualize_attention.py``; Caron et al. 2021, section 4.2.2.
    """
    if not 0 < mass <= 1:
        raise UserError(f"mass is {mass}: use a part of the attention above 0 and up to 1")
    share = cls_attention(attention.double(), grid)
    share, order = share.sort(dim=-1, descending=True, stable=True)
    before = share.cumsum(dim=-1) - share  # what the stronger patches hold together
    masks = torch.zeros_like(share, dtype=torch.bool).scatter_(-1, order, before < mass)
    masks = masks.unflatten(-1, grid)
    if size is None:
        return masks
    return F.interpolate(masks.float(), size=size, mode="nearest-exact").bool()


@takes()
def jaccard(masks: Bool[Tensor, "*m H W"], truth: Bool[Tensor, "*n H W"]) -> Float[Tensor, "*b"]:
    """Intersection over union of boolean masks, broadcast over leading dimensions.

    Args:
        masks: (..., H, W).
        truth: (..., H, W).

    Returns:
        (...,) in 0..1; two empty masks agree: 1.
    """
    check_broadcast(masks=masks.shape, truth=truth.shape)
    overlap = (masks & truth).sum(dim=(-2, -1))
    union = (masks | truth).sum(dim=(-2, -1))
    return torch.where(union == 0, 1.0, overlap / union.clamp_min(1))


@takes(finite=True, attention=tensor("B heads ...", "float"), grid=pair(), mass=number(-1e9, 1e9))
def attention_jaccard(
    attention: Float[Tensor, "B heads T T"] | Float[Tensor, "B heads N"],
    grid: tuple[int, int],
    truth: Bool[Tensor, "B H W"],
    mass: float = 0.6,
) -> dict[str, Tensor]:
    """Score the attention of a batch against true masks, with the baselines that need no encoder.

    Args:
        attention: (B, heads, T, T) or (B, heads, N).
        grid: (h, w) in patches.
        truth: boolean (B, H, W), True on the object.
        mass: as in :func:`attention_masks`.

    Returns:
        Jaccard index (B,) of each image under ``best_head`` and ``mean_head`` (see the top of
        this file), ``center_box`` (:func:`center_box`) and ``whole_image``; and ``heads``,
        (B, heads), from which the best is taken.
    """
    size = (truth.shape[-2], truth.shape[-1])
    heads = jaccard(attention_masks(attention, grid, mass, size), truth[:, None])
    mean = cls_attention(attention, grid).mean(dim=1, keepdim=True)
    box = center_box(size).to(truth.device)
    return {
        "best_head": heads.amax(dim=1),
        "mean_head": jaccard(attention_masks(mean, grid, mass, size)[:, 0], truth),
        "center_box": jaccard(box, truth),
        "whole_image": jaccard(torch.ones_like(box), truth),
        "heads": heads,
    }


@takes(size=pair(), area=number(0, 1, above=True))
def center_box(size: tuple[int, int], area: float = 0.25) -> Bool[Tensor, "H W"]:
    """Boolean (H, W): a box in the middle, shaped like the image, with this part of its area."""
    sides = [max(1, round(side * area**0.5)) for side in size]
    box = torch.zeros(size, dtype=torch.bool)
    top, left = ((side - inner) // 2 for side, inner in zip(size, sides, strict=True))
    box[top : top + sides[0], left : left + sides[1]] = True
    return box
