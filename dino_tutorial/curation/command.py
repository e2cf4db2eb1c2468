"""A curation from names to files: open pool, seeds and weights, curate, measure, report."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dino_tutorial.curation.descriptors import copy_descriptors
from dino_tutorial.curation.embedding import Describe, embed
from dino_tutorial.curation.measure import class_balance, duplicate_scores, purity
from dino_tutorial.curation.neighbours import nearest
from dino_tutorial.curation.pipeline import (
    Curation,
    CurationSettings,
    curate,
    describe_all,
    describers,
)
from dino_tutorial.datasets import (
    LARGEST_LIMIT,
    LOOKS,
    ArrayDataset,
    ImageDataset,
    open_dataset,
    write_shards,
)
from dino_tutorial.datasets.decode import listing
from dino_tutorial.datasets.every import is_image_folder
from dino_tutorial.datasets.files import ImageFiles
from dino_tutorial.datasets.scenes.factors import CLASSES
from dino_tutorial.datasets.scenes.sets import curated_seeds, uncurated_pool
from dino_tutorial.datasets.subset import Subset
from dino_tutorial.errors import UserError
from dino_tutorial.evaluation import normalize
from dino_tutorial.evaluation.storage import StoredArray
from dino_tutorial.files import made_folder, unwritable, user_path, write_bytes, write_json
from dino_tutorial.files.locks import locked
from dino_tutorial.options import check_whole, flatten
from dino_tutorial.parallel import asked_of_main, process_group
from dino_tutorial.plots.curation import CurationReport, write_curation_report
from dino_tutorial.runs.encoders import open_encoder
from dino_tutorial.runs.environment import choose_device, describe_environment

SCENE_POOL, SCENE_SIZE, PHOTO_SIZE = 20_000, 32, 64  # images; px, when no network wants others


def curate_pool(
    pool: str,
    out: str | Path,
    *,
    seeds: str | None = None,
    weights: str = "pixels",
    evaluation: str | None = None,
    limit: int | None = None,
    shards: bool = False,
    device: str = "auto",
    options: CurationSettings | None = None,
    command: str | None = None,
) -> dict | None:
    """Curate a pool of images and write what was chosen, and why, to a folder.

    Args:
        pool: "patterns" or "scenes" (20,000 with planted duplicates and junk), a folder of images,
            or the name of a data set, of which the training split is taken.
        out: gets ``selected.txt``, ``summary.json``, ``report.html`` and the descriptions; when
            these are there from an earlier call, it goes on from them; a folder that holds anything
            else is refused. Where images cannot be read, of the pool, the seeds or the evaluation,
            ``left_out.txt`` names them all.
        seeds: curated images to retrieve around, named like the pool; None retrieves nothing.
        weights: what features retrieve and cluster: "pixels", a run's folder, a released model,
            such as "dinov2_vits14", or a file of weights.
        evaluation: images to keep out; a named data set's test split.
        limit: at most so many images of the pool.
        shards: also write the chosen images as tar shards that can be trained on.
        device: "auto", "cpu", "cuda" or "mps".
        options: numbers and thresholds.
        command: shown in the report, to make it again.

    Returns:
        the summary; None in all processes but the first when torchrun started several.

    Raises:
        UserError: for anything that the caller can mend.
    """
    if limit is not None:
        check_whole("limit", limit, 1, LARGEST_LIMIT, "images")
    out, options = user_path(out), options or CurationSettings()
    pool, weights = os.fspath(pool), os.fspath(weights)
    seeds = None if seeds is None else os.fspath(seeds)
    evaluation = None if evaluation is None else os.fspath(evaluation)
    torch_device = choose_device(device)
    with contextlib.ExitStack() as held:  # the folder, until the last file is written
        with process_group(torch_device.type) as processes:
            torch_device = choose_device(device, processes.local_rank)
            asked_of_main(lambda: held.enter_context(_own_folder(out)))
            features, size, identity = open_weights(weights, torch_device)
            images, true_groups = open_pool(pool, size, limit)
            identity |= {
                "pool": images.name,
                "image_size": images.image_size,
                **images.fingerprint(),
            }
            curated = None if seeds is None else open_seeds(seeds, images.image_size)
            excluded = None if evaluation is None else open_excluded(evaluation, images.image_size)
            for chosen in (images, curated, excluded):  # before the long part of the work
                if isinstance(chosen, ImageFiles):
                    chosen.check_readable()
            _check_names(images)
            functions = describers(features)
            stored = embed(
                images,
                functions,
                out / "descriptions",
                identity,
                device=torch_device,
                processes=processes,
            )
        if not processes.is_main:
            return None
        with listing(out / "left_out.txt"):
            curated, seed_features = _described(curated, functions["features"], torch_device)
            _, excluded_copies = _described(excluded, copy_descriptors, torch_device)
            result = curate(
                stored, out / "descriptions" / "whitened", options, seed_features, excluded_copies
            )
            unreadable = _tell_unreadable(images, result)
        summary = summarize(result, images, true_groups, curated)
        summary = {"pool": images.name, "weights": Path(weights).name, **summary}
        summary["unreadable"] = unreadable
        write_json(out / "summary.json", summary)
        names = (
            images.paths if isinstance(images, ImageFiles) else np.arange(len(images)).astype(str)
        )
        _write_names(out / "selected.txt", [str(names[i]) for i in result.selected])
        if shards:
            chosen = Subset(images, torch.from_numpy(result.selected))
            for old in (out / "curated" / "train").glob("*.tar"):
                old.unlink()
            write_shards(chosen, out / "curated" / "train")
        report = CurationReport(
            summary, command, flatten(options), describe_environment(torch_device), images.classes
        )
        _add_removed(report, result, images, true_groups, options.seed)
        _add_found(report, result, images, curated, stored["features"], seed_features, options)
        _add_balance(report, result, images)
        write_curation_report(out / "report.html", report)
        return summary


@contextlib.contextmanager
def _own_folder(out: Path) -> Iterator[None]:
    """Have the folder of a curation, new or to be continued, to oneself.

    Raises:
        UserError: another process writes into it, or what it holds is no curation's.
    """
    with made_folder(out), locked(out, "wait for its end, or take another --out"):
        try:
            there = {path.name for path in out.iterdir() if not path.name.startswith(".")}
        except OSError as error:
            raise unwritable(out, error) from error
        if "config.yaml" in there:
            raise UserError(f"{out} holds a training run: take another --out")
        ours = "descriptions" in there or {"selected.txt", "summary.json"} <= there
        if there and not ours:
            raise UserError(f"{out} holds files that curate has not written: take another --out")
        yield


def _check_names(images: ImageDataset) -> None:
    """Refuse names that a list with one name a line cannot hold."""
    if not isinstance(images, ImageFiles):
        return
    broken = [path for path in images.paths if "\n" in path or "\r" in path]
    if broken:
        raise UserError(
            f"{images.name}: {len(broken)} of {len(images)} names of images have a line break in "
            f"them, such as {broken[0]!r:.80}, and selected.txt has one name a line: rename them"
        )


def _described(
    images: ImageDataset | None, describe: Describe, device: torch.device
) -> tuple[ImageDataset | None, np.ndarray | None]:
    """The images that can be read, and what a function says of them."""
    if images is None:
        return None, None
    if isinstance(images, ImageFiles):
        images = images.readable()
    return images, describe_all(images, describe, device)


def _tell_unreadable(images: ImageDataset, result: Curation) -> int:
    """Tell which images of the pool cannot be read, which are blank ones until here; how many."""
    if not isinstance(images, ImageFiles):
        return 0
    return images.tell_unreadable(_index(np.flatnonzero(result.duplicates.blank)))


def _write_names(path: Path, names: list[str]) -> None:
    """A name a line, each with the bytes that it has on the disk, which need not be UTF-8."""
    write_bytes(path, b"".join(os.fsencode(name) + b"\n" for name in names))


def open_weights(
    name: str, device: torch.device
) -> tuple[Callable[[Tensor], Tensor], int | None, dict]:
    """Features of pixels by weights; the image size that they want; what identifies them."""
    if name == "pixels":
        return copy_descriptors, None, {"weights": "pixels"}
    opened = open_encoder(name)
    encoder = opened.encoder.to(device)
    identity = {"weights": opened.digest}
    return lambda pixels: encoder(normalize(pixels)), opened.image_size, identity


def open_pool(
    name: str, size: int | None, limit: int | None
) -> tuple[ImageDataset, np.ndarray | None]:
    """The images, and for the scenes the true group of copies that each belongs to."""
    if name in LOOKS:
        images, labels, source = uncurated_pool(
            limit or SCENE_POOL, size or SCENE_SIZE, look=LOOKS[name]
        )
        groups = torch.where(source < 0, torch.arange(len(source)), source).numpy()
        return ArrayDataset(images, labels, CLASSES, name), groups
    if is_image_folder(name):
        return ImageFiles(name, size or PHOTO_SIZE, limit), None
    return open_dataset(name, "train", image_size=size or PHOTO_SIZE, limit=limit), None


def open_seeds(name: str, size: int) -> ImageDataset:
    """The curated images, on the pool's canvas."""
    if name in LOOKS:
        return ArrayDataset(*curated_seeds(size=size, look=LOOKS[name]), CLASSES, name)
    return open_pool(name, size, None)[0]


