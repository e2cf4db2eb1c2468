"""Centering and sharpening: the teacher's answer, the center; Sinkhorn–Knopp; entropy."""

import math
from typing import Any

import torch
from torch import Tensor

from dino_tutorial.evaluation import entropy
from dino_tutorial.exercises import self_distillation
from dino_tutorial.exercises.exercise import (
    Answer,
    Exercise,
    Mistake,
    Mistaken,
    Observation,
    as_tensor,
    draw,
    randn,
    vary,
)
from dino_tutorial.losses import DINOLoss, sinkhorn_knopp


def _package_answer(teacher_logits: Tensor, center: Tensor, teacher_temp: float) -> Tensor:
    criterion = DINOLoss(center.shape[-1])
    criterion.center.copy_(center)
    return criterion.probabilities(teacher_logits, teacher_temp)


def _teacher_probabilities(
    teacher_logits: Tensor,
    center: Tensor,
    teacher_temp: float,
    *,
    log: bool = False,
    **changes: Any,
) -> Tensor:
    answer = self_distillation.teacher_probabilities(
        teacher_logits, center, teacher_temp, **changes
    )
    return answer.log() if log else answer


def _observe_answer(answer: Answer) -> Observation:
    seen = {}
    for batch, prototypes, temp, level in ((4, 5, 0.04, 0), (3, 7, 0.07, 0), (5, 6, 0.05, 30)):
        logits = randn(2, batch, prototypes, seed=batch, scale=0.1) + level
        center = randn(1, prototypes, seed=batch + 1, scale=0.1)
        seen[f"the probabilities at temperature {temp}, for logits near {level}"] = answer.tensor(
            logits, center, temp
        )
    return seen


def _graph_of_answer(answer: Answer) -> str | None:
    return _graph(answer(randn(2, 3, 4, seed=1, grad=True), torch.zeros(1, 4), 0.04))


def _graph_of_center(answer: Answer) -> str | None:
    return _graph(answer(torch.zeros(1, 4), randn(2, 3, 4, seed=1, grad=True), 0.9))


def _graph(result: Tensor) -> str | None:
    """What to say about a result that no gradient should leave."""
    if not result.requires_grad:
        return None
    return "the result carries a gradient if the logits do, so call it under `torch.no_grad()`"


TEACHER_PROBABILITIES = Exercise(
    name="teacher_probabilities",
    chapter="centering-sharpening",
    call="teacher_probabilities(teacher_logits, center, teacher_temp)",
    task="`teacher_logits` (2, B, K), `center` (1, K) and a float `teacher_temp` τ to "
    "probabilities (2, B, K): the softmax over K of (teacher_logits − center) / τ, for "
    "logits of any size.",
    solution=_package_answer,
    variant=_teacher_probabilities,
    observe=_observe_answer,
    remark=_graph_of_answer,
    checked="the probabilities at three temperatures, once for large logits",
    bounds=(0, 1),
    mistakes=(
        Mistake(
            "center-not-subtracted",
            "the center is not subtracted from the logits",
            {"center_sign": 0},
        ),
        Mistake(
            "center-added",
            "the center is added to the logits; subtract it",
            {"center_sign": 1},
        ),
        Mistake(
            "center-after-temperature",
            "the center is subtracted after the division by the temperature; it is a mean of "
            "logits, so subtract first: (t − c) / τ",
            {"centred": "scaled"},
        ),
        Mistake(
            "center-from-probabilities",
            "the center is subtracted from the probabilities; it belongs to the logits",
            {"centred": "probabilities"},
        ),
        Mistake(
            "batch-mean",
            "the mean of this batch is subtracted; use the running `center` that is handed in",
            {"centred": "by batch"},
        ),
        Mistake(
            "temperature-multiplied",
            "the logits are multiplied by the temperature, which flattens the answer; divide them",
            {"scale": "multiply"},
        ),
        Mistake(
            "not-sharpened",
            "the logits are not divided by the temperature",
            {"scale": "no"},
        ),
        Mistake(
            "wrong-axis",
            "the softmax runs over the batch or the views; the K prototypes of one answer have to "
            "sum to 1, `dim=-1`",
            {"axis": 1},
            {"axis": 0},
        ),
        Mistake(
            "logarithms",
            "these are logarithms of probabilities; the teacher gives probabilities",
            {"log": True},
        ),
    ),
)


def _package_center(center: Tensor, teacher_logits: Tensor, momentum: float) -> Tensor:
    criterion = DINOLoss(center.shape[-1], center_momentum=momentum)
    criterion.center.copy_(center)
    criterion.note(teacher_logits)
    criterion.update()
    return criterion.center


