"""Nearest neighbours in a pool that stays on disk; faiss does the comparing.

Two searches. Few queries against the whole pool: exact, one pass over its blocks. The pool against
itself, for duplicates: exact would cost N² comparisons, so the pool is cut into lists around
centroids (an inverted file, as faiss's IVF, Jégou et al. 2011) and each image is compared with the
few lists nearest to it. Vectors have unit length; similarity is the cosine.
"""

from collections.abc import Iterator
from typing import NamedTuple

import faiss
import numpy as np
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from dino_tutorial.curation.whitening import random_ids
from dino_tutorial.errors import UserError
from dino_tutorial.evaluation.storage import StoredArray, scratch_array
from dino_tutorial.options import number, takes, whole

LIST_SIZE = 2000  # images in a list, on average; a smaller pool is one list, compared exactly
PROBES = 4  # lists that an image is compared with
TRAINED_ON = 64  # images for each centroid
SAMPLE = 1 << 15  # images for all centroids together, so that the sample fits in memory


class Pairs(NamedTuple):
    """Pairs of similar images: int64 (m,), int64 (m,), float32 (m,)."""

    first: Int[np.ndarray, " m"]
    second: Int[np.ndarray, " m"]
    similarity: Float[np.ndarray, " m"]


@takes(finite=True, k=whole(), block=whole())
def nearest(
    pool: StoredArray,
    queries: Float[np.ndarray, "q D"],
    k: int,
    block: int,
    allowed: Bool[np.ndarray, " N"] | None = None,
) -> tuple[Float[np.ndarray, "q k"], Int[np.ndarray, "q k"]]:
    """The k images of the pool that are most similar to each query: exact, in one pass.

    Args:
        pool: (N, D), unit rows.
        queries: float32 (q, D), unit rows.
        k: neighbours of each query.
        block: rows of the pool in memory at a time.
        allowed: bool (N,), which images may be found; None allows all.

    Returns:
        Similarities float32 (q, k) and indices int64 (q, k), most similar first; where fewer than
        k images are allowed, the rest is −inf and −1.
    """
    check_width(pool, queries)
    best = faiss.ResultHeap(len(queries), k, keep_max=True)
    for start, rows in pool.blocks(block):
        ids = np.arange(start, start + len(rows))
        if allowed is not None:
            ids, rows = ids[allowed[ids]], rows[allowed[ids]]
        if len(ids):
            similarity, index = faiss.knn(
                queries, rows, min(k, len(ids)), metric=faiss.METRIC_INNER_PRODUCT
            )
            best.add_result(similarity, ids[index])
    best.finalize()
    missing = best.I < 0
    return np.where(missing, -np.inf, best.D).astype(np.float32), best.I


@takes(threshold=number(-1, 1), k=whole(), block=whole(), seed=whole(0, 2**31 - 1))
def similar_pairs(
    pool: StoredArray, threshold: float, k: int, block: int, seed: int = 0
) -> Iterator[Pairs]:
    """Pairs of images of the pool with a similarity of at least ``threshold``, piece by piece.

    Every image is compared with the lists of its nearest centroids, and with each block of a list
    gives at most k pairs. A pair may come twice, once from either side; a pair that lies in lists
    far from each other is missed, which near-duplicates hardly ever do.

    Args:
        pool: (N, D), unit rows; a row of zeros is in no pair.
        threshold: above 0.
        k: neighbours of an image in a block of a list.
        block: rows in memory at a time.
    """
    lists = _Lists(pool, block, seed)
    for which in tqdm(range(lists.count), desc="compare", unit=" lists", disable=None):
        queries, base = lists.members(which)
        for some in _pieces(base, block):
            stored = pool.take(some)
            for asked in _pieces(queries, block):
                yield _above(pool.take(asked), asked, stored, some, threshold, k)


def _above(queries, asked, stored, some, threshold, k) -> Pairs:
    """Of each query's k + 1 nearest stored rows, those above the threshold, itself left out."""
    similarity, index = faiss.knn(
        queries, stored, min(k + 1, len(some)), metric=faiss.METRIC_INNER_PRODUCT
    )
    first, second = np.broadcast_to(asked[:, None], index.shape), some[index]
    hit = (similarity >= threshold) & (first != second)
    return Pairs(first[hit], second[hit], similarity[hit])


