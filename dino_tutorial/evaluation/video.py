"""Following an object through a video with nothing but patch features, and how well it went.

The object is outlined in the first frame. Each later patch takes the labels of the most similar
patches near it in the first and the last few frames. Nothing is trained: what the labels follow
is what the features keep of a thing while it moves (Jabri et al. 2020; DINO, section 4.2.2).

Baselines through the same functions: :func:`patch_pixels` or an untrained encoder's patches; and
the outline that stays where it was, ``first_mask.expand(T, -1, -1)``.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from dino_tutorial.errors import UserError
from dino_tutorial.evaluation.attention import jaccard
from dino_tutorial.options import number, pair, takes, tensor, whole

CHUNK_ENTRIES = 2**24  # similarities held at once: 64 MiB in float32
TOLERANCE = 0.008  # of the diagonal: how far boundaries may be apart, as DAVIS has it


@takes(
    finite=True,
    features=tensor("T N D", "float"),
    first_labels=tensor("..."),
    grid=pair(),
    n_context=whole(low=0),
    neighbourhood=whole(low=0, none=True),
    topk=whole(),
    temperature=number(0, 1e6, above=True),
)
@torch.no_grad()
def propagate_labels(
    features: Float[Tensor, "T N D"],
    first_labels: Shaped[Tensor, "_ _"],
    grid: tuple[int, int],
    n_context: int = 7,
    neighbourhood: int | None = 12,
    topk: int = 5,
    temperature: float = 0.1,
) -> Float[Tensor, "T N C"]:
    """Carry the labels of the first frame's patches through a video.

    A patch looks at the patches at most ``neighbourhood`` rows and columns away in the first
    frame and in the ``n_context`` frames before its own, and takes the mean of the labels of the
    ``topk`` most similar ones (more if the last of them tie), weighted by exp(cosine /
    temperature). Labels stay soft from frame to frame.

    Args:
        features: (T, N, D) patch features, row by row; any scale.
        first_labels: of the first frame; soft (N, C), or a mask in pixels (H, W), boolean or
            integer 0..C−1 with 0 for the background, of which each patch takes the value at its
            centre.
        grid: (h, w) in patches, N = h·w.
        n_context: frames before the present one, beside the first.
        neighbourhood: in patches; None looks everywhere.
        topk, temperature: as said; DINO's release has 5 and 0.1.

    Returns:
        (T, N, C) float32; ``[0]`` is what was given. :func:`label_masks` makes masks of it.

    Raises:
        UserError: if shapes do not fit or a setting is out of range.

    Source: the protocol and settings of DINO's ``eval_video_segmentation.py``.
    """
    height, width = grid
    n_patches = height * width
    if features.ndim != 3 or features.shape[1] != n_patches or len(features) == 0:
        raise UserError(
            f"features of shape {tuple(features.shape)} do not fit a grid of {height} by {width} "
            f"patches: pass (T, {n_patches}, D)"
        )
    if n_context < 0 or topk < 1 or temperature <= 0 or (neighbourhood or 0) < 0:
        raise UserError(
            f"n_context {n_context}, topk {topk}, temperature {temperature}, neighbourhood "
            f"{neighbourhood}: use at least 0, at least 1, above 0, and at least 0 or None"
        )
    features = F.normalize(features.float(), dim=-1)
    labels = _soft_labels(first_labels.to(features.device), grid)
    result = labels.new_empty(len(features), *labels.shape)
    result[0] = labels
    near = _near(grid, neighbourhood, features.device)
    for t in range(1, len(features)):
        context = [0, *range(max(1, t - n_context), t)]
        result[t] = _carry(features[t], features[context], result[context], near, topk, temperature)
    return result


def _carry(
    queries: Tensor,
    sources: Tensor,
    labels: Tensor,
    near: Tensor | None,
    topk: int,
    temperature: float,
) -> Tensor:
    """Labels (N, C) of the patches (N, D) of one frame, from S frames (S, N, D), (S, N, C)."""
    keys, values = sources.flatten(0, 1).T, labels.flatten(0, 1)
    k = min(topk, keys.shape[1])
    parts = []
    for rows in torch.arange(len(queries), device=queries.device).split(
        max(1, CHUNK_ENTRIES // keys.shape[1])
    ):
        similarity = queries[rows] @ keys
        if near is not None:
            similarity.masked_fill_(~near[rows].repeat(1, len(sources)), -torch.inf)
        best = similarity.topk(k, dim=1).values
        last = best[:, -1:].clamp_min(torch.finfo(best.dtype).min)  # if fewer than k are near
        weight = ((similarity - best[:, :1]) / temperature).exp()
        weight = torch.where(similarity >= last, weight, 0.0)
        parts.append(weight @ values / weight.sum(dim=1, keepdim=True))
    return torch.cat(parts)


def _near(grid: tuple[int, int], neighbourhood: int | None, device: torch.device) -> Tensor | None:
    """Boolean (N, N): which patches are at most so many rows and columns apart; None: all are."""
    if neighbourhood is None or neighbourhood >= max(grid) - 1:
        return None
    rows, columns = (
        (axis[:, None] - axis).abs() <= neighbourhood
        for axis in (torch.arange(side, device=device) for side in grid)
    )
    return (rows[:, None, :, None] & columns[None, :, None, :]).flatten(2).flatten(0, 1)


def _soft_labels(labels: Tensor, grid: tuple[int, int]) -> Tensor:
    """(N, C) float32 from soft labels or from a mask in pixels."""
    if not labels.is_floating_point() and labels.numel() and int(labels.min()) < 0:
        raise UserError("the first frame has labels below 0: give pixels of no object the label 0")
    if labels.is_floating_point():
        if labels.ndim == 2 and len(labels) == grid[0] * grid[1]:
            return labels.float()
    elif labels.ndim == 2 and labels.shape[0] >= grid[0] and labels.shape[1] >= grid[1]:
        small = F.interpolate(labels[None, None].float(), size=grid, mode="nearest-exact")
        return F.one_hot(small.flatten().long(), max(2, int(labels.max()) + 1)).float()
    raise UserError(
        f"first labels of type {labels.dtype} and shape {tuple(labels.shape)} do not fit a grid of "
        f"{grid[0]} by {grid[1]} patches: pass floats ({grid[0] * grid[1]}, C), or a boolean or "
        "integer mask in pixels (H, W)"
    )


@takes(finite=True, grid=pair(), size=pair())
def label_masks(
    labels: Float[Tensor, "T N C"], grid: tuple[int, int], size: tuple[int, int]
) -> Int[Tensor, "T H W"]:
    """The most likely label of every pixel: (T, H, W) int64.

    Labels are enlarged bilinearly, and each class of each frame is stretched to 0..1 before the
    largest is taken, as in DINO's release: a small object is not outvoted by a large background.

    Args:
        labels: (T, N, C), as of :func:`propagate_labels`.
        grid: (h, w) in patches.
        size: (H, W) in pixels.
    """
    if labels.shape[1] != grid[0] * grid[1]:
        raise UserError(
            f"labels of shape {tuple(labels.shape)} do not fit a grid of {grid[0]} by {grid[1]} "
            f"patches: pass (T, {grid[0] * grid[1]}, C)"
        )
    maps = labels.movedim(-1, 1).unflatten(-1, grid)  # (T, C, h, w)
    maps = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    span = high - low
    # A class without contrast says nothing about where; stretching it would enlarge rounding.
    return torch.where(span > 1e-4, (maps - low) / span, maps).argmax(dim=1)


@takes(tolerance=number(0, 1))
def region_and_boundary(
    predicted: Bool[Tensor, "T H W"], true: Bool[Tensor, "T H W"], tolerance: float = TOLERANCE
) -> tuple[Float[Tensor, " T"], Float[Tensor, " T"]]:
    """DAVIS' two measures of each frame's mask: how much is covered, how good the outline is.

    J is the Jaccard index of the regions. F is the harmonic mean of precision and recall of
    boundary pixels, where one counts as found if the other boundary passes within the tolerance.

    Args:
        predicted: boolean (T, H, W).
        true: boolean (T, H, W).
        tolerance: as part of the image's diagonal; rounded up to whole pixels.

    Returns:
        J and F, each (T,) float32 in 0..1. Two empty masks agree.

    Raises:
        UserError: if the shapes differ.

    Source: Perazzi et al. 2016, section 4. The official score of a video leaves out the first
    frame, which is given, and the last; see :func:`video_scores`.
    """
    if predicted.ndim != 3 or predicted.shape != true.shape:
        raise UserError(
            f"predicted and true masks must both be (T, H, W), not {tuple(predicted.shape)} and "
            f"{tuple(true.shape)}"
        )
    predicted, true = predicted.bool(), true.bool()
    radius = math.ceil(tolerance * math.hypot(*true.shape[1:]))
    found, outline = _outline(predicted), _outline(true)
    precision = _covered(found, _thick(outline, radius))
    recall = _covered(outline, _thick(found, radius))
    harmonic = 2 * precision * recall / (precision + recall).clamp_min(1e-12)
    return jaccard(predicted, true), harmonic


@takes()
def video_scores(predicted: Bool[Tensor, "T H W"], true: Bool[Tensor, "T H W"]) -> dict[str, float]:
    """The scores of one video as DAVIS reports them.

    Args:
        predicted, true: boolean (T, H, W), T at least 3.

    Returns:
        ``J``, ``F`` and their mean ``J&F``, averaged over all frames but the first and the
        last; ``J_recall`` and ``F_recall``, the share of these frames above 0.5.

    Raises:
        UserError: if there is no frame to score.
    """
    region, boundary = (score[1:-1] for score in region_and_boundary(predicted, true))
    if len(region) == 0:
        raise UserError(f"a video of {len(true)} frames has none between the first and the last")
    j, f = float(region.mean()), float(boundary.mean())
    return {
        "J": j,
        "F": f,
        "J&F": (j + f) / 2,
        "J_recall": float((region > 0.5).float().mean()),
        "F_recall": float((boundary > 0.5).float().mean()),
    }


def _outline(masks: Tensor) -> Tensor:
    """Pixels of (T, H, W) whose right, lower or lower right neighbour is on the other side."""
    beyond = F.pad(masks[:, None].float(), (0, 1, 0, 1), mode="replicate")[:, 0] > 0.5
    right, below, diagonal = beyond[:, :-1, 1:], beyond[:, 1:, :-1], beyond[:, 1:, 1:]
    return (masks != right) | (masks != below) | (masks != diagonal)


def _thick(lines: Tensor, radius: int) -> Tensor:
    """All pixels within a distance of ``radius`` pixels from a line."""
    across = torch.arange(-radius, radius + 1, device=lines.device).square()
    disc = (across[:, None] + across <= radius**2).float()[None, None]
    return F.conv2d(lines[:, None].float(), disc, padding=radius)[:, 0] > 0.5


def _covered(lines: Tensor, area: Tensor) -> Tensor:
    """The share (T,) of the lines' pixels that lies in the area; 1 where there are no lines."""
    total = lines.sum((-2, -1))
    return torch.where(total > 0, (lines & area).sum((-2, -1)) / total.clamp_min(1), 1.0)
