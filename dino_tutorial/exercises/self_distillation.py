"""From distillation to DINO's loss: soft targets, then every pair of different views."""

import math
from functools import cache

import torch
from torch import Tensor

from dino_tutorial.exercises.exercise import (
    Answer,
    Exercise,
    Mistake,
    Observation,
    gradients,
    randn,
    vary,
)
from dino_tutorial.losses import DINOLoss


def _soft_cross_entropy(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float,
    *,
    power: int = 2,
    divide: bool = True,
    softened: tuple[str, ...] = ("student", "teacher"),
    swapped: bool = False,
    entropy: str = "cross",
    axis: int = -1,
    twice: bool = False,
    reduce: str = "batch",
    sign: int = -1,
) -> Tensor:
    scale = {name: temperature if name in softened else 1.0 for name in ("student", "teacher")}
    if not divide:
        scale = {name: 1 / value for name, value in scale.items()}
    log_p = (teacher_logits / scale["teacher"]).log_softmax(dim=axis)
    log_q = (student_logits / scale["student"]).log_softmax(dim=axis)
    if twice:
        log_q = log_q.exp().log_softmax(dim=axis)
    if swapped:
        log_p, log_q = log_q, log_p
    terms = log_p.exp() * (log_q - log_p if entropy == "kl" else log_q)
    total = {
        "batch": lambda: terms.sum(dim=-1).mean(),
        "sum": terms.sum,
        "all": terms.mean,
    }[reduce]()
    return sign * temperature**power * total


def _observe_soft(answer: Answer) -> Observation:
    seen = {}
    for batch, classes, temperature in ((6, 5, *vary(2.0)), (3, 8, 3.0)):
        s = randn(batch, classes, seed=batch, scale=2, grad=True)
        t = randn(batch, classes, seed=batch + 10, scale=2)
        loss = answer.scalar(s, t, temperature)
        seen |= {f"the loss for T = {temperature:.3g}": loss.detach()}
        seen |= gradients(loss, **{f"the student's gradient for T = {temperature:.3g}": s})
    return seen


def _overflow(answer: Answer) -> str | None:
    s, t = randn(4, 6, seed=1, scale=300, grad=True), randn(4, 6, seed=2, scale=300)
    if answer.scalar(s, t, 1.0).isfinite():
        return None
    return "with logits in the hundreds it overflows; `log_softmax` would not"


SOFT_CROSS_ENTROPY = Exercise(
    name="soft_cross_entropy",
    chapter="self-distillation",
    call="soft_cross_entropy(student_logits, teacher_logits, temperature)",
    task="`student_logits` (B, K), `teacher_logits` (B, K) and a float `temperature` T to a "
    "scalar: T² · H(p, q) with p = softmax(teacher_logits / T), q = softmax(student_logits "
    "/ T) and H(p, q) = −Σ p ln q over K; the mean over the batch.",
    solution=_soft_cross_entropy,
    variant=_soft_cross_entropy,
    observe=_observe_soft,
    remark=_overflow,
    checked="the value and the student's gradient at two temperatures",
    bounds=(0, math.inf),
    mistakes=(
        Mistake(
            "factor-missing",
            "the factor T² is missing, so that the gradient shrinks as the temperature grows",
            {"power": 0},
        ),
        Mistake(
            "factor-once",
            "the loss is multiplied by T; it takes T², because the gradient shrinks twice",
            {"power": 1},
        ),
        Mistake(
            "temperature-multiplied",
            "the logits are multiplied by the temperature; divide them",
            {"divide": False},
        ),
        Mistake(
            "one-softened",
            "the temperature is applied to one of the two only; soften student and teacher",
            {"softened": ("teacher",)},
            {"softened": ("student",)},
        ),
        Mistake(
            "swapped",
            "student and teacher have changed places: the teacher gives the probabilities, the "
            "student the logarithms",
            {"swapped": True},
        ),
        Mistake(
            "kl",
            "this is the KL divergence: the gradient is the same, but the cross-entropy has the "
            "teacher's entropy on top",
            {"entropy": "kl"},
        ),
        Mistake(
            "wrong-axis",
            "the softmax runs over the batch; the K classes of one image have to sum to 1, "
            "`dim=-1`",
            {"axis": 0},
        ),
        Mistake(
            "softmax-twice",
            "the student goes through a softmax twice; `cross_entropy` and `log_softmax` take "
            "logits, not probabilities",
            {"twice": True},
        ),
        Mistake(
            "averaged-over-classes",
            "the terms are averaged over the K classes too; sum over classes, average over the "
            "batch",
            {"reduce": "all"},
        ),
        Mistake(
            "summed-over-batch",
            "the loss is summed over the batch; take the mean, or it grows with B",
            {"reduce": "sum"},
        ),
        Mistake("sign", "the minus sign of the cross-entropy is missing", {"sign": 1}),
    ),
)