def open_excluded(name: str, size: int) -> ImageDataset:
    """The images that the curated set must not repeat."""
    if is_image_folder(name):
        return ImageFiles(name, size)
    return open_dataset(name, "test", image_size=size)


def summarize(
    result: Curation,
    images: ImageDataset,
    true_groups: np.ndarray | None,
    seeds: ImageDataset | None,
) -> dict:
    """How many images each step left, and what is known of their quality."""
    duplicates = result.duplicates
    n = len(images)
    hashed = n - len(np.unique(duplicates.hashed))
    copies = n - len(np.unique(duplicates.labels))
    summary = {
        "images": n,
        "blank": int(duplicates.blank.sum()),
        "copies": copies,
        "copies_by_hash": hashed,
        "near_evaluation": int(duplicates.evaluated.sum()),
        "kept": int(duplicates.kept.sum()),
        "retrieved": len(result.retrieved),
        "retrieved_nearest": len(result.nearest.ids),
        "retrieved_clusters": len(result.clustered.ids),
        "selected": len(result.selected),
        "largest_component": int(np.unique(duplicates.labels, return_counts=True)[1].max()),
        "clusters": int(result.hierarchy.assignment.max()) + 1,
    }
    if true_groups is not None:
        kept = duplicates.labels == np.arange(n)
        summary |= duplicate_scores(duplicates.labels, true_groups, kept)
    if len(images.classes) > 1:
        labels = images.labels.numpy()
        stages = {"pool": np.arange(n), "kept": np.flatnonzero(duplicates.kept)}
        stages |= {"retrieved": result.retrieved, "selected": result.selected}
        for stage, ids in stages.items():
            summary[f"balance_{stage}"] = class_balance(labels[ids], len(images.classes))
            summary[f"unlabelled_{stage}"] = float((labels[ids] < 0).mean())
        if seeds is not None and seeds.classes == images.classes:
            of_seed = seeds.labels.numpy()
            for way, found in (("nearest", result.nearest), ("clusters", result.clustered)):
                if len(found.ids):
                    summary[f"purity_{way}"] = purity(labels[found.ids], of_seed[found.seeds])
    return summary


