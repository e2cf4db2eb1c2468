"""`dino-tutorial classify`: the classes of one's own images, from frozen features."""

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from tqdm import tqdm

from dino_tutorial.datasets import LARGEST_CANVAS, LARGEST_LIMIT
from dino_tutorial.datasets.decode import report
from dino_tutorial.datasets.every import open_every
from dino_tutorial.datasets.folder import find_layout, hold_out, tell_layout
from dino_tutorial.errors import UserError
from dino_tutorial.evaluation import accuracy, knn_classify, linear_probe
from dino_tutorial.files import kind_of, replacing, user_path
from dino_tutorial.options import check_whole
from dino_tutorial.runs.embed import ROWS, describe, features_of
from dino_tutorial.runs.encoders import OpenedEncoder
from dino_tutorial.runs.environment import choose_device
from dino_tutorial.runs.feature_files import FeatureTable, read_npz

K = 20  # neighbours that vote when nobody says


@dataclass(frozen=True)
class Classified:
    """What two classifiers reach on images that they were not fitted to.

    Attributes:
        knn: accuracy of k-NN, in 0..1.
        linear: accuracy of a linear classifier, in 0..1.
        majority: the share of the most frequent class: what an answer without a look reaches.
        fitted: number of images that both were fitted to.
        measured: number of images that the accuracies are of.
        classes: number of classes that both were fitted to.
        predicted: number of images in the file of predictions.
    """

    knn: float
    linear: float
    majority: float
    fitted: int
    measured: int
    classes: int
    predicted: int = 0


def classify(
    opened: OpenedEncoder,
    data: str | os.PathLike[str],
    predict: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] = "predictions.csv",
    *,
    k: int | None = None,
    image_size: int | None = None,
    device: str = "auto",
) -> Classified:
    """Fit k-NN and a linear classifier to labelled images, measure them, and name others' classes.

    What is fitted to and what is measured on is told by the folders ``train`` and ``test``; without
    them a tenth is held out, as by :func:`dino_tutorial.evaluate`. Images that are neither, and
    classes that nothing is fitted to, are named on stderr.

    Args:
        opened: see :func:`~dino_tutorial.runs.encoders.open_encoder`.
        data: a folder with a folder for each class, a data set's name, or the ``.npz`` that
            :func:`~dino_tutorial.runs.embed.embed` has made of one, by the same encoder.
        predict: images whose classes are asked for, given likewise.
        out: gets a row for each of them: the file, and the class and its share of the votes
            (k-NN) or its probability (linear).
        k: neighbours that vote; 20 by default, or all where there are fewer.
        image_size: side of the square that the encoder sees; None is the encoder's own.
        device: auto, cpu, cuda or mps.

    Raises:
        UserError: for anything that the caller can mend.
    """
    path = _check_out(user_path(out)) if predict is not None else None
    if image_size is not None:
        check_whole("image_size", image_size, 1, LARGEST_CANVAS, "pixels")
    if k is not None:
        check_whole("k", k, 1, LARGEST_LIMIT, "neighbours")
    torch_device = choose_device(device)
    table = _open_table(opened, data, image_size, torch_device, labelled=True)
    fit, held = _split(table.files, table.labels, table.classes, str(data))
    asked = (
        None if predict is None else _open_table(opened, predict, table.image_size, torch_device)
    )
    x, y = torch.from_numpy(table.features), torch.from_numpy(table.labels)
    fitted = set(y[fit].tolist())
    _tell(table, fitted, str(data))
    k = min(K, len(fit)) if k is None else k
    votes = knn_classify(x[fit], y[fit], x[held], k, n_classes=len(table.classes))
    probe = linear_probe(x[fit], y[fit], x[held], y[held])
    if path is not None and asked is not None:
        features = torch.from_numpy(asked.features)
        shares = knn_classify(x[fit], y[fit], features, k, n_classes=len(table.classes))
        _write(path, asked.files, table.classes, shares, probe(features).softmax(dim=1))
    return Classified(
        knn=accuracy(votes, y[held]),
        linear=probe.test_accuracy,
        majority=float((y[held] == y[fit].mode().values).double().mean()),
        fitted=len(fit),
        measured=len(held),
        classes=len(fitted),
        predicted=0 if asked is None else len(asked.files),
    )


