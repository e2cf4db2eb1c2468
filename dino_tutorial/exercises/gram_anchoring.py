"""Gram anchoring: the loss on similarities between patches, and how well they part an object."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dino_tutorial.exercises.exercise import (
    Answer,
    Exercise,
    Mistake,
    Observation,
    draw,
    gradients,
    randn,
)
from dino_tutorial.losses import GramLoss

CHAPTER = "gram-anchoring"


def _package_gram(student: Tensor, anchor: Tensor) -> Tensor:
    return GramLoss()(student, anchor)


def _gram_loss(
    student: Tensor,
    anchor: Tensor,
    *,
    unit: str = "tokens",
    matrix: str = "patches",
    power: int = 2,
    reduce: str = "mean",
    detach: bool = True,
    frozen: str = "anchor",
) -> Tensor:
    pair = [student, anchor]
    if detach:
        pair = [student, anchor.detach()] if frozen == "anchor" else [student.detach(), anchor]
    if matrix == "tokens":
        gap = F.normalize(pair[0], dim=-1) - F.normalize(pair[1], dim=-1)
        return gap.square().mean() if reduce == "mean" else gap.square().sum(dim=-1).mean()
    grams = []
    for x in pair:
        if unit != "none":
            x = F.normalize(x, dim=-1 if unit == "tokens" else 1)
        if matrix == "batch":
            x = x.flatten(0, 1)[None]
        grams.append(x.transpose(1, 2) @ x if matrix == "dimensions" else x @ x.transpose(1, 2))
    gap = (grams[0] - grams[1]).abs() ** power
    return {
        "mean": gap.mean,
        "sum": gap.sum,
        "norm": lambda: gap.sum(dim=(1, 2)).sqrt().mean(),
        "image": lambda: gap.sum(dim=(1, 2)).mean(),
    }[reduce]()


def _observe_gram(answer: Answer) -> Observation:
    seen = {}
    for images, patches, width in ((3, 7, 5), (2, 4, 6)):
        shape = images, patches, width
        student, anchor = randn(*shape, seed=1, grad=True), randn(*shape, seed=2, grad=True)
        loss = answer.scalar(student, anchor)
        seen[f"the loss for {images} images"] = loss.detach()
        for name, value in gradients(loss, student=student, anchor=anchor).items():
            seen[f"the gradient for the {name} of {images} images"] = value
    return seen


GRAM_LOSS = Exercise(
    name="gram_loss",
    chapter=CHAPTER,
    call="gram_loss(student, anchor)",
    task="patch tokens `student` (B, N, D) and `anchor` (B, N, D) to a scalar: the mean over all"
    " B·N·N entries of the squared difference between the two matrices (B, N, N) of cosines"
    " between the patches of each image. No gradient reaches the anchor.",
    solution=_package_gram,
    variant=_gram_loss,
    observe=_observe_gram,
    checked="the loss and both gradients for two shapes",
    bounds=(0, math.inf),
    mistakes=(
        Mistake(
            "no-stop-gradient",
            "a gradient flows into the anchor; it is an earlier network and stays as it is: "
            "`.detach()`",
            {"detach": False},
        ),
        Mistake(
            "student-detached",
            "the student is detached instead of the anchor; nothing would be trained",
            {"frozen": "student"},
        ),
        Mistake(
            "not-normalised",
            "the tokens are not scaled to length one; long tokens would decide everything",
            {"unit": "none"},
        ),
        Mistake(
            "wrong-axis",
            "tokens are normalised over the patches; each token is, over its own dimensions, "
            "`dim=-1`",
            {"unit": "patches"},
        ),
        Mistake(
            "dimensions",
            "this is the matrix of dimensions, (D, D); the one of patches is `x @ x.T`, (N, N)",
            {"matrix": "dimensions"},
        ),
        Mistake(
            "tokens-compared",
            "the tokens themselves are compared; compare the matrices of their cosines",
            {"matrix": "tokens"},
            {"matrix": "tokens", "reduce": "sum"},
        ),
        Mistake(
            "across-images",
            "patches of different images are compared; each image has a matrix of its own",
            {"matrix": "batch"},
        ),
        Mistake(
            "absolute",
            "the absolute differences are averaged; square them",
            {"power": 1},
        ),
        Mistake(
            "summed",
            "the squares are summed, as in the paper; here they are averaged, so that the weight "
            "does not depend on the number of patches",
            {"reduce": "sum"},
            {"reduce": "image"},
        ),
        Mistake(
            "root",
            "this is the Frobenius norm; the loss is its square",
            {"reduce": "norm"},
        ),
    ),
)


def _contrast(
    patches: Tensor,
    on_object: Tensor,
    *,
    unit: bool = True,
    diagonal: bool = False,
    other: str = "across",
    sign: float = 1.0,
    ratio: bool = False,
    pairs: str = "different",
    exchanged: bool = False,
    added: bool = False,
    axis: int = -1,
) -> Tensor:
    unit_patches = F.normalize(patches, dim=axis) if unit else patches
    cosines = unit_patches @ unit_patches.T
    if exchanged:
        on_object = ~on_object
    own = cosines[on_object][:, on_object]
    different = ~torch.eye(len(own), dtype=torch.bool)
    inside = own.mean() if diagonal else own[different].mean()
    if pairs == "of all":
        inside = (own * different).mean()
    if pairs == "half of all":
        inside = own.triu(1).mean()
    if pairs == "summed":
        inside = own[different].sum()
    if pairs == "any":
        inside = cosines[~torch.eye(len(cosines), dtype=torch.bool)].mean()
    if added:
        sign, inside = -1.0, -inside
    rest = {"across": cosines[on_object][:, ~on_object], "all": cosines[on_object], "table": None}
    outside = cosines[~on_object][:, ~on_object] if other == "table" else rest[other]
    return inside / outside.mean() if ratio else sign * (inside - outside.mean())


def _observe_contrast(answer: Answer) -> Observation:
    seen = {}
    for n_patches, n_object in ((9, 4), (16, 5), (12, 3)):
        on_object = torch.arange(n_patches) % (n_patches // n_object) == 0
        on_object = on_object[randn(n_patches, seed=4).argsort()] if draw() else on_object
        patches = randn(n_patches, 6, seed=n_patches) + 1.5 * on_object[:, None] * randn(6, seed=3)
        patches = (0.5 + torch.arange(n_patches) / n_patches)[:, None] * patches
        seen[f"the contrast of {n_patches} patches"] = answer.number(patches, on_object)
    return seen


CONTRAST = Exercise(
    name="contrast",
    chapter=CHAPTER,
    call="contrast(patches, on_object)",
    task="`patches` (N, D) and boolean `on_object` (N,) to one number: the mean cosine of pairs "
    "of *different* object patches, minus the mean cosine of an object patch with a patch "
    "of the table, which are those where on_object is False.",
    solution=_contrast,
    variant=_contrast,
    observe=_observe_contrast,
    checked="two images",
    mistakes=(
        Mistake(
            "diagonal",
            "the cosine of a patch with itself is counted; it is always 1, leave out the diagonal",
            {"diagonal": True},
        ),
        Mistake(
            "not-normalised",
            "these are dot products; scale the tokens to length one for cosines",
            {"unit": False},
        ),
        Mistake(
            "wrong-axis",
            "the lengths are taken over the patches and not over the features of each; normalise "
            "with `dim=-1`",
            {"axis": 0},
        ),
        Mistake(
            "diagonal-as-zero",
            "a patch with itself counts as a pair of cosine 0; divide by the pairs of different "
            "patches, n (n − 1)",
            {"pairs": "of all"},
            {"pairs": "half of all"},
        ),
        Mistake(
            "summed",
            "the cosines of object patches are summed; take their mean",
            {"pairs": "summed"},
        ),
        Mistake(
            "all-with-all",
            "the first mean runs over all patches; it is over pairs of object patches",
            {"pairs": "any"},
        ),
        Mistake(
            "exchanged",
            "object and table have changed places; `on_object` is True on the object",
            {"exchanged": True},
        ),
        Mistake("added", "the two means are added; subtract the second", {"added": True}),
        Mistake(
            "table-with-table",
            "pairs of table patches are subtracted; subtract pairs of an object and a table patch",
            {"other": "table"},
        ),
        Mistake(
            "all-patches",
            "object patches are compared with all patches, their own kind included; take the table",
            {"other": "all"},
        ),
        Mistake("wrong-sign", "the difference is the wrong way round", {"sign": -1.0}),
        Mistake("ratio", "the two means are divided; subtract them", {"ratio": True}),
    ),
)

EXERCISES = (GRAM_LOSS, CONTRAST)
