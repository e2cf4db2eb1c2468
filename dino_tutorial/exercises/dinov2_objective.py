"""DINOv2's objective: the patch loss, KoLeo, and the rate at which each layer learns."""

import math
from itertools import count

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dino_tutorial.exercises.exercise import (
    Answer,
    Exercise,
    Mistake,
    Mistaken,
    Observation,
    as_tensor,
    draw,
    gradients,
    randn,
    vary,
)
from dino_tutorial.losses import KoLeoLoss, ibot_loss

CHAPTER = "dinov2-objective"


def _package_patch_loss(student: Tensor, targets: Tensor, masks: Tensor, temp: float) -> Tensor:
    weights = (1 / masks.sum(dim=1, keepdim=True).clamp(min=1)).expand(masks.shape)[masks]
    return ibot_loss(student[masks], targets[masks].detach(), weights, len(masks), temp)


def _patch_loss(
    student: Tensor,
    targets: Tensor,
    masks: Tensor,
    temp: float,
    *,
    asked: str = "hidden",
    per_image: str = "mean",
    images: str = "all",
    multiply: bool = False,
    axis: int = -1,
    swapped: bool = False,
    sign: int = -1,
) -> Tensor:
    counted = {"hidden": masks, "visible": ~masks, "all": torch.ones_like(masks)}[asked]
    log_q = (student * temp if multiply else student / temp).log_softmax(dim=axis)
    terms = log_q.exp() * targets.log() if swapped else targets * log_q
    entropies = terms.sum(dim=-1) * counted
    if per_image.startswith("together"):
        least = 1 if per_image == "together or 0" else 0  # where nothing is masked: 0, or nan
        return sign * entropies.sum() / counted.sum().clamp(min=least)
    each = entropies.sum(dim=1)
    if per_image == "mean":
        each = each / counted.sum(dim=1).clamp(min=1)
    elif per_image == "nan":
        each = each / counted.sum(dim=1)
    elif per_image == "one more":
        each = each / (counted.sum(dim=1) + 1)
    elif per_image == "all patches":
        each = each / masks.shape[1]
    return sign * each.sum() / (len(masks) if images == "all" else masks.any(dim=1).sum())


def _observe_patch_loss(answer: Answer) -> Observation:
    masks = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]) > 0
    seen = {}
    for part, temp in ((slice(0, 4), 0.1), (slice(0, 3), 0.5)):
        hidden = masks[part]
        student = randn(len(hidden), 5, 6, seed=1, scale=0.3, grad=True)
        targets = randn(len(hidden), 5, 6, seed=2, scale=2).softmax(dim=-1)
        loss = answer.scalar(student, targets, hidden, temp)
        found = gradients(loss, student=student)
        where = f"for {len(hidden)} images at temperature {temp}"
        seen[f"the loss {where}"] = loss.detach()
        seen[f"the student's gradient {where}"] = found["student"]
    student = randn(3, 4, 5, seed=3)
    targets = randn(3, 4, 5, seed=4).softmax(dim=-1)
    for name, hidden in (
        ("one image is masked altogether", torch.arange(3)[:, None] == torch.tensor([0, 0, 0, 0])),
        ("nothing is masked in any image", torch.zeros(3, 4, dtype=torch.bool)),
    ):
        seen[f"the loss where {name}"] = answer.number(student, targets, hidden, *vary(0.2))
    return seen


PATCH_LOSS = Exercise(
    name="patch_loss",
    chapter=CHAPTER,
    call="patch_loss(student_logits, targets, masks, student_temp)",
    task="`student_logits` (B, N, K), `targets` (B, N, K), the teacher's probabilities, boolean "
    "`masks` (B, N), true where a patch is masked, and a float `student_temp` to a scalar: "
    "the cross-entropy −Σ target · ln softmax(student_logits / student_temp) over K at the "
    "masked patches, their mean in each image, then the mean over all B images, where one "
    "with nothing masked counts 0.",
    solution=_package_patch_loss,
    variant=_patch_loss,
    observe=_observe_patch_loss,
    checked="the loss and its gradient for four images and for three, half of them whole",
    bounds=(0, math.inf),
    mistakes=(
        Mistake(
            "visible-patches",
            "the visible patches are asked for, which the student can simply look at; take those "
            "where the mask is true",
            {"asked": "visible"},
        ),
        Mistake(
            "every-patch",
            "all patches are asked for; only the masked ones count",
            {"asked": "all"},
        ),
        Mistake(
            "nan-without-mask",
            "an image with nothing masked makes it nan, a mean over no patches; it counts 0",
            {"per_image": "nan"},
        ),
        Mistake(
            "patches-together",
            "the mean runs over the masked patches of all images together, so that an image with "
            "more of them counts more; take the mean in each image first",
            {"per_image": "together"},
            {"per_image": "together or 0"},
        ),
        Mistake(
            "summed",
            "the masked patches of an image are summed; take their mean",
            {"per_image": "sum"},
        ),
        Mistake(
            "divided-by-all-patches",
            "the sum over an image's masked patches is divided by N; divide by how many are masked",
            {"per_image": "all patches"},
        ),
        Mistake(
            "one-more",
            "an image's sum is divided by one more than its masked patches; keep 0 / 0 away with "
            "`clamp(min=1)`, which leaves all other numbers as they are",
            {"per_image": "one more"},
        ),
        Mistake(
            "wrong-axis",
            "the softmax runs over the patches or the images; the K prototypes of one patch have "
            "to sum to 1, `dim=-1`",
            {"axis": 1},
            {"axis": 0},
        ),
        Mistake(
            "swapped",
            "student and teacher have changed places: the teacher gives the probabilities, the "
            "student the logarithms",
            {"swapped": True},
        ),
        Mistake(
            "masked-images-only",
            "the mean is over the masked images only; divide by all B of them, as the reference "
            "does",
            {"images": "masked"},
        ),
        Mistake(
            "temperature-multiplied",
            "the student's logits are multiplied by the temperature; divide them",
            {"multiply": True},
        ),
        Mistake("sign", "the minus sign is missing; a cross-entropy is not negative", {"sign": 1}),
    ),
)


