"""What a curation got right, against a pool whose duplicates and classes are known."""

import numpy as np
from jaxtyping import Bool, Int

from dino_tutorial.errors import UserError
from dino_tutorial.options import takes, whole


@takes()
def duplicate_scores(
    found: Int[np.ndarray, " N"], true: Int[np.ndarray, " N"], kept: Bool[np.ndarray, " N"]
) -> dict[str, float]:
    """Precision and recall of pairs of copies, and of the images removed.

    Args:
        found: int (N,), the component of each image.
        true: int (N,), its true group.
        kept: bool (N,), which images were kept.

    Returns:
        ``pair_precision`` and ``pair_recall``: of the pairs in one component, how many are in one
        group, and the reverse. ``removed_precision``: of the images removed, how many were one
        too many of their group; ``removed_recall``: of those too many, how many were removed. A
        share of nothing is 1.
    """
    true = np.unique(true, return_inverse=True)[1]  # numbers from 0, whatever they were
    both = _pairs(np.stack((found, true), axis=1))
    size, left = (np.bincount(true[some]) for some in (np.ones_like(kept), kept))
    left = np.pad(left, (0, len(size) - len(left)))
    too_many = np.maximum(size - 1, 0)
    rightly = np.minimum(size - left, too_many).sum()
    return {
        "pair_precision": _share(both, _pairs(found)),
        "pair_recall": _share(both, _pairs(true)),
        "removed_precision": _share(rightly, (size - left).sum()),
        "removed_recall": _share(rightly, too_many.sum()),
    }


@takes()
def purity(labels: Int[np.ndarray, " m"], seed_labels: Int[np.ndarray, " m"]) -> float:
    """How many of the retrieved images are of the class of the seed they were found for.

    Args:
        labels: int (m,), −1 for junk, which is of no class.
        seed_labels: int (m,).
    """
    return _share(((labels == seed_labels) & (labels >= 0)).sum(), len(labels))


@takes(n_classes=whole(2, 2**20))
def class_balance(labels: Int[np.ndarray, " n"], n_classes: int) -> float:
    """Entropy of the class frequencies divided by ln C: 1 if all are equal, 0 if one has all.

    Args:
        labels: int (n,); −1, junk, is left out.
        n_classes: C, at least 2.
    """
    if labels.max() >= n_classes:
        raise UserError(
            f"a label is {labels.max()}, but n_classes is {n_classes}: number the classes from 0"
        )
    counts = np.bincount(labels[labels >= 0], minlength=n_classes)
    shares = counts[counts > 0] / max(1, counts.sum())
    return float(-(shares * np.log(shares)).sum() / np.log(n_classes)) + 0.0


def _pairs(groups: np.ndarray) -> int:
    """How many pairs share a group; rows of a matrix are groups too."""
    sizes = np.unique(groups, axis=0, return_counts=True)[1].astype(np.int64)
    return int((sizes * (sizes - 1) // 2).sum())


def _share(part: float | np.integer, whole: float | np.integer) -> float:
    return float(part / whole) if whole else 1.0
