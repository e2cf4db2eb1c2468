"""Training end to end: pairs, loss and center, schedules, weight decay, clipping, information."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from dino_tutorial.evaluation import entropy
from dino_tutorial.exercises import self_distillation
from dino_tutorial.exercises.centering_sharpening import center_update
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
from dino_tutorial.exercises.self_distillation import LOSS_MISTAKES
from dino_tutorial.losses import DINOLoss
from dino_tutorial.training import clip_gradients, cosine_schedule, param_groups


def _cosine_schedule(
    base: float,
    final: float,
    total_steps: int,
    warmup_steps: int,
    *,
    warmup: str = "both ends",
    last: int = 0,
    over: str = "rest",
    shape: str = "half cosine",
    to_zero: bool = False,
    rises: bool = False,
) -> Tensor:
    warm = torch.linspace(0, base, warmup_steps, dtype=torch.float64)
    steps = torch.arange(warmup_steps, dtype=torch.float64)
    if warmup == "without end":
        warm = base * steps / max(warmup_steps, 1)
    if warmup == "without start":
        warm = base * (steps + 1) / max(warmup_steps, 1)
    if warmup == "constant":
        warm = torch.full_like(warm, base)
    length = total_steps - (warmup_steps if over == "rest" else 0)
    phase = torch.arange(length, dtype=torch.float64) / (length - last)
    share = {
        "half cosine": (1 + torch.cos(math.pi * phase)) / 2,
        "whole cosine": (1 + torch.cos(2 * math.pi * phase)) / 2,
        "linear": 1 - phase,
        "no half": 1 + torch.cos(math.pi * phase),
    }[shape]
    if rises:
        share = 1 - share
    end = 0.0 if to_zero else final
    cosine = end + (base - end) * share
    if over == "all":
        cosine = cosine[warmup_steps:]
    return cosine if warmup == "none" else torch.cat([warm, cosine])


def _observe_schedule(answer: Answer) -> Observation:
    return {
        f"the schedule of {total} steps with {warmup} of warm-up": answer.tensor(
            base, final, total, warmup
        )
        for base, final, total, warmup in (
            (1.0, 0.1, 12, 4),
            (0.5, 0.02, 9, 0),
            (0.9, 1.0, 8, 2),
            (0.3, 0.0, 7, 1),
            (0.7, 0.2, 10 + draw() % 5, 3),
        )
    }


COSINE_SCHEDULE = Exercise(
    name="cosine_schedule",
    chapter="training-dino",
    call="cosine_schedule(base, final, total_steps, warmup_steps)",
    task="floats `base` and `final`, integers `total_steps` and `warmup_steps` to a table "
    "(total_steps,): the first warmup_steps entries rise linearly from 0 to `base`, both "
    "ends included (a single one is 0); the other n = total_steps − warmup_steps are final "
    "+ (base − final) · (1 + cos(π t / n)) / 2 for t = 0 … n − 1.",
    solution=cosine_schedule,
    variant=_cosine_schedule,
    observe=_observe_schedule,
    checked="five tables, without warm-up, with one step of it, and one that rises",
    mistakes=(
        Mistake(
            "no-warmup",
            "the warm-up is missing",
            {"warmup": "none", "over": "whole"},
            {"warmup": "constant"},
        ),
        Mistake(
            "too-long",
            "the warm-up comes on top, so that the table is longer than `total_steps`; the "
            "cosine has the rest",
            {"over": "whole"},
        ),
        Mistake(
            "too-short",
            "the table leaves out the warm-up's steps; it has `total_steps` entries",
            {"warmup": "none"},
        ),
        Mistake(
            "warmup-without-end",
            "the warm-up stops short of `base`; in this convention it includes both ends, so "
            "`base` occurs twice",
            {"warmup": "without end"},
        ),
        Mistake(
            "warmup-without-start",
            "the warm-up does not start at 0; in this convention it includes both ends",
            {"warmup": "without start"},
        ),
        Mistake(
            "reaches-final",
            "the last entry is `final`; in this convention the cosine stops one step short, t / n "
            "and not t / (n − 1)",
            {"last": 1},
        ),
        Mistake(
            "cosine-from-step-zero",
            "the cosine begins at step 0, under the warm-up, and there is a jump after it; it "
            "begins where the warm-up ends",
            {"over": "all"},
        ),
        Mistake(
            "linear",
            "it falls along a straight line; use half a cosine",
            {"shape": "linear"},
        ),
        Mistake(
            "whole-cosine",
            "the cosine runs through a whole period and comes back; π t / n, not 2π t / n",
            {"shape": "whole cosine"},
        ),
        Mistake("half-missing", "the factor ½ of the cosine is missing", {"shape": "no half"}),
        Mistake(
            "to-zero",
            "it tends to 0; it has to tend to `final`",
            {"to_zero": True},
        ),
        Mistake(
            "reversed",
            "the cosine goes from `final` to `base`; it is the other way round",
            {"rises": True},
        ),
    ),
)


class _Small(nn.Module):
    """A network with every kind of parameter that the rule speaks of."""

    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, 4))
        self.convolution = nn.Conv2d(3, 4, 2)
        self.norm = nn.LayerNorm(4)
        self.linear = nn.Linear(4, 3)
        self.batch_norm = nn.BatchNorm1d(3)
        self.scale = LayerScale(4)
        self.fixed = nn.Linear(3, 3).requires_grad_(False)
        # The rule looks at shapes: no list of names is long enough.
        self.norm_projection = nn.Linear(3, 2, bias=False)
        self.register_parameter(f"strength_{draw()}", nn.Parameter(torch.ones(6)))


class LayerScale(nn.Module):
    """As in DINOv2's blocks: one-dimensional, and neither a bias nor a norm by its name."""

    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))


