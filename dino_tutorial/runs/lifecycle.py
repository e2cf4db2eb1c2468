"""From a configuration to a finished run: open the images, train, evaluate, report."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dino_tutorial.datasets import ImageDataset
from dino_tutorial.datasets.decode import listing
from dino_tutorial.datasets.subset import labelled_subset
from dino_tutorial.errors import UserError
from dino_tutorial.files import write_json, write_text
from dino_tutorial.options import flatten, replace_options
from dino_tutorial.parallel import (
    Processes,
    asked_of_main,
    from_main,
    process_group,
    state_from_main,
)
from dino_tutorial.runs.adapt import adapted
from dino_tutorial.runs.build import build_method
from dino_tutorial.runs.checks import (
    check_batch,
    check_learning_rate,
    check_lengths,
    check_patches,
    check_run,
)
from dino_tutorial.runs.config import Config, read_config
from dino_tutorial.runs.environment import (
    choose_compile,
    choose_device,
    choose_precision,
    describe_environment,
)
from dino_tutorial.runs.folder import Run, load_run, new_encoder, run_folder, save_backbone
from dino_tutorial.runs.images import Images
from dino_tutorial.runs.report import report_on
from dino_tutorial.runs.resume import is_started, same_place
from dino_tutorial.runs.scores import measure_knn
from dino_tutorial.runs.start import start_from, with_architecture, with_stored_architecture
from dino_tutorial.training.checkpoint import has_checkpoint, load_checkpoint
from dino_tutorial.training.loop import Trainer
from dino_tutorial.training.sharding import gathered
from dino_tutorial.training.trackers import check_logger
from dino_tutorial.views import Augment

NO_BF16 = (
    "this GPU has no bf16 in hardware, so products are in fp16 and the loss is scaled "
    "(train.precision=fp32 is slower and more exact)"
)


COMPILED = (
    "the networks are compiled, which takes minutes at the start and makes steps faster "
    "(train.compile=false starts at once)"
)


def train(config: Config, resume: bool | Literal["auto"] = False) -> Run:
    """Train to the end, evaluate, write the report; return the finished run.

    Args:
        config: from :func:`dino_tutorial.configure`.
        resume: continue the newest run of this configuration from its last checkpoint. The
            result is the uninterrupted run's, bit for bit, on the CPU of the same machine with the
            same number of threads. With ``"auto"`` it is started if there is none, as a cluster
            wants that starts a job again.

    Raises:
        UserError: for anything that the caller can mend.
        dino_tutorial.training.loop.Interrupted: after Ctrl-C; everything is saved.
    """
    if not isinstance(config, Config):
        raise UserError(
            f"train wants a configuration, not a {type(config).__name__}: configure(…) makes one"
        )
    device = choose_device(config.device)
    with process_group(device.type) as processes:
        device = choose_device(config.device, processes.local_rank)
        config, note, resume = asked_of_main(partial(_decided, config, resume))
        if note is not None and processes.is_main:
            print(f"note: {note}", file=sys.stderr)
        with run_folder(config, resume, processes) as folder:
            left_out = folder / "left_out.txt" if processes.is_main else None
            with listing(left_out), room_on(device):
                _train(config, device, processes, folder, resume)
    return load_run(folder) if processes.is_main else Run(folder)  # which others need not see


def _decided(config: Config, resume: bool | Literal["auto"]) -> tuple[Config, str | None, bool]:
    """What a run is, and whether it goes on; the main process decides, whose folder it is."""
    goes_on = is_started(config) if resume == "auto" else resume
    return *(
        (with_stored_architecture(config), None) if goes_on else with_architecture(config)
    ), goes_on


def _train(
    config: Config, device: torch.device, processes: Processes, folder: Path, resume: bool
) -> None:
    resumes = from_main(resume and has_checkpoint(folder))
    if resumes and config.train.adapt:
        config = asked_of_main(partial(_with_stored_batch, config, folder))
    notes = [] if resumes else [check_lengths(config)]
    check_learning_rate(config)
    check_logger(config.train.logger)
    check_patches(config)
    if not config.train.adapt:
        check_batch(config, processes.world)
    images = Images.open(config)
    n_classes = len(images.train.classes)
    method = build_method(config, n_classes)
    learned = _labelled(images.train, config.method) if method.needs_labels else images.train
    held = learned.images().nbytes if learned.in_memory and device.type != "cpu" else 0
    config, chosen = asked_of_main(
        partial(adapted, config, len(learned), n_classes, device, processes.world, held)
    )
    if not resumes:
        notes += [chosen, None if notes[0] else check_lengths(config, len(learned))]
    check_batch(config, processes.world)
    check_run(config, method, len(learned), device.type, processes.world)
    if config.train.init is not None and not resumes:
        start_from(method, config.train.init, n_classes)
    method.to(device)
    augment = Augment(method.view_specs(config.views))
    precision = choose_precision(config.train.precision, device)
    steps = config.train.total_steps(len(learned))
    compiled = choose_compile(config.train.compile, device, steps)
    by_itself = compiled and config.train.compile is None
    trainer = Trainer(
        method=method,
        augment=augment,
        dataset=learned,
        optim=config.optim,
        train=replace_options(config.train, {"precision": precision, "compile": compiled}),
        seed=config.seed,
        device=device,
        folder=folder,
        processes=processes,
        evaluate=images.watch(method.encoder, config, device),
    )
    if processes.is_main:
        _prepare(folder, config, device, resume)
        if precision == "fp16" and config.train.precision == "auto":
            notes.append(NO_BF16)
        if by_itself:
            notes.append(COMPILED)
        for note in filter(None, notes):
            print(f"note: {note}", file=sys.stderr)
        if resume and not resumes:
            trainer.warn(f"there is no checkpoint in {folder} yet: it begins at step 0")
    if resumes:
        read = partial(load_checkpoint, folder, warn=trainer.warn)
        trainer.restore(state_from_main(read, device))
    if trainer.step < trainer.total_steps:
        with eager_where_it_fails() if by_itself else nullcontext():
            trainer.fit()
    weights = gathered(trainer.method.encoder.state_dict(), keep=processes.is_main)
    if processes.is_main:
        _finish(folder, config, trainer, images, weights)


@contextmanager
def eager_where_it_fails() -> Iterator[None]:
    """What nobody asked to compile and cannot be compiled runs as it is, after a warning."""
    import torch._dynamo

    with torch._dynamo.config.patch(suppress_errors=True):
        yield


@contextmanager
def room_on(device: torch.device) -> Iterator[None]:
    """Tell what to do when a device's memory is full.

    Raises:
        UserError: it is.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"the memory of {device} is full: cut each batch into more parts (train.accumulate), "
            "recompute activations (train.checkpoint_activations=true) or use a smaller "
            "train.batch_size"
        ) from error


