"""Checkpoints that survive a crash at any moment: written aside, synced, then renamed."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dino_tutorial.errors import UserError
from dino_tutorial.training.health import first_not_finite

CURRENT, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write ``state`` as the folder's current checkpoint and keep the one before it.

    At every instant at least one complete checkpoint lies in the folder.

    Raises:
        UserError: if the disk is full or the folder cannot be written.
    """
    current, temporary = folder / CURRENT, folder / (CURRENT + ".tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        if current.exists():
            os.replace(current, folder / PREVIOUS)
        os.replace(temporary, current)
        _sync_folder(folder)
    except (OSError, RuntimeError) as error:  # torch's zip writer turns ENOSPC into RuntimeError
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"the checkpoint could not be written to {folder} ({_reason(error)}): make room or "
            f"the folder writable, then continue with --resume"
        ) from error


def load_checkpoint(folder: Path, warn: Callable[[str], object] = print) -> dict[str, Any]:
    """Read the newest readable checkpoint; code hidden in one is never executed.

    Args:
        folder: a run's folder.
        warn: called with one sentence when the newest is damaged, or holds weights that are no
            numbers, and the one before is used.

    Raises:
        UserError: if there is none, or none that can be read.
    """
    present = [folder / name for name in (CURRENT, PREVIOUS) if (folder / name).exists()]
    if not present:
        raise UserError(f"there is no checkpoint in {folder}: start the run without --resume")
    problems = []
    for path in present:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
            problems.append(f"{path.name} is damaged ({_reason(error)})")
        except pickle.UnpicklingError:
            problems.append(f"{path.name} is damaged or holds code, which is never run")
        else:
            broken = first_not_finite(state)
            if broken:
                problems.append(f"{path.name} holds NaN or infinity in {broken}")
                continue
            if isinstance(state, dict) and "step" in state:
                if problems:
                    warn(f"{problems[0]}; going on from {path.name}, step {state['step']}")
                return state
            problems.append(f"{path.name} is not a training checkpoint")
    raise UserError(f"{'; '.join(problems)} in {folder}: start the run again without --resume")


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _reason(error: BaseException) -> str:
    cause = error if isinstance(error, OSError) and error.strerror else error.__context__
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return (str(error).strip() or "it ends too early").splitlines()[0][:120]