def _package_groups(model: nn.Module) -> tuple[list, list]:
    groups = param_groups(model, weight_decay=0.04)
    return tuple(
        [p for g in groups if g["decays"] is way for p in g["params"]] for way in (True, False)
    )


_PLAIN = ("bias", "norm.weight")  # beside what is one-dimensional under another name


def _decay_groups(
    model: nn.Module,
    *,
    plain: tuple[str, ...] = (*_PLAIN, "gamma", "strength"),
    decayed: tuple[str, ...] = (),
    fixed: bool = False,
    order: int = 1,
) -> tuple[list, list]:
    groups: tuple[list, list] = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad and not fixed:
            continue
        without = any(part in name for part in plain) and name not in decayed
        groups[without].append(parameter)
    return groups[::order]


def _observe_groups(answer: Answer) -> Observation:
    model = _Small()
    groups = answer(model)
    if not isinstance(groups, tuple | list) or len(groups) != 2:
        raise Mistaken("not-two", "it has to return two lists: (decayed, not decayed)")
    try:
        counts = [[id(parameter) for parameter in group] for group in groups]
    except TypeError:
        raise Mistaken("not-two", "it has to return two lists: (decayed, not decayed)") from None
    return {
        f"how often `{name}` is among (decayed, not decayed)": torch.tensor(
            [count.count(id(parameter)) for count in counts]
        )
        for name, parameter in model.named_parameters()
    }


