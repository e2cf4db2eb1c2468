"""Describe many images once, part by part: a call that was interrupted goes on where it stopped.

What is described is stored file by file. After an interruption the files that are there stay,
and the same call makes the missing ones, and those that are damaged. Started by torchrun, each
process describes its share.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from dino_tutorial.errors import UserError, printable
from dino_tutorial.evaluation.storage import StoredArray
from dino_tutorial.files import kind_of, make_folder, read_json, write_json
from dino_tutorial.parallel import Processes


def store_parts(
    n: int,
    names: Sequence[str],
    describe: Callable[[Tensor], Mapping[str, Tensor]],
    folder: Path,
    identity: Mapping[str, object],
    *,
    rows: int,
    batch_size: int,
    processes: Processes | None = None,
) -> dict[str, StoredArray]:
    """Store what a function says of each of n images; go on where an earlier call stopped.

    Args:
        n: number of images.
        names: of the descriptions, an array on the disk each.
        describe: from indices (B,) to a tensor (B, …) for each name.
        folder: gets one folder of .npy files for each name.
        identity: what the descriptions depend on (the images, the weights); JSON values. A folder
            made with another identity is refused rather than mixed.
        rows: images in each file: what an interruption can cost.
        batch_size: images described at once.
        processes: this process's place among several; all have to make the same call. Each
            returns when every process is done.

    Raises:
        UserError: if the folder holds descriptions of something else or cannot be written.
    """
    processes = processes or Processes()
    if processes.is_main:
        _check_identity(folder, {**identity, "rows": rows})
    _wait()
    arrays = {name: StoredArray(folder / name, n, rows) for name in names}
    first = arrays[names[0]]
    own = range(processes.rank, first.files, processes.world)
    missing = [file for file in own if not _is_described(tuple(arrays.values()), file)]
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
            found: dict[str, list[Tensor]] = {name: [] for name in names}
            for indices in torch.tensor(first.span(file)).split(batch_size):
                for name, values in describe(indices).items():
                    found[name].append(values.cpu())
                bar.update(len(indices))
            for name, array in arrays.items():
                array.write(file, torch.cat(found[name]).numpy())
    _wait()
    return arrays


def _is_described(arrays: Sequence[StoredArray], file: int) -> bool:
    """Whether a file of each array is there and whole; one that is damaged is told."""
    missing = [array.path(file) for array in arrays if not array.is_whole(file)]
    for path in missing:
        if kind_of(path):
            print(
                printable(f"{path} is damaged (its checksum is wrong), so it is made again"),
                file=sys.stderr,
            )
    return not missing


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
