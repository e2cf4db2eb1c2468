"""A run's folder: what is in it, how it is made and locked, and how it is read back."""

import contextlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dino_tutorial.errors import UserError
from dino_tutorial.files import (
    describe_error,
    kind_of,
    open_regular,
    plain_name,
    read_json,
    replacing,
    unreadable,
    unwritable,
    user_path,
    write_json,
)
from dino_tutorial.files.locks import locked
from dino_tutorial.models import Encoder, VisionTransformer, build_encoder
from dino_tutorial.models.misfit import misfit
from dino_tutorial.models.notes import digest, is_changed, notes_of, with_notes
from dino_tutorial.options import takes
from dino_tutorial.parallel import Processes, from_main
from dino_tutorial.runs.config import Config, read_config
from dino_tutorial.training.checkpoint import has_checkpoint
from dino_tutorial.training.log import read_rows

__all__ = ["Run", "find_folder", "load_run", "new_encoder", "run_folder", "save_backbone"]

AGAIN = "train again, or resume the run, to have it written anew"
NUMBERS = ("steps", "parameters", "train_seconds", "images_per_second", "final_loss", "ln_k",
           "teacher_entropy", "feature_spread", "bank", "queries", "k", "temperature")  # fmt: skip
MEASURES = ("knn_", "linear_", "miou", "depth_")  # how the names of results begin


@dataclass(frozen=True)
class Run:
    """A folder with ``config.yaml``, ``metrics.jsonl``, ``summary.json``, weights and report."""

    folder: Path

    @cached_property
    def config(self) -> Config:
        return read_config(self.folder / "config.yaml")

    @cached_property
    def summary(self) -> dict[str, Any]:
        path = self.folder / "summary.json"
        if not kind_of(path):
            raise UserError(f"{path} does not exist: the run is not complete, use --resume")
        summary = read_json(path, AGAIN)
        if "method" not in summary:  # such as a curation's
            raise UserError(f"{path} is not the summary of a training: {AGAIN}")
        _check_numbers(summary, path)
        return summary

    @cached_property
    def environment(self) -> dict[str, Any]:
        return read_json(self.folder / "environment.json", AGAIN)

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        return read_rows(self.folder / "metrics.jsonl")

    @cached_property
    def timings(self) -> list[dict[str, Any]]:
        return read_rows(self.folder / "timings.jsonl")

    @property
    def evaluations(self) -> dict[str, dict[str, Any]]:
        """What :meth:`save_evaluation` has kept, by the name of the data that was measured on.

        Where the images had another size than the run's global views, the name ends in it:
        ``"scenes at 64 px"``.
        """
        path = self.folder / "evaluation.json"
        if not kind_of(path):
            return {}
        kept = read_json(path, "remove it, and measure again with eval --save")
        for results in kept.values():
            if not isinstance(results, dict):
                raise UserError(f"{path} holds no results: remove it, and measure again")
            _check_numbers(results, path)
        return kept

    def save_evaluation(self, results: dict[str, Any]) -> None:
        """Keep the dictionary of :func:`dino_tutorial.evaluate` in the run's folder.

        An older one of the same data at the same size is replaced.
        """
        name, size = results["data"], results["image_size"]
        if size != self.config.views.global_size:
            name += f" at {size} px"
        with locked(self.folder, "try again when it has ended", patience=30):
            write_json(self.folder / "evaluation.json", self.evaluations | {name: results})

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    @property
    def complete(self) -> bool:
        return (self.folder / "summary.json").exists()

    def encoder(self) -> Encoder:
        """The trained backbone that its method keeps, in evaluation mode, on the CPU."""
        path = self.folder / "backbone.safetensors"
        if not kind_of(path):
            raise UserError(
                f"{self.folder} is a record, whose weights were not kept: train it again by its "
                f"command.txt"
                if self.complete
                else f"{self.folder} has no backbone yet: finish it with --resume"
            )
        state = _read_backbone(path)
        try:
            model = new_encoder(self.config)
        except UserError as error:
            raise UserError(f"{self.folder / 'config.yaml'}: {error}; {AGAIN}") from None
        try:
            model.load_state_dict(state)
        except RuntimeError:
            reason = misfit(state, model.state_dict())
            raise UserError(
                f"{path} does not fit the run's configuration ({reason}): {AGAIN}"
            ) from None
        return model.eval()


