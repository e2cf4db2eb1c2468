"""BYOL: the loss of one direction, both directions, and what the optimizer gets."""

import copy
import math
from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from dino_tutorial.exercises.exercise import (
    Answer,
    Exercise,
    Mistake,
    Mistaken,
    Observation,
    draw,
    gradients,
    randn,
)
from dino_tutorial.losses import byol_loss


def _byol_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    detach: tuple[str, ...] = ("target",),
    scaled: tuple[str, ...] = ("prediction", "target"),
    axis: int | tuple[int, int] = -1,
    form: str = "squared",
    reduce: str = "batch",
) -> Tensor:
    vectors = {"prediction": prediction, "target": target}
    for name in vectors:
        if name in detach:
            vectors[name] = vectors[name].detach()
        if name in scaled:
            vectors[name] = vectors[name] / vectors[name].norm(dim=axis, keepdim=True)
    p, z = vectors.values()
    squared, cosine = (p - z).square(), (p * z).sum(dim=-1)
    forms = {
        "squared": squared.sum(dim=-1),
        "root": squared.sum(dim=-1).sqrt(),
        "half": 1 - cosine,
        "cosine": cosine,
        "no constant": -2 * cosine,
        "negative": -cosine,
        "product": 2 - 2 * cosine,
        "one cosine": 2 - cosine,
        "absolute": (p - z).abs().sum(dim=-1),
        "columns": 2 - 2 * torch.cosine_similarity(p, z, dim=0),
    }
    each = forms[form]
    return {"batch": each.mean(), "sum": each.sum(), "all": squared.mean()}[reduce]


def _observe_loss(answer: Answer) -> Observation:
    seen = {}
    for batch, width, seed in ((6, 4, 1), (3, 8, 2), (1 + draw() % 2, 5, 3)):
        p = randn(batch, width, seed=seed, scale=2, grad=True)
        z = randn(batch, width, seed=seed + 10, scale=0.5, grad=True)
        loss = answer.scalar(p, z)
        shape = f"for shape ({batch}, {width})"
        names = f"the prediction's gradient {shape}", f"the target's gradient {shape}"
        seen |= {f"the loss {shape}": loss.detach()}
        seen |= gradients(loss, **dict(zip(names, (p, z), strict=True)))
    return seen


BYOL_LOSS = Exercise(
    name="byol_loss",
    chapter="byol",
    call="byol_loss(prediction, target)",
    task="`prediction` (B, D) and `target` (B, D) to one direction of BYOL's loss, a scalar: 2 −"
    " 2 cos(prediction, target), the mean over the batch. The gradient reaches the "
    "prediction and not the target.",
    solution=byol_loss,
    variant=_byol_loss,
    observe=_observe_loss,
    checked="the value, the prediction's gradient, and that none reaches the target",
    bounds=(0, math.inf),
    mistakes=(
        Mistake(
            "no-stop-gradient",
            "the stop-gradient is missing: a gradient flows into the target, and collapse is the "
            "easiest way down; use `target.detach()`",
            {"detach": ()},
        ),
        Mistake(
            "prediction-detached",
            "the stop-gradient is on the prediction; it belongs on the target, and nothing is "
            "trained like this",
            {"detach": ("prediction",)},
        ),
        Mistake(
            "not-normalised",
            "the vectors are not scaled to length one (L2-normalised) before they are compared",
            {"scaled": ()},
            {"scaled": (), "form": "product"},
        ),
        Mistake(
            "one-normalised",
            "only one of the two vectors is scaled to length one; both have to be",
            {"scaled": ("prediction",)},
            {"scaled": ("target",)},
        ),
        Mistake(
            "wrong-axis",
            "the lengths are taken over the batch and not over the features of each vector; "
            "normalise with `dim=-1`",
            {"axis": 0},
            {"axis": (0, 1)},
            {"scaled": (), "form": "columns"},
        ),
        Mistake(
            "cosine-rewarded",
            "this is the cosine itself: minimising it drives the two views apart; the loss is "
            "2 − 2 cos",
            {"form": "cosine"},
        ),
        Mistake(
            "constant-missing",
            "the constant 2 of 2 − 2 cos is missing: it trains alike, but the loss is no squared "
            "distance and 0 is not its end",
            {"form": "no constant"},
        ),
        Mistake(
            "negative-cosine",
            "this is −cos, SimSiam's loss: half of BYOL's, and without its constant; the loss is "
            "2 − 2 cos",
            {"form": "negative"},
        ),
        Mistake("half", "the loss is 1 − cos here, half of 2 − 2 cos", {"form": "half"}),
        Mistake("cosine-once", "the loss is 2 − cos here; it is 2 − 2 cos", {"form": "one cosine"}),
        Mistake(
            "not-squared",
            "the distance is not squared: BYOL's loss is ‖p̄ − z̄‖², not ‖p̄ − z̄‖",
            {"form": "root"},
            {"form": "absolute"},
        ),
        Mistake(
            "summed-over-batch",
            "the loss is summed over the batch; take the mean, or it grows with B",
            {"reduce": "sum"},
        ),
        Mistake(
            "averaged-over-dimensions",
            "the squares are averaged over the D dimensions too, as `F.mse_loss` does; sum over "
            "dimensions, or loss and gradient are D times too small",
            {"reduce": "all"},
        ),
    ),
)


