"""Retrieval: the images of a pool that are like those of a small curated set.

DINOv2's appendix A has two ways. Of a large curated set, each image brings its nearest neighbours.
Of a small one, that would be few; there, the pool is clustered, and every cluster that more than
three curated images fall in gives images at random.
"""

from typing import NamedTuple

import faiss
import numpy as np

from dino_tutorial.curation.clusters import assign
from dino_tutorial.curation.neighbours import nearest, train_centroids
from dino_tutorial.curation.storage import StoredArray


class Retrieved(NamedTuple):
    """What was found, and for whom.

    Attributes:
        ids: int64 (m,), images of the pool.
        seeds: int64 (m,), the curated image that each was found for: the nearest one of its
            cluster when clusters were searched.
    """

    ids: np.ndarray
    seeds: np.ndarray


def retrieve_nearest(
    pool: StoredArray,
    seeds: np.ndarray,
    k: int = 4,
    *,
    block: int = 8192,
    allowed: np.ndarray | None = None,
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


def retrieve_clusters(
    pool: StoredArray,
    seeds: np.ndarray,
    clusters: int,
    per_cluster: int,
    *,
    more_than: int = 3,
    block: int = 8192,
    allowed: np.ndarray | None = None,
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
    ids = np.arange(len(pool)) if allowed is None else np.flatnonzero(allowed)
    centroids = train_centroids(pool, min(clusters, len(ids)), seed, ids)
    cluster = assign(pool, centroids, block, ids)
    home = faiss.knn(seeds, centroids, 1, metric=faiss.METRIC_INNER_PRODUCT)[1][:, 0]
    wanted = np.bincount(home, minlength=len(centroids)) > more_than
    chosen = sample_of_each(cluster, np.where(wanted, per_cluster, 0), seed)
    return Retrieved(ids[chosen], _nearest_seed(pool, ids[chosen], cluster[chosen], seeds, home))


def sample_of_each(groups: np.ndarray, amounts: np.ndarray, seed: int) -> np.ndarray:
    """Positions drawn at random, of group g at most ``amounts[g]``; ascending.

    Args:
        groups: int (n,), the group of each position.
        amounts: int (G,).
    """
    order = np.random.default_rng(seed).permutation(len(groups))
    order = order[np.argsort(groups[order], kind="stable")]
    sizes = np.bincount(groups, minlength=len(amounts))
    rank = np.arange(len(groups)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[rank < amounts[groups[order]]])


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
