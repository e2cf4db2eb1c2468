"""The whole curation: describe, remove duplicates, retrieve around seeds, sample evenly.

After DINOv2 (section 3 and appendix A), which starts from 1.2 billion crawled images and ends
with the 142 million of LVD-142M, and Vo et al. 2024 for the even sampling.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped

from dino_tutorial.curation.balance import balanced_sample
from dino_tutorial.curation.clusters import Hierarchy, cluster_hierarchy
from dino_tutorial.curation.descriptors import copy_descriptors, perceptual_hash
from dino_tutorial.curation.duplicates import (
    EVALUATION_SIMILARITY,
    NEIGHBOURS,
    SIMILARITY,
    Deduplication,
    deduplicate,
)
from dino_tutorial.curation.embedding import BATCH, Describe
from dino_tutorial.curation.retrieve import Retrieved, retrieve_clusters, retrieve_nearest
from dino_tutorial.curation.whitening import whiten, whitening_for
from dino_tutorial.errors import UserError
from dino_tutorial.evaluation.features import LabelledImages
from dino_tutorial.evaluation.storage import StoredArray
from dino_tutorial.options import Settings, option

LEVELS = (20, 10)  # images in a cluster of the finest level, clusters in one of the level above


@dataclass(frozen=True)
class CurationSettings(Settings):
    """What can be chosen. A number that is None follows from the sizes of pool and seeds."""

    block: int = option(8192, "Descriptions in memory at a time.", low=16)
    similarity: float = option(
        SIMILARITY, "Cosine of two descriptions above which images are copies.", low=0.01, high=1
    )
    evaluation_similarity: float = option(
        EVALUATION_SIMILARITY, "The same, against the images of an evaluation.", low=0.01, high=1
    )
    neighbours: int = option(
        NEIGHBOURS, "Nearest images that are looked at for copies, of each image.", low=1
    )
    retrieval: str = option(
        "both",
        "Around each seed (nearest), from clusters with seeds (clusters), or both.",
        among=("both", "nearest", "clusters"),
    )
    per_seed: int = option(4, "Neighbours that a seed brings.", low=1)
    clusters: int | None = option(None, "Clusters of the pool; null is one for eight seeds.", low=1)
    per_cluster: int | None = option(
        None, "Images of each cluster that has seeds; null is the mean size.", low=1
    )
    more_than: int = option(3, "Seeds that a cluster needs more of.", low=0)
    size: int | None = option(None, "Images in the end; null is half of those retrieved.", low=1)
    seed: int = option(0, "Of what is drawn.", low=0, high=2**31 - 1)


def describers(features: Describe) -> dict[str, Describe]:
    """What is stored of each image: its hash, what tells copies, and what it shows.

    Args:
        features: uint8 (B, 3, H, W) to (B, D), the features to retrieve and cluster with.
    """
    return {
        "hashes": perceptual_hash,
        "copies": copy_descriptors,
        "features": lambda pixels: F.normalize(features(pixels).float(), dim=1),
    }


@torch.inference_mode()
def describe_all(images: LabelledImages, describe: Describe, device) -> Shaped[np.ndarray, "n ..."]:
    """What one function says of a set that is small enough for memory, (n, D)."""
    batches = torch.arange(len(images)).split(BATCH)
    return torch.cat([describe(images.images(b).to(device)).cpu() for b in batches]).numpy()


class Curation(NamedTuple):
    """What became of the N images of a pool.

    Attributes:
        whitened: (N, d), the copy descriptors that were compared.
        duplicates: what was removed and why.
        nearest: what retrieval of single images found; empty if not asked for.
        clustered: what retrieval of clusters found; empty if not asked for.
        retrieved: int64 (m,), both together; all that were kept if there are no seeds.
        hierarchy: clusters of the retrieved images.
        selected: int64 (n,), the images in the end, ascending.
    """

    whitened: StoredArray
    duplicates: Deduplication
    nearest: Retrieved
    clustered: Retrieved
    retrieved: Int[np.ndarray, " m"]
    hierarchy: Hierarchy
    selected: Int[np.ndarray, " n"]


def curate(
    stored: dict[str, StoredArray],
    folder: Path,
    options: CurationSettings,
    seeds: Float[np.ndarray, "q D"] | None = None,
    evaluation: Float[np.ndarray, "M D2"] | None = None,
) -> Curation:
    """Choose images of a pool by their descriptions alone.

    Args:
        stored: of :func:`embed` with :func:`describers`.
        folder: gets the whitened descriptors.
        options: what to choose by.
        seeds: float32 (q, D), unit features of the curated images; None retrieves nothing and
            goes on with all images that are no duplicates.
        evaluation: float32 (M, 768), copy descriptors (not whitened) of images to keep out.

    Raises:
        UserError: if nothing is left, or nothing was retrieved.
    """
    block, seed = options.block, options.seed
    whitening = whitening_for(stored["copies"], seed)
    whitened = whiten(stored["copies"], whitening, folder, block)
    evaluation = None if evaluation is None else whitening(evaluation)
    duplicates = deduplicate(
        whitened,
        stored["hashes"],
        evaluation,
        similarity=options.similarity,
        evaluation_similarity=options.evaluation_similarity,
        k=options.neighbours,
        block=block,
        seed=seed,
    )
    kept = np.flatnonzero(duplicates.kept)
    if not len(kept):
        raise UserError(_why_none_is_left(duplicates))
    features = stored["features"]
    nearest, clustered = _retrieve(features, seeds, duplicates.kept, options)
    retrieved = kept if seeds is None else np.union1d(nearest.ids, clustered.ids)
    if not len(retrieved):
        raise UserError(
            f"no cluster has more than {options.more_than} seeds, so nothing was retrieved: set "
            "fewer clusters, or retrieval=nearest"
        )
    fine = max(1, len(retrieved) // LEVELS[0])
    hierarchy = cluster_hierarchy(
        features, (fine, max(1, fine // LEVELS[1])), block, seed, retrieved
    )
    size = options.size or -(-len(retrieved) // 2)
    selected = retrieved[balanced_sample(hierarchy, size, seed)]
    return Curation(whitened, duplicates, nearest, clustered, retrieved, hierarchy, selected)


def _why_none_is_left(duplicates: Deduplication) -> str:
    blank, evaluated = int(duplicates.blank.sum()), int(duplicates.evaluated.sum())
    n = len(duplicates.kept)
    reasons = []
    if blank:
        reasons.append(f"{blank} are of a single colour or cannot be read")
    if evaluated:
        reasons.append(f"{evaluated} are like images of the evaluation set, or copies of such")
    remedy = (
        "give other images"
        if blank == n
        else ("give other images, or another --evaluation, or raise evaluation_similarity")
    )
    return f"no image of the pool is left: of {n}, {' and '.join(reasons)}; {remedy}"


def _retrieve(
    features: StoredArray, seeds: np.ndarray | None, kept: np.ndarray, options: CurationSettings
) -> tuple[Retrieved, Retrieved]:
    nothing = Retrieved(np.empty(0, np.int64), np.empty(0, np.int64))
    nearest = clustered = nothing
    if seeds is None:
        return nearest, clustered
    where = {"block": options.block, "allowed": kept}
    if options.retrieval != "clusters":
        nearest = retrieve_nearest(features, seeds, options.per_seed, **where)
    if options.retrieval != "nearest":
        clusters = options.clusters or max(1, len(seeds) // 8)
        per_cluster = options.per_cluster or -(-int(kept.sum()) // clusters)
        clustered = retrieve_clusters(
            features,
            seeds,
            clusters,
            per_cluster,
            more_than=options.more_than,
            seed=options.seed,
            **where,
        )
    return nearest, clustered
