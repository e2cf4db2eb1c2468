"""From a finished teacher to a small student: the loss on patches, and the average that is kept."""

import math

import torch
from torch import Tensor

from dino_tutorial.exercises.exercise import (
    Answer,
    Exercise,
    Mistake,
    Observation,
    draw,
    gradients,
    randn,
    vary,
)
from dino_tutorial.losses import ibot_loss
from dino_tutorial.training import cosine_schedule


def _package_patch_loss(
    student_logits: Tensor, teacher_logits: Tensor, student_temp: float, teacher_temp: float
) -> Tensor:
    crops, batch, patches, _ = student_logits.shape
    return ibot_loss(
        student_logits.flatten(0, 2),
        (teacher_logits.detach() / teacher_temp).softmax(dim=-1).flatten(0, 2),
        torch.full((crops * batch * patches,), 1 / patches),
        crops * batch,
        student_temp,
    )


def _patch_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    student_temp: float,
    teacher_temp: float,
    *,
    temps: str = "own",
    stop: bool = True,
    crossed: bool = False,
    hard: bool = False,
    kl: bool = False,
    axis: int = -1,
    reduce: str = "mean",
    crops: int = 2,
) -> Tensor:
    if temps == "swapped":
        student_temp, teacher_temp = teacher_temp, student_temp
    if temps == "equal":
        teacher_temp = student_temp
    if temps == "none":
        student_temp = teacher_temp = 1.0
    if stop:
        teacher_logits = teacher_logits.detach()
    if crossed:
        teacher_logits = teacher_logits.flip(0)
    log_p = (teacher_logits / teacher_temp).log_softmax(dim=axis)
    p = log_p.exp()
    if hard:
        p = torch.nn.functional.one_hot(teacher_logits.argmax(-1), p.shape[-1]).to(p)
    log_q = (student_logits / student_temp).log_softmax(dim=axis)
    terms = p * (log_q - log_p if kl else log_q)
    terms = terms[:crops]
    if reduce == "all":
        return -terms.mean()
    if reduce == "sum over patches":
        return -terms.sum(dim=(-1, -2)).mean()
    return -terms.sum(dim=-1).mean()


def _observe_patch_loss(answer: Answer) -> Observation:
    seen = {}
    for batch, patches, prototypes in ((3, 4, 5), (2, 6, 8)):
        shape = (2, batch, patches, prototypes)
        s, t = randn(*shape, seed=batch, grad=True), randn(*shape, seed=batch + 10, grad=True)
        loss = answer.scalar(s, t, *vary(0.5, 0.2))
        seen |= {f"the loss for {patches} patches": loss.detach()}
        seen |= gradients(
            loss,
            **{
                f"the student's gradient for {patches} patches": s,
                f"the teacher's gradient for {patches} patches": t,
            },
        )
    return seen


