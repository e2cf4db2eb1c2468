"""Settings that are right each by itself and wrong together, said before anything is written.

What one setting may be stands in its option. What stands here are relations, all looked at by
:func:`dino_tutorial.train`, so that the command line and the library say the same: first those of
the configuration alone, before an image is opened, then those with the images and the method. A
method's own relations, such as the patch size of teacher and student, are said when it is built.

**Lengths.** A setting that ends in ``_epochs`` is a length within the run, which has
``train.epochs``, or ``train.steps`` or ``train.images`` in place of them: of a warm-up, or of the
time for which the prototypes stay as they are. One that is longer lasts to the end of the run: a
warm-up is squeezed into it and reaches its value at the last step, what is frozen is never learned.
Who names such a length, by ``--set`` or in ``changes``, has not asked for that and is refused. One
out of a preset is cut so, with a sentence printed, and ``--set train.epochs=0.5`` or
``--set train.steps=100`` is enough for a short trial. The presets' own lengths fit.
"""

import inspect

import torch
from torch import nn

from dino_tutorial.errors import UserError
from dino_tutorial.methods import Method
from dino_tutorial.models import ENCODERS
from dino_tutorial.options import flatten
from dino_tutorial.runs.config import Config
from dino_tutorial.training.optim import peak_learning_rate

LENGTHS = ("train.epochs", "train.steps", "train.images")


def check_lengths(config: Config, n_images: int | None = None) -> str | None:
    """Refuse a length that the caller named and the run has no room for.

    Args:
        config: of the run.
        n_images: to train on; None where they are not open yet. A run whose length is in steps or
            images, and whose warm-ups are in passes over the images, is then not looked at.

    Returns:
        A sentence about lengths of the preset that last to the end of a shorter run, if any do.

    Raises:
        UserError: naming both settings and what to set.
    """
    named = [key for key in LENGTHS if flatten(config)[key] is not None]
    if len(said := [key for key in named if key in config.named]) > 1:
        raise UserError(f"{' and '.join(said)} both say how long the run is: name one of them")
    run, epochs = _epochs_of(config, n_images)
    if epochs is None:
        return None
    lengths = {k: float(v) for k, v in flatten(config).items() if k.endswith("_epochs")}
    longer = {key: length for key, length in lengths.items() if length > epochs}
    for key in sorted(longer.keys() & config.named):
        shorter, more = f"{epochs:.4g}", ""
        if run.startswith("train.epochs"):
            shorter, more = f"{epochs}", f", or train.epochs to {longer[key]} or more"
        raise UserError(
            f"{key} = {longer[key]} is longer than the run of {run}: set it to {shorter} or "
            f"less{more}"
        )
    if not longer:
        return None
    be = "is" if len(longer) == 1 else "are"
    theirs = " and ".join(f"{key} = {value}" for key, value in longer.items())
    return f"{theirs} {be} longer than the run of {run}, and {be} cut to it"


def _epochs_of(config: Config, n_images: int | None) -> tuple[str, float | None]:
    """What says how long a run is, and its length in epochs; None where that is not known."""
    train = config.train
    if train.steps is None and train.images is None:
        return f"train.epochs = {train.epochs}", train.epochs
    key = "steps" if train.steps is not None else "images"
    run = f"train.{key} = {getattr(train, key)}"
    if n_images is None and train.epoch_steps is None:
        return run, None
    n = n_images or 0
    return run, train.total_steps(n) / max(1, train.steps_of_epoch(n))


def check_learning_rate(config: Config) -> None:
    """Refuse an end of the learning rate that the caller named above where its cosine begins.

    A preset's, made for a larger batch, is lowered to it.

    Raises:
        UserError: naming the settings and what to set.
    """
    o, batch = config.optim, config.train.batch_size
    peak = peak_learning_rate(o.lr, batch, o.lr_scaling)
    if o.lr_final > peak and "optim.lr_final" in config.named:
        raise UserError(
            f"optim.lr_final = {o.lr_final} is above the learning rate of {peak:.3g} that "
            f"optim.lr = {o.lr} means for a batch of {batch} images: use a smaller one"
        )


def check_patches(config: Config) -> None:
    """Refuse crops that cannot be cut into patches.

    Raises:
        UserError: naming the setting and the next size that will do.
    """
    named = inspect.signature(ENCODERS[config.model.arch]).parameters.get("patch_size")
    patch = 1 if named is None else config.model.patch_size or named.default
    sizes = {"views.global_size": config.views.global_size}
    if config.views.local_crops:
        sizes["views.local_size"] = config.views.local_size
    for key, size in sizes.items():
        if size % patch:
            raise UserError(
                f"{key} = {size} is not a multiple of the patch size {patch}: use "
                f"{size // patch * patch or patch} or another model.patch_size"
            )


def check_batch(config: Config, world: int = 1) -> None:
    """Refuse a batch that cannot be shared out to processes and parts.

    Args:
        config: of the run.
        world: processes that share a batch.

    Raises:
        UserError: naming the settings and what to set.
    """
    batch, parts = config.train.batch_size, config.train.accumulate
    if batch % world:
        raise UserError(
            f"train.batch_size = {batch} does not divide among {world} processes: use a multiple "
            f"of {world}, or another number of processes"
        )
    own = batch // world
    if own % parts:
        raise UserError(
            f"train.accumulate = {parts} does not divide the {own} images that a process has of a "
            f"batch: use a divisor of {own}"
        )


def check_run(
    config: Config, method: Method, n_images: int, device: str = "cpu", world: int = 1
) -> None:
    """Refuse what does not go with the images or the method.

    Args:
        config: of the run.
        method: built from it.
        n_images: to train on.
        device: "cpu", "cuda" or "mps"; CUDA's batch norm is synchronised over processes.
        world: processes that share a batch.

    Raises:
        UserError: naming the settings and what to set.
    """
    _check_enough_images(config, n_images)
    _check_images_at_a_time(config, method, device, world)
    _check_masks(config, method)


def _check_enough_images(config: Config, n_images: int) -> None:
    batch = config.train.batch_size
    if batch > n_images:
        raise UserError(
            f"train.batch_size = {batch} is larger than the data set of {n_images} images: use a "
            f"smaller batch or more images"
        )


def _check_images_at_a_time(config: Config, method: Method, device: str, world: int) -> None:
    batch, parts = config.train.batch_size, config.train.accumulate
    own = batch // world // parts
    reason = method.lacks_images(own, world)
    together = own * (world if device == "cuda" else 1)
    if together == 1 and _uses_batch_statistics(method):
        reason = f"{config.method} normalises by the statistics of several"
    if reason is not None:
        raise UserError(
            f"train.batch_size = {batch} with train.accumulate = {parts} leaves one image at a "
            f"time in a process, and {reason}: use a larger batch or fewer parts"
        )


def _check_masks(config: Config, method: Method) -> None:
    drawn = method.draw_masks(config.train.batch_size, torch.Generator().manual_seed(0))
    if drawn is not None and not drawn.masks.any():
        raise UserError(
            f"none of the {drawn.masks.shape[:2].numel()} global crops of a batch would be masked: "
            f"use a larger objective.mask_share or train.batch_size, or objective.ibot_weight=0"
        )


def _uses_batch_statistics(method: Method) -> bool:
    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in method.modules())
