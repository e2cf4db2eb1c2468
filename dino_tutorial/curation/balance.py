"""Balanced sampling: as many images of each cluster as there are, but no cluster above a limit.

After Vo et al. 2024: from the coarsest level of a hierarchy down, a budget is divided evenly
among the clusters, what small ones cannot use goes to the others, and each divides its part among
the clusters below it.
"""

import numpy as np
from jaxtyping import Int

from dino_tutorial.curation.clusters import Hierarchy
from dino_tutorial.options import takes, whole


@takes(size=whole(), seed=whole(0, 2**63 - 1))
def balanced_sample(hierarchy: Hierarchy, size: int, seed: int = 0) -> Int[np.ndarray, " size"]:
    """Positions of ``size`` images (of all, if there are not so many), ascending.

    Args:
        hierarchy: of n images.
        size: images wanted.
        seed: of the draw within the finest clusters.
    """
    parents = hierarchy.parents
    finest = len(parents[0]) if parents else 0
    sizes = [np.bincount(hierarchy.assignment, minlength=finest)]
    for parent, above in zip(parents, [*map(len, parents[1:]), 0], strict=True):
        sizes.append(np.bincount(parent, sizes[-1], minlength=above).astype(np.int64))
    share = even_shares(sizes[-1], size)
    for parent, below in zip(parents[::-1], sizes[-2::-1], strict=True):
        shares = np.zeros_like(below)
        for cluster in range(len(share)):
            children = parent == cluster
            shares[children] = even_shares(below[children], int(share[cluster]))
        share = shares
    return sample_of_each(hierarchy.assignment, share, seed)


@takes(total=whole(0, 2**62))
def even_shares(sizes: Int[np.ndarray, " G"], total: int) -> Int[np.ndarray, " G"]:
    """Divide a total as evenly as the sizes allow: min(size, limit), of one limit for all.

    What the whole limit leaves over goes one each to the largest groups, which have room.

    Args:
        sizes: int (G,), the most that each group can give.
        total: wanted in all.

    Returns:
        int64 (G,), at most ``sizes``, with the sum ``min(total, sizes.sum())``.
    """
    sizes = np.asarray(sizes, dtype=np.int64)
    total = min(int(total), int(sizes.sum()))
    order = np.argsort(sizes, kind="stable")
    ascending = sizes[order]
    # With the limit at the i-th smallest size, the groups before it are used up.
    used = np.cumsum(ascending) - ascending + ascending * np.arange(len(sizes), 0, -1)
    full = int(np.searchsorted(used, total, side="right"))
    shares = ascending.copy()
    if full < len(sizes):
        limit, rest = divmod(total - int(ascending[:full].sum()), len(sizes) - full)
        shares[full:] = limit
        shares[len(sizes) - rest :] += 1
    spread = np.empty_like(shares)
    spread[order] = shares
    return spread


def sample_of_each(
    groups: Int[np.ndarray, " n"], amounts: Int[np.ndarray, " G"], seed: int
) -> Int[np.ndarray, " m"]:
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