def _koleo(
    features: Tensor,
    *,
    unit: bool = True,
    itself: bool = False,
    neighbour: str = "nearest",
    distance: str = "chord",
    log: bool = True,
    sign: int = -1,
    reduce: str = "mean",
    epsilon: float = 1e-4,
    axis: int = -1,
    alone: str = "counts 0",
) -> Tensor:
    if len(features) < 2 and alone == "counts 0":
        return 0 * features.sum()
    x = normalize(features, dim=axis) if unit else features
    squares = (x[:, None] - x).pow(2).sum(dim=-1)
    if distance == "cosine":
        squares = (1 - x @ x.T).clamp(min=0).square()
    if distance == "city":
        squares = (x[:, None] - x).abs().sum(dim=-1).square()
    others = squares if itself else squares + 1e9 * torch.eye(len(x))
    chosen = {"nearest": others.argmin, "farthest": squares.argmax}.get(neighbour)
    if neighbour == "all":
        squares = squares.sum(dim=1) / (len(x) - 1)
    else:
        squares = squares.gather(1, chosen(dim=1)[:, None])[:, 0]
    squares = squares + epsilon**2
    value = squares if distance == "squared" else squares.sqrt()
    value = value.log() if log else value
    return sign * (value.sum() if reduce == "sum" else value.mean())


def _observe_koleo(answer: Answer) -> Observation:
    seen = {}
    for batch, width in ((5, 3), (8, 16), (2, 4)):
        features = _apart(batch, width).requires_grad_()
        loss = answer.scalar(features)
        seen[f"the loss for {batch} features"] = loss.detach()
        found = gradients(loss, features=features)["features"]
        seen[f"the gradient for {batch} features"] = found
    losses = [loss for name, loss in seen.items() if "gradient" not in name]
    if min(losses) > 3 and max(losses) - min(losses) < 1e-3:  # ln d of what keeps d from 0
        raise Mistaken("own-neighbour")
    _check_finite(answer, torch.cat([randn(3, 4, seed=1)] * 2), "duplicates")
    _check_finite(answer, randn(1, 4, seed=1), "batch-of-one")
    return seen


def _apart(batch: int, width: int) -> Tensor:
    """Features so far apart that 1e-4 is nothing beside it, and not so far that ln d is near 0."""
    for seed in count(100 * batch):
        features = 3 * randn(1, width, seed=seed) + 2 * randn(batch, width, seed=seed + 50)
        unit = normalize(features, dim=-1)
        nearest = (torch.cdist(unit, unit) + 9 * torch.eye(batch)).amin(dim=1)
        if nearest.min() > 0.2 and nearest.log().mean() < -0.3:
            return features
    raise AssertionError("count() has no end")


def _check_finite(answer: Answer, features: Tensor, mistake: str) -> None:
    features = features.clone().requires_grad_()
    alone = len(features) == 1  # where a constant will do, through which nothing flows
    loss = as_tensor(answer(features)) if alone else answer.scalar(features)
    answer.calls.pop()  # what the value is there is left open
    found = gradients(loss.sum(), features=features)["features"] if loss.requires_grad else loss
    if not (loss.isfinite().all() and found.isfinite().all()):
        raise Mistaken(mistake)


