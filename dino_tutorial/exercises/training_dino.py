"""Training end to end: the learning rate's schedule, weight decay's groups, clipping."""

import math

import torch
from torch import Tensor, nn

from dino_tutorial.exercises.centering_sharpening import DINO_LOSS_CLASS
from dino_tutorial.exercises.exercise import Answer, Exercise, Mistake, Mistaken, Observation, randn
from dino_tutorial.exercises.measuring_features import INFORMATION
from dino_tutorial.exercises.multi_crop import COUNT_PAIRS
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
        for base, final, total, warmup in ((1.0, 0.1, 12, 4), (0.5, 0.02, 9, 0), (0.9, 1.0, 8, 2))
    }


COSINE_SCHEDULE = Exercise(
    name="cosine_schedule",
    chapter="training-dino",
    call="cosine_schedule(base, final, total_steps, warmup_steps)",
    task="numbers to a table (total_steps,): a linear warm-up from 0 to `base`, both ends "
    "included, then half a cosine from `base` towards `final`, which it would reach one step "
    "after the last.",
    solution=cosine_schedule,
    variant=_cosine_schedule,
    observe=_observe_schedule,
    checked="three tables, one without warm-up, one that rises",
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
        self.fixed = nn.Linear(3, 3).requires_grad_(False)


def _package_groups(model: nn.Module) -> tuple[list, list]:
    groups = param_groups(model, weight_decay=0.04)
    return tuple(
        [p for g in groups if g["decays"] is way for p in g["params"]] for way in (True, False)
    )


def _decay_groups(
    model: nn.Module,
    *,
    plain: tuple[str, ...] = ("bias", "norm.weight"),
    decayed: tuple[str, ...] = (),
    fixed: bool = False,
    order: int = 1,
) -> tuple[list, list]:
    groups: tuple[list, list] = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad and not fixed:
            continue
        without = any(name.endswith(ending) for ending in plain) and name not in decayed
        groups[without].append(parameter)
    return groups[::order]


def _observe_groups(answer: Answer) -> Observation:
    model = _Small()
    groups = answer(model)
    if not isinstance(groups, tuple | list) or len(groups) != 2:
        raise Mistaken("not-two", "it has to return two lists: (decayed, not decayed)")
    counts = [[id(parameter) for parameter in group] for group in groups]
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
    task="a network to two lists of its trainable parameters, (decayed, not decayed), by the "
    "reference's rule: biases and all that is one-dimensional are not decayed.",
    solution=_package_groups,
    variant=_decay_groups,
    observe=_observe_groups,
    checked="weights, biases, norms, embeddings and a frozen layer",
    mistakes=(
        Mistake(
            "biases-decayed",
            "biases are decayed; they are one-dimensional, and get none",
            {"plain": ("norm.weight", "norm.bias")},
        ),
        Mistake(
            "norms-decayed",
            "the weight of a normalisation is decayed; it is one-dimensional, and gets none",
            {"plain": ("bias",)},
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
            {"plain": ("bias", "norm.weight", "pos_embed", "cls_token")},
            {"plain": ("bias", "norm.weight", "pos_embed")},
            {"plain": ("bias", "norm.weight", "cls_token")},
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
        scale = max_norm / norm if rule != "divide" else 1 / norm
        gradient.mul_(scale.clamp(max=1.0) if down_only else scale)


def _observe_clip(answer: Answer) -> Observation:
    lengths = (5.0, 1.0, 0.5, 12.0)
    parameters = [nn.Parameter(randn(3, 4, seed=seed)) for seed in range(len(lengths) + 1)]
    before = [parameter.detach().clone() for parameter in parameters]
    for index, (parameter, length) in enumerate(zip(parameters, lengths, strict=False)):
        direction = randn(3, 4, seed=20 + index)
        parameter.grad = length * direction / direction.norm()
    answer(list(parameters), 3.0)  # the last one has no gradient
    if any(not torch.equal(p, b) for p, b in zip(parameters, before, strict=True)):
        raise Mistaken("weights-changed", "it changes the parameters; change their gradients")
    if any(parameter.grad is None for parameter in parameters[:-1]):
        raise Mistaken("gradient-lost", "a gradient is None afterwards; scale it, keep it")
    return {
        f"the gradient of norm {length:g}": parameter.grad.clone()
        for length, parameter in zip(lengths, parameters, strict=False)
    }


CLIP_GRADIENTS = Exercise(
    name="clip_gradients",
    chapter="training-dino",
    call="clip_gradients(parameters, max_norm)",
    task="scales down in place the `.grad` of each parameter whose own norm exceeds `max_norm`; "
    "some may have none.",
    solution=_package_clip,
    variant=_clip_gradients,
    observe=_observe_clip,
    checked="gradients of norm 5, 1, 0.5 and 12 at a bound of 3, and a missing one",
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
EXERCISES = (
    COUNT_PAIRS,
    DINO_LOSS_CLASS,
    COSINE_SCHEDULE,
    DECAY_GROUPS,
    CLIP_GRADIENTS,
    INFORMATION,
)
