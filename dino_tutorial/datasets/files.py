"""Every image below a folder, as a crawl leaves it: no split, labels only if folders give them."""

import os

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from dino_tutorial.datasets.base import ImageDataset
from dino_tutorial.datasets.decode import (
    decode_many,
    native_size,
    nothing_readable,
    open_source,
    report,
    seeded_subset,
)
from dino_tutorial.datasets.folder import (
    FileSource,
    class_names,
    find_images,
    find_layout,
    label_paths,
)
from dino_tutorial.errors import printable
from dino_tutorial.files import user_path


class ImageFiles(ImageDataset):
    """All images of a folder, decoded when they are asked for.

    Unlike `open_folder`, nothing is held out for a test, and an image that cannot be read is not
    replaced by another, which would be a duplicate: it comes out black, and is named on stderr.

    Args:
        folder: searched for images, with its subfolders.
        image_size: S, the side of the square canvas in pixels; None keeps small square images as
            they are and takes 256 px for others.
        limit: at most so many images, a sample seeded with `seed`.
        seed: of that sample.

    Attributes:
        paths: of the images, relative to the folder.
        labels: -1 for an image that lies beside the class folders.

    Raises:
        UserError: there is no such folder, or no image in it.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        image_size: int | None = None,
        limit: int | None = None,
        seed: int = 0,
    ) -> None:
        folder = user_path(folder)
        self.paths = find_images(folder)
        level = find_layout(self.paths).class_level
        chosen = seeded_subset(len(self.paths), limit, seed)
        if chosen is not None:
            self.paths = [self.paths[index] for index in chosen.tolist()]
        self.name = printable(folder.resolve().name)
        classes = class_names(self.paths, level)
        kept, labels = label_paths(self.paths, classes, level)
        of_path = dict(zip(kept, labels.tolist(), strict=True))
        self.classes = tuple(map(printable, classes))
        self.labels = torch.tensor([of_path.get(path, -1) for path in self.paths])
        self._source = FileSource(folder, self.paths)
        self.image_size = image_size or native_size(self._source)

    def _contents(self) -> tuple[str, str]:
        return self._source.contents()

    def images(self, indices: Int[Tensor, " n"] | None = None) -> UInt8[Tensor, "n 3 S S"]:
        return self.read(indices)[0]

    def read(
        self, indices: Int[Tensor, " n"] | None = None
    ) -> tuple[UInt8[Tensor, "n 3 S S"], Bool[Tensor, " n"]]:
        """The images, and whether each of them could be read; one that could not is black."""
        chosen = list(range(len(self))) if indices is None else indices.tolist()
        canvas, _, problems = decode_many(self._source, chosen, self.image_size)
        for position, reason in problems.items():
            canvas[position] = 0
            name = self._source.name(chosen[position])
            report(f"{self.name}: an image cannot be read", [f"{name} ({reason})"])
        readable = torch.ones(len(chosen), dtype=torch.bool)
        readable[list(problems)] = False
        return torch.from_numpy(canvas), readable

    def check_readable(self) -> None:
        """Make sure that there is an image that can be read; the first one is, mostly.

        Raises:
            UserError: not one can be read.
        """
        reasons: dict[int, str] = {}
        for index in range(len(self)):
            found = decode_many(self._source, [index], self.image_size).problems
            if not found:
                return
            reasons[index] = found[0]
        raise nothing_readable(self.name, len(self), self._source.name(0), reasons[0])

    def readable(self) -> ImageDataset:
        """The images that can be read; the others are told as by :func:`open_dataset`.

        Raises:
            UserError: not one can be read.
        """
        labels, size = self.labels, self.image_size
        return open_source(self._source, labels, self.classes, self.name, image_size=size)

    def tell_unreadable(self, indices: Int[Tensor, " n"]) -> int:
        """Tell in one sentence which of these images cannot be read; returns how many."""
        chosen = indices.tolist()
        problems = decode_many(self._source, chosen, self.image_size).problems
        names = [f"{self._source.name(chosen[place])} ({why})" for place, why in problems.items()]
        if names:
            count = f"{len(names)} of {len(self)} images"
            report(f"{self.name}: {count} cannot be read and are left out", names)
        return len(names)
