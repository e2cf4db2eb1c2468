"""Is it learning, and if not, why: the signatures of a run that has gone wrong, in words."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dino_tutorial.errors import UserError
from dino_tutorial.evaluation.collapse import find_collapse
from dino_tutorial.methods.teacher import Teacher
from dino_tutorial.parallel import own_part


class TrainingDiverged(UserError):
    """The loss is no longer a number; going on would only destroy the weights."""


def check_teacher_is_a_copy(student: nn.Module, teacher: Teacher[nn.Module]) -> None:
    """Refuse a teacher that shares tensors with the student.

    ``teacher = student`` makes a second name, not a second network: the target then moves with
    every gradient step and the average averages nothing.
    """
    ours = {id(p) for p in student.parameters()} | {p.data_ptr() for p in student.parameters()}
    for name, parameter in teacher.network.named_parameters():
        if id(parameter) in ours or parameter.data_ptr() in ours:
            raise UserError(
                f"teacher and student share the weights of '{name}': the teacher must be a copy "
                f"(copy.deepcopy, or Teacher(student)), not a second name for the student"
            )


def check_finite(row: dict[str, Any], kept: bool = True) -> None:
    """Refuse a loss that is no number; ``kept`` says whether there is an earlier checkpoint."""
    if not math.isfinite(row["loss"]):
        raise _diverged(f"the loss became {row['loss']} at step {row['step']}", kept)


def first_not_finite(tree: Any, name: str = "") -> str | None:
    """The dotted name of the first tensor that holds NaN or infinity; None if there is none.

    Args:
        tree: dictionaries and lists, in each other, of tensors and anything else.
        name: of the tree itself.
    """
    tensors = {key: own_part(t) for key, t in _tensors(tree, name) if t.is_floating_point()}
    if not tensors:
        return None
    finite = torch.stack([tensor.isfinite().all().cpu() for tensor in tensors.values()])
    return None if finite.all() else list(tensors)[int(finite.int().argmin())]


def _tensors(tree: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(tree, Tensor):
        yield name, tree
    elif isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from _tensors(value, f"{name}.{key}" if name else str(key))


def weights_diverged(name: str, step: int, kept: bool) -> TrainingDiverged:
    """The error for weights, or what goes with them, that are no numbers after a step."""
    return _diverged(f"{name} held NaN or infinity after step {step}", kept)


def _diverged(what: str, kept: bool) -> TrainingDiverged:
    return TrainingDiverged(
        f"{what}: lower optim.lr, set optim.clip (DINO: 3.0), or use train.precision=fp32 or bf16 "
        f"rather than fp16; "
        + ("the last checkpoint before it is kept" if kept else "there is no checkpoint before it")
    )


def diagnose(rows: Sequence[Mapping[str, object]]) -> str | None:
    """What :func:`dino_tutorial.evaluation.find_collapse` finds in the latest rows, in words."""
    collapse = find_collapse(rows)
    return None if collapse is None else str(collapse)