def center_update(
    center: Tensor,
    logits: Tensor,
    momentum: float,
    *,
    swap: bool = False,
    forget: bool = False,
    mean: str = "all",
    sign: int = 1,
) -> Tensor:
    keep = 1 - momentum if swap else 0.0 if forget else momentum
    batch = {
        "all": lambda: logits.mean(dim=(0, 1), keepdim=True),
        "one view": lambda: logits[:1].mean(dim=1, keepdim=True),
        "batch": lambda: logits.mean(dim=1, keepdim=True),
        "sum": lambda: logits.sum(dim=(0, 1), keepdim=True),
        "view sum": lambda: logits.mean(dim=1, keepdim=True).sum(dim=0, keepdim=True),
        "scalar": lambda: logits.mean().expand(1, 1, logits.shape[-1]),
        "probabilities": lambda: logits.softmax(dim=-1).mean(dim=(0, 1), keepdim=True),
    }[mean]()
    return (keep * center + sign * (1 - keep) * batch).squeeze(0)


def _observe_center(answer: Answer) -> Observation:
    seen = {}
    for batch, prototypes, momentum in ((4, 5, 0.9), (3, 7, 0.6)):
        logits, center = randn(2, batch, prototypes, seed=batch) + 1, randn(1, prototypes, seed=9)
        before = logits.clone()
        moved = as_tensor(answer(center, logits, momentum, in_place=True)).detach()
        if not torch.equal(logits, before):
            raise Mistaken("changes-input", "it changes the teacher's logits; work on a new tensor")
        if moved.shape == (prototypes,):  # (K,) will do as well as (1, K)
            moved = moved.reshape(1, prototypes)
        seen[f"the center for momentum {momentum}"] = moved
    return seen


CENTER_UPDATE = Exercise(
    name="center_update",
    chapter="centering-sharpening",
    call="center_update(center, teacher_logits, momentum)",
    task="`center` (1, K), `teacher_logits` (2, B, K) and a float `momentum` m to the next "
    "center, (1, K) or (K,): m · center + (1 − m) · the mean of the logits over views and "
    "batch.",
    solution=_package_center,
    variant=center_update,
    observe=_observe_center,
    remark=_graph_of_center,
    checked="the next center for two momenta",
    mistakes=(
        Mistake(
            "wrong-way-round",
            "the average is the wrong way round: the momentum is the share of the old center",
            {"swap": True},
        ),
        Mistake(
            "old-center-forgotten",
            "the old center is forgotten; keep `momentum` of it",
            {"forget": True},
        ),
        Mistake(
            "one-view",
            "the mean is taken over one view only; both global views count",
            {"mean": "one view"},
        ),
        Mistake(
            "per-view",
            "each view gets a center of its own; take the mean over views and batch, `dim=(0, 1)`",
            {"mean": "batch"},
        ),
        Mistake(
            "summed",
            "the logits are summed over the batch; take their mean",
            {"mean": "sum"},
        ),
        Mistake(
            "views-summed",
            "the two views are added; take their mean",
            {"mean": "view sum"},
        ),
        Mistake(
            "prototypes-averaged",
            "the mean is taken over the prototypes too; each prototype has its own entry",
            {"mean": "scalar"},
        ),
        Mistake(
            "probabilities",
            "this averages probabilities; the center is a mean of logits",
            {"mean": "probabilities"},
        ),
        Mistake(
            "subtracted",
            "the mean of the batch is subtracted; the center moves towards it",
            {"sign": -1},
        ),
    ),
)


def _sinkhorn(
    logits: Tensor,
    temp: float,
    n_iters: int = 3,
    *,
    multiply: bool = False,
    shift: bool = True,
    order: tuple[int, ...] = (0, 1),
    turns: int | None = None,
    total: str = "rows",
    more: int = 0,
    rows: str = "",
) -> Tensor:
    shifted = logits - logits.amax() if shift else logits
    if rows == "largest":
        shifted = logits - logits.amax(dim=1, keepdim=True)
    if rows == "softmax":
        shifted = logits.softmax(dim=1)
    turns = n_iters + more if turns is None else turns
    q = (shifted * temp if multiply else shifted / temp).exp()
    for _ in range(turns):
        for axis in order:
            q = q / q.sum(dim=axis, keepdim=True)
    return q / len(q) if total == "one" else q


def _observe_sinkhorn(answer: Answer) -> Observation:
    seen = {}
    for batch, prototypes, temp, turns in (
        (6, 4, 0.1, 3),
        (5, 8, 0.05, 5),
        (4, 5, *vary(0.07), 1 + draw() % 4),
    ):
        logits = randn(batch, prototypes, seed=batch, scale=0.2)
        seen[f"the answer for B = {batch} after n_iters = {turns}"] = answer.tensor(
            logits, temp, turns
        )
    large = 40 + randn(6, 4, seed=3, scale=0.2)
    seen["the answer for large logits"] = answer.tensor(large, 0.05, 3)
    return seen


