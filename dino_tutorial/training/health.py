"""Is it learning, and if not, why: the signatures of a run that has gone wrong, in words."""

import math
from typing import Any

from torch import nn

from dino_tutorial.errors import UserError
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


def diagnose(rows: list[dict[str, Any]]) -> str | None:
    """One sentence on the collapse that the latest rows show, or None.

    Looks at the last three rows once a run has logged eight, because every run starts near
    ln K. A teacher that is uniform for *each* image has entropy ln K; one that gives *all*
    images the same prototype has a batch entropy of 0; constant features have no spread.

    Source: Caron et al. 2021, section 5.3 and figure 7.
    """
    if len(rows) < 8:
        return None
    for signature in (_uniform, _one_prototype, _constant_features):
        sentence = signature(rows[-3:])
        if sentence:
            return sentence
    return None


def _uniform(rows: list[dict[str, Any]]) -> str | None:
    if all(row.get("teacher_entropy", 0) > 0.995 * row.get("ln_k", math.inf) for row in rows):
        return (
            "the teacher's output is uniform (its entropy is ln K and the loss sits at ln K): "
            "nothing sharpens it. Lower the teacher temperature (0.04), or check that the "
            "student's (0.1) is the larger of the two"
        )
    return None


def _one_prototype(rows: list[dict[str, Any]]) -> str | None:
    if all(row.get("batch_entropy", math.inf) < 0.05 * row.get("ln_k", 0) for row in rows):
        return (
            "every image gets the same prototype (the mean teacher distribution has no entropy): "
            "nothing spreads the images out. Check that the center is subtracted and updated "
            "(center_momentum below 1)"
        )
    return None


def _constant_features(rows: list[dict[str, Any]]) -> str | None:
    if all(row.get("feature_spread", 1) < 0.01 for row in rows):
        return (
            "the features are the same for all images (feature spread below 0.01): the run has "
            "collapsed. Check the learning rate, the momentum of the teacher if there is one (0.99 "
            "or more) and, for BYOL, the predictor and its batch normalisation"
        )
    return None
