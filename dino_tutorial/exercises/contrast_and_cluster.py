"""Contrast and cluster: InfoNCE, SimCLR's line-up of all views, SwAV's swapped prediction."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dino_tutorial.exercises.exercise import (
    Answer,
    Exercise,
    Mistake,
    Observation,
    gradients,
    randn,
)
from dino_tutorial.losses import info_nce, nt_xent, swapped_prediction_loss

_NORMALISED = (
    Mistake(
        "not-normalised",
        "the vectors are not scaled to length one; the scores are cosines",
        {"unit": ()},
    ),
    Mistake(
        "lengths-over-batch",
        "the lengths are taken over the batch and not over the features of each vector; normalise "
        "with `dim=-1`",
        {"unit_axis": 0},
    ),
)
_COMMON = (
    Mistake(
        "temperature-multiplied",
        "the cosines are multiplied by the temperature; divide them",
        {"scale": "multiply"},
    ),
    Mistake("temperature-missing", "the cosines are not divided by the temperature", {"scale": ""}),
    Mistake(
        "sign",
        "the sign is wrong: minimising this pushes the positives away; the loss is −ln p",
        {"sign": -1},
    ),
    Mistake(
        "no-logarithm",
        "this is the probability of the positive; the loss is −ln of it",
        {"log": False},
    ),
    Mistake("summed", "the loss is summed; take the mean over the queries", {"reduce": "sum"}),
)


def _scaled(cosines: Tensor, temperature: float, scale: str) -> Tensor:
    if scale == "divide":
        return cosines / temperature
    return cosines * temperature if scale == "multiply" else cosines


def _cross_entropy(
    logits: Tensor, positive: Tensor, axis: int, sign: int, log: bool, reduce: str
) -> Tensor:
    chosen = logits.log_softmax(dim=axis).gather(1, positive[:, None])
    each = -sign * chosen if log else chosen.exp()
    return each.sum() if reduce == "sum" else each.mean()


def _info_nce(
    query: Tensor,
    key: Tensor,
    negatives: Tensor,
    temperature: float,
    *,
    unit: tuple[str, ...] = ("query", "key", "negatives"),
    unit_axis: int = -1,
    scale: str = "divide",
    positive: str = "once",
    axis: int = 1,
    sign: int = 1,
    log: bool = True,
    reduce: str = "mean",
) -> Tensor:
    vectors = {"query": query, "key": key, "negatives": negatives}
    for name in unit:
        vectors[name] = F.normalize(vectors[name], dim=unit_axis)
    q, k, others = vectors.values()
    own, rest = (q * k).sum(dim=1, keepdim=True), q @ others.T
    if positive == "absent":
        scores = _scaled(own, temperature, scale) - _scaled(rest, temperature, scale).logsumexp(
            dim=1, keepdim=True
        )
        each = -sign * scores
        return each.sum() if reduce == "sum" else each.mean()
    columns = {"once": [own, rest], "twice": [own, own, rest], "last": [rest, own]}[positive]
    logits = _scaled(torch.cat(columns, dim=1), temperature, scale)
    first = torch.zeros(len(query), dtype=torch.int64)
    return _cross_entropy(logits, first, axis, sign, log, reduce)


def _observe_info_nce(answer: Answer) -> Observation:
    seen = {}
    for batch, width, others, temperature in ((5, 4, 7, 0.2), (3, 6, 4, 0.5), (4, 3, 6, 0.01)):
        q = randn(batch, width, seed=batch, scale=2, grad=True)
        k = randn(batch, width, seed=batch + 10, scale=0.5)
        loss = answer.scalar(q, k, randn(others, width, seed=batch + 20), temperature)
        seen[f"the loss with {others} negatives, τ = {temperature}"] = loss.detach()
        if temperature > 0.1:  # below, a cosine's rounding is as large as a gradient can be
            seen |= gradients(loss, **{f"the query's gradient with {others} negatives": q})
    return seen


INFO_NCE = Exercise(
    name="info_nce",
    chapter="contrast-and-cluster",
    call="info_nce(query, key, negatives, temperature)",
    task="`query` (B, D), `key` (B, D), row b of both from one image, `negatives` (K, D) and a "
    "float `temperature` τ to a scalar: −ln p of each query's own key among that key and "
    "the K negatives, p a softmax of cosine / τ; the mean over the B queries. It stays "
    "finite for τ = 0.01.",
    solution=info_nce,
    variant=_info_nce,
    observe=_observe_info_nce,
    checked="the value for three sizes and temperatures from 0.01 to 0.5, and for two of them the "
    "query's gradient",
    bounds=(0, math.inf),
    mistakes=(
        *_NORMALISED,
        Mistake(
            "negatives-not-normalised",
            "the negatives are not scaled to length one, so that a long one counts for more",
            {"unit": ("query", "key")},
        ),
        *_COMMON,
        Mistake(
            "positive-among-negatives",
            "the positive is among the negatives as well, so that the loss pushes away what it "
            "pulls; it stands in the sum once",
            {"positive": "twice"},
        ),
        Mistake(
            "positive-missing",
            "the sum in the denominator has the negatives alone; the positive belongs to it, or "
            "it is no probability",
            {"positive": "absent"},
        ),
        Mistake(
            "wrong-answer",
            "the cross-entropy names a negative as the right answer; put the positive where the "
            "target says",
            {"positive": "last"},
        ),
        Mistake(
            "wrong-axis",
            "the softmax runs over the batch; each query chooses among its own candidates, `dim=1`",
            {"axis": 0},
        ),
    ),
)


def _nt_xent(
    view_1: Tensor,
    view_2: Tensor,
    temperature: float,
    *,
    unit: tuple[str, ...] = ("views",),
    unit_axis: int = -1,
    scale: str = "divide",
    itself: str = "left out",
    positive: str = "once",
    negatives: str = "all",
    queries: str = "both views",
    sign: int = 1,
    log: bool = True,
    reduce: str = "mean",
) -> Tensor:
    n, views = len(view_1), torch.cat([view_1, view_2])
    if unit:
        views = F.normalize(views, dim=unit_axis)
    logits = _scaled(views @ views.T, temperature, scale)  # (2B, 2B)
    index = torch.arange(2 * n)
    own = index.roll(n) if positive != "neighbour" else index ^ 1
    if itself == "left out":
        logits = logits.masked_fill(torch.eye(2 * n, dtype=torch.bool), -torch.inf)
    if negatives == "other view":
        same = (index[:, None] < n) == (index < n)
        logits = logits.masked_fill(same, -torch.inf)
    if positive == "twice":
        logits = torch.cat([logits, logits.gather(1, own[:, None])], dim=1)
    if positive == "absent":
        rest = logits.scatter(1, own[:, None], -torch.inf).logsumexp(dim=1)
        each = sign * (rest - logits.gather(1, own[:, None])[:, 0])
        return each.sum() if reduce == "sum" else each.mean()
    if queries == "first view":
        logits, own = logits[:n], own[:n]
    if queries == "second view":
        logits, own = logits[n:], own[n:]
    return _cross_entropy(logits, own, 1, sign, log, reduce)


def _package_nt_xent(view_1: Tensor, view_2: Tensor, temperature: float) -> Tensor:
    return nt_xent(torch.stack([view_1, view_2]), temperature)


def _observe_nt_xent(answer: Answer) -> Observation:
    seen = {}
    for batch, width, temperature in ((4, 5, 0.2), (6, 3, 0.5), (3, 7, 0.05)):
        one = randn(batch, width, seed=batch, scale=2, grad=True)
        two = randn(batch, width, seed=batch + 10, scale=0.5, grad=True)
        loss = answer.scalar(one, two, temperature)
        seen[f"the loss of {batch} images"] = loss.detach()
        names = f"view 1's gradient, {batch} images", f"view 2's gradient, {batch} images"
        seen |= gradients(loss, **dict(zip(names, (one, two), strict=True)))
    return seen


NT_XENT = Exercise(
    name="nt_xent",
    chapter="contrast-and-cluster",
    call="nt_xent(view_1, view_2, temperature)",
    task="`view_1` (B, D) and `view_2` (B, D), row b of both from one image, and a float "
    "`temperature` τ to SimCLR's loss, a scalar: each of the 2B views looks for the other "
    "view of its image among the 2B − 1 others, −ln of a softmax of cosine / τ; the mean "
    "over all 2B.",
    solution=_package_nt_xent,
    variant=_nt_xent,
    observe=_observe_nt_xent,
    checked="the value and both views' gradients, for two batches",
    bounds=(0, math.inf),
    mistakes=(
        *_NORMALISED,
        *_COMMON,
        Mistake(
            "itself-among-candidates",
            "each view is among its own candidates, with cosine 1; leave the diagonal out",
            {"itself": "kept"},
        ),
        Mistake(
            "positive-among-negatives",
            "the positive is among the negatives as well, so that the loss pushes away what it "
            "pulls; it stands in the sum once",
            {"positive": "twice"},
        ),
        Mistake(
            "positive-missing",
            "the sum in the denominator has the negatives alone; the positive belongs to it, or "
            "it is no probability",
            {"positive": "absent"},
        ),
        Mistake(
            "wrong-positive",
            "the positive is taken to be the neighbour in the batch; with the views one after the "
            "other it is B places away",
            {"positive": "neighbour"},
        ),
        Mistake(
            "other-view-only",
            "the candidates are the views of the other half alone; the views of the own half are "
            "negatives too, 2B − 2 in all",
            {"negatives": "other view"},
        ),
        Mistake(
            "one-direction",
            "only the views of one half look for their partners; those of the other do so too",
            {"queries": "first view"},
            {"queries": "second view"},
        ),
    ),
)


def _swapped(
    logits: Tensor,
    assignments: Tensor,
    temperature: float,
    *,
    swap: bool = True,
    scale: str = "divide",
    axis: int = -1,
    log: bool = True,
    sign: int = 1,
    directions: tuple[int, ...] = (0, 1),
    reduce: str = "mean",
) -> Tensor:
    p = _scaled(logits, temperature, scale).softmax(dim=axis)
    scores = p.log() if log else p
    targets = assignments.flip(0) if swap else assignments
    each = -sign * (targets * scores).sum(dim=-1)[list(directions)]  # (2, B)
    return {"mean": each.mean(), "sum": each.sum(), "views": each.mean(dim=1).sum()}[reduce]


def _observe_swapped(answer: Answer) -> Observation:
    seen = {}
    for batch, prototypes, temperature in ((4, 6, 0.1), (5, 3, 0.2)):
        logits = randn(2, batch, prototypes, seed=batch, scale=0.3, grad=True)
        assignments = randn(2, batch, prototypes, seed=batch + 10).softmax(dim=-1)
        loss = answer.scalar(logits, assignments, temperature)
        seen[f"the loss with {prototypes} prototypes"] = loss.detach()
        seen |= gradients(loss, **{f"the gradient with {prototypes} prototypes": logits})
    return seen


SWAPPED = Exercise(
    name="swapped",
    chapter="contrast-and-cluster",
    call="swapped(logits, assignments, temperature)",
    task="`logits` (2, B, K) of two views, their `assignments` (2, B, K) with rows that sum to "
    "1, and a float `temperature` τ to SwAV's loss, a scalar: the cross-entropy −Σ q ln "
    "softmax(logits / τ) over K, with q the *other* view's assignment; the mean over both "
    "views and the batch.",
    solution=swapped_prediction_loss,
    variant=_swapped,
    observe=_observe_swapped,
    checked="the value and the logits' gradient, for two sizes",
    bounds=(0, math.inf),
    mistakes=(
        Mistake(
            "not-swapped",
            "each view predicts its own assignment, which it made itself; swap them",
            {"swap": False},
        ),
        Mistake(
            "one-direction",
            "only one view predicts; the mean is over both directions",
            {"directions": (0,)},
            {"directions": (1,)},
        ),
        Mistake(
            "directions-summed",
            "the two directions are added; take their mean",
            {"reduce": "views"},
        ),
        Mistake(
            "wrong-axis",
            "the softmax runs over the batch or the views; the K prototypes of one view have to "
            "sum to 1, `dim=-1`",
            {"axis": 1},
            {"axis": 0},
        ),
        *_COMMON[:3],
        Mistake(
            "no-logarithm",
            "the logarithm is missing: a cross-entropy is −Σ q ln p",
            {"log": False},
        ),
        Mistake("summed", "the loss is summed over the batch; take the mean", {"reduce": "sum"}),
    ),
)

EXERCISES = (INFO_NCE, NT_XENT, SWAPPED)
