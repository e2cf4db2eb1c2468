"""What is kept of a finished run, for the book and for others: numbers, command, card."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

from dino_tutorial.errors import UserError
from dino_tutorial.options import flatten, replace_options
from dino_tutorial.runs.config import Config, configure
from dino_tutorial.runs.folder import Run, write_text

CARD = """\
# {name}

The backbone that `{method}` keeps after {steps} steps on `{data}`, preset `{preset}`, seed {seed}:
{parameters:,} parameters. Made by

    {command}
{measured}
For the book's chapters and for coursework: small, trained on few or rendered pictures, no stand-in
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
        UserError: if the run is not complete.
    """
    if not run.complete:
        raise UserError(f"{run.folder} is not complete: finish it with --resume, then record it")
    target = destination / (name or run.folder.name)
    target.mkdir(parents=True, exist_ok=True)
    for file in ("metrics.jsonl", "timings.jsonl", "summary.json", "environment.json"):
        shutil.copyfile(run.folder / file, target / file)
    if run.evaluations:
        shutil.copyfile(run.folder / "evaluation.json", target / "evaluation.json")
    # Where things lay on this machine is nobody's business.
    public = {"folder": "runs", "source": Path(run.config.source).name, "data.root": None}
    for key in ("train.init", "objective.teacher"):
        other = flatten(run.config).get(key)
        public |= {key: f"runs/{Path(other).name}"} if other else {}
    config = replace_options(run.config, public)
    write_text(target / "config.yaml", config.dump())
    write_text(target / "command.txt", command_line(config) + "\n")
    if weights:
        shutil.copyfile(run.folder / "backbone.safetensors", target / "backbone.safetensors")
        write_text(target / "card.md", card(target.name, run.summary, command_line(config)))
    return target


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
