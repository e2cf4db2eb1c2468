"""Retrieval: the images of a pool that are like those of a small curated set.

DINOv2's appendix A has two ways. Of a large curated set, each image brings its nearest neighbours.
Of a small one, that would be few; there, the pool is clustered, and every cluster that more than
three curated images fall in gives images at random.
"""

from typing import NamedTuple

import faiss
import numpy as np
from jaxtyping import Bool, Float, Int

from dino_tutorial.curation.neighbours import (
    check_width,
    kmeans,
    nearest,
    nearest_centroid,
    training_size,
)
from dino_tutorial.curation.whitening import random_ids
from dino_tutorial.evaluation.storage import StoredArray
from dino_tutorial.options import takes, whole

BUFFER = 1 << 18  # images held in memory at a time, beside those that are taken


class Retrieved(NamedTuple):
    """What was found, and for whom.

    Attributes:
        ids: int64 (m,), images of the pool.
        seeds: int64 (m,), the curated image that each was found for: the nearest one of its
            cluster when clusters were searched.
    """

    ids: Int[np.ndarray, " m"]
    seeds: Int[np.ndarray, " m"]


@takes(finite=True, k=whole(), block=whole())
def retrieve_nearest(
    pool: StoredArray,
    seeds: Float[np.ndarray, "q D"],
    k: int = 4,
    *,
    block: int = 8192,
    allowed: Bool[np.ndarray, " N"] | None = None,
) -> Retrieved:
    """The k nearest images of each seed; an image near several seeds belongs to the nearest.

    Args:
        pool: (N, D), unit rows.
        seeds: float32 (q, D), unit rows.
        k: neighbours of each seed; DINOv2 takes 4, and 32 for one set.
        block: rows of the pool in memory at a time.
        allowed: bool (N,), which images may be found.
    """
    similarity, index = nearest(pool, seeds, k, block, allowed)
    seed = np.broadcast_to(np.arange(len(seeds))[:, None], index.shape)
    found = index >= 0
    order = np.argsort(-similarity[found], kind="stable")
    ids, first = np.unique(index[found][order], return_index=True)
    return Retrieved(ids, seed[found][order][first])


@takes(
    finite=True,
    clusters=whole(),
    per_cluster=whole(),
    more_than=whole(0),
    block=whole(),
    seed=whole(0, 2**31 - 1),
)
def retrieve_clusters(
    pool: StoredArray,
    seeds: Float[np.ndarray, "q D"],
    clusters: int,
    per_cluster: int,
    *,
    more_than: int = 3,
    block: int = 8192,
    allowed: Bool[np.ndarray, " N"] | None = None,
    seed: int = 0,
) -> Retrieved:
    """Images at random from each cluster of the pool that enough seeds fall in.

    Args:
        pool: (N, D), unit rows.
        seeds: float32 (q, D), unit rows.
        clusters: into how many the pool is cut; DINOv2: 100,000 for 1.1 billion images.
        per_cluster: images taken of each, at most; DINOv2: 10,000.
        more_than: seeds that a cluster needs more of; DINOv2: 3.
        block: rows of the pool in memory at a time.
        allowed: bool (N,), which images may be found.
        seed: of k-means and of the choice.
    """
    check_width(pool, seeds)
    allowed = np.ones(len(pool), bool) if allowed is None else allowed
    count = int(allowed.sum())
    clusters = min(clusters, count)
    sample = true_places(allowed, random_ids(count, training_size(clusters), seed))
    centroids = kmeans(pool.take(sample), clusters, seed)
    home = nearest_centroid(seeds, centroids)
    wanted = np.bincount(home, minlength=clusters) > more_than
    drawn = _Drawn(per_cluster)
    rng = np.random.default_rng(seed)
    for start, rows in pool.blocks(block):
        cluster, keys = nearest_centroid(rows, centroids), rng.random(len(rows))
        found = np.flatnonzero(allowed[start : start + len(rows)] & wanted[cluster])
        drawn.add(start + found, cluster[found], keys[found])
    ids, cluster = drawn.settle()
    return Retrieved(ids, _nearest_seed(pool, ids, cluster, seeds, home))


class _Drawn:
    """At most so many images of each cluster: those with the smallest random keys so far."""

    def __init__(self, per_cluster: int):
        self.per_cluster = per_cluster
        self._kept = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
        self._waiting: list[tuple[np.ndarray, ...]] = []
        self._count = 0

    def add(self, ids: np.ndarray, cluster: np.ndarray, keys: np.ndarray) -> None:
        self._waiting.append((ids, cluster, keys))
        self._count += len(ids)
        if self._count > len(self._kept[0]) + BUFFER:
            self.settle()

    def settle(self) -> tuple[np.ndarray, np.ndarray]:
        """The images drawn, int64 (m,) ascending, and the cluster of each."""
        ids, cluster, keys = (
            np.concatenate(parts) for parts in zip(self._kept, *self._waiting, strict=True)
        )
        order = np.lexsort((keys, cluster))
        rank = np.arange(len(order)) - np.searchsorted(cluster[order], cluster[order])
        chosen = np.sort(order[rank < self.per_cluster])
        self._kept = ids[chosen], cluster[chosen], keys[chosen]
        self._waiting, self._count = [], 0
        return self._kept[:2]


def true_places(
    allowed: Bool[np.ndarray, " N"], ranks: Int[np.ndarray, " m"]
) -> Int[np.ndarray, " m"]:
    """Where the true entries of the given ranks are: bool (N,), int64 (m,) to int64 (m,).

    Ranks count from 0 and ascend. The result is ``np.flatnonzero(allowed)[ranks]``, without an
    array of all places.
    """
    places, before = [], 0
    for start in range(0, len(allowed), BUFFER):
        here = start + np.flatnonzero(allowed[start : start + BUFFER])
        low, high = np.searchsorted(ranks, (before, before + len(here)))
        places.append(here[ranks[low:high] - before])
        before += len(here)
    return np.concatenate(places)


def _nearest_seed(pool, ids, cluster, seeds, home) -> np.ndarray:
    """Of each image, the most similar of the seeds that lie in its cluster."""
    nearest_seed = np.empty(len(ids), np.int64)
    for number in np.unique(cluster):
        here, candidates = cluster == number, np.flatnonzero(home == number)
        index = faiss.knn(
            pool.take(ids[here]), seeds[candidates], 1, metric=faiss.METRIC_INNER_PRODUCT
        )[1][:, 0]
        nearest_seed[here] = candidates[index]
    return nearest_seed
