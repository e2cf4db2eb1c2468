"""Some images of another data set."""

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from dino_tutorial.datasets.base import ImageDataset, digest


class Subset(ImageDataset):
    """The images of ``dataset`` at ``indices``, in that order; nothing is copied.

    Args:
        dataset: any data set.
        indices: (n,) int64.
    """

    def __init__(self, dataset: ImageDataset, indices: Int[Tensor, " n"]):
        self.dataset, self.indices = dataset, indices
        self.name, self.classes = dataset.name, dataset.classes
        self.image_size, self.in_memory = dataset.image_size, dataset.in_memory
        self.padded = dataset.padded
        self.labels = dataset.labels[indices]

    def _contents(self) -> tuple[str, str]:
        known = self.dataset.fingerprint()
        return digest(known["contents"], self.indices.numpy().tobytes()), known["times"]

    def images(self, indices: Int[Tensor, " m"] | None = None) -> UInt8[Tensor, "m 3 S S"]:
        """uint8 (n, 3, S, S)."""
        return self.dataset.images(self.indices if indices is None else self.indices[indices])

    def placed(
        self, indices: Int[Tensor, " m"] | None = None
    ) -> tuple[UInt8[Tensor, "m 3 S S"], Int[Tensor, "m 2"]]:
        """uint8 (n, 3, S, S), and height and width of each (n, 2)."""
        return self.dataset.placed(self.indices if indices is None else self.indices[indices])


def random_subset(dataset: ImageDataset, n: int, seed: int) -> Subset:
    """At most ``n`` images, chosen by a permutation that depends on ``seed`` alone."""
    generator = torch.Generator().manual_seed(seed)
    return Subset(dataset, torch.randperm(len(dataset), generator=generator)[:n])


def labelled_subset(dataset: ImageDataset) -> ImageDataset:
    """The images that have a label, perhaps none; the data set itself if all have one."""
    known = dataset.labels >= 0
    if known.all():
        return dataset
    return Subset(dataset, known.nonzero()[:, 0])
