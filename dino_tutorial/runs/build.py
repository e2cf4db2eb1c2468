"""Methods out of configurations and of runs: fresh, or as a run left them."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from dino_tutorial.errors import UserError
from dino_tutorial.methods import METHODS, Method
from dino_tutorial.models.misfit import misfit
from dino_tutorial.models.released import RELEASED
from dino_tutorial.options import takes, whole
from dino_tutorial.runs.config import Config
from dino_tutorial.runs.folder import Run, load_run, new_encoder
from dino_tutorial.seeds import Stream, mix
from dino_tutorial.training.checkpoint import CURRENT, has_checkpoint, load_checkpoint


@takes(n_classes=whole(0))
def build_method(config: Config, n_classes: int = 0) -> Method:
    """The configured method with fresh weights, all drawn from the run's seed.

    Args:
        n_classes: of the labelled images; only a method that needs labels is told.

    Raises:
        UserError: the settings do not fit together, or the teacher of a method that needs one is
            missing or does not fit.
    """
    encoder, method = new_encoder(config), METHODS[config.method]
    given: dict[str, int | Method] = {"n_classes": n_classes} if method.needs_labels else {}
    make: Callable[..., Method] = method  # what else it takes, its own class says
    if method.needs_teacher:
        teacher = teacher_run(config.objective.teacher)
        given["teacher"] = trained_method(teacher.folder, n_classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(config.seed, Stream.HEADS))
        return make(encoder, config.objective, **given)


def teacher_run(name: str | Path | None) -> Run:
    """The run whose networks are to teach.

    Raises:
        UserError: nothing is named, or no run, or an encoder's weights alone.
    """
    hint = "the folder of a finished run of dino or dinov2"
    if name is None:
        raise UserError(
            f"distillation needs a teacher: set objective.teacher to {hint}, or say "
            f"dino-tutorial distill FOLDER"
        )
    if str(name) in RELEASED or Path(name).is_file():
        raise UserError(
            f"{name} holds an encoder without the heads over whose prototypes teacher and student "
            f"are compared: name {hint}"
        )
    return load_run(name)


def trained_method(folder: str | Path, n_classes: int = 0) -> Method:
    """The method of a finished run as training left it, heads and teacher included.

    Args:
        folder: of the run, with its last checkpoint; a record without weights is not enough.
        n_classes: as in :func:`build_method`.

    Raises:
        UserError: there is no finished run, or its checkpoint is gone.
    """
    run = load_run(folder)
    if not run.complete:
        raise UserError(f"the run {folder} is not finished: finish it with --resume, then use it")
    if not has_checkpoint(run.folder):
        raise UserError(
            f"{folder} has no {CURRENT}, which holds the heads: name the folder that the run was "
            f"trained in, not a record of it"
        )
    method = build_method(run.config, n_classes)
    load_method(method, load_checkpoint(run.folder)["method"], f"the checkpoint in {folder}")
    return method


def load_method(method: Method, state: dict[str, Tensor], where: str) -> None:
    """Give a method the state of another of its kind; ``where`` it is from is for the error.

    Raises:
        UserError: it is of another architecture.
    """
    try:
        method.load_state_dict(state)
    except RuntimeError:
        reason = misfit(state, method.state_dict())
        raise UserError(
            f"{where} does not fit these settings ({reason}): use those it was trained with"
        ) from None