def _with_stored_batch(config: Config, folder: Path) -> Config:
    """The configuration with the batch that was chosen when the run began."""
    stored = read_config(folder / "config.yaml").train
    keys = ("batch_size", "accumulate", "adapt")
    return replace_options(config, {f"train.{key}": getattr(stored, key) for key in keys})


def _labelled(images: ImageDataset, method: str) -> ImageDataset:
    """The images that a method with labels can learn from.

    Raises:
        UserError: there is none.
    """
    known = labelled_subset(images)
    if len(known) == 0:
        raise UserError(
            f"{method} needs labels, and {images.name} has no labelled training images: put them "
            "in one folder a class, or choose a method without labels"
        )
    return known


# Settings that change where, how fast and how often, and not what is learned.
NOT_OF_THE_RESULT = {
    *("name", "folder", "device", "train.sharding", "train.workers", "train.log_every"),
    "train.logger",
    *("train.checkpoint_every", "train.eval_every", "train.checkpoint_activations"),
}
PLACES = ("source", "data.root", "train.init", "objective.teacher")


def _alike(key: str, before: Any, now: Any) -> bool:
    """Whether a setting is what it was; a place may be spelled in another way."""
    if before == now or key not in PLACES or before is None or now is None:
        return bool(before == now)
    return same_place(before, now)


def _prepare(folder: Path, config: Config, device: torch.device, resume: bool) -> None:
    path = folder / "config.yaml"
    if resume and path.exists():
        before, now = flatten(read_config(path)), flatten(config)
        changed = [
            key
            for key in now
            if key not in NOT_OF_THE_RESULT and not _alike(key, before.get(key), now[key])
        ]
        if changed:
            raise UserError(
                f"{folder} was started with {changed[0]} = {before.get(changed[0])!r}, not "
                f"{now[changed[0]]!r}: resume it unchanged or start a new run"
            )
        return
    write_text(path, config.dump())
    write_json(folder / "environment.json", describe_environment(device))


def _finish(
    folder: Path, config: Config, trainer: Trainer, images: Images, weights: dict[str, Tensor]
) -> None:
    """Weights, summary and report of a completed training."""
    encoder = new_encoder(config).eval()
    encoder.load_state_dict(weights)
    save_backbone(folder / "backbone.safetensors", encoder)
    rows = trainer.rows or Run(folder).metrics
    last = rows[-1] if rows else {}  # the log of a run that had ended may be lost
    summary = {
        "method": config.method,
        "data": Path(config.source).name,
        "preset": config.preset,
        "device": trainer.device.type,
        "precision": trainer.train.precision,
        "compiled": bool(trainer.train.compile),
        "seed": config.seed,
        "steps": trainer.total_steps,
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "train_seconds": round(trainer.seconds, 2),
        "images_per_second": round(
            trainer.total_steps * config.train.batch_size / max(trainer.seconds, 1e-9), 1
        ),
        "final_loss": last.get("loss"),
        "ln_k": last.get("ln_k"),
        "teacher_entropy": last.get("teacher_entropy"),
        "feature_spread": last.get("feature_spread"),
        "knn_top1": None,
        "knn_random_init": None,
        "knn_raw_pixels": None,
        "knn_color_histogram": None,
        "warnings": trainer.warnings,
    }
    bank, test = images.labelled_bank, images.labelled_test
    missing = images.missing_labels()
    if missing is None:
        summary |= measure_knn(
            encoder,
            new_encoder(config),
            bank,
            test,
            min(config.knn.k, len(bank)),
            config.knn.temperature,
            trainer.device,
        )
    elif len(images.bank.classes) > 1:  # nobody expects a score of images without classes
        trainer.warn(f"{images.test.name}: {missing}, so k-NN accuracy is not measured.")
    write_json(folder / "summary.json", summary)
    encoder.to(trainer.device)
    report_on(Run(folder), encoder, trainer.augment, images.train, images.bank, images.test)
