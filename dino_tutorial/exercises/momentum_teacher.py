"""The momentum teacher: how it is made, how it follows, and how long it remembers."""

import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dino_tutorial.exercises.exercise import (
    Answer,
    Exercise,
    Mistake,
    Mistaken,
    Observation,
    as_tensor,
    draw,
    randn,
)
from dino_tutorial.training import Teacher, cosine_schedule


def _network(seed: int = 0) -> nn.Module:
    """A network with parameters, running statistics and a counter, none at its first value."""
    width = 6 + draw() % 5
    network = nn.Sequential(
        nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 3)
    )
    if draw() % 2:
        network.append(nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 2, bias=False)))
    with torch.no_grad():
        for index, tensor in enumerate(_tensors(network)):
            if tensor.is_floating_point():
                tensor.add_(randn(*tensor.shape, seed=seed + index).abs())
    network[1].num_batches_tracked.fill_(10)
    return network


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    yield from network.parameters()
    yield from network.buffers()


def _same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


def _make_teacher(
    student: nn.Module,
    *,
    how: str = "deepcopy",
    buffers: bool = True,
    trainable: bool = False,
    freeze: str = "teacher",
) -> nn.Module:
    if how == "alias":
        return student
    if how == "shallow":
        return copy.copy(student)
    teacher = copy.deepcopy(student)
    if how == "anew":
        for module in teacher.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    if not buffers:
        teacher[1].reset_running_stats()
    if freeze == "student":
        student.requires_grad_(False)
    return teacher.requires_grad_(trainable)


def _observe_made(answer: Answer) -> Observation:
    student = _network()
    teacher = answer(student)
    _check_mode(student)
    if not isinstance(teacher, nn.Module):
        raise Mistaken(
            "not-a-module", f"it returns a {type(teacher).__name__}; the teacher is a network"
        )
    if teacher is student:
        raise Mistaken("aliased")
    places = {tensor.data_ptr() for tensor in _tensors(student)}
    if any(tensor.data_ptr() in places for tensor in _tensors(teacher)):
        raise Mistaken("shared-storage")
    if not all(parameter.requires_grad for parameter in student.parameters()):
        raise Mistaken("student-frozen")
    if any(parameter.requires_grad for parameter in teacher.parameters()):
        raise Mistaken("trainable")
    if not _same(list(teacher.parameters()), list(student.parameters())):
        raise Mistaken("not-a-copy")
    if not _same(list(teacher.buffers()), list(student.buffers())):
        raise Mistaken("buffers-forgotten")
    return {}


def _check_mode(student: nn.Module) -> None:
    """Raise if the student is no longer in training mode."""
    if not all(module.training for module in student.modules()):
        says = "the student is in evaluation mode afterwards, and it goes on training"
        raise Mistaken("student-in-evaluation", f"{says}; call `eval()` on the teacher alone")


MAKE_TEACHER = Exercise(
    name="make_teacher",
    chapter="momentum-teacher",
    call="make_teacher(student)",
    task="a network `student` to its teacher, another network: the same weights and buffers, in "
    "memory of its own, and no parameter that requires a gradient. The student stays as it "
    "is.",
    solution=Teacher,
    variant=_make_teacher,
    observe=_observe_made,
    checked="weights, buffers, their storage, and who is trainable",
    mistakes=(
        Mistake(
            "aliased",
            "the teacher is the student, the same object under two names; copy it with "
            "`copy.deepcopy`",
            {"how": "alias"},
        ),
        Mistake(
            "shared-storage",
            "the teacher is another object, but its weights are the student's, in the same "
            "memory; `copy.copy` does not copy tensors, `copy.deepcopy` does",
            {"how": "shallow"},
        ),
        Mistake(
            "student-frozen",
            "the student's parameters no longer require a gradient; freeze the teacher's only",
            {"freeze": "student"},
        ),
        Mistake(
            "trainable",
            "the teacher's parameters still require a gradient; `requires_grad_(False)`",
            {"trainable": True},
        ),
        Mistake(
            "not-a-copy",
            "the teacher starts from other weights than the student; it starts as a copy",
            {"how": "anew"},
        ),
        Mistake(
            "buffers-forgotten",
            "the weights are copied and the buffers are not: batch normalisation's running "
            "statistics belong to the network too",
            {"buffers": False},
        ),
    ),
)


