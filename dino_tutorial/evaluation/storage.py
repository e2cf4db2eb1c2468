"""Arrays on disk in .npy files of so many rows, read a block at a time.

A pool of images is larger than memory; what describes it need not be in memory either. Who uses
such an array reads blocks of rows and forgets them again.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Int, Shaped

from dino_tutorial.errors import UserError
from dino_tutorial.files import make_folder, open_regular, replacing
from dino_tutorial.options import array, takes, whole

ROWS = 16384  # in one file
CHECKSUM = 16  # bytes after the array, which numpy does not look at


class StoredArray:
    """An array (N, …) in the files ``00000.npy``, ``00001.npy``, … of a folder.

    A file is written whole or not at all, and ends in a checksum: those that are there after an
    interruption count, if they are whole.

    Args:
        folder: where the files are; made when the first is written.
        n: N, rows of the whole array.
        rows: rows of each file; the last may have fewer.
    """

    @takes(n=whole(0), rows=whole())
    def __init__(self, folder: Path, n: int, rows: int = ROWS):
        self.folder, self.n, self.rows = Path(folder), n, rows

    def __len__(self) -> int:
        return self.n

    @property
    def files(self) -> int:
        """How many files the complete array has."""
        return -(-self.n // self.rows)

    @property
    def width(self) -> int:
        """D, the length of a row."""
        return self._open(0).shape[1]

    def span(self, file: int) -> range:
        """The rows that a file holds."""
        return range(file * self.rows, min((file + 1) * self.rows, self.n))

    def is_whole(self, file: int) -> bool:
        """Whether a file is there and holds what was written, which reads all of it."""
        try:
            with open_regular(self.path(file)) as opened:
                length = os.fstat(opened.fileno()).st_size - CHECKSUM
                return length > 0 and _checksum(opened, length) == opened.read()
        except OSError:
            return False

    def write(self, file: int, values: np.ndarray) -> None:
        """Store the rows of one file.

        Raises:
            ValueError: if there are not as many as the file holds.
            UserError: if the disk is full or the folder cannot be written.
        """
        if len(values) != len(self.span(file)):
            raise ValueError(f"file {file} holds {len(self.span(file))} rows, not {len(values)}")
        make_folder(self.folder)
        path = self.path(file)
        again = "run the same command again"
        with replacing(path, again) as temporary, open(temporary, "w+b") as opened:
            np.save(opened, values)
            length = opened.tell()
            opened.seek(0)
            checksum = _checksum(opened, length)
            opened.seek(length)  # between reading and writing, as a file wants it
            opened.write(checksum)

    def blocks(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """All rows in order, at most ``size`` at a time: (first row, values)."""
        for file in range(self.files):
            span = self.span(file)
            for start in range(span.start, span.stop, size):
                stop = min(start + size, span.stop)
                yield start, np.array(self._open(file)[start - span.start : stop - span.start])

    @takes(ids=array("n>=0"))
    def take(self, ids: Int[np.ndarray, " n"]) -> Shaped[np.ndarray, "n ..."]:
        """The rows at ``ids`` (n,), in that order, copied into memory."""
        first = self._open(0)
        taken = np.empty((len(ids), *first.shape[1:]), first.dtype)
        order = np.argsort(ids, kind="stable")
        ends = np.searchsorted(ids[order], np.arange(1, self.files + 1) * self.rows)
        start = 0
        for file, end in enumerate(ends):
            if end > start:
                places = order[start:end]
                taken[places] = self._open(file)[ids[places] - file * self.rows]
            start = end
        return taken

    def path(self, file: int) -> Path:
        """Where a file lies."""
        return self.folder / f"{file:05d}.npy"

    def _open(self, file: int) -> np.ndarray:
        """A map of a file, closed again when nobody holds it: what was read leaves memory."""
        try:
            return np.load(self.path(file), mmap_mode="r")
        except FileNotFoundError:
            raise UserError(
                f"{self.path(file)} is missing: run the same command again to make it"
            ) from None
        except (ValueError, OSError) as error:
            raise UserError(
                f"{self.path(file)} cannot be read ({error}): delete it, and run the same command "
                f"again"
            ) from None


def _checksum(file: BinaryIO, length: int) -> bytes:
    """Of the next ``length`` bytes of a file, or of fewer where it is shorter."""
    found = hashlib.blake2b(digest_size=CHECKSUM)
    while length > 0 and (read := file.read(min(length, 2**20))):
        found.update(read)
        length -= len(read)
    return found.digest()


def scratch_array(folder: Path, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """An array in a file without a name, which is gone with the array."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, dtype, "w+", shape=shape)


@takes(rows=whole())
def store(folder: Path, values: Shaped[np.ndarray, "N ..."], rows: int = ROWS) -> StoredArray:
    """Write an array that is in memory."""
    stored = StoredArray(folder, len(values), rows)
    for file in range(stored.files):
        span = stored.span(file)
        stored.write(file, values[span.start : span.stop])
    return stored
