"""Features with the names of their images, as files that other programs read."""

import csv
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from dino_tutorial.errors import UserError
from dino_tutorial.evaluation.storage import StoredArray
from dino_tutorial.files import describe_error, open_regular, replacing, unreadable

FORMATS = (".npz", ".parquet", ".csv")
BLOCK = 1024  # rows in memory at a time


@dataclass(frozen=True)
class FeatureTable:
    """N images with their features.

    Attributes:
        files: (N,) their names.
        labels: (N,) int64; -1 where there is none.
        classes: names of the classes, indexed by label.
        features: (N, D) float32.
        weights: a hash of the encoder's weights.
        image_size: side in pixels of the images that it saw.
    """

    files: list[str]
    labels: np.ndarray
    classes: tuple[str, ...]
    features: np.ndarray
    weights: str
    image_size: int


@dataclass(frozen=True)
class StoredFeatures:
    """Features on the disk, a row an image; what could not be read has NaN and no row in a file.

    Attributes:
        files, labels, classes: of all N images, see :class:`FeatureTable`.
        arrays: ``features`` (N, D) float32, and perhaps ``patches`` (N, P, D) float16.
        notes: what else goes into an .npz, under these names.
    """

    files: list[str]
    labels: np.ndarray
    classes: tuple[str, ...]
    arrays: Mapping[str, StoredArray]
    notes: Mapping[str, Any]

    def readable(self) -> np.ndarray:
        """(N,) bool: which images have features."""
        blocks = self.arrays["features"].blocks(BLOCK)
        return np.concatenate([~np.isnan(values).any(axis=1) for _, values in blocks])


def write_features(path: Path, stored: StoredFeatures, kept: np.ndarray) -> None:
    """Write one file, whole or not at all, without holding it in memory.

    Args:
        path: ends in one of ``FORMATS``.
        stored: features of N images.
        kept: (N,) bool: which of them get a row.

    Raises:
        UserError: it cannot be written, or parquet is asked for without pyarrow.
    """
    write = {".npz": _write_npz, ".parquet": _write_parquet, ".csv": _write_csv}[path.suffix]
    with replacing(path, "run the same command again") as temporary:
        write(temporary, stored, kept)


def check_parquet() -> None:
    """Say what parquet needs.

    Raises:
        UserError: pyarrow is not there.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise UserError(
            "parquet needs more: pip install 'dino-tutorial[parquet]', or let --out end in .npz "
            "or .csv"
        ) from None


def read_npz(path: Path) -> FeatureTable:
    """What ``embed`` has written into an .npz, its patches left where they are.

    Raises:
        UserError: it cannot be read, or is no such file.
    """
    try:
        with open_regular(path) as file:
            if not zipfile.is_zipfile(file):
                raise ValueError("it is no archive of arrays")
            with np.load(file, allow_pickle=False) as content:
                table = FeatureTable(
                    files=content["files"].tolist(),
                    labels=content["labels"],
                    classes=tuple(content["classes"].tolist()),
                    features=content["features"],
                    weights=str(content["weights"]),
                    image_size=int(content["image_size"]),
                )
        _check_table(table)
    except PermissionError:
        raise unreadable(path) from None
    except Exception as error:  # a damaged file can fail anywhere in the reader
        raise UserError(
            f"{path} holds no features with names ({describe_error(error)}): make it by "
            f"dino-tutorial embed RUN --data FOLDER --out {path.with_suffix('.npz').name}"
        ) from None
    return table


def _check_table(table: FeatureTable) -> None:
    """Raise ValueError unless there is a row of numbers, a name and a label for each image."""
    n, x, y = len(table.files), table.features, table.labels
    if x.ndim != 2 or len(x) != n or y.shape != (n,) or n == 0:
        raise ValueError(f"{n} files do not go with features {x.shape} and labels {y.shape}")
    if x.dtype.kind != "f" or y.dtype.kind != "i":
        raise ValueError(f"features of type {x.dtype}, labels of type {y.dtype}")
    if not -1 <= y.min() <= y.max() < max(1, len(table.classes)):
        raise ValueError(f"labels from {y.min()} to {y.max()} of {len(table.classes)} classes")
    if not np.isfinite(x).all():
        raise ValueError("features that are NaN or infinite")


def _write_npz(path: Path, stored: StoredFeatures, kept: np.ndarray) -> None:
    whole = {
        "files": np.array([stored.files[row] for row in np.flatnonzero(kept)]),
        "labels": stored.labels[kept],
        "classes": np.array(stored.classes, dtype=np.str_),
        **{name: np.array(value) for name, value in stored.notes.items()},
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, values in whole.items():
            with _member(archive, name) as file:
                np.lib.format.write_array(file, values, allow_pickle=False)
        for name, array in stored.arrays.items():
            with _member(archive, name) as file:
                _write_rows(file, array, kept)


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """A file in the archive, without the time of day: equal contents give equal bytes."""
    return archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)


def _write_rows(file: IO[bytes], array: StoredArray, kept: np.ndarray) -> None:
    """An .npy of the kept rows, a block at a time."""
    for start, values in array.blocks(BLOCK):
        if start == 0:
            shape = (int(kept.sum()), *values.shape[1:])
            header = np.lib.format.header_data_from_array_1_0(values) | {"shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
        file.write(np.ascontiguousarray(values[kept[start : start + len(values)]]).data)


def _write_csv(path: Path, stored: StoredFeatures, kept: np.ndarray) -> None:
    width = stored.arrays["features"].width
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "label", "class", *(f"f{n}" for n in range(width))])
        for names, labels, classes, values in _blocks(stored, kept):
            for name, label, of_class, row in zip(names, labels, classes, values, strict=True):
                # Nine digits are enough for every float32 to come back as it was.
                table.writerow([name, label, of_class, *(f"{value:.9g}" for value in row)])


def _write_parquet(path: Path, stored: StoredFeatures, kept: np.ndarray) -> None:
    import pyarrow
    from pyarrow import parquet

    width = stored.arrays["features"].width
    vectors = pyarrow.list_(pyarrow.float32(), width)
    schema = pyarrow.schema(
        {"file": pyarrow.string(), "label": pyarrow.int64(), "class": pyarrow.string()}
        | {"features": vectors}
    )
    with parquet.ParquetWriter(path, schema) as writer:
        for names, labels, classes, values in _blocks(stored, kept):
            columns = [
                pyarrow.array([_unicode(name) for name in names], pyarrow.string()),
                pyarrow.array(labels, pyarrow.int64()),
                pyarrow.array([_unicode(name) for name in classes], pyarrow.string()),
                pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values.ravel()), width),
            ]
            writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))


def _unicode(name: str) -> str:
    """A file's name need be no Unicode; what is none becomes an escape."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


Block = tuple[list[str], list[int], list[str], np.ndarray]


def _blocks(stored: StoredFeatures, kept: np.ndarray) -> Iterator[Block]:
    """Names, labels, classes and features (n, D) of the kept rows, some at a time."""
    for start, values in stored.arrays["features"].blocks(BLOCK):
        rows = start + np.flatnonzero(kept[start : start + len(values)])
        labels = stored.labels[rows].tolist()
        classes = [stored.classes[label] if label >= 0 else "" for label in labels]
        yield [stored.files[row] for row in rows], labels, classes, values[rows - start]