@torch.no_grad()
def _package_update(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    follower = Teacher(teacher)
    follower.update(student, momentum)
    teacher.load_state_dict(follower.network.state_dict())


def _ema_update(
    teacher: nn.Module,
    student: nn.Module,
    momentum: float,
    *,
    swap: bool = False,
    ignore: bool = False,
    parameters: bool = True,
    buffers: str = "averaged",
    counter: str = "copied",
    nothing: bool = False,
    into: str = "teacher",
    share: bool = False,
    graph: bool = False,
) -> None:
    keep = 1 - momentum if swap else 0.0 if ignore else momentum
    pairs = list(zip(teacher.parameters(), student.parameters(), strict=True)) * parameters
    if buffers != "kept":
        pairs += list(zip(teacher.buffers(), student.buffers(), strict=True))
    for ours, theirs in pairs:
        if into == "student":
            ours, theirs = theirs, ours
        copied = buffers == "copied" and not isinstance(ours, nn.Parameter)
        new = theirs if copied else keep * ours + (1 - keep) * theirs
        if nothing:
            ours = new  # a new name for a new tensor; the network keeps its own
        elif share:
            ours.data = theirs.data
        elif not ours.is_floating_point():
            ours.copy_(new if counter == "averaged" else theirs)
        elif graph and isinstance(ours, nn.Parameter):
            ours.copy_(new)
        else:
            ours.data.copy_(new)


def _observe_update(answer: Answer) -> Observation:
    student = _network()
    teacher = copy.deepcopy(student).requires_grad_(False)
    student.load_state_dict(_network(seed=50).state_dict())
    seen = {}
    for momentum, counter in ((0.9, 110), (0.6, 210)):
        student[1].num_batches_tracked.fill_(counter)
        counters = {int(teacher[1].num_batches_tracked), counter}
        before = [tensor.detach().clone() for tensor in _tensors(student)]
        answer(teacher, student, momentum, in_place=True)
        _check_updated(teacher, student, before, counters)
        parts = {"weights": teacher.parameters(), "running statistics": teacher.buffers()}
        for name, tensors in parts.items():
            kept = [tensor.detach().flatten() for tensor in tensors if tensor.is_floating_point()]
            seen[f"the teacher's {name} for momentum {momentum}"] = torch.cat(kept).clone()
    for zero in ("student", "teacher"):
        pair = {"teacher": _network().requires_grad_(False), "student": _network(seed=50)}
        with torch.no_grad():
            for tensor in _tensors(pair[zero]):
                tensor.zero_()
        answer(pair["teacher"], pair["student"], 0.8, in_place=True)
        kept = [tensor.detach().flatten() for tensor in pair["teacher"].parameters()]
        seen[f"the teacher's weights if the {zero}'s were all 0"] = torch.cat(kept)
    return seen


def _check_updated(
    teacher: nn.Module, student: nn.Module, before: list[Tensor], counters: set[int]
) -> None:
    places = {tensor.data_ptr() for tensor in _tensors(student)}
    if any(tensor.data_ptr() in places for tensor in _tensors(teacher)):
        raise Mistaken("shared-storage")
    if not _same(list(_tensors(student)), before):
        raise Mistaken("student-changed")
    _check_mode(student)
    if not all(parameter.requires_grad for parameter in student.parameters()):
        says = "the student's parameters no longer require a gradient"
        raise Mistaken("student-frozen", f"{says}; leave the student as it is")
    tensors = [tensor for tensor in _tensors(teacher) if tensor.requires_grad]
    if any(tensor.is_leaf for tensor in tensors):
        says = "parameters of the teacher require a gradient afterwards"
        raise Mistaken("trainable", f"{says}; change the values of those that it has")
    if tensors:
        raise Mistaken("recorded")
    counter = int(teacher[1].num_batches_tracked)
    if counter not in counters:
        if min(counters) < counter < max(counters):
            raise Mistaken("counter-averaged")
        says = "the counter of batches is neither the teacher's nor the student's"
        raise Mistaken("counter-wrong", f"{says}; copy it, or leave it")


EMA_UPDATE = Exercise(
    name="ema_update",
    chapter="momentum-teacher",
    call="ema_update(teacher, student, momentum)",
    task="two networks of one architecture, `teacher` and `student`, and a float `momentum` m: "
    "changes the teacher in place, so that each of its weights and floating-point buffers "
    "becomes m · teacher + (1 − m) · student. Integer buffers, which count, are copied or "
    "left as they are. The student stays as it is, and autograd records nothing.",
    solution=_package_update,
    variant=_ema_update,
    observe=_observe_update,
    checked="weights and buffers over two updates, and that the student stays as it was",
    mistakes=(
        Mistake(
            "shared-storage",
            "the teacher's tensors are the student's now, in the same memory, so that it follows "
            "every step; copy the values",
            {"share": True},
        ),
        Mistake(
            "student-changed",
            "the student is changed; the teacher follows the student and not the other way",
            {"into": "student"},
        ),
        Mistake(
            "recorded",
            "autograd records the update, so that memory grows with each step; decorate it with "
            "`@torch.no_grad()`",
            {"graph": True},
        ),
        Mistake(
            "wrong-way-round",
            "the average is the wrong way round: the momentum is the teacher's share",
            {"swap": True},
        ),
        Mistake(
            "nothing-changed",
            "the teacher does not change: `t = …` in a loop only gives a new tensor a name; use "
            "`t.copy_(…)` or `t.lerp_(…)`",
            {"nothing": True},
            {"parameters": False, "buffers": "kept"},
        ),
        Mistake(
            "copied",
            "the student's weights are copied and the momentum is ignored; keep `momentum` of "
            "the teacher",
            {"ignore": True},
        ),
        Mistake(
            "buffers-forgotten",
            "the buffers are forgotten: `parameters()` leaves out batch normalisation's running "
            "statistics, which evaluation uses",
            {"buffers": "kept"},
        ),
        Mistake(
            "buffers-copied",
            "the buffers are copied from the student; average them like the weights",
            {"buffers": "copied"},
        ),
        Mistake(
            "only-buffers",
            "the buffers follow and the weights do not",
            {"parameters": False},
        ),
        Mistake(
            "counter-averaged",
            "the counter of batches is averaged; it is an integer, so copy it",
            {"counter": "averaged"},
        ),
    ),
)


def _half_life(momentum: float, *, form: str = "right") -> float:
    return {
        "right": math.log(0.5) / math.log(momentum),
        "window": 1 / (1 - momentum),
        "mean age": -1 / math.log(momentum),
        "inverted": math.log(momentum) / math.log(0.5),
        "sign": math.log(2) / math.log(momentum),
        "rounded": round(math.log(0.5) / math.log(momentum)),
        "linear": math.log(2) / (1 - momentum),
    }[form]


def _observe_half_life(answer: Answer) -> Observation:
    return {
        f"the half-life for m = {m}": answer.number(m)
        for m in (0.9, 0.3, 0.996, 0.5 + draw() % 97 / 200)
    }


HALF_LIFE = Exercise(
    name="half_life",
    chapter="momentum-teacher",
    call="half_life(momentum)",
    task="a float `momentum` m in (0, 1) to the number of steps n, a real number, after which "
    "half of the first weights is left, mⁿ = ½.",
    solution=_half_life,
    variant=_half_life,
    observe=_observe_half_life,
    checked="three momenta",
    bounds=(0, math.inf),
    mistakes=(
        Mistake(
            "window",
            "this is 1 / (1 − m), the effective window; the half-life solves mⁿ = ½",
            {"form": "window"},
        ),
        Mistake(
            "e-fold",
            "this is the time to the share 1/e; the half-life solves mⁿ = ½",
            {"form": "mean age"},
        ),
        Mistake(
            "inverted",
            "the fraction is upside down: n = ln ½ / ln m",
            {"form": "inverted"},
        ),
        Mistake("sign", "the sign is wrong: ln m is negative, and so is ln ½", {"form": "sign"}),
        Mistake("rounded", "it is rounded; return the real number", {"form": "rounded"}),
        Mistake(
            "approximation",
            "this is ln 2 / (1 − m), right for m near 1 alone; the half-life is ln ½ / ln m",
            {"form": "linear"},
        ),
    ),
)


def _debiased_ema(
    values: Tensor,
    momentum: float,
    *,
    start: str = "zero",
    correct: str = "power",
    first: int = 1,
    feedback: bool = False,
    swap: bool = False,
) -> Tensor:
    keep = 1 - momentum if swap else momentum
    average = values[0] if start == "first" else torch.zeros_like(values[0])
    out = []
    for t, value in enumerate(values, start=first):
        average = keep * average + (1 - keep) * value
        divisor = {"power": 1 - keep**t, "once": 1 - keep, "not": 1.0}[correct]
        out.append(average / divisor)
        average = out[-1] if feedback else average
    return torch.stack(out)


def _observe_debiased(answer: Answer) -> Observation:
    return {
        f"the averages of {len(values)} values for m = {m}": torch.stack(
            [as_tensor(value).detach().double() for value in _items(answer(values, m))]
        )
        for m, values in (
            (0.9, randn(6, seed=1) + 3),
            (0.5, randn(4, seed=2)),
            (0.7, randn(1, seed=3)),
        )
    }


def _items(values: object) -> list:
    if values is None or not hasattr(values, "__iter__"):
        raise Mistaken("not-a-sequence", "it has to return one average for each value")
    return list(values)


DEBIASED_EMA = Exercise(
    name="debiased_ema",
    chapter="momentum-teacher",
    call="debiased_ema(values, momentum)",
    task="`values` (n,) and a float `momentum` m to n averages (n,): with a₀ = 0 and aₜ = m · "
    "aₜ₋₁ + (1 − m) · value t, counted from 1, average t is aₜ / (1 − mᵗ).",
    solution=_debiased_ema,
    variant=_debiased_ema,
    observe=_observe_debiased,
    checked="all averages for two momenta",
    mistakes=(
        Mistake(
            "not-corrected",
            "the averages are not corrected; divide by 1 − mᵗ",
            {"correct": "not"},
        ),
        Mistake(
            "first-value",
            "the average starts at the first value; start at 0 and divide by 1 − mᵗ",
            {"start": "first", "correct": "not"},
            {"start": "first"},
        ),
        Mistake(
            "constant-divisor",
            "it divides by 1 − m at every step; after t values it is 1 − mᵗ",
            {"correct": "once"},
        ),
        Mistake(
            "counted-from-zero",
            "t is counted from 0, so that the first divisor is 0; the first value has t = 1",
            {"first": 0},
        ),
        Mistake(
            "fed-back",
            "the corrected average is used to go on; keep the uncorrected one for the next step",
            {"feedback": True},
        ),
        Mistake(
            "wrong-way-round",
            "the average is the wrong way round: the momentum is the share of the past",
            {"swap": True},
        ),
    ),
)


def _momentum_at(
    step: int,
    total: int,
    start: float,
    *,
    shape: str = "half cosine",
    last: int = 0,
    first: int = 0,
    above: bool = False,
    falls: bool = False,
) -> float:
    phase = (step + first) / (total - last)
    share = {
        "half cosine": (1 + math.cos(math.pi * phase)) / 2,
        "whole cosine": (1 + math.cos(2 * math.pi * phase)) / 2,
        "linear": 1 - phase,
        "no half": 1 + math.cos(math.pi * phase),
        "degrees": (1 + math.cos(180 * phase)) / 2,
    }[shape]
    gap = (1 - start) * (1 - share if falls else share)
    return 1 + gap if above else 1 - gap


def _package_momentum(step: int, total: int, start: float) -> float:
    return cosine_schedule(start, 1.0, total)[step].item()


def _from_one(momentum: Tensor) -> Tensor:
    """Thousandths below 1: there a difference between two momenta can be seen."""
    return 1000 * (1 - momentum.double())


def _observe_momentum(answer: Answer) -> Observation:
    return {
        f"how far the momentum is from 1 at step {step} of {total}, from {start},": _from_one(
            answer.number(step, total, start)
        )
        for step, total, start in (
            (0, 10, 0.996),
            (3, 10, 0.996),
            (5, 8, 0.99),
            (9, 10, 0.9),
            (1 + draw() % 11, 13, 0.5),
        )
    }


MOMENTUM_AT = Exercise(
    name="momentum_at",
    chapter="momentum-teacher",
    call="momentum_at(step, total, start)",
    task="an integer `step` of 0 … `total` − 1 and a float `start` to the teacher's momentum, a "
    "number: it rises along half a cosine of phase π · step / total, from `start` in step 0"
    " to 1, which it would reach at step = total, one after the last.",
    solution=_package_momentum,
    variant=_momentum_at,
    observe=_observe_momentum,
    form=_from_one,
    checked="four steps of three schedules",
    mistakes=(
        Mistake("falls", "the momentum falls; it rises from `start` to 1", {"falls": True}),
        Mistake("above-one", "the momentum is above 1; it rises from below", {"above": True}),
        Mistake(
            "linear",
            "the momentum rises along a straight line; it follows half a cosine",
            {"shape": "linear"},
        ),
        Mistake(
            "whole-cosine",
            "the cosine runs through a whole period and comes back; π t / T, not 2π t / T",
            {"shape": "whole cosine"},
        ),
        Mistake(
            "half-missing",
            "the factor ½ is missing, so that it starts below `start`",
            {"shape": "no half"},
        ),
        Mistake(
            "degrees",
            "the cosine gets degrees; `math.cos` and `torch.cos` take radians",
            {"shape": "degrees"},
        ),
        Mistake(
            "from-one",
            "the steps are counted from 1; step 0 has the momentum `start`",
            {"first": 1},
        ),
        Mistake(
            "reaches-one",
            "it reaches 1 in the last step, with t / (T − 1); the reference divides by T and "
            "stops one step short",
            {"last": 1},
        ),
    ),
)

EXERCISES = (MAKE_TEACHER, EMA_UPDATE, HALF_LIFE, DEBIASED_EMA, MOMENTUM_AT)