class _Lists:
    """For each centroid, which images to compare there: as it is theirs, or as it is near.

    The members are sorted by list in files, not in memory, which holds the centroids and counts.
    """

    def __init__(self, pool: StoredArray, block: int, seed: int):
        self.count = max(1, len(pool) // LIST_SIZE)
        probes = min(PROBES, self.count)
        centroids = train_centroids(pool, self.count, seed)
        nearest_lists = scratch_array(pool.folder, (len(pool), probes), np.int32)
        for start, rows in pool.blocks(block):
            near = faiss.knn(rows, centroids, probes, metric=faiss.METRIC_INNER_PRODUCT)[1]
            nearest_lists[start : start + len(rows)] = near
        self.sorted = scratch_array(pool.folder, (len(pool) * probes,), np.int64)
        self._sort(nearest_lists, block)

    def _sort(self, nearest_lists: np.ndarray, block: int) -> None:
        """Counting sort of (image, list) by list, a block at a time."""
        n, probes = nearest_lists.shape
        starts = range(0, n, block)
        counts = sum(
            np.bincount(nearest_lists[start : start + block].ravel(), minlength=self.count)
            for start in starts
        )
        self.ends = np.cumsum(counts)
        free = self.ends - counts  # the next free place of each list
        # An image and whether the list is its own in one number: 2 · image + (not its own).
        for start in starts:
            lists = np.array(nearest_lists[start : start + block]).ravel()
            order = np.argsort(lists, kind="stable")
            lists = lists[order]
            runs = np.bincount(lists, minlength=self.count)
            within = np.arange(len(lists)) - np.repeat(np.cumsum(runs) - runs, runs)
            entries = 2 * (start + order // probes) + (order % probes > 0)
            self.sorted[free[lists] + within] = entries
            free += runs

    def members(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Images to compare with a list, and the list's own images, both ascending."""
        start = self.ends[number - 1] if number else 0
        entries = np.array(self.sorted[start : self.ends[number]])
        return entries >> 1, entries[entries % 2 == 0] >> 1


def train_centroids(
    vectors: StoredArray, count: int, seed: int, allowed: Int[np.ndarray, " n"] | None = None
) -> Float[np.ndarray, "count D"]:
    """Spherical k-means on a sample of :func:`training_size` vectors, float32 (count, D).

    Args:
        vectors: (N, D), unit rows.
        count: number of centroids, at most the number of vectors.
        allowed: int64, the rows to draw from, ascending; None takes all.
    """
    n = len(vectors) if allowed is None else len(allowed)
    chosen = random_ids(n, training_size(count), seed)
    return kmeans(vectors.take(chosen if allowed is None else allowed[chosen]), count, seed)


def nearest_centroid(
    rows: Float[np.ndarray, "n D"], centroids: Float[np.ndarray, "c D"]
) -> Int[np.ndarray, " n"]:
    """The most similar centroid of each row: (n, D), (c, D) to int64 (n,)."""
    return faiss.knn(rows, centroids, 1, metric=faiss.METRIC_INNER_PRODUCT)[1][:, 0]


def check_width(pool: StoredArray, queries: Float[np.ndarray, "q D"]) -> None:
    """Refuse queries that no vector of the pool can be compared with."""
    if queries.shape[1] != pool.width:
        raise UserError(
            f"queries of {queries.shape[1]} dimensions cannot be compared with a pool of "
            f"{pool.width}: describe both by the same function"
        )


def training_size(count: int) -> int:
    """How many vectors train so many centroids: 64 each, 32,768 in all, but at least one each."""
    return max(count, min(TRAINED_ON * count, SAMPLE))


def kmeans(
    vectors: Float[np.ndarray, "n D"], count: int, seed: int
) -> Float[np.ndarray, "count D"]:
    """Spherical k-means (Dhillon and Modha 2001) of vectors in memory: (n, D) to (count, D)."""
    clustering = faiss.Kmeans(
        vectors.shape[1],
        count,
        niter=15,
        spherical=True,
        seed=seed + 1,
        min_points_per_centroid=1,
        max_points_per_centroid=10**9,
    )
    clustering.train(vectors)
    return clustering.centroids


def _pieces(ids: np.ndarray, block: int) -> list[np.ndarray]:
    return np.split(ids, range(block, len(ids), block)) if len(ids) else []