DECAY_GROUPS = Exercise(
    name="decay_groups",
    chapter="training-dino",
    call="decay_groups(model)",
    task="a network `model` to two lists of its trainable parameters, (decayed, not decayed), by"
    " the reference's rule: biases and all that is one-dimensional, of whatever layer and "
    "name, are not decayed, everything else is. Parameters that require no gradient are in "
    "neither.",
    solution=_package_groups,
    variant=_decay_groups,
    observe=_observe_groups,
    checked="weights, biases, norms, embeddings and a frozen layer",
    mistakes=(
        Mistake(
            "biases-decayed",
            "biases are decayed; they are one-dimensional, and get none",
            {"plain": ("norm.weight", "norm.bias", "gamma", "strength")},
        ),
        Mistake(
            "norms-decayed",
            "the weight of a normalisation is decayed; it is one-dimensional, and gets none",
            {"plain": ("bias", "gamma", "strength")},
        ),
        Mistake(
            "norms-and-biases-decayed",
            "everything is decayed; biases and one-dimensional parameters get none",
            {"plain": ()},
        ),
        Mistake(
            "embeddings-not-decayed",
            "position embeddings or the CLS token are not decayed; in the reference code they "
            "are, having more than one dimension",
            {"plain": (*_PLAIN, "gamma", "strength", "pos_embed", "cls_token")},
            {"plain": (*_PLAIN, "gamma", "strength", "pos_embed")},
            {"plain": (*_PLAIN, "gamma", "strength", "cls_token")},
        ),
        Mistake(
            "scale-decayed",
            "a one-dimensional parameter that is no bias and no norm is decayed, such as "
            "LayerScale's `gamma`; look at the shape and not at the name",
            {"plain": _PLAIN},
            {"plain": (*_PLAIN, "gamma")},
            {"plain": (*_PLAIN, "strength")},
        ),
        Mistake(
            "by-the-name-norm",
            "a matrix is not decayed because `norm` stands in its name; look at the shape",
            {"plain": (*_PLAIN, "norm", "gamma", "strength")},
            {"plain": (*_PLAIN, "norm", "gamma")},
            {"plain": (*_PLAIN, "norm")},
        ),
        Mistake(
            "frozen-included",
            "parameters that require no gradient are in the lists; leave them out",
            {"fixed": True},
        ),
        Mistake(
            "exchanged",
            "the lists are exchanged; the decayed ones come first",
            {"order": -1},
        ),
    ),
)


def _package_clip(parameters: list[Tensor], max_norm: float) -> None:
    clip_gradients(parameters, max_norm, "parameter")


def _clip_gradients(
    parameters: list[Tensor], max_norm: float, *, rule: str = "parameter", down_only: bool = True
) -> None:
    found = [p.grad for p in parameters if p.grad is not None]
    together = torch.cat([gradient.flatten() for gradient in found]).norm()
    for gradient in found:
        if rule == "value":
            gradient.clamp_(-max_norm, max_norm)
            continue
        norm = together if rule == "global" else gradient.norm()
        if rule == "squared":
            norm = norm.square()
        if norm == 0:
            continue
        scale = max_norm / norm if rule != "divide" else 1 / norm
        gradient.mul_(scale.clamp(max=1.0) if down_only else scale)


def _observe_clip(answer: Answer) -> Observation:
    lengths = (5.0, None, 1.0, 0.5, 0.0, 12.0)  # the second has no gradient, the fifth is zero
    (bound,) = vary(3.0)
    shapes = ((3, 4), (2,), (4, 2), (5,), (3, 4), (2, 1, 3))
    parameters = [nn.Parameter(randn(*shape, seed=i)) for i, shape in enumerate(shapes)]
    before = [parameter.detach().clone() for parameter in parameters]
    for index, (parameter, length) in enumerate(zip(parameters, lengths, strict=True)):
        direction = randn(*shapes[index], seed=20 + index)
        if length is not None:
            parameter.grad = length * direction / direction.norm()
    answer(list(parameters), bound)
    if any(not torch.equal(p, b) for p, b in zip(parameters, before, strict=True)):
        raise Mistaken("weights-changed", "it changes the parameters; change their gradients")
    if any(
        parameter.grad is None and length is not None
        for length, parameter in zip(lengths, parameters, strict=True)
    ):
        raise Mistaken("gradient-lost", "a gradient is None afterwards; scale it, keep it")
    if parameters[1].grad is not None:
        says = "a parameter without a gradient has one afterwards"
        raise Mistaken("gradient-made", f"{says}; leave its `.grad` None")
    return {
        f"the gradient of norm {length:g}": parameter.grad.clone()
        for length, parameter in zip(lengths, parameters, strict=True)
        if length is not None and parameter.grad is not None
    }


