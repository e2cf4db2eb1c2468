"""Hierarchical k-means: clusters of images, clusters of those clusters, and so on.

k-means spends its centroids where images are dense. Run again on the centroids, which are spread
more evenly than the images, it gives clusters of concepts rather than of images (Vo et al. 2024,
"Automatic data curation for self-supervised learning"; without their resampling rounds).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from dino_tutorial.curation.neighbours import kmeans, nearest_centroid, train_centroids
from dino_tutorial.evaluation.storage import StoredArray
from dino_tutorial.options import numbers, takes, whole


class Hierarchy(NamedTuple):
    """Clusters on several levels, the finest first.

    Attributes:
        assignment: int32 (n,), the finest cluster of each image.
        parents: for each level but the last, int (k,): the cluster above each cluster.
    """

    assignment: Int[np.ndarray, " n"]
    parents: list[Int[np.ndarray, " _"]]

    def level(self, number: int) -> Int[np.ndarray, " n"]:
        """The cluster (n,) of each image, ``number`` levels above the finest."""
        clusters = self.assignment
        for parent in self.parents[:number]:
            clusters = parent[clusters]
        return clusters


def assign(
    vectors: StoredArray,
    centroids: Float[np.ndarray, "c D"],
    block: int,
    ids: Int[np.ndarray, " n"] | None = None,
) -> Int[np.ndarray, " m"]:
    """The most similar centroid of each image: int32 (N,), or (n,) of the ``ids`` given."""
    rows = _chosen(vectors, block, ids)
    return np.concatenate([nearest_centroid(some, centroids) for some in rows]).astype(np.int32)


@takes(counts=numbers(whole()), block=whole(), seed=whole(0, 2**31 - 1))
def cluster_hierarchy(
    vectors: StoredArray,
    counts: Sequence[int],
    block: int = 8192,
    seed: int = 0,
    ids: Int[np.ndarray, " n"] | None = None,
) -> Hierarchy:
    """Cluster images, then the clusters' centroids, as often as there are counts.

    Args:
        vectors: (N, D), unit rows.
        counts: clusters on each level, the finest and largest first.
        block: rows in memory at a time.
        ids: int64 (n,), ascending, the images to cluster; None takes all.

    Raises:
        ValueError: if the counts do not fall from at most the number of images to at least 1.
    """
    n = len(vectors) if ids is None else len(ids)
    steps = [n, *counts]
    if not counts or counts[-1] < 1 or any(a < b for a, b in zip(steps, steps[1:], strict=False)):
        raise ValueError(f"counts must fall from at most {n} images to 1 or more, not {counts}")
    centroids = train_centroids(vectors, counts[0], seed, ids)
    assignment = assign(vectors, centroids, block, ids)
    parents = []
    for count in counts[1:]:
        above = kmeans(centroids, count, seed)
        parents.append(nearest_centroid(centroids, above))
        centroids = above
    return Hierarchy(assignment, parents)


def _chosen(vectors: StoredArray, block: int, ids: np.ndarray | None):
    if ids is None:
        return (rows for _, rows in vectors.blocks(block))
    return (vectors.take(some) for some in np.split(ids, range(block, len(ids), block)))