SINKHORN = Exercise(
    name="sinkhorn",
    chapter="centering-sharpening",
    call="sinkhorn(logits, temp, n_iters)",
    task="`logits` (B, K), a float `temp` τ and the number `n_iters` of iterations to (B, K): "
    "start from exp(logits / τ), then in each iteration divide each column by its sum over "
    "the batch, and after that each row by its sum over K. Logits may be large.",
    solution=sinkhorn_knopp,
    variant=_sinkhorn,
    observe=_observe_sinkhorn,
    checked="3 and 5 iterations, and logits of 40 at temperature 0.05",
    bounds=(0, 1),
    mistakes=(
        Mistake(
            "columns-last",
            "columns come last, so that the rows do not sum to 1; rows come last",
            {"order": (1, 0)},
        ),
        Mistake(
            "rows-only",
            "only rows are divided by their sums, which is a softmax; divide columns too",
            {"order": (1,)},
        ),
        Mistake(
            "columns-only",
            "only columns are divided by their sums; each row has to sum to 1 in the end",
            {"order": (0,)},
        ),
        Mistake(
            "one-iteration",
            "it stops after one iteration, whatever `n_iters` says",
            {"turns": 1},
        ),
        Mistake(
            "iterations",
            "it makes one iteration more or one fewer than `n_iters`",
            {"more": 1},
            {"more": -1},
        ),
        Mistake(
            "rows-shifted",
            "each row has its own number subtracted before the exponential, which weighs the rows "
            "anew; subtract one number from all logits",
            {"rows": "largest"},
        ),
        Mistake(
            "softmax-first",
            "the logits go through a softmax first; start from exp(logits / τ)",
            {"rows": "softmax"},
        ),
        Mistake(
            "temperature-multiplied",
            "the logits are multiplied by the temperature; divide them",
            {"multiply": True},
        ),
        Mistake(
            "overflow",
            "the exponential overflows for large logits; subtract the largest first, which "
            "changes nothing else",
            {"shift": False},
        ),
        Mistake(
            "sums-to-one",
            "the whole matrix sums to 1; each row has to, so multiply by B",
            {"total": "one"},
        ),
    ),
)


def _entropy(
    probabilities: Tensor,
    *,
    axis: int = -1,
    base: float = math.e,
    sign: int = -1,
    zeros: str = "count as 0",
    reduce: str = "sum",
) -> Tensor:
    p = probabilities
    terms = torch.xlogy(p, p) if zeros == "count as 0" else p * p.log()
    if reduce == "all":
        return sign * terms.sum()
    total = terms.mean(dim=axis) if reduce == "mean" else terms.sum(dim=axis)
    if reduce == "share":
        total = total / math.log(p.shape[-1])
    return sign * total / math.log(base)


def _observe_entropy(answer: Answer) -> Observation:
    halves = torch.tensor([[0.5, 0.0, 0.5, 0.0]])
    sure = torch.cat([torch.eye(4)[:2], torch.full((1, 4), 0.25), halves])
    return {
        "the entropy of (4, 5)": answer.tensor(randn(4, 5, seed=1).softmax(dim=-1)),
        "the entropy of (2, 3, 6)": answer.tensor(randn(2, 3, 6, seed=2).softmax(dim=-1)),
        "the entropy of answers with zeros": answer.tensor(sure),
    }


ENTROPY = Exercise(
    name="entropy",
    chapter="centering-sharpening",
    call="entropy(probabilities)",
    task="`probabilities` (…, K) to their entropies (…,), −Σ p ln p over the last dimension, in "
    "nats; 0 · ln 0 counts as 0.",
    solution=entropy,
    variant=_entropy,
    observe=_observe_entropy,
    checked="two shapes, and answers with probabilities of 0 and 1",
    bounds=(0, math.inf),
    mistakes=(
        Mistake("sign", "the minus sign is missing; an entropy is not negative", {"sign": 1}),
        Mistake(
            "zeros",
            "a probability of 0 makes it nan; 0 · ln 0 counts as 0: `torch.special.entr`, "
            "`torch.xlogy`, or a clamp before the logarithm",
            {"zeros": "nan"},
        ),
        Mistake("bits", "this is in bits; use the natural logarithm", {"base": 2}),
        Mistake("log10", "the logarithm is to base 10; use the natural one", {"base": 10}),
        Mistake(
            "averaged",
            "the K terms are averaged; sum them",
            {"reduce": "mean"},
        ),
        Mistake(
            "normalised",
            "it is divided by ln K, so that it lies between 0 and 1; it is in nats",
            {"reduce": "share"},
        ),
        Mistake(
            "wrong-axis",
            "the sum runs over the wrong dimension; the K probabilities are the last one",
            {"axis": 0},
        ),
        Mistake(
            "summed-over-everything",
            "everything is summed; there is one entropy for each distribution, so `dim=-1`",
            {"reduce": "all"},
        ),
    ),
)


EXERCISES = (TEACHER_PROBABILITIES, CENTER_UPDATE, SINKHORN, ENTROPY)