PATCH_LOSS = Exercise(
    name="patch_distillation",
    chapter="distillation",
    call="patch_distillation(student_logits, teacher_logits, student_temp, teacher_temp)",
    task="`student_logits` and `teacher_logits` (2, B, N, K) for all N patches of both global "
    "crops, and two floats, `student_temp` and `teacher_temp`, to a scalar: the cross-"
    "entropy −Σ p ln q over K of a patch with the same patch of the same crop, p = "
    "softmax(teacher_logits / teacher_temp), q = softmax(student_logits / student_temp), "
    "the mean over crops, batch and patches. No gradient reaches the teacher's logits.",
    solution=_package_patch_loss,
    variant=_patch_loss,
    observe=_observe_patch_loss,
    checked="the value and both networks' gradients for two shapes",
    bounds=(0, math.inf),
    mistakes=(
        Mistake(
            "crossed",
            "a crop's patches are compared with the other crop's, which show another part of the "
            "image",
            {"crossed": True},
        ),
        Mistake(
            "one-crop",
            "only the first global crop is compared; take both",
            {"crops": 1},
        ),
        Mistake(
            "hard",
            "the teacher's answer is reduced to its first prototype; keep the whole distribution",
            {"hard": True},
        ),
        Mistake(
            "temperatures-swapped",
            "the temperatures have changed places: the teacher's is the smaller one",
            {"temps": "swapped"},
        ),
        Mistake(
            "one-temperature",
            "both networks are softened by the student's temperature; the teacher has its own",
            {"temps": "equal"},
        ),
        Mistake("no-temperature", "the temperatures are not used", {"temps": "none"}),
        Mistake(
            "teacher-trained",
            "a gradient reaches the teacher, which is finished; detach its logits",
            {"stop": False},
        ),
        Mistake(
            "kl",
            "this is the KL divergence: the student's gradient is the same, but the cross-entropy "
            "has the teacher's entropy on top",
            {"kl": True},
        ),
        Mistake(
            "wrong-axis",
            "the softmax runs over the patches; the K prototypes of one patch have to sum to 1, "
            "`dim=-1`",
            {"axis": -2},
        ),
        Mistake(
            "summed-over-patches",
            "the patches are summed; take their mean, or the loss grows with the image",
            {"reduce": "sum over patches"},
        ),
        Mistake(
            "averaged-over-prototypes",
            "the terms are averaged over the K prototypes too; sum over those",
            {"reduce": "all"},
        ),
    ),
)


def _average_weights(
    momenta: Tensor,
    *,
    start: bool = True,
    swap: bool = False,
    late: int = 1,
    newest_first: bool = False,
    normalise: bool = False,
    constant: bool = False,
) -> Tensor:
    momenta = torch.as_tensor(momenta, dtype=torch.float64)
    if constant:
        momenta = momenta[-1:].expand(len(momenta))
    if swap:
        momenta = 1 - momenta
    one = momenta.new_ones(1)
    kept = torch.cat([momenta, one]).flip(0).cumprod(0).flip(0)  # kept[i] = m_i · … · m_S
    weights = (1 - momenta) * (kept[1:] if late else kept[:-1])
    if normalise:
        weights = weights / weights.sum()
    if start:
        weights = torch.cat([kept[:1], weights])
    return weights.flip(0) if newest_first else weights


def _observe_weights(answer: Answer) -> Observation:
    seen = {}
    for steps, first in ((6, 0.9), (9, 0.6), (4 + draw() % 4, 0.7)):
        momenta = cosine_schedule(first, 1.0, steps)
        if draw():  # up and down as well, which a momentum need not, but may
            momenta = momenta * (0.9 + 0.1 * randn(steps, seed=steps).sigmoid().double())
        weights = answer.tensor(momenta).double()
        seen[f"the weights of {steps} steps from m = {first}"] = weights
    return seen


AVERAGE_WEIGHTS = Exercise(
    name="average_weights",
    chapter="distillation",
    call="average_weights(momenta)",
    task="`momenta` (S,), one a step, to weights (S + 1,): the shares of the start and of the "
    "student after each step in the final average, where each step makes average ← m · "
    "average + (1 − m) · student, from average = start.",
    solution=_average_weights,
    variant=_average_weights,
    observe=_observe_weights,
    checked="all weights for two schedules",
    bounds=(0, 1),
    mistakes=(
        Mistake(
            "start-forgotten",
            "the start is missing: the average begins as a copy of the first weights, and some of "
            "that is left",
            {"start": False},
            {"start": False, "normalise": True},
        ),
        Mistake(
            "wrong-way-round",
            "the momenta are the wrong way round: m is what the average keeps of itself",
            {"swap": True},
        ),
        Mistake(
            "own-step-too",
            "a step's share is multiplied by its own momentum; only the later ones shrink it",
            {"late": 0},
        ),
        Mistake(
            "newest-first",
            "the order is reversed: the start comes first and the last step last",
            {"newest_first": True},
        ),
        Mistake(
            "constant-momentum",
            "one momentum is used for all steps; each step has its own",
            {"constant": True},
        ),
    ),
)

EXERCISES = (PATCH_LOSS, AVERAGE_WEIGHTS)