KOLEO = Exercise(
    name="koleo",
    chapter=CHAPTER,
    call="koleo(features)",
    task="`features` (B, D) to a scalar: minus the mean over the batch of ln d, d the Euclidean "
    "distance from a feature, scaled to length 1, to the nearest other one. Loss and "
    "gradient stay finite for equal features and for B = 1; a constant of 1e-4 or less may "
    "be added to the distance for that.",
    solution=KoLeoLoss(),
    variant=_koleo,
    observe=_observe_koleo,
    checked="loss and gradient for three batches, and that both are finite for duplicates and for "
    "a batch of one",
    mistakes=(
        Mistake(
            "not-normalised",
            "the features are not scaled to length 1 first; without it a network lowers the loss "
            "by making its features longer",
            {"unit": False},
        ),
        Mistake(
            "own-neighbour",
            "each feature is its own nearest neighbour, at distance 0; leave the diagonal out",
            {"itself": True},
        ),
        Mistake(
            "farthest",
            "this is the distance to the farthest feature; take the nearest",
            {"neighbour": "farthest"},
        ),
        Mistake(
            "all-neighbours",
            "this is the mean distance to all others; only the nearest counts",
            {"neighbour": "all"},
        ),
        Mistake(
            "squared",
            "the distance is squared, so that the loss is twice as large; take the root",
            {"distance": "squared"},
        ),
        Mistake("no-logarithm", "the logarithm is missing", {"log": False}),
        Mistake(
            "wrong-axis",
            "the lengths are taken over the batch and not over the features of each; normalise "
            "with `dim=-1`",
            {"axis": 0},
        ),
        Mistake(
            "other-distance",
            "this is another distance: 1 − cos, or a sum of absolute differences; take the "
            "Euclidean one",
            {"distance": "cosine"},
            {"distance": "city"},
        ),
        Mistake(
            "constant-too-large",
            "the constant that keeps it finite is large enough to change the loss; 1e-4 will do",
            {"epsilon": 0.1},
            {"epsilon": 0.01},
        ),
        Mistake(
            "sign",
            "the minus sign is missing, and the features would be drawn together",
            {"sign": 1},
        ),
        Mistake("summed", "it is summed over the batch; take the mean", {"reduce": "sum"}),
        Mistake(
            "duplicates",
            "two equal features make it infinite or nan; add something small to the squared "
            "distance, inside the root",
            {"epsilon": 0.0},
        ),
        Mistake(
            "batch-of-one",
            "a batch of one has no neighbour, and the result is not finite; it costs 0",
            {"alone": "nan", "neighbour": "all"},
        ),
    ),
)


def _layer_rates(
    depth: int,
    decay: float,
    patch_embed_mult: float,
    *,
    first: int = 1,
    embedding: int = 1,
    order: int = 1,
    multiplied: str = "patch embedding",
    powers: bool = True,
) -> list[float]:
    exponents = [depth + embedding, *range(depth - 1 + first, first - 1, -1), 0][::order]
    rates = [decay**e if powers else 1 - (1 - decay) * e for e in exponents]
    if multiplied == "everything":
        return [patch_embed_mult * rate for rate in rates]
    if multiplied == "patch embedding":
        rates[0] *= patch_embed_mult
    return rates


def _observe_layer_rates(answer: Answer) -> Observation:
    return {
        f"the rates for {depth} blocks, decay {decay} and multiplier {mult}": answer.tensor(
            depth, decay, mult
        )
        .double()
        .reshape(-1)
        for depth, decay, mult in ((3, 0.5, 1.0), (12, 0.9, 0.2), (1 + draw() % 7, 0.7, 0.5))
    }


LAYER_RATES = Exercise(
    name="layer_rates",
    chapter=CHAPTER,
    call="layer_rates(depth, decay, patch_embed_mult)",
    task="integers `depth` and floats `decay` and `patch_embed_mult` to depth + 2 factors on the"
    " learning rate, from input to output: patch embedding, each block, head. The head's is"
    " 1, each other one `decay` times that of the part above it, and the patch embedding's "
    "is multiplied by `patch_embed_mult` as well.",
    solution=_layer_rates,
    variant=_layer_rates,
    observe=_observe_layer_rates,
    checked="3 and 12 blocks, two decays, two multipliers",
    bounds=(0, math.inf),
    mistakes=(
        Mistake(
            "upside-down",
            "the input learns fastest; the rates grow from the input to the head",
            {"order": -1},
        ),
        Mistake(
            "last-block-undecayed",
            "the last block has the head's rate; it is one step below the head",
            {"first": 0, "embedding": 0},
        ),
        Mistake(
            "embedding-with-first-block",
            "the patch embedding has the first block's rate; it is one step below",
            {"embedding": 0},
        ),
        Mistake(
            "multiplier-forgotten",
            "the patch embedding's own multiplier is missing",
            {"multiplied": "nothing"},
        ),
        Mistake(
            "multiplier-everywhere",
            "every rate is multiplied by the patch embedding's multiplier",
            {"multiplied": "everything"},
        ),
        Mistake(
            "linear",
            "the rates fall by a constant difference; each is `decay` times the next",
            {"powers": False},
        ),
    ),
)

EXERCISES = (PATCH_LOSS, KOLEO, LAYER_RATES)