@cache
def pair_mask(pairs: str, views: int) -> Tensor:
    """(2, V): which pairs (teacher view g, student view v) count."""
    g, v = torch.arange(2)[:, None], torch.arange(views)[None]
    return {
        "different": v != g,
        "all": v >= 0 * g,
        "same": v == g,
        "global": (v != g) & (v < 2),
        "local": v >= 2 + 0 * g,
        "ordered": v > g,
    }[pairs]


def teacher_probabilities(
    logits: Tensor,
    center: Tensor,
    temp: float,
    *,
    center_sign: int = -1,
    centred: str = "logits",
    axis: int = -1,
    scale: str = "divide",
) -> Tensor:
    """The teacher's answer (2, B, K), and the known ways to get it wrong."""
    scale = {"divide": temp, "multiply": 1 / temp, "no": 1.0}[scale]
    shift = center_sign * center
    if centred == "logits":
        return ((logits + shift) / scale).softmax(dim=axis)
    if centred == "scaled":
        return (logits / scale + shift).softmax(dim=axis)
    if centred == "by batch":
        return ((logits - logits.mean(dim=(0, 1))) / scale).softmax(dim=axis)
    return (logits / scale).softmax(dim=axis) + shift


def dino_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    center: Tensor,
    student_temp: float,
    teacher_temp: float,
    *,
    stop: bool = True,
    center_sign: int = -1,
    centred: str = "logits",
    teacher_axis: int = -1,
    student_axis: int = -1,
    student_center: bool = False,
    temps: str = "own",
    pairs: str = "different",
    divide_by: str = "pairs",
    over: str = "sum",
    reduce: str = "batch",
    form: str = "cross",
    sign: int = -1,
) -> Tensor:
    """DINO's loss pair by pair, and the known ways to get it wrong."""
    if temps == "swapped":
        student_temp, teacher_temp = teacher_temp, student_temp
    if temps == "equal":
        teacher_temp = student_temp
    if temps == "multiplied":
        student_temp, teacher_temp = 1 / student_temp, 1 / teacher_temp
    if temps in ("teacher only", "none"):
        student_temp = 1.0
    if temps in ("student only", "none"):
        teacher_temp = 1.0
    if stop:
        teacher_logits = teacher_logits.detach()
    p = teacher_probabilities(
        teacher_logits,
        center,
        teacher_temp,
        center_sign=center_sign,
        centred=centred,
        axis=teacher_axis,
    )
    s = (student_logits - center if student_center else student_logits) / student_temp
    log_q = s.log_softmax(dim=student_axis)
    if form == "softmax twice":
        log_q = log_q.exp().log_softmax(dim=student_axis)
    p, log_q = p[:, None], log_q[None]  # (2, V, B, K) when they meet
    terms = {
        "cross": lambda: p * log_q,
        "softmax twice": lambda: p * log_q,
        "kl": lambda: p * (log_q - p.log()),
        "swapped": lambda: log_q.exp() * p.log(),
        "squared": lambda: -(p - log_q.exp()).square(),
    }[form]()
    each = terms.sum(dim=-1) if over == "sum" else terms.mean(dim=-1)
    each = each.mean(dim=-1) if reduce == "batch" else each.sum(dim=-1)  # (2, V)
    views = len(student_logits)
    kept = pair_mask(pairs, views)
    divisor = {
        "pairs": kept.sum(),
        "nothing": 1,
        "2V - 2": 2 * views - 2,
        "2V": 2 * views,
        "V": views,
        "V - 1": views - 1,
        "2V - 1": 2 * views - 1,
    }
    return sign * each[kept].sum() / divisor[divide_by]


