"""A run's folder: what is in it, and how it is read back."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from dino_tutorial.runs.config import Config, read_config
from dino_tutorial.errors import UserError
from dino_tutorial.models import Encoder, build_encoder
from dino_tutorial.training.checkpoint import CURRENT
from dino_tutorial.training.log import read_rows


@dataclass(frozen=True)
class Run:
    """A folder with ``config.yaml``, ``metrics.jsonl``, ``summary.json``, weights and report."""

    folder: Path

    @cached_property
    def config(self) -> Config:
        return read_config(self.folder / "config.yaml")

    @cached_property
    def summary(self) -> dict[str, Any]:
        return self._json("summary.json")

    @cached_property
    def environment(self) -> dict[str, Any]:
        return self._json("environment.json")

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
        return self._json("evaluation.json") if (self.folder / "evaluation.json").exists() else {}

    def save_evaluation(self, results: dict[str, Any]) -> None:
        """Keep the dictionary of :func:`dino_tutorial.evaluate` in the run's folder.

        An older one of the same data at the same size is replaced.
        """
        name, size = results["data"], results["image_size"]
        if size != self.config.views.global_size:
            name += f" at {size} px"
        kept = self.evaluations | {name: results}
        write_json(self.folder / "evaluation.json", kept)

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    @property
    def complete(self) -> bool:
        return (self.folder / "summary.json").exists()

    def encoder(self) -> Encoder:
        """The trained backbone that its method keeps, in evaluation mode, on the CPU."""
        path = self.folder / "backbone.safetensors"
        model = new_encoder(self.config)
        try:
            model.load_state_dict(load_file(path))
        except FileNotFoundError:
            raise UserError(f"{self.folder} has no backbone yet: finish it with --resume") from None
        except (SafetensorError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path} does not fit the run's configuration ({reason})") from None
        return model.eval()

    def _json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        if not path.exists():
            raise UserError(f"{path} does not exist: the run is not complete, use --resume")
        return json.loads(path.read_text(encoding="utf-8"))


def load_run(folder: str | Path) -> Run:
    """Open the folder of a run.

    Raises:
        UserError: if it is not one.
    """
    folder = Path(folder)
    if not (folder / "config.yaml").exists():
        raise UserError(f"{folder} is not a run's folder: it has no config.yaml")
    return Run(folder)


def new_encoder(config: Config) -> Encoder:
    """The configured encoder with fresh weights, drawn from the run's seed."""
    size = config.views.global_size
    overrides = config.model.overrides()
    if config.model.arch.startswith("vit"):
        overrides["img_size"] = size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return build_encoder(config.model.arch, **overrides)


def find_folder(config: Config, resume: bool) -> Path:
    """The folder that a configuration writes to, or, on ``resume``, has written to.

    A run without a name is called ``method-data-preset``, and never overwrites an older one: it
    becomes ``…-2``, ``…-3``. ``resume`` takes the newest of them.
    """
    root = Path(config.folder)
    source = Path(config.source).name or "data"
    stem = config.name or f"{config.method}-{source}-{config.preset}"
    first = root / stem
    if config.name:
        if first.is_file():
            raise UserError(f"{first} is a file: take another --name or --folder")
        if first.exists() and any(first.iterdir()) and not resume:
            raise UserError(f"{first} exists: continue it with --resume or take another --name")
        folder = first
    else:
        taken = [first] if first.exists() else []
        number = 2
        while (root / f"{stem}-{number}").exists():
            taken.append(root / f"{stem}-{number}")
            number += 1
        if resume:
            started = [path for path in taken if (path / "config.yaml").exists()]
            folder = started[-1] if started else first
        else:
            folder = root / f"{stem}-{number}" if taken else first
    if resume and not (folder / CURRENT).exists() and not (folder / "config.yaml").exists():
        raise UserError(f"there is nothing to resume in {folder}: start it without --resume")
    return folder


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing: under a temporary name first, then renamed.

    Raises:
        UserError: if the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"{path} could not be written ({error.strerror}): make room or choose another --folder"
        ) from error


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def save_backbone(path: Path, encoder: nn.Module) -> None:
    """Write an encoder's weights as safetensors, whole or not at all."""
    state = {k: tensor.detach().cpu().contiguous() for k, tensor in encoder.state_dict().items()}
    temporary = path.with_name(path.name + ".tmp")
    save_file(state, temporary)
    os.replace(temporary, path)