CLIP_GRADIENTS = Exercise(
    name="clip_gradients",
    chapter="training-dino",
    call="clip_gradients(parameters, max_norm)",
    task="a list of `parameters`, of which some have no gradient (`.grad` is None), and a float "
    "`max_norm`: scales down in place the `.grad` of each parameter whose own L2 norm "
    "exceeds max_norm, to that norm; all others stay as they are.",
    solution=_package_clip,
    variant=_clip_gradients,
    observe=_observe_clip,
    checked="gradients of norm 5, 1, 0.5, 0 and 12 at a bound near 3, and a missing one",
    mistakes=(
        Mistake(
            "global-norm",
            "all gradients are scaled by their common norm, as `clip_grad_norm_` does; DINO's "
            "code bounds each parameter on its own",
            {"rule": "global"},
            {"rule": "global", "down_only": False},
        ),
        Mistake(
            "amplified",
            "small gradients are scaled up to the bound; only large ones are scaled down",
            {"down_only": False},
        ),
        Mistake(
            "by-value",
            "each entry is clamped; the bound is on the norm, so that the direction stays",
            {"rule": "value"},
        ),
        Mistake(
            "unit-length",
            "large gradients are scaled to length 1; scale them to `max_norm`",
            {"rule": "divide"},
        ),
        Mistake(
            "squared-norm",
            "the norm is squared; take the root of the sum of squares",
            {"rule": "squared"},
        ),
    ),
)


# Those of earlier chapters' subjects stand beside the functions that they are checked with.
def _count_pairs(
    n_global: int,
    n_local: int,
    *,
    same: bool = False,
    half: bool = False,
    teachers: int | None = None,
    second: str = "local",
) -> tuple[float, float]:
    teachers = n_global if teachers is None else teachers
    among = n_global * (n_global if same else n_global - 1) // (2 if half else 1)
    local = teachers * n_local
    return among + local, {"local": local, "global": among, "share": local / (among + local)}[
        second
    ]


def _observe_counts(answer: Answer) -> Observation:
    return {
        f"the two numbers for {n_global} + {n_local} crops": answer.tensor(n_global, n_local)
        for n_global, n_local in ((2, 8), (2, 3), (3, 4), (2, 0), (4 + draw() % 3, 1 + draw() % 5))
    }


COUNT_PAIRS = Exercise(
    name="count_pairs",
    chapter="training-dino",
    call="count_pairs(n_global, n_local)",
    task="two integers, `n_global` and `n_local`, to two integers: how many cross-entropy terms "
    "DINO's loss has, one for each pair of a global view of the teacher and another view of"
    " the student; and how many of these have a local student view.",
    solution=_count_pairs,
    variant=_count_pairs,
    observe=_observe_counts,
    checked="both numbers for 2 + 8, 2 + 3 and 3 + 4 crops",
    mistakes=(
        Mistake(
            "same-view",
            "pairs of a view with itself are counted; leave them out",
            {"same": True},
        ),
        Mistake(
            "one-order",
            "two global views make two terms, not one: each is the teacher's once",
            {"half": True},
        ),
        Mistake(
            "one-teacher-view",
            "each local view meets every one of the teacher's global views, not only one",
            {"teachers": 1},
        ),
        Mistake(
            "globals-second",
            "the second number counts the pairs of global views; asked for are those with a "
            "local student view",
            {"second": "global"},
        ),
        Mistake(
            "share",
            "the second number is a share; asked for is the number of pairs",
            {"second": "share"},
        ),
    ),
)


