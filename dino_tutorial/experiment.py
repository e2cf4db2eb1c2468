"""From a configuration to a finished run: open the images, train, evaluate, report."""

import json
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dino_tutorial.build import build_method, start_from
from dino_tutorial.card import card
from dino_tutorial.config import Config, configure, read_config
from dino_tutorial.datasets import open_dataset
from dino_tutorial.datasets.base import ImageDataset
from dino_tutorial.datasets.part import labelled_part, random_part
from dino_tutorial.environment import choose_device, choose_precision, describe_environment
from dino_tutorial.errors import UserError
from dino_tutorial.evaluation import (
    accuracy,
    evaluate_dense,
    evaluate_knn,
    extract_features,
    knn_classify,
    linear_probe,
)
from dino_tutorial.options import flatten, replace_options
from dino_tutorial.report import report_on
from dino_tutorial.runs import (
    Run,
    find_folder,
    load_run,
    new_encoder,
    save_backbone,
    write_json,
    write_text,
)
from dino_tutorial.seeds import Stream, mix
from dino_tutorial.training.checkpoint import CURRENT, load_checkpoint
from dino_tutorial.training.distributed import process_group
from dino_tutorial.training.loop import Trainer
from dino_tutorial.training.sharding import whole
from dino_tutorial.views import Augment

DENSE_IMAGES = 2000  # that linear segmentation and depth are fitted to


def train(config: Config, resume: bool = False) -> Run:
    """Train to the end, evaluate, write the report; return the finished run.

    Args:
        config: from :func:`dino_tutorial.configure`.
        resume: continue the newest run of this configuration from its last checkpoint. The
            result is the uninterrupted run's, bit for bit, on the same machine.

    Raises:
        UserError: for anything that the caller can mend.
        dino_tutorial.training.loop.Interrupted: after Ctrl-C; everything is saved.
    """
    device = choose_device(config.device)
    with process_group(device.type) as processes:
        device = choose_device(config.device, processes.local_rank)
        folder = find_folder(config, resume)
        images = Images.open(config)
        n_classes = len(images.train.classes)
        method = build_method(config, n_classes)
        resumes = resume and (folder / CURRENT).exists()
        if config.train.init is not None and not resumes:
            start_from(method, config.train.init, n_classes)
        method.to(device)
        augment = Augment(method.view_specs(config.views))
        trainer = Trainer(
            method=method,
            augment=augment,
            dataset=images.train,
            optim=config.optim,
            train=replace_options(
                config.train, {"precision": choose_precision(config.train.precision, device)}
            ),
            seed=config.seed,
            device=device,
            folder=folder,
            processes=processes,
            evaluate=images.watch(method.encoder, config, device),
        )
        if processes.is_main:
            _prepare(folder, config, device, resume)
        if resumes:
            trainer.restore(load_checkpoint(folder, warn=trainer.warn))
        if trainer.step < trainer.total_steps:
            trainer.fit()
        weights = whole(trainer.method.encoder.state_dict(), keep=processes.is_main)
        if processes.is_main:
            _finish(folder, config, trainer, images, weights)
    return load_run(folder)


def evaluate(
    run_or_weights: Run | str | Path | nn.Module,
    data: str | ImageDataset | None = None,
    *,
    k: int = 20,
    temperature: float = 0.07,
    probe: bool = False,
    dense: bool = False,
    device: str = "auto",
    limit: int | None = None,
    image_size: int | None = None,
) -> dict[str, Any]:
    """Measure frozen features by weighted k-NN, with the baselines beside it.

    The bank is the whole training split, the queries are the whole test split.

    Args:
        run_or_weights: a run, its folder, or any encoder with ``forward(x) -> (B, D)``.
        data: a data set's name or folder; by default the one that the run was trained on.
        k, temperature: of the k-NN classifier (Wu et al. 2018; DINO: 20, 0.07).
        probe: also train a linear classifier on the training split's features.
        dense: also measure patches, by linear segmentation and linear depth, see
            :func:`dino_tutorial.evaluation.evaluate_dense`; fitted to at most 2,000 images. The
            data have to come with masks and depth, as the scenes do.
        limit: at most this many images of each split.
        image_size: canvas in pixels; by default the run's global view size.

    Returns:
        ``knn_top1`` and the baselines ``knn_raw_pixels``, ``knn_color_histogram`` and, for a
        run, ``knn_random_init`` (the same encoder before training), as fractions.
    """
    torch_device = choose_device(device)
    if isinstance(run_or_weights, str | Path):
        run_or_weights = load_run(run_or_weights)
    if isinstance(run_or_weights, Run):
        config = run_or_weights.config
        encoder, untrained = run_or_weights.encoder(), new_encoder(config)
        data, image_size = data or config.source, image_size or config.views.global_size
    else:
        encoder, untrained = run_or_weights, None
        if data is None:
            raise UserError("evaluate needs data: name a data set or a folder of images")
    bank = labelled_part(open_dataset(data, "train", image_size=image_size, limit=limit))
    queries = labelled_part(open_dataset(data, "test", image_size=bank.image_size, limit=limit))
    if dense and not (hasattr(bank, "masks") and hasattr(bank, "depth")):
        raise UserError(f"{bank.name} has no masks and depth to measure patches with: use scenes")
    results = {"data": bank.name, "image_size": bank.image_size}
    results |= _measure(encoder, untrained, bank, queries, k, temperature, torch_device)
    if probe:
        train_x, train_y = extract_features(encoder, bank, device=torch_device)
        test_x, test_y = extract_features(encoder, queries, device=torch_device)
        results["linear_top1"] = linear_probe(train_x, train_y, test_x, test_y).test_accuracy
    if dense:
        few = min(len(bank), DENSE_IMAGES)
        fitted = open_dataset(data, "train", image_size=bank.image_size, limit=few)
        results |= evaluate_dense(
            encoder, fitted, queries, untrained=untrained, device=torch_device
        )
    return results


