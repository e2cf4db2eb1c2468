"""Describe every image of a pool once: the only step that looks at pixels, and the longest."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from dino_tutorial.evaluation.features import LabelledImages
from dino_tutorial.evaluation.parts import store_parts
from dino_tutorial.evaluation.storage import StoredArray
from dino_tutorial.parallel import Processes

ROWS = 4096  # images in a file: what an interruption can cost
BATCH = 256

Describe = Callable[[Tensor], Tensor]  # uint8 (B, 3, H, W) to (B,) or (B, D)


def embed(
    images: LabelledImages,
    describe: Mapping[str, Describe],
    folder: Path,
    identity: Mapping[str, object],
    *,
    device: torch.device | str = "cpu",
    rows: int = ROWS,
    batch_size: int = BATCH,
    processes: Processes | None = None,
) -> dict[str, StoredArray]:
    """Store what each function says of each image; go on where an earlier call stopped.

    Args:
        images: the pool, N images.
        describe: by name, functions of a batch of pixels, uint8 (B, 3, H, W) on the device.
        folder: gets one folder of .npy files for each name.
        identity: what the descriptions depend on (the pool, the weights); JSON values. A folder
            made with another identity is refused rather than mixed.
        device: where the functions want the pixels.
        rows: images in each file.
        batch_size: images described at once.
        processes: this process's place among several; all have to make the same call. Each
            returns when every process is done.

    Raises:
        UserError: if the folder holds descriptions of something else or cannot be written.
    """

    def described(indices: Tensor) -> dict[str, Tensor]:
        pixels = images.images(indices).to(device, non_blocking=True)
        with torch.inference_mode():
            return {name: function(pixels) for name, function in describe.items()}

    return store_parts(
        len(images),
        list(describe),
        described,
        Path(folder),
        identity,
        rows=rows,
        batch_size=batch_size,
        processes=processes,
    )