def _both_directions(
    student: nn.Module,
    predictor: nn.Module,
    teacher: nn.Module,
    view_1: Tensor,
    view_2: Tensor,
    *,
    stop: bool = True,
    cross: bool = True,
    directions: tuple[int, ...] = (0, 1),
    factor: float = 1.0,
    predict: bool = True,
    predict_target: bool = False,
    target_of: str = "teacher",
    twice: bool = False,
    sign: int = 1,
    **loss: Any,
) -> Tensor:
    views = view_1, view_2
    follower = {"teacher": teacher, "student": student}[target_of]
    predictions = [predictor(student(v)) if predict else student(v) for v in views]
    if twice:
        predictions = [predictor(prediction) for prediction in predictions]
    targets = [predictor(follower(v)) if predict_target else follower(v) for v in views]
    if stop:
        targets = [target.detach() for target in targets]
    if cross:
        targets.reverse()
    signs = 1, sign
    return factor * sum(
        signs[i] * _byol_loss(predictions[i], targets[i], detach=(), **loss) for i in directions
    )


def _networks() -> tuple[nn.Module, nn.Module, nn.Module]:
    torch.manual_seed(draw())
    return (
        nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)),
        nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)),
        nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)),
    )


def _observe_both(answer: Answer) -> Observation:
    student, predictor, teacher = _networks()
    one, other = randn(8, 6, seed=1), randn(8, 6, seed=2)
    loss = answer.scalar(student, predictor, teacher, one, other)
    inputs = {
        "the student's gradient": student[0].weight,
        "the predictor's gradient": predictor[0].weight,
        "the teacher's gradient": teacher[0].weight,
    }
    seen = {"the loss": loss.detach(), **gradients(loss, **inputs)}
    alike = answer.scalar(student, predictor, teacher, one, one).detach()
    single = answer.scalar(student, predictor, teacher, one[:1], other[:1]).detach()
    same = copy.deepcopy(student), nn.Sequential(nn.Identity()), copy.deepcopy(student)
    perfect = answer.scalar(*same, one, one).detach()
    return {
        "the loss for a perfect prediction": perfect,
        "the loss for a batch of one": single,
        "the loss for two equal views": alike,
    } | seen