def _package_loss(student_logits, teacher_logits, center, student_temp, teacher_temp):
    criterion = DINOLoss(center.shape[-1], student_temp).eval()
    criterion.center.copy_(center)
    return criterion(student_logits, teacher_logits, teacher_temp)


def _observe_dino(answer: Answer) -> Observation:
    seen = {}
    for views, batch, prototypes in ((3, 4, 5), (5, 3, 6)):
        student_temp, teacher_temp = vary(0.1, 0.04)
        s = randn(views, batch, prototypes, seed=views, scale=0.1, grad=True)
        t = randn(2, batch, prototypes, seed=views + 10, scale=0.1, grad=True)
        center = randn(1, prototypes, seed=views + 20, scale=0.1)
        loss = answer.scalar(s, t, center, student_temp, teacher_temp)
        seen |= {f"the loss for V = {views}": loss.detach()}
        seen |= gradients(
            loss,
            **{
                f"the student's gradient for V = {views}": s,
                f"the teacher's gradient for V = {views}": t,
            },
        )
    return seen


def _underflow(answer: Answer) -> str | None:
    s, t = randn(4, 3, 6, seed=1, scale=40, grad=True), randn(2, 3, 6, seed=2, scale=40)
    if answer.scalar(s, t, torch.zeros(1, 6), 0.1, 0.04).isfinite():
        return None
    return "with logits as large as 40 it is not finite; `log_softmax` instead of `.log()` would be"