class _Loss(nn.Module):
    """A DINO loss with its own center, and the known ways to get it wrong."""

    def __init__(
        self,
        out_dim: int,
        student_temp: float,
        center_momentum: float,
        *,
        when: str = "after",
        kept_as: str = "buffer",
        keep_graph: bool = False,
        swap: bool = False,
        mean: str = "all",
        **loss: Any,
    ):
        super().__init__()
        self.student_temp, self.center_momentum = student_temp, center_momentum
        self.when, self.keep_graph, self.loss = when, keep_graph, loss
        self.update = {"swap": swap, "mean": mean}
        zeros = torch.zeros(1, out_dim)
        if kept_as == "buffer":
            self.register_buffer("center", zeros)
        elif kept_as == "unsaved":
            self.register_buffer("center", zeros, persistent=False)
        elif kept_as == "parameter":
            self.center = nn.Parameter(zeros)
        else:
            self.center = zeros

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, teacher_temp: float
    ) -> Tensor:
        if self.when == "always before" or (self.when == "before" and self.training):
            self._move(teacher_logits)
        loss = self_distillation.dino_loss(
            student_logits,
            teacher_logits,
            self.center,
            self.student_temp,
            teacher_temp,
            **self.loss,
        )
        if self.when == "always" or (self.when == "after" and self.training):
            self._move(teacher_logits)
        return loss

    def _move(self, teacher_logits: Tensor) -> None:
        logits = teacher_logits if self.keep_graph else teacher_logits.detach()
        moved = center_update(self.center, logits, self.center_momentum, **self.update)
        if isinstance(self.center, nn.Parameter):
            self.center.data = moved.data
        else:
            self.center = moved


def _observe_class(answer: Answer) -> Observation:
    prototypes = 6 + draw() % 4
    student_temp, teacher_temp, momentum = vary(0.1, 0.04, 0.6)
    criterion = answer(prototypes, student_temp, momentum)
    mean = randn(prototypes, seed=5, scale=0.2)
    _check_center(criterion, prototypes)
    seen = {}
    for step, views in enumerate((3, 4, 4), start=1):
        s = randn(views, 3, prototypes, seed=step, scale=0.1, grad=True)
        t = (mean + randn(2, 3, prototypes, seed=step + 10, scale=0.1)).requires_grad_()
        if step == 3:
            criterion.eval()
        loss = as_tensor(criterion(s, t, teacher_temp))
        if loss.numel() != 1:
            says = f"the loss has to be one number, and it has shape {tuple(loss.shape)}"
            raise Mistaken("not-a-scalar", says)
        if criterion.center.requires_grad:
            raise Mistaken("center-in-graph")
        state = "evaluation" if step == 3 else "training"
        seen[f"the loss of step {step} ({state})"] = loss.detach().reshape(())
        center = criterion.center.detach().clone()
        if center.numel() == prototypes:
            center = center.reshape(1, prototypes)
        seen[f"the center after step {step} ({state})"] = center
        if not loss.requires_grad:
            says = "no gradient flows through the loss, so that nothing would be trained"
            raise Mistaken("no-gradient", f"{says}; only the teacher's side is under `no_grad`")
        found = gradients(loss.sum(), student=s, teacher=t)
        if found["teacher"].abs().max() > 0:
            raise Mistaken("no-stop-gradient")
        seen[f"the student's gradient of step {step} ({state})"] = found["student"]
    return seen


def _check_center(criterion: Any, prototypes: int) -> None:
    if not isinstance(criterion, nn.Module):
        raise Mistaken("not-a-module", "it has to make an `nn.Module`, with a `forward`")
    center = getattr(criterion, "center", None)
    if not isinstance(center, Tensor) or center.numel() != prototypes or center.any():
        raise Mistaken("no-center", "it needs an attribute `center` of shape (1, K), zeros first")
    if isinstance(center, nn.Parameter):
        raise Mistaken("center-is-a-parameter")
    if "center" not in criterion.state_dict():
        raise Mistaken("center-not-saved")


