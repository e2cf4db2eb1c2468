"""Every image of a data set with a name of its own: what features are stored beside."""

import os

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from dino_tutorial.datasets import DATASETS, open_dataset
from dino_tutorial.datasets.base import ImageDataset
from dino_tutorial.datasets.files import ImageFiles
from dino_tutorial.datasets.shards import is_shards
from dino_tutorial.files import kind_of, user_path


class AllSplits:
    """Both splits of a data set, one after the other.

    Attributes:
        paths: the split and the number of each image, such as ``train/17``.
    """

    def __init__(self, train: ImageDataset, test: ImageDataset) -> None:
        self._train, self._test = train, test
        self.name, self.classes = train.name, train.classes or test.classes
        self.labels = torch.cat([train.labels, test.labels])
        self.paths = [f"train/{n}" for n in range(len(train))]
        self.paths += [f"test/{n}" for n in range(len(test))]

    def read(
        self, indices: Int[Tensor, " n"]
    ) -> tuple[UInt8[Tensor, "n 3 S S"], Bool[Tensor, " n"]]:
        """The images, and whether each of them could be read, which all could."""
        first = indices < len(self._train)
        parts = (self._train, indices[first]), (self._test, indices[~first] - len(self._train))
        images = [split.images(chosen) for split, chosen in parts if len(chosen)]
        order = torch.argsort((~first).long(), stable=True)  # where each image was asked for
        return torch.cat(images)[torch.argsort(order)], torch.ones(len(indices), dtype=torch.bool)

    def fingerprint(self) -> dict[str, object]:
        """See :meth:`ImageDataset.fingerprint`."""
        both = self._train.fingerprint(), self._test.fingerprint()
        return {key: [one[key] for one in both] for key in both[0]}


NamedImages = ImageFiles | AllSplits  # images with ``paths``, which tell one from the others


def is_image_folder(name: str) -> bool:
    """Whether :func:`open_dataset` takes a name for a folder of image files."""
    return name not in DATASETS and kind_of(user_path(name)) == "folder" and not is_shards(name)


def open_every(data: str | os.PathLike[str], image_size: int) -> NamedImages:
    """All images of a folder, or both splits of a named data set or of shards.

    Args:
        data: as for :func:`open_dataset`.
        image_size: S, the side of the square canvas in pixels.

    Raises:
        UserError: see :func:`open_dataset`.
    """
    text = os.fspath(data)
    if is_image_folder(text):
        return ImageFiles(text, image_size)
    splits = (open_dataset(text, split, image_size=image_size) for split in ("train", "test"))
    return AllSplits(*splits)