@dataclass
class Images:
    """The images of a run: what is trained on, and what measures it (only images with a label)."""

    train: ImageDataset
    bank: ImageDataset
    test: ImageDataset

    @classmethod
    def open(cls, config: Config) -> "Images":
        data, size = config.data, config.views.global_size
        where = {"root": data.root, "limit": data.limit}
        train = open_dataset(config.source, "train", image_size=data.image_size, **where)
        same = train.image_size == size
        bank = train if same else open_dataset(config.source, "train", image_size=size, **where)
        test = open_dataset(config.source, "test", image_size=size, **where)
        return cls(train, labelled_part(bank), labelled_part(test))

    @property
    def labelled(self) -> bool:
        return len(self.bank.classes) > 1 and min(len(self.bank), len(self.test)) > 0

    def watch(self, encoder: nn.Module, config: Config, device: torch.device):
        """A function that measures k-NN on *training* images: some are the bank, others queries.

        The test split stays unseen until the end, so watching it cannot tune anything.
        """
        if not self.labelled:
            return None
        n_bank = min(config.knn.watch_bank, len(self.bank) * 4 // 5)
        seed = mix(config.seed, Stream.WATCHED)
        few = random_part(self.bank, n_bank + config.knn.watch_queries, seed)
        k, temperature = min(config.knn.k, n_bank), config.knn.temperature

        def measure() -> dict[str, float]:
            features, labels = extract_features(encoder, few, device=device)
            votes = knn_classify(
                features[:n_bank], labels[:n_bank], features[n_bank:], k, temperature
            )
            return {"knn_top1": accuracy(votes, labels[n_bank:])}

        return measure


def _measure(encoder, untrained, bank, queries, k, temperature, device) -> dict[str, Any]:
    """k-NN of the encoder and of every baseline under one protocol."""
    if len(bank.classes) < 2:
        raise UserError(f"{bank.name} has no class labels to evaluate with: use images by class")
    if len(queries) == 0:
        raise UserError(f"{queries.name} has no test images: add a test folder")
    untrained = untrained.to(device) if untrained is not None else None
    top1 = evaluate_knn(
        encoder.to(device), bank, queries, [k],
        temperature=temperature, untrained=untrained, device=device,
    )  # fmt: skip
    protocol = {"bank": len(bank), "queries": len(queries), "k": k, "temperature": temperature}
    return protocol | {name: accuracies[k] for name, accuracies in top1.items()}


def _prepare(folder: Path, config: Config, device: torch.device, resume: bool) -> None:
    path = folder / "config.yaml"
    if resume and path.exists():
        before, now = flatten(read_config(path)), flatten(config)
        free = {"name", "folder", "device", "train.sharding"}
        changed = [key for key in now if now[key] != before.get(key) and key not in free]
        if changed:
            raise UserError(
                f"{folder} was started with {changed[0]} = {before.get(changed[0])!r}, not "
                f"{now[changed[0]]!r}: resume it unchanged or start a new run"
            )
        return
    write_text(path, config.dump())
    write_json(folder / "environment.json", describe_environment(device))


def _finish(
    folder: Path, config: Config, trainer: Trainer, images: Images, weights: dict
) -> None:
    """Weights, summary and report of a completed training."""
    encoder = new_encoder(config).eval()
    encoder.load_state_dict(weights)
    save_backbone(folder / "backbone.safetensors", encoder)
    last = trainer.rows[-1] if trainer.rows else Run(folder).metrics[-1]
    summary = {
        "method": config.method,
        "data": Path(config.source).name,
        "preset": config.preset,
        "device": trainer.device.type,
        "precision": trainer.train.precision,
        "seed": config.seed,
        "steps": trainer.total_steps,
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "train_seconds": round(trainer.seconds, 2),
        "images_per_second": round(
            trainer.total_steps * config.train.batch_size / max(trainer.seconds, 1e-9), 1
        ),
        "final_loss": last["loss"],
        "ln_k": last.get("ln_k"),
        "teacher_entropy": last.get("teacher_entropy"),
        "feature_spread": last["feature_spread"],
        "knn_top1": None,
        "knn_random_init": None,
        "knn_raw_pixels": None,
        "knn_color_histogram": None,
        "warnings": trainer.warnings,
    }
    if images.labelled:
        k = min(config.knn.k, len(images.bank))
        summary |= _measure(
            encoder, new_encoder(config), images.bank, images.test,
            k, config.knn.temperature, trainer.device,
        )  # fmt: skip
    write_json(folder / "summary.json", summary)
    report_on(Run(folder), encoder.cpu(), trainer.augment, images.train, images.bank, images.test)


def record(
    run: Run, destination: Path, name: str | None = None, weights: bool = False
) -> Path:
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
    preset = flatten(configure(config.method, config.source, config.preset))
    for key, value in flatten(config).items():
        if value != preset[key] and key not in ("name", "seed", "folder", "device"):
            words += ["--set", f"{key}={json.dumps(value)}"]
    return shlex.join(words)


__all__ = ["configure", "evaluate", "load_run", "record", "train"]
