"""What is kept of a finished run, for the book and for others: numbers, command, card."""

import json
import shlex
from pathlib import Path
from typing import Any

from dino_tutorial.errors import UserError
from dino_tutorial.files import (
    as_json,
    as_utf8,
    check_name,
    kind_of,
    read_bytes,
    replace_folder,
    unwritable,
    user_path,
)
from dino_tutorial.options import flatten, replace_options
from dino_tutorial.runs.config import Config, configure, read_config
from dino_tutorial.runs.encoders import is_released
from dino_tutorial.runs.folder import Run
from dino_tutorial.training.log import read_rows

FILES = {  # of a record
    "metrics.jsonl", "timings.jsonl", "summary.json", "environment.json", "evaluation.json",
    "config.yaml", "command.txt", "backbone.safetensors", "card.md",
}  # fmt: skip
CARD = """\
# {name}

The backbone that `{method}` keeps after {steps} steps on `{data}`, preset `{preset}`, seed {seed}:
{parameters:,} parameters. Made by

    {command}
{measured}
For the book's chapters and for coursework: small, trained on few or rendered images, no stand-in
for released weights. `dino_tutorial.load_run(folder).encoder()` loads it.
"""
MEASURED = """
| k-NN: bank of {bank}, {queries} queries, k = {k}, T = {temperature} | accuracy |
|---|---|
| these features | {knn_top1:.1%} |
| untrained encoder | {knn_random_init:.1%} |
| raw pixels | {knn_raw_pixels:.1%} |
| colour histogram | {knn_color_histogram:.1%} |
"""


def record(run: Run, destination: Path, name: str | None = None, weights: bool = False) -> Path:
    """Copy what a book or a reader needs of a finished run: its numbers, not its checkpoint.

    Args:
        run: a complete run.
        destination: usually ``data/results``, or ``data/checkpoints`` with weights.
        name: of the folder in it; the run's own name by default.
        weights: copy the backbone too, so that ``load_run(target).encoder()`` works, and write
            the card that says what it is.

    Raises:
        UserError: if the run is not complete or not whole, or there is something else in the
            record's place. A record of the same settings is replaced, all of it.
    """
    if not run.complete:
        raise UserError(f"{run.folder} is not complete: finish it with --resume, then record it")
    if name is not None:
        check_name(name, "--name")
    target = user_path(destination) / (name if name is not None else run.folder.resolve().name)
    config = _public(run.config)
    weights = _check_place(target, config) or weights
    for log in ("metrics.jsonl", "timings.jsonl"):
        read_rows(run.folder / log)  # says which line is no row, if one is none
    files = {
        "metrics.jsonl": _copied(run, "metrics.jsonl"),
        "timings.jsonl": _copied(run, "timings.jsonl"),
        "summary.json": as_json(run.summary),
        "environment.json": as_json(run.environment),
        "config.yaml": as_utf8(config.dump()),
        "command.txt": as_utf8(f"{command_line(config)}\n"),
    }
    if run.evaluations:
        files["evaluation.json"] = as_json(run.evaluations)
    if weights:
        run.encoder()  # says what is wrong with them, if anything is
        files["backbone.safetensors"] = _copied(run, "backbone.safetensors")
        files["card.md"] = as_utf8(card(target.name, run.summary, command_line(config)))
    replace_folder(target, files)
    return target


def _check_place(target: Path, config: Config) -> bool:
    """Refuse to mix two runs, or to remove what is no record; return whether weights are kept."""
    if not kind_of(target):
        return False
    try:
        there = {path.name for path in target.iterdir()}
    except OSError as error:
        raise unwritable(target, error) from error
    if there and (there - FILES or read_config(target / "config.yaml") != config):
        raise UserError(
            f"{target} is there already and no record of these settings: take another --name, or "
            f"remove it first"
        )
    return "backbone.safetensors" in there


def _copied(run: Run, name: str) -> bytes:
    return read_bytes(run.folder / name, "finish the run again with --resume", most=2**34)


def _public(config: Config) -> Config:
    """The settings without the places on this machine, which are nobody's business."""
    public: dict[str, Any] = {
        "folder": "runs",
        "source": Path(config.source).name or config.source,
        "data.root": None,
    }
    for key in ("train.init", "objective.teacher"):
        other = flatten(config).get(key)
        public |= {key: _public_place(other)} if other else {}
    return replace_options(config, public)


def _public_place(name: str) -> str:
    """A run by its name, a file by its own and its run's; a released model has no place."""
    path = Path(name)
    if is_released(name):
        return name
    is_file = kind_of(path) == "file"
    return f"runs/{path.parent.name}/{path.name}" if is_file else f"runs/{path.name}"


def command_line(config: Config) -> str:
    """The command that makes a run again: what differs from its preset, spelled out."""
    words = ["dino-tutorial", "train", config.method, "--data", config.source]
    words += ["--preset", config.preset, "--seed", str(config.seed)]
    preset = configure(config.method, config.source, config.preset)
    if config.model.arch != preset.model.arch:  # naming it sets the others back
        preset = preset.changed({"model.arch": config.model.arch})
        words += ["--set", f"model.arch={config.model.arch}"]
    before = flatten(preset)
    for key, value in flatten(config).items():
        if value != before[key] and key not in ("name", "seed", "folder", "device"):
            words += ["--set", f"{key}={json.dumps(value)}"]
    return shlex.join(words)


def card(name: str, summary: dict[str, Any], command: str) -> str:
    """Markdown for the weights of one run.

    Args:
        name: of the folder that holds them.
        summary: the run's ``summary.json``; without labels it has no k-NN to show.
        command: the command that trains them again.
    """
    measured = MEASURED.format(**summary) if summary.get("knn_top1") is not None else ""
    return CARD.format(name=name, command=command, measured=measured, **summary)
