"""Is it learning, and if not, why: the signatures of a run that has gone wrong, in words."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from dino_tutorial.errors import UserError
from dino_tutorial.evaluation.collapse import find_collapse
from dino_tutorial.methods.teacher import Teacher


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


def check_finite(row: dict[str, Any]) -> None:
    if not math.isfinite(row["loss"]):
        raise TrainingDiverged(
            f"the loss became {row['loss']} at step {row['step']}: lower optim.lr, set "
            f"optim.clip (DINO: 3.0), or use precision=fp32 or bf16 rather than fp16; the last "
            f"checkpoint before it is kept"
        )


def diagnose(rows: Sequence[Mapping[str, object]]) -> str | None:
    """What :func:`dino_tutorial.evaluation.find_collapse` finds in the latest rows, in words."""
    collapse = find_collapse(rows)
    return None if collapse is None else str(collapse)
