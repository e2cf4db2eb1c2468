"""Describe every image of a pool once: the only step that looks at pixels, and the longest.

What is described is stored file by file. After an interruption the files that are there stay,
and the same call makes the missing ones. Started by torchrun, each process describes its share.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from dino_tutorial.curation.storage import StoredArray
from dino_tutorial.errors import UserError
from dino_tutorial.evaluation.features import LabelledImages
from dino_tutorial.files import make_folder, read_json, write_json
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
    processes = processes or Processes()
    if processes.is_main:
        _check_identity(Path(folder), {**identity, "rows": rows})
    _wait()
    arrays = {name: StoredArray(Path(folder) / name, len(images), rows) for name in describe}
    first = next(iter(arrays.values()))
    own = range(processes.rank, first.files, processes.world)
    missing = [file for file in own if not all(array.has(file) for array in arrays.values())]
    total = sum(len(first.span(file)) for file in own)
    done = total - sum(len(first.span(file)) for file in missing)
    bar = tqdm(
        total=total,
        initial=done,
        desc="describe",
        unit=" images",
        disable=None if processes.is_main else True,
    )
    with bar:
        for file in missing:
            parts: dict[str, list[Tensor]] = {name: [] for name in describe}
            for indices in torch.tensor(first.span(file)).split(batch_size):
                pixels = images.images(indices).to(device, non_blocking=True)
                with torch.inference_mode():
                    for name, function in describe.items():
                        parts[name].append(function(pixels).cpu())
                bar.update(len(indices))
            for name, array in arrays.items():
                array.write(file, torch.cat(parts[name]).numpy())
    _wait()
    return arrays


def _check_identity(folder: Path, identity: dict) -> None:
    path = folder / "identity.json"
    if not path.exists():
        make_folder(folder)
        write_json(path, identity)
        return
    before = read_json(path, f"choose another --out or delete {folder}")
    changed = [key for key in identity if before.get(key) != identity[key]]
    if changed:
        key = changed[0]
        what = {
            "contents": "names, sizes or labels of the images have changed",
            "times": "image files were written again since (their times have changed)",
        }.get(key, f"{key} was {before.get(key)!r} and is now {identity[key]!r}")
        raise UserError(
            f"{folder} describes other images: {what}; choose another --out or delete it"
        )


def _wait() -> None:
    """Until every process is here."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