BOTH_DIRECTIONS = Exercise(
    name="both_directions",
    chapter="byol",
    call="both_directions(student, predictor, teacher, view_1, view_2)",
    task="three networks, `student`, `predictor` and `teacher`, and two views of the same "
    "images, `view_1` and `view_2` (B, …), to BYOL's loss of a step, a scalar: "
    "predictor(student(view_1)) against teacher(view_2), plus predictor(student(view_2)) "
    "against teacher(view_1), each as the mean of 2 − 2 cos over the batch. No gradient "
    "reaches the teacher.",
    solution=_both_directions,
    variant=_both_directions,
    observe=_observe_both,
    checked="the value, and the gradients of student, predictor and teacher",
    mistakes=(
        Mistake(
            "no-stop-gradient",
            "the stop-gradient is missing: the teacher gets a gradient; compute the targets under "
            "`torch.no_grad()`",
            {"stop": False},
        ),
        Mistake(
            "averaged",
            "the two directions are averaged; the paper sums them, and its learning rate belongs "
            "to the sum",
            {"factor": 0.5},
        ),
        Mistake(
            "same-view",
            "each prediction is compared with the target of its own view; it has to predict the "
            "other view's",
            {"cross": False},
        ),
        Mistake(
            "one-direction",
            "only one direction is there; the views swap their roles and the two losses are added",
            {"directions": (0,)},
            {"directions": (1,)},
        ),
        Mistake(
            "no-predictor",
            "the student's projection is used as it is; the predictor has to come after it",
            {"predict": False},
        ),
        Mistake(
            "predictor-on-teacher",
            "the predictor is applied to the teacher's projections too; the student alone has it",
            {"predict_target": True},
        ),
        Mistake(
            "predictor-twice",
            "the predictor is applied twice; once is enough",
            {"twice": True},
        ),
        Mistake(
            "not-normalised",
            "predictions and targets are not scaled to length one; the loss is 2 − 2 cos",
            {"scaled": ()},
        ),
        Mistake(
            "averaged-over-dimensions",
            "the squares are averaged over the dimensions too, as `F.mse_loss` does; sum over them",
            {"reduce": "all"},
        ),
        Mistake(
            "negative-cosine",
            "this is made of −cos, SimSiam's loss; BYOL's is 2 − 2 cos",
            {"form": "negative"},
        ),
        Mistake(
            "subtracted",
            "the second direction is subtracted from the first; add them",
            {"sign": -1},
        ),
        Mistake(
            "student-is-teacher",
            "the targets come from the student; the teacher has to make them",
            {"target_of": "student"},
        ),
    ),
)


def _trained_parameters(
    student: nn.Module,
    predictor: nn.Module,
    teacher: nn.Module,
    *,
    parts: tuple[str, ...] = ("student", "predictor"),
) -> list[nn.Parameter]:
    networks = {"student": student, "predictor": predictor, "teacher": teacher}
    return list(chain.from_iterable(networks[part].parameters() for part in parts))


def _observe_trained(answer: Answer) -> Observation:
    networks = dict(zip(("student", "predictor", "teacher"), _networks(), strict=True))
    given = answer(*networks.values())
    if given is None:
        raise Mistaken("none", "it returns None; does it end with `return`?")
    if isinstance(given, Tensor) or not hasattr(given, "__iter__"):
        raise Mistaken("not-a-list", "it has to return a list of parameters")
    given = [id(item) for item in chain.from_iterable(map(_in_group, given))]
    return {
        f"how often each parameter of the {name} is in the list": torch.tensor(
            [given.count(id(parameter)) for parameter in network.parameters()]
        )
        for name, network in networks.items()
    }


def _in_group(item: object) -> Iterable:
    """The parameters of a group, which an optimizer takes alone or in a list; or the item."""
    if not isinstance(item, dict):
        return [item]
    held = item.get("params", ())
    return [held] if isinstance(held, Tensor) else held


TRAINED_PARAMETERS = Exercise(
    name="trained_parameters",
    chapter="byol",
    call="trained_parameters(student, predictor, teacher)",
    task="three networks, `student`, `predictor` and `teacher`, to a list of the parameters that"
    " BYOL's optimizer gets, each once, in any order; a list of parameter groups will do "
    "too.",
    solution=_trained_parameters,
    variant=_trained_parameters,
    observe=_observe_trained,
    checked="each parameter of the three networks, by identity",
    mistakes=(
        Mistake(
            "predictor-missing",
            "the predictor's parameters are missing: it stays as random as it was, and the "
            "argument against collapse needs one that is close to the best",
            {"parts": ("student",)},
        ),
        Mistake(
            "student-missing",
            "the student's parameters are missing",
            {"parts": ("predictor",)},
        ),
        Mistake(
            "teacher-trained",
            "the teacher's parameters are in the list; no gradient trains the teacher, it is an "
            "average of the student",
            {"parts": ("student", "predictor", "teacher")},
            {"parts": ("student", "teacher")},
        ),
        Mistake(
            "twice",
            "a parameter is in the list twice, and the optimizer would step it twice",
            {"parts": ("student", "student", "predictor")},
            {"parts": ("student", "predictor", "predictor")},
        ),
    ),
)

EXERCISES = (BYOL_LOSS, BOTH_DIRECTIONS, TRAINED_PARAMETERS)