LOSS_MISTAKES = (
    Mistake(
        "no-stop-gradient",
        "the stop-gradient is missing: a gradient flows into the teacher's logits; `.detach()` "
        "its probabilities",
        {"stop": False},
    ),
    Mistake(
        "same-view",
        "pairs of a view with itself are kept; the global crop g of the student is not compared "
        "with the teacher's answer to g",
        {"pairs": "all"},
        {"pairs": "all", "divide_by": "2V - 2"},
    ),
    Mistake(
        "only-same-view",
        "each view is compared with itself only, and these are the very pairs to be left out",
        {"pairs": "same"},
    ),
    Mistake(
        "locals-ignored",
        "the local views are ignored; the student answers for all V views",
        {"pairs": "global"},
    ),
    Mistake(
        "globals-ignored",
        "the pairs of the two global views are missing; only local ones are compared",
        {"pairs": "local"},
    ),
    Mistake(
        "one-order",
        "the student's first global view never meets the teacher's second; leave out v = g, "
        "not every v ≤ g",
        {"pairs": "ordered"},
    ),
    Mistake(
        "center-not-subtracted",
        "the center is not subtracted from the teacher's logits",
        {"center_sign": 0},
    ),
    Mistake(
        "center-added",
        "the center is added to the teacher's logits; subtract it",
        {"center_sign": 1},
    ),
    Mistake(
        "center-after-temperature",
        "the center is subtracted after the division by the temperature; it is a mean of logits, "
        "so subtract first: (t − c) / τ",
        {"centred": "scaled"},
    ),
    Mistake(
        "center-from-probabilities",
        "the center is subtracted from the probabilities; it belongs to the logits",
        {"centred": "probabilities"},
    ),
    Mistake(
        "batch-mean",
        "the mean of this batch is subtracted; use the running center",
        {"centred": "by batch"},
    ),
    Mistake(
        "student-centred",
        "the center is subtracted from the student's logits too; only the teacher is centred",
        {"student_center": True},
        {"student_center": True, "center_sign": 0},
    ),
    Mistake(
        "temperatures-swapped",
        "the two temperatures are swapped: the teacher's is the lower one, 0.04, the student's 0.1",
        {"temps": "swapped"},
    ),
    Mistake(
        "temperature-multiplied",
        "the logits are multiplied by the temperatures; divide them",
        {"temps": "multiplied"},
    ),
    Mistake(
        "not-sharpened",
        "the teacher's logits are not divided by its own, lower temperature, so that nothing "
        "sharpens its answer",
        {"temps": "equal"},
        {"temps": "student only"},
    ),
    Mistake(
        "temperatures-missing",
        "the temperatures are not used; divide the logits by them",
        {"temps": "none"},
    ),
    Mistake(
        "student-temperature-missing",
        "the student's logits are not divided by its temperature",
        {"temps": "teacher only"},
    ),
    Mistake(
        "wrong-axis",
        "a softmax runs over the batch or the views; the K prototypes of one answer have to sum "
        "to 1, `dim=-1`",
        {"teacher_axis": -2, "student_axis": -2},
        {"teacher_axis": -2},
        {"student_axis": -2},
        {"teacher_axis": 0, "student_axis": 0},
        {"teacher_axis": 0},
        {"student_axis": 0},
    ),
    Mistake(
        "swapped",
        "student and teacher have changed places in the cross-entropy: −Σ p_t ln p_s has the "
        "teacher's probabilities and the student's logarithms",
        {"form": "swapped"},
    ),
    Mistake(
        "softmax-twice",
        "the student goes through a softmax twice; `cross_entropy` and `log_softmax` take "
        "logits, not probabilities",
        {"form": "softmax twice"},
    ),
    Mistake(
        "kl",
        "this is the KL divergence: the gradient is the same, but DINO's loss has the teacher's "
        "entropy on top",
        {"form": "kl"},
    ),
    Mistake(
        "squared-error",
        "this is the squared difference of the probabilities; DINO's loss is their cross-entropy",
        {"form": "squared"},
    ),
    Mistake(
        "summed-over-pairs",
        "the loss is summed over the pairs; DINO takes their mean, 2V − 2 of them",
        {"divide_by": "nothing"},
    ),
    Mistake(
        "wrong-divisor",
        "the sum over pairs is divided by another number than that of the pairs, 2V − 2",
        {"divide_by": "V"},
        {"divide_by": "2V"},
        {"divide_by": "V - 1"},
        {"divide_by": "2V - 1"},
    ),
    Mistake(
        "summed-over-batch",
        "the loss is summed over the batch; take the mean, or it grows with B",
        {"reduce": "sum"},
    ),
    Mistake(
        "averaged-over-prototypes",
        "the terms are averaged over the K prototypes too; a cross-entropy sums over them",
        {"over": "mean"},
    ),
    Mistake("sign", "the minus sign of the cross-entropy is missing", {"sign": 1}),
)

DINO_LOSS = Exercise(
    name="dino_loss",
    chapter="self-distillation",
    call="dino_loss(student_logits, teacher_logits, center, student_temp, teacher_temp)",
    task="`student_logits` (V, B, K), of which the first two views are the teacher's, "
    "`teacher_logits` (2, B, K), `center` (1, K) and two floats, `student_temp` and "
    "`teacher_temp`, to DINO's loss, a scalar: −Σ p ln q over K with p = "
    "softmax((teacher_logits − center) / teacher_temp) and q = softmax(student_logits / "
    "student_temp), the mean over the 2V − 2 pairs of a teacher view g and a student view v"
    " ≠ g and over the batch. No gradient reaches the teacher's logits.",
    solution=_package_loss,
    variant=dino_loss,
    observe=_observe_dino,
    remark=_underflow,
    checked="value and gradients with 3 and with 5 views, and that none reaches the teacher",
    bounds=(0, math.inf),
    mistakes=LOSS_MISTAKES,
)

EXERCISES = (SOFT_CROSS_ENTROPY, DINO_LOSS)