def _check_out(path: Path) -> Path:
    if path.suffix != ".csv":
        raise UserError(f"{path} has to end in .csv: give --out such a name")
    if kind_of(path.parent) != "folder":
        raise UserError(f"there is no folder {path.parent}: make it first")
    if kind_of(path) == "folder":
        raise UserError(f"{path} is a folder: name a file with --out")
    return path


def _open_table(
    opened: OpenedEncoder,
    data: str | os.PathLike[str],
    size: int | None,
    device: torch.device,
    labelled: bool = False,
) -> FeatureTable:
    """Features of images, out of a file or of an encoder; None is the file's or encoder's size.

    Images that should be ``labelled`` and are not are refused before the encoder looks at them.
    """
    path = user_path(data)
    if path.suffix == ".npz" and kind_of(path) != "folder":
        table = read_npz(path)
        if table.weights != opened.digest:
            raise UserError(
                f"{path} holds features of another encoder than {opened.name}: name the one that "
                f"it was made by, or embed the images again"
            )
        if size not in (None, table.image_size):
            raise UserError(
                f"{path} holds features of images of {table.image_size} pixels, not of {size}: "
                f"embed the images again with --size {size}, or give all at {table.image_size}"
            )
        return table
    size = opened.image_size if size is None else size
    images = open_every(data, size)
    if labelled:
        _split(images.paths, images.labels.numpy(), images.classes, str(data))
    features = features_of(opened.encoder.to(device).eval(), device)
    found = []
    with tqdm(total=len(images.paths), desc="describe", unit=" images", disable=None) as bar:
        for indices in torch.arange(len(images.paths)).split(ROWS):
            found.append(describe(images, features, indices)["features"])
            bar.update(len(indices))
    x = torch.cat(found).numpy()
    kept = ~np.isnan(x).any(axis=1)
    if not kept.any():
        raise UserError(
            f"{images.name}: none of the {len(kept)} image files can be read: give images that an "
            f"image viewer can open"
        )
    files = [images.paths[row] for row in np.flatnonzero(kept)]
    labels = images.labels.numpy()[kept]
    return FeatureTable(files, labels, images.classes, x[kept], opened.digest, size)


def _split(
    files: Sequence[str], labels: np.ndarray, classes: Sequence[str], name: str
) -> tuple[Int[Tensor, " fit"], Int[Tensor, " held"]]:
    """Rows of labelled images to fit to and to measure on, as the names of their folders say."""
    labelled = [file for file, label in zip(files, labels, strict=True) if label >= 0]
    if len(classes) < 2 or not labelled:
        raise UserError(f"{name} has no classes: put the images of each into a folder of its own")
    layout = find_layout(files)
    if not layout.train:
        raise UserError(
            f"{name} has folders for testing and none for training: call one of them train"
        )
    splits = {"train": layout.train, "test": layout.test}
    if not layout.test:
        splits = hold_out(labelled)
    row = {file: number for number, file in enumerate(files) if labels[number] >= 0}
    fit, held = (
        torch.tensor([row[file] for file in splits[split] if file in row], dtype=torch.int64)
        for split in ("train", "test")
    )
    if not len(fit) or not len(held):
        where = "training" if not len(fit) else "test"
        raise UserError(f"{name} has no labelled {where} images: put some there by class")
    if len(np.unique(labels[fit.numpy()])) < 2:
        raise UserError(
            f"{name} has images of one class only to fit to, beside those held out: add images of "
            "each class"
        )
    return fit, held


def _tell(table: FeatureTable, fitted: set[int], name: str) -> None:
    """Name on stderr the images that are in no split, and the classes without training images."""
    tell_layout(find_layout(table.files), name)
    others = [name for label, name in enumerate(table.classes) if label not in fitted]
    if others:
        report(f"{name}: classes without training images, whose test images count as wrong", others)


def _write(
    path: Path, files: list[str], classes: tuple[str, ...], votes: Tensor, probabilities: Tensor
) -> None:
    """A row an image; both (n, C) arrays of shares name the largest."""
    columns = []
    for shares in (votes, probabilities):
        share, label = shares.max(dim=1)
        columns += [[classes[one] for one in label.tolist()], [f"{s:.4f}" for s in share.tolist()]]
    with (
        replacing(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        table = csv.writer(file)
        table.writerow(["file", "knn", "knn_share", "linear", "linear_probability"])
        table.writerows(zip(files, *columns, strict=True))
