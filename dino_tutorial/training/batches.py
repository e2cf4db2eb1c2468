"""Which images a step sees: a fixed function of seed and step, whatever happened before."""

import signal
from collections.abc import Iterator
from copy import copy
from typing import NamedTuple

import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dino_tutorial.datasets.base import ImageDataset, identity
from dino_tutorial.errors import UserError
from dino_tutorial.seeds import Stream, mix
from dino_tutorial.views.params import to_device

STOPS = ("SIGINT", "SIGTERM", "SIGHUP")  # Ctrl-C; a cluster or a container; a terminal that goes


def steps_per_epoch(n_images: int, batch_size: int) -> int:
    """How many whole batches an epoch has; the images that are left over wait for another."""
    return n_images // batch_size


class BatchOrder(Sampler[list[int]]):
    """Index lists of one process, step by step, for all of training.

    Each epoch is a fresh permutation drawn from ``(seed, epoch)``; incomplete batches are
    dropped. Step ``t`` can therefore be computed without the steps before it, which makes a
    resumed run see exactly the images of an uninterrupted one. Process ``rank`` of ``world``
    takes its slice of every global batch.

    Args:
        n_images: size of the data set.
        batch_size: of the *global* batch, over all processes.
        total_steps: where iteration ends.
        start_step: where it begins.

    Raises:
        ValueError: the batch is larger than the data set, or does not divide among the processes;
            :mod:`dino_tutorial.runs.checks` says so before, in terms of settings.
    """

    def __init__(
        self,
        n_images: int,
        batch_size: int,
        total_steps: int,
        seed: int,
        start_step: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch_size > n_images or batch_size % world:
            raise ValueError(
                f"{world} processes cannot share batches of {batch_size} out of {n_images} images"
            )
        self.n_images, self.batch_size, self.seed = n_images, batch_size, seed
        self.start_step, self.total_steps = start_step, total_steps
        self.share = slice(rank * batch_size // world, (rank + 1) * batch_size // world)

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(self.n_images, self.batch_size)

    def since(self, step: int) -> "BatchOrder":
        """The same order, begun at another step."""
        order = copy(self)
        order.start_step = step
        return order

    def __len__(self) -> int:
        return self.total_steps - self.start_step

    def __iter__(self) -> Iterator[list[int]]:
        epoch, permutation = -1, torch.empty(0)
        for step in range(self.start_step, self.total_steps):
            if step // self.steps_per_epoch != epoch:
                epoch = step // self.steps_per_epoch
                generator = torch.Generator().manual_seed(mix(self.seed, Stream.ORDER, epoch))
                permutation = torch.randperm(self.n_images, generator=generator)
            first = step % self.steps_per_epoch * self.batch_size
            yield permutation[first : first + self.batch_size][self.share].tolist()


class Batch(NamedTuple):
    """Images of one step.

    Attributes:
        images: (B, 3, S, S) uint8, on the device of the training.
        labels: (B,) int64, there too.
        sizes: (B, 2) int64, height and width of what each image fills of its canvas; on the host,
            where views are drawn.
    """

    images: UInt8[Tensor, "B 3 S S"]
    labels: Int[Tensor, " B"]
    sizes: Int[Tensor, "B 2"]


class _Batches(Dataset[Batch]):
    """A data set as a loader's workers read it, whole batches at a time."""

    def __init__(self, dataset: ImageDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: list[int]) -> Batch:
        chosen = torch.tensor(indices)
        images, sizes = self.dataset.placed(chosen)
        return Batch(images, self.dataset.labels[chosen], sizes)


def batches(
    dataset: ImageDataset, order: BatchOrder, device: torch.device, workers: int
) -> Iterator[Batch]:
    """Yield images and labels on ``device`` in the given order.

    A data set that is in memory is moved to an accelerator once and indexed there; any other is
    decoded by ``workers`` processes ahead of the step that needs it.
    """
    if dataset.in_memory:
        images, sizes = dataset.placed()
        images = images.to(device) if device.type != "cpu" else images
        labels = dataset.labels.to(device)
        for indices in order:
            chosen = to_device(torch.tensor(indices), device)
            yield Batch(images[chosen], labels[chosen], sizes[indices])
    else:
        loader: DataLoader[Batch] = DataLoader(
            _Batches(dataset),
            batch_sampler=order,
            collate_fn=identity,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            persistent_workers=False,
            worker_init_fn=leave_signals_to_main,
        )
        try:
            for images, labels, sizes in _begun(loader):
                images = images.to(device, non_blocking=True)
                yield Batch(images, labels.to(device, non_blocking=True), sizes)
        except (RuntimeError, ConnectionError, EOFError) as error:
            # Torch's own word for it, or the pipe of a worker that was handing a batch over.
            if isinstance(error, RuntimeError) and "DataLoader worker (pid" not in str(error):
                raise
            raise UserError(
                "a process that decodes images was ended from outside, perhaps for want of "
                f"memory: set train.workers below {workers}, then continue with --resume"
            ) from error


def _begun(loader: DataLoader[Batch]) -> Iterator[Batch]:
    """The loader's batches; a worker that dies is met where its batch is awaited.

    Torch would raise it from the system's signal, wherever the program is at that moment: in a
    step, while a checkpoint is written, or in a clause that mends another error.
    """
    name = getattr(signal, "SIGCHLD", None)
    before = name and signal.getsignal(name)
    awaited = iter(loader)
    if name and signal.getsignal(name) is not before:
        signal.signal(name, before or signal.SIG_DFL)
    return awaited


def leave_signals_to_main(worker: int) -> None:
    """Let a loader worker decode on when what stops a run reaches the whole process group.

    The main process needs its images to end the step and to save; it stops the workers itself.
    """
    for name in STOPS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
