"""Finding the main object of an image without labels, from how alike its patches are.

Two ways, both from the patch features of one image alone, both at the resolution of its patches:

* :func:`lost_masks` starts at the patch that resembles the fewest others and grows (LOST);
* :func:`token_cut_masks` cuts the graph of similar patches in two (TokenCut).

What needs no learning has to be beaten: :func:`color_masks`, a box in the middle
(:func:`center_box`), and the same functions on an untrained encoder's patches or on
:func:`patch_pixels`. :func:`discovery_scores` measures all of them alike.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Real
from scipy import ndimage
from torch import Tensor

from dino_tutorial.errors import UserError
from dino_tutorial.evaluation.attention import jaccard
from dino_tutorial.options import check_broadcast, number, pair, takes, tensor, whole

CHUNK_ENTRIES = 2**22  # similarities held at once
FAINT = 1e-5  # what connects two unlike patches in TokenCut, so that the graph stays in one piece
CROSS = np.zeros((3, 3, 3), dtype=bool)  # neighbours share a side, and images stay apart
CROSS[1] = ndimage.generate_binary_structure(2, 1)


@takes(finite=True, grid=pair(), k=whole(low=-(2**31)))
@torch.no_grad()
def lost_masks(
    patches: Float[Tensor, "B N D"], grid: tuple[int, int], k: int = 100
) -> Bool[Tensor, "B h w"]:
    """Objects by seed and expansion.

    Two patches are alike if their dot product is positive. The seed is the patch that is like
    the fewest others, because background is large. Of the k patches that are like the fewest,
    those like the seed join it; a patch belongs to the object if the dot products with these add
    up to something positive. The piece of it that holds the seed is returned.

    Args:
        patches: (B, N, D), not normalised. The paper takes the keys of DINO's last attention;
            it needs features of which many are unlike each other. Output tokens often all point
            one way: pass ``patches - patches.mean(dim=1, keepdim=True)``.
        grid: (h, w) in patches, N = h·w.
        k: about a ninth of the patches in the paper; at most N counts.

    Returns:
        Boolean (B, h, w), one connected piece in each image, never empty.

    Raises:
        UserError: if shapes or values do not fit.

    Source: Siméoni et al. 2021 (LOST), section 3.
    """
    _check_patches(patches, grid)
    if k < 1:
        raise UserError(f"k is {k}: at least the seed itself has to expand, use 1 or more")
    masks, seeds = [], []
    for chunk in patches.split(max(1, CHUNK_ENTRIES // patches.shape[1] ** 2)):
        chunk = chunk.float()
        similarity = chunk @ chunk.transpose(1, 2)  # (b, N, N)
        degree = (similarity > 0).sum(dim=-1)
        lonely = degree.argsort(dim=-1, stable=True)  # the fewest first
        seed = lonely[:, :1]
        candidates = torch.zeros_like(degree, dtype=torch.bool)
        candidates.scatter_(1, lonely[:, :k], True)
        like_seed = similarity.gather(1, seed[..., None].expand(-1, -1, len(degree[0])))[:, 0] > 0
        joined = (candidates & like_seed).scatter(1, seed, True)
        mask = (joined.float()[:, None] @ similarity)[:, 0] > 0
        masks.append(mask.scatter(1, seed, True))
        seeds.append(seed[:, 0])
    return piece_with(torch.cat(masks).unflatten(1, grid), torch.cat(seeds))


@takes(finite=True, grid=pair(), threshold=number(-1, 1))
@torch.no_grad()
def token_cut_masks(
    patches: Float[Tensor, "B N D"], grid: tuple[int, int], threshold: float = 0.2
) -> Bool[Tensor, "B h w"]:
    """Objects by the normalised cut of the graph of patches.

    Two patches are connected with weight 1 if their cosine exceeds the threshold, else with
    almost 0. The second smallest solution of (D − W) y = λ D y, D the degrees of W, is the
    relaxed normalised cut; it is split at its mean, and the side that holds its largest absolute
    value is the object. The piece around that patch is returned.

    Args:
        patches: (B, N, D); any scale. The paper takes the keys of DINO's last attention.
        grid: (h, w) in patches, N = h·w. Time grows with N³.
        threshold: of the cosine; 0.2 in the paper. Features that all point one way connect
            everything, and the cut is arbitrary: subtract their mean as for :func:`lost_masks`.

    Returns:
        Boolean (B, h, w), one connected piece in each image, never empty.

    Raises:
        UserError: if shapes or values do not fit.

    Source: Wang et al. 2022 (TokenCut), section 3, after Shi and Malik 2000.
    """
    _check_patches(patches, grid)
    masks, seeds = [], []
    for chunk in patches.split(max(1, CHUNK_ENTRIES // patches.shape[1] ** 2)):
        unit = F.normalize(chunk.double(), dim=-1)
        weight = (unit @ unit.transpose(1, 2) > threshold).double().clamp_min(FAINT)
        scale = weight.sum(dim=-1).rsqrt()  # D^(-1/2)
        # z = D^(1/2) y turns it into an ordinary problem, whose largest solution is constant y.
        normal = scale[:, :, None] * weight * scale[:, None, :]
        cut = torch.linalg.eigh(normal).eigenvectors[..., -2] * scale  # (b, N)
        seed = cut.abs().argmax(dim=1, keepdim=True)
        side = cut > cut.mean(dim=1, keepdim=True)
        masks.append(side == side.gather(1, seed))
        seeds.append(seed[:, 0])
    return piece_with(torch.cat(masks).unflatten(1, grid), torch.cat(seeds))


@takes(finite=True, steps=whole(0, 10**6))
@torch.no_grad()
def color_masks(images: Real[Tensor, "B 3 H W"], steps: int = 10) -> Bool[Tensor, "B H W"]:
    """Objects by colour alone: pixels in two clusters, one of which begins as the border.

    k-means with k = 2 in RGB, for every image by itself. One cluster starts with the pixels whose
    colour is nearer than average to the mean colour of the border, the other with the rest; the
    second becomes the object. Of it the largest connected piece is returned.

    Args:
        images: uint8 (B, 3, H, W), or float.
        steps: of k-means.

    Returns:
        Boolean (B, H, W), one connected piece in each image; empty if it has only one colour.
    """
    height, width = images.shape[-2:]
    chunks = images.split(max(1, CHUNK_ENTRIES // (height * width)))
    masks = torch.cat([_against_the_border(chunk.float(), steps) for chunk in chunks])
    return largest_piece(masks)


def _against_the_border(images: Tensor, steps: int) -> Tensor:
    """The cluster that starts with what is unlike the border: boolean (B, H, W)."""
    rim = torch.ones(images.shape[-2:], dtype=torch.bool, device=images.device)
    rim[1:-1, 1:-1] = False
    pixels = images.flatten(2).transpose(1, 2)  # (B, H·W, 3)
    border = pixels[:, rim.flatten()].mean(dim=1, keepdim=True)
    distance = (pixels - border).square().sum(dim=-1)
    inside = distance > distance.mean(dim=1, keepdim=True)
    for _ in range(steps):
        member = torch.stack([~inside, inside], dim=1).to(pixels)  # (B, 2, H·W)
        counts = member.sum(dim=-1, keepdim=True)
        centers = torch.where(counts > 0, member @ pixels / counts.clamp_min(1), border)
        ground, thing = (
            (pixels - center[:, None]).square().sum(dim=-1) for center in centers.unbind(1)
        )
        inside = thing < ground
    return inside.unflatten(1, images.shape[-2:])


@takes()
def discovery_scores(
    masks: Bool[Tensor, "B h w"], truth: Bool[Tensor, "B H W"]
) -> dict[str, float]:
    """How well objects were found.

    Args:
        masks: boolean (B, h, w), or (B, H, W); enlarged to the size of the truth, unsmoothed.
        truth: boolean (B, H, W), one object in each image.

    Returns:
        ``corloc``, the share of images where the box around the mask has an IoU of at least 0.5
        with the box around the true mask; ``box_iou`` and ``mask_iou``, averaged over images.
    """
    if masks.shape[-2:] != truth.shape[-2:]:
        size = tuple(truth.shape[-2:])
        masks = F.interpolate(masks[:, None].float(), size=size, mode="nearest-exact")[:, 0]
    masks, truth = masks.bool(), truth.bool()
    overlap = box_iou(mask_boxes(masks), mask_boxes(truth))
    return {
        "corloc": float((overlap >= 0.5).float().mean()),
        "box_iou": float(overlap.mean()),
        "mask_iou": float(jaccard(masks, truth).mean()),
    }


@takes(finite=True, truth=tensor("B ... 4", "real"), threshold=number(0, 1))
def corloc(
    boxes: Real[Tensor, "B 4"],
    truth: Real[Tensor, "B M 4"] | Real[Tensor, "B 4"],
    threshold: float = 0.5,
) -> float:
    """Correct localisation: the share of images whose one box fits one of the true boxes.

    Args:
        boxes: (B, 4) as (x0, y0, x1, y1), ends exclusive.
        truth: (B, M, 4), or (B, 4); where an image has fewer than M objects, boxes of zero size.
        threshold: IoU that counts as a fit.

    Source: Deselaers et al. 2010; the measure of LOST and TokenCut.
    """
    if truth.ndim == 2:
        truth = truth[:, None]
    fits = box_iou(boxes[:, None], truth) >= threshold
    return float(fits.any(dim=1).float().mean())


@takes(finite=True)
def box_iou(first: Real[Tensor, "*m 4"], second: Real[Tensor, "*n 4"]) -> Float[Tensor, "*b"]:
    """IoU (...) of boxes (..., 4), (x0, y0, x1, y1) with ends exclusive; 0 if one is empty."""
    check_broadcast(first=first.shape, second=second.shape)
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    overlap = (high - low).clamp_min(0).prod(dim=-1)
    areas = [(box[..., 2:] - box[..., :2]).clamp_min(0).prod(dim=-1) for box in (first, second)]
    return overlap / (areas[0] + areas[1] - overlap).clamp_min(1e-12)


@takes(masks=tensor("B>=0 H W", "bool"))
def mask_boxes(masks: Bool[Tensor, "B H W"]) -> Int[Tensor, "B 4"]:
    """The smallest boxes around masks: (B, H, W) -> int64 (B, 4), (x0, y0, x1, y1).

    Ends are exclusive, so that x1 − x0 is the width; an empty mask gives zeros.
    """
    sides = []
    for hit in (masks.any(dim=1), masks.any(dim=2)):  # columns, then rows
        place = torch.arange(hit.shape[1], device=hit.device)
        first = torch.where(hit, place, hit.shape[1]).amin(dim=1)
        last = torch.where(hit, place + 1, 0).amax(dim=1)
        sides.append((first.clamp_max(last), last))
    (left, right), (top, bottom) = sides
    return torch.stack([left, top, right, bottom], dim=1)


def piece_with(masks: Bool[Tensor, "B h w"], seeds: Int[Tensor, " B"]) -> Bool[Tensor, "B h w"]:
    """The connected piece (4 neighbours) of each mask (B, h, w) around a pixel, (B,) flat index."""
    pieces = _pieces(masks)
    chosen = pieces.flatten(1).gather(1, seeds[:, None])
    return masks & (pieces == chosen[..., None])


def largest_piece(masks: Bool[Tensor, "B H W"]) -> Bool[Tensor, "B H W"]:
    """The largest connected piece (4 neighbours) of each mask (B, H, W)."""
    pieces = _pieces(masks)
    sizes = torch.bincount(pieces.flatten())
    sizes[0] = 0
    biggest = sizes[pieces].flatten(1).argmax(dim=1, keepdim=True)
    chosen = pieces.flatten(1).gather(1, biggest)
    return masks & (pieces == chosen[..., None])


def _pieces(masks: Tensor) -> Tensor:
    """Connected pieces of all masks, numbered from 1 through the batch; int64 (B, h, w)."""
    numbers, _ = ndimage.label(masks.cpu().numpy(), structure=CROSS)
    return torch.from_numpy(numbers.astype(np.int64)).to(masks.device)


def _check_patches(patches: Tensor, grid: tuple[int, int]) -> None:
    if patches.ndim != 3 or patches.shape[1] != grid[0] * grid[1] or len(patches) == 0:
        raise UserError(
            f"patches of shape {tuple(patches.shape)} do not fit a grid of {grid[0]} by {grid[1]}: "
            f"pass (B, {grid[0] * grid[1]}, D)"
        )
    if patches.shape[1] < 2:
        raise UserError("an image of one patch has nothing to discover: use larger images")
    if not patches.isfinite().all():
        raise UserError("patch features hold NaN or infinity: the encoder has diverged")
