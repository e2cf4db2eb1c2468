"""Videos with one outlined object: folders as DAVIS-2016 lays them out (Perazzi et al. 2016)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dino_tutorial.datasets.decode import open_image
from dino_tutorial.errors import UserError
from dino_tutorial.files import describe_error, read_text, user_path

# Where frames and masks lie: in the release, and in a plain copy of one split.
LAYOUTS = (("JPEGImages/480p", "Annotations/480p"), ("frames", "masks"))
SPLIT_LISTS = ("ImageSets/480p", "ImageSets/2016")  # of the releases of 2016 and of 2017


class Video(NamedTuple):
    """One sequence.

    Attributes:
        name: of its folder.
        frames: uint8 (T, 3, h, w), resized as asked.
        masks: bool (T, H, W), the object at the size of the files: scores are taken there.
    """

    name: str
    frames: Tensor
    masks: Tensor


class Davis:
    """The sequences of a folder, read when they are asked for: ``len``, ``[i]``, iteration.

    Args:
        folder: with ``JPEGImages/480p/<sequence>/*.jpg`` and
            ``Annotations/480p/<sequence>/*.png``, or ``frames`` and ``masks`` in their place. In
            a mask every value but 0 is the object, so the annotations of several objects of
            DAVIS-2017 are read as one.
        split: "train" or "val", as the lists in ``ImageSets`` divide the sequences; None takes
            all that are there.
        short_side: of the frames in pixels; None keeps their size.
        multiple: frames are made a little smaller until both sides are multiples of this, such
            as the patch size.

    Raises:
        UserError: if the folder holds no such sequences.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        split: str | None = None,
        short_side: int | None = None,
        multiple: int = 1,
    ) -> None:
        folder = user_path(folder)
        layouts = [(folder / a, folder / b) for a, b in LAYOUTS]
        found = [pair for pair in layouts if all(part.is_dir() for part in pair)]
        if not found:
            raise UserError(
                f"{folder} is no copy of DAVIS: it needs folders JPEGImages/480p and "
                "Annotations/480p with one folder per sequence"
            )
        self._frames, self._masks = found[0]
        self.short_side, self.multiple = short_side, multiple
        here = tuple(sorted(path.name for path in self._frames.iterdir() if path.is_dir()))
        self.names = here if split is None else _listed(folder, split)
        missing = [name for name in self.names if name not in here]
        if missing or not self.names:
            raise UserError(
                f"{self._frames} has no sequence {missing[0]}, which its list names"
                if missing
                else f"{self._frames} holds no sequences: put one folder of frames for each there"
            )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Video:
        name = self.names[index]
        frames = sorted((self._frames / name).glob("*.jpg"))
        masks = [self._masks / name / f"{path.stem}.png" for path in frames]
        if not frames:
            raise UserError(f"{self._frames / name} holds no .jpg frames")
        return Video(
            name,
            _stack([self._frame(path) for path in frames], name).movedim(-1, 1).contiguous(),
            _stack([_mask(path) for path in masks], name),
        )

    def _frame(self, path: Path) -> np.ndarray:
        """uint8 (h, w, 3)."""
        image = _open(path).convert("RGB")
        scale = 1.0 if self.short_side is None else self.short_side / min(image.size)
        size = tuple(
            max(1, round(side * scale) // self.multiple) * self.multiple for side in image.size
        )
        if size != image.size:
            image = image.resize(size, Image.Resampling.BICUBIC)
        return np.asarray(image)


def _mask(path: Path) -> np.ndarray:
    """bool (H, W)."""
    values = np.asarray(_open(path))
    return (values != 0) if values.ndim == 2 else (values[..., :3] != 0).any(axis=-1)


def _open(path: Path) -> Image.Image:
    try:
        with open_image(path) as image:
            image.load()
            return image
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: each frame needs a mask of its name") from None
    except Exception as error:  # decoders raise whatever they like on a broken file
        reason = describe_error(error)
        raise UserError(f"{path} cannot be read as an image ({reason}): copy it again") from error


def _stack(images: list[np.ndarray], name: str) -> Tensor:
    shapes = {image.shape[:2] for image in images}
    if len(shapes) > 1:
        raise UserError(f"sequence {name} has images of several sizes: {sorted(shapes)}")
    return torch.from_numpy(np.stack(images))


def _listed(folder: Path, split: str) -> tuple[str, ...]:
    """The sequences of a split; a list names either sequences or each of their frames."""
    lists = [folder / place / f"{split}.txt" for place in SPLIT_LISTS]
    found = [path for path in lists if path.is_file()]
    if not found:
        raise UserError(f"{folder} has no list of the split {split!r}: no {lists[0]}")
    lines = read_text(found[0], "copy it again").split("\n")
    entries = [Path(line.split()[0]) for line in lines if line.strip()]
    names = [entry.parent.name if entry.suffix else entry.name for entry in entries]
    return tuple(dict.fromkeys(names))
