"""Checkpoints that survive a crash at any moment: written aside, synced, then renamed."""

import contextlib
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dino_tutorial.errors import UserError
from dino_tutorial.files import describe_error, open_regular, replacing, unreadable
from dino_tutorial.training.health import first_not_finite

CURRENT, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"
KINDS: dict[str, type | tuple[type, ...]] = {  # what a checkpoint holds
    "step": int,
    "seconds": (int, float),
    "log_sizes": list,
    "warnings": list,
    "method": dict,
    "optimizer": dict,
}


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write ``state`` as the folder's current checkpoint and keep the one before it.

    At every instant at least one complete checkpoint lies in the folder.

    Raises:
        UserError: if the disk is full or the folder cannot be written.
    """
    with replacing(folder / CURRENT, "continue with --resume") as temporary:
        with open(temporary, "wb") as file:
            torch.save(state, file)
        _keep_previous(folder)


def _keep_previous(folder: Path) -> None:
    """Give the current checkpoint its second name, while it keeps its first."""
    current, previous = folder / CURRENT, folder / PREVIOUS
    link = previous.with_name(PREVIOUS + ".tmp")
    with contextlib.suppress(FileNotFoundError):
        link.unlink()
    if not current.exists():
        return
    try:
        os.link(current, link)
        os.replace(link, previous)
    except OSError:  # a file system without links: for an instant there is the previous one alone
        os.replace(current, previous)


def has_checkpoint(folder: Path) -> bool:
    """Whether there is one to resume from, whichever of its two names it has."""
    return (folder / CURRENT).exists() or (folder / PREVIOUS).exists()


def load_checkpoint(folder: Path, warn: Callable[[str], object] = print) -> dict[str, Any]:
    """Read the newest readable checkpoint; code hidden in one is never executed.

    Args:
        folder: a run's folder.
        warn: called with one sentence when the newest is damaged, or holds weights that are no
            numbers, and the one before is used.

    Raises:
        UserError: if there is none, or none that can be read.
    """
    problems = []
    if not (folder / CURRENT).exists():
        problems.append(f"there is no {CURRENT}")
    for path in (folder / CURRENT, folder / PREVIOUS):
        if not path.exists():
            continue
        state, problem = _read(path)
        if not problem:
            if problems:
                warn(f"{problems[0]}; going on from {path.name}, step {state['step']}")
            return state
        problems.append(problem)
    if not has_checkpoint(folder):
        raise UserError(f"there is no checkpoint in {folder}: start the run without --resume")
    raise UserError(
        f"{'; '.join(problems)} in {folder}: start the run again without --resume and with another "
        f"--name"
    )


def _read(path: Path) -> tuple[dict[str, Any], str]:
    """The state in a file, and what is wrong with it, if anything."""
    try:
        with open_regular(path) as file:
            if _is_damaged(file):
                return {}, f"{path.name} is damaged (its checksum is wrong)"
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        return {}, f"{path.name} is damaged or holds code, which is never run"
    except PermissionError:
        raise unreadable(path) from None
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in the reader
        return {}, f"{path.name} is damaged ({describe_error(error)})"
    if broken := first_not_finite(state):
        return {}, f"{path.name} holds NaN or infinity in {broken}"
    if not isinstance(state, dict) or not isinstance(state.get("step"), int) or state["step"] < 0:
        return {}, f"{path.name} is not a training checkpoint"
    return state, ""


def _is_damaged(file: Any) -> bool:
    """Whether a part of the archive has not the checksum that was stored with it.

    What is no archive at all is left to the reader, which has a better reason for it.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is not None
    except (zipfile.BadZipFile, EOFError):
        return zipfile.is_zipfile(file)