PAIRS, SEEDS, NEIGHBOURS, CLUSTERS, EXAMPLES = 12, 6, 5, 8, 6  # that the report shows


def _add_removed(
    report: CurationReport,
    result: Curation,
    images: ImageDataset,
    true_groups: np.ndarray | None,
    seed: int,
) -> None:
    """Removed images beside those kept: half of them the least similar, half drawn at random."""
    duplicates = result.duplicates
    removed = np.flatnonzero((duplicates.labels != np.arange(len(images))) & ~duplicates.blank)
    rng = np.random.default_rng(seed)
    removed = rng.permutation(removed)[:2000]
    kept = duplicates.labels[removed]
    similarity = (result.whitened.take(removed) * result.whitened.take(kept)).sum(1)
    order = np.argsort(similarity, kind="stable")[: PAIRS // 2]
    others = np.setdiff1d(np.arange(len(removed)), order)[: PAIRS - len(order)]
    shown = np.concatenate((order, others))
    if not len(shown):
        return
    report.removed_images = images.images(_index(removed[shown]))
    report.kept_images = images.images(_index(kept[shown]))
    report.pair_similarity = torch.from_numpy(similarity[shown])
    if true_groups is not None:
        right = true_groups[removed[shown]] == true_groups[kept[shown]]
        report.pair_is_right = torch.from_numpy(right)


def _add_found(
    report: CurationReport,
    result: Curation,
    images: ImageDataset,
    seeds: ImageDataset | None,
    features: StoredArray,
    seed_features: np.ndarray | None,
    options: CurationSettings,
) -> None:
    """A few seeds with their neighbours, and images of the coarse clusters."""
    rng = np.random.default_rng(options.seed)
    if seeds is not None:
        asked = np.sort(rng.permutation(len(seeds))[:SEEDS])
        found = nearest(
            features, seed_features[asked], NEIGHBOURS, options.block, result.duplicates.kept
        )[1]
        if (found >= 0).all():
            shape = found.shape
            report.seed_images = seeds.images(_index(asked))
            report.found_images = images.images(_index(found.ravel())).unflatten(0, shape)
            if len(images.classes) > 1 and images.classes == seeds.classes:
                report.seed_labels = seeds.labels[asked]
                report.found_labels = images.labels[found]
    coarse = result.hierarchy.level(len(result.hierarchy.parents))
    sizes = np.bincount(coarse)
    largest = [int(c) for c in np.argsort(-sizes, kind="stable")[:CLUSTERS] if sizes[c] >= EXAMPLES]
    if largest:
        chosen = [rng.permutation(np.flatnonzero(coarse == c))[:EXAMPLES] for c in largest]
        ids = result.retrieved[np.concatenate(chosen)]
        report.cluster_images = images.images(_index(ids)).unflatten(0, (len(largest), EXAMPLES))
        report.cluster_sizes = [int(sizes[c]) for c in largest]


def _add_balance(report: CurationReport, result: Curation, images: ImageDataset) -> None:
    """How many images of each class, and of each coarse cluster, there are at each stage."""
    if len(images.classes) > 1:
        labels = images.labels.numpy()
        stages = {"pool": np.ones(len(labels), bool), "kept": result.duplicates.kept}
        stages |= {"retrieved": result.retrieved, "selected": result.selected}
        for stage, ids in stages.items():
            shown = labels[ids][labels[ids] >= 0]
            report.class_counts[stage] = np.bincount(shown, minlength=len(images.classes))
    clusters = result.hierarchy.level(len(result.hierarchy.parents))
    chosen = clusters[np.isin(result.retrieved, result.selected)]
    most = int(clusters.max()) + 1
    report.cluster_counts = {
        "retrieved": np.bincount(clusters, minlength=most),
        "selected": np.bincount(chosen, minlength=most),
    }


def _index(ids: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(ids, dtype=np.int64))


def describe_summary(summary: dict) -> str:
    """The summary as lines for people."""
    rows = [
        ("images in the pool", summary["images"]),
        ("  blank or unreadable", summary["blank"]),
        ("  of these unreadable", summary["unreadable"]),
        ("  copies, by hash alone", summary["copies_by_hash"]),
        ("  copies, all", summary["copies"]),
        ("  near the evaluation set", summary["near_evaluation"]),
        ("kept", summary["kept"]),
        ("retrieved", summary["retrieved"]),
        ("selected", summary["selected"]),
    ]
    shares = [
        ("copies, precision of pairs", "pair_precision"),
        ("copies, recall of pairs", "pair_recall"),
        ("retrieval purity, nearest", "purity_nearest"),
        ("retrieval purity, clusters", "purity_clusters"),
        ("class balance, pool", "balance_pool"),
        ("class balance, selected", "balance_selected"),
    ]
    lines = [f"{name:<28}{count:>10,}" for name, count in rows]
    lines += [f"{name:<28}{summary[key]:>10.3f}" for name, key in shares if key in summary]
    return "\n".join(lines)