def _check_numbers(values: dict[str, Any], path: Path) -> None:
    for key, value in values.items():
        measured = key in NUMBERS or key.startswith(MEASURES)
        if measured and not (value is None or type(value) in (int, float)):
            raise UserError(f"{path} has {key} = {value!r:.40}, which is no number: {AGAIN}")


def _read_backbone(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of weights that is whole.

    Raises:
        UserError: it cannot be read, or is not what was written, or holds what is no number.
    """
    try:
        open_regular(path).close()
        with safe_open(path, "pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            damaged = is_changed(state, notes_of(file.metadata()))
    except PermissionError:
        raise unreadable(path) from None
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{path} is damaged and does not fit the run ({describe_error(error)}): {AGAIN}"
        ) from None
    if damaged:
        raise UserError(f"{path} is damaged (its checksum is wrong): {AGAIN}")
    if not all(tensor.isfinite().all() for tensor in state.values()):
        raise UserError(f"{path} holds NaN or infinity, for its training diverged: train again")
    return state


def load_run(folder: str | Path) -> Run:
    """Open the folder of a run.

    Raises:
        UserError: if it is not one.
    """
    folder = user_path(folder)
    if kind_of(folder) != "folder":
        problem = "is a file" if kind_of(folder) else "does not exist"
        raise UserError(
            f"{folder} {problem}, so it is not a run's folder: name one that train has made, such "
            f"as runs/dino-scenes-laptop"
        )
    if not kind_of(folder / "config.yaml"):
        raise UserError(
            f"{folder} is not a run's folder: it has no config.yaml; name one that train has made"
        )
    return Run(folder)


@takes()
def new_encoder(config: Config) -> Encoder:
    """The configured encoder with fresh weights, drawn from the run's seed."""
    size = config.views.global_size
    overrides = config.model.overrides()
    if config.model.arch.startswith("vit"):
        overrides["img_size"] = size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return build_encoder(config.model.arch, **overrides)


@contextlib.contextmanager
def run_folder(config: Config, resume: bool, processes: Processes) -> Iterator[Path]:
    """The folder of a run, made at once and locked while the run is trained.

    A new one that fails before its first step is taken away again, and what was made for it.

    Args:
        processes: all of them get the folder that the first one has found.

    Raises:
        UserError: another process writes into it, or see :func:`find_folder`.
    """
    with contextlib.ExitStack() as stack:
        found: Path | UserError | None = None
        if processes.is_main:
            try:
                ours = _resumed(config) if resume else _made(config)
                found = stack.enter_context(ours)
            except UserError as error:
                found = error
        found = from_main(found)
        if isinstance(found, UserError):
            raise found
        yield found


@contextlib.contextmanager
def _resumed(config: Config) -> Iterator[Path]:
    folder = find_folder(config, resume=True)
    with locked(folder, "stop it or wait for its end before this run is resumed"):
        if (folder / "summary.json").exists() and not has_checkpoint(folder):
            raise UserError(
                f"{folder} is finished and has no checkpoint, as a record: there is nothing to go "
                f"on with; take another --name and no --resume"
            )
        yield folder


@contextlib.contextmanager
def _made(config: Config) -> Iterator[Path]:
    folder, made = _make_folder(config)
    try:
        with locked(folder, "take another --name"):
            if _contents(folder):  # somebody was faster
                find_folder(config, resume=False)
            try:
                yield folder
            except BaseException:
                if not _has_begun(folder):
                    _empty(folder)
                raise
    except BaseException:
        for path in made:
            with contextlib.suppress(OSError):  # one that is not empty is somebody else's too
                path.rmdir()
        raise


def _make_folder(config: Config) -> tuple[Path, list[Path]]:
    """A folder that no other process gets, and all that was made for it, the deepest first."""
    while True:
        folder = find_folder(config, resume=False)
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(exist_ok=config.name is not None)
            return folder, made
        except FileExistsError as error:  # by another run, just now; or a file is in the way
            if kind_of(folder) != "folder":
                raise unwritable(folder, error) from error
        except OSError as error:
            raise unwritable(folder, error) from error


def _empty(folder: Path) -> None:
    """As far as that goes: why a run could not begin is more than what is left of it."""
    for path in (folder / name for name in _contents(folder)):
        if path.is_dir():  # a tracker's
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def _has_begun(folder: Path) -> bool:
    """Whether there is anything to resume."""
    log = folder / "metrics.jsonl"
    return has_checkpoint(folder) or (log.exists() and log.stat().st_size > 0)


def _contents(folder: Path) -> list[str]:
    """Names in a folder, but for the lock and what a killed process left half-written."""
    try:
        return [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise UserError(
            f"{folder} cannot be opened ({describe_error(error)}): choose another --folder"
        ) from None


def find_folder(config: Config, resume: bool) -> Path:
    """The folder that a configuration writes to, or, on ``resume``, has written to.

    A run without a name is called ``method-data-preset``, and never overwrites an older one: it
    becomes ``…-2``, ``…-3``. ``resume`` takes the newest of them.

    Raises:
        UserError: the name is taken, or there is nothing to resume.
    """
    root = user_path(config.folder)
    stem = config.name or f"{config.method}-{plain_name(Path(config.source).name)}-{config.preset}"
    taken = {1: root / stem} if config.name else _numbered(root, stem)
    if resume:
        started = [path for path in taken.values() if kind_of(path / "config.yaml")]
        if not started:
            raise UserError(
                f"there is nothing to resume in {root / stem}: start it without --resume"
            )
        return started[-1]
    if not config.name:
        number = max(taken, default=0) + 1
        return root / (stem if number == 1 else f"{stem}-{number}")
    kind = kind_of(taken[1])
    if kind in ("file", "other"):
        raise UserError(f"{taken[1]} is a file: take another --name or --folder")
    if kind and _contents(taken[1]):
        hint = "continue it with --resume or take" if _is_run(taken[1]) else "take"
        raise UserError(f"{taken[1]} exists: {hint} another --name")
    return taken[1]


def _is_run(folder: Path) -> bool:
    return kind_of(folder / "config.yaml") == "file"


def _numbered(root: Path, stem: str) -> dict[int, Path]:
    """What is called ``stem``, ``stem-2``, ``stem-3``, …, by its number."""
    if kind_of(root) != "folder":
        return {}
    pattern = re.compile(re.escape(stem) + r"(?:-([1-9]\d{0,8}))?")
    try:
        found = [(path, pattern.fullmatch(path.name)) for path in root.iterdir()]
    except OSError as error:
        raise UserError(
            f"{root} cannot be opened ({describe_error(error)}): choose another --folder"
        ) from None
    return dict(sorted((int(match[1] or 1), path) for path, match in found if match))


def save_backbone(path: Path, encoder: nn.Module) -> None:
    """Write an encoder's weights as safetensors, whole or not at all.

    With them go their checksum, and of a transformer what weights do not tell: the number of its
    heads, and where its stem has norms.

    Raises:
        UserError: if the disk is full or the folder cannot be written.
    """
    state = {k: tensor.detach().cpu().contiguous() for k, tensor in encoder.state_dict().items()}
    notes = {"sha256": digest(state)}
    if isinstance(encoder, VisionTransformer):
        notes |= {"num_heads": str(encoder.num_heads), "stem": encoder.stem}
    with replacing(path) as temporary:
        try:
            save_file(state, temporary, with_notes(**notes))
        except SafetensorError as error:
            raise unwritable(path, error) from error