DINO_LOSS_CLASS = Exercise(
    name="DINOLoss",
    chapter="training-dino",
    call="DINOLoss(out_dim, student_temp, center_momentum)",
    task="a class, made as DINOLoss(out_dim, student_temp, center_momentum): an `nn.Module` with"
    " `center`, a buffer (1, K) of zeros that `state_dict()` saves, and "
    "`forward(student_logits, teacher_logits, teacher_temp)`, which takes (V, B, K), (2, B,"
    " K) and a float and returns DINO's loss with that center, a scalar as in `dino_loss`. "
    "In training mode, after the loss, the center becomes m · center + (1 − m) · the mean "
    "of the teacher's logits over views and batch, m = center_momentum; in evaluation mode "
    "it stays. No gradient reaches the teacher's logits or the center.",
    solution=DINOLoss,
    variant=_Loss,
    observe=_observe_class,
    checked="loss and center over two training steps and one in evaluation mode",
    mistakes=(
        Mistake(
            "center-before-loss",
            "the center is updated before the loss; a step uses the center that it found, and "
            "moves it afterwards",
            {"when": "before"},
            {"when": "always before"},
        ),
        Mistake(
            "center-never-moves",
            "the center never moves; update it after the loss in training mode",
            {"when": "never"},
        ),
        Mistake(
            "center-moves-in-evaluation",
            "the center moves in evaluation mode too; look at `self.training`",
            {"when": "always"},
        ),
        Mistake(
            "center-is-a-parameter",
            "the center is a parameter, so that the optimizer would train it; use "
            "`register_buffer`",
            {"kept_as": "parameter"},
        ),
        Mistake(
            "center-not-saved",
            "the center is missing in `state_dict()`, so that a checkpoint forgets it; use "
            "`register_buffer`",
            {"kept_as": "attribute"},
            {"kept_as": "unsaved"},
        ),
        Mistake(
            "center-in-graph",
            "the center carries a gradient, so that every step keeps the graphs of all before "
            "it; update it under `torch.no_grad()`",
            {"keep_graph": True},
        ),
        Mistake(
            "wrong-way-round",
            "the center's average is the wrong way round: the momentum is the share of the old "
            "center",
            {"swap": True},
        ),
        Mistake(
            "one-view",
            "the center is the mean of one view only; both global views count",
            {"mean": "one view"},
        ),
        *LOSS_MISTAKES,
    ),
)


def _information(
    probabilities: Tensor,
    *,
    sign: int = 1,
    parts: str = "both",
    axis: int = 0,
    reduce: str = "mean",
) -> Tensor:
    whole = entropy(probabilities.mean(dim=axis))
    each = entropy(probabilities)
    each = each.sum() if reduce == "sum" else each.mean()
    values = {"both": whole - each, "batch": whole, "single": each, "added": whole + each}
    return sign * values[parts]


def _observe_information(answer: Answer) -> Observation:
    sure = torch.cat([torch.eye(5)[torch.tensor([0, 2, 2])], torch.tensor([[0.5, 0, 0, 0.5, 0]])])
    return {
        f"the information in {shape} answers": answer.number(
            randn(*shape, seed=shape[0], scale=2).softmax(dim=-1)
        )
        for shape in ((6, 4), (3, 8))
    } | {"the information in answers with zeros": answer.number(sure)}


INFORMATION = Exercise(
    name="information",
    chapter="training-dino",
    call="information(probabilities)",
    task="`probabilities` (B, K), a row an image, to the nats that they tell about the image, "
    "one number: the entropy of the mean row minus the mean of the rows' entropies; 0 · ln "
    "0 counts as 0.",
    solution=_information,
    variant=_information,
    observe=_observe_information,
    checked="two batches, and answers with probabilities of 0 and 1",
    bounds=(0, math.inf),
    mistakes=(
        Mistake(
            "reversed",
            "the difference is the wrong way round; it is never negative: batch entropy minus "
            "mean entropy",
            {"sign": -1},
        ),
        Mistake(
            "batch-entropy",
            "this is the entropy of the mean answer alone; subtract the mean entropy",
            {"parts": "batch"},
        ),
        Mistake(
            "mean-entropy",
            "this is the mean entropy of the answers alone; it is subtracted from the entropy of "
            "the mean answer",
            {"parts": "single"},
        ),
        Mistake(
            "added",
            "the two entropies are added; subtract the mean entropy",
            {"parts": "added"},
        ),
        Mistake(
            "wrong-axis",
            "the mean answer is taken over the prototypes; take it over the batch, `dim=0`",
            {"axis": 1},
        ),
        Mistake(
            "summed",
            "the entropies of the answers are summed; take their mean",
            {"reduce": "sum"},
        ),
    ),
)


EXERCISES = (
    COUNT_PAIRS,
    DINO_LOSS_CLASS,
    COSINE_SCHEDULE,
    DECAY_GROUPS,
    CLIP_GRADIENTS,
    INFORMATION,
)
