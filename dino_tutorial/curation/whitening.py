"""PCA whitening: directions that all images share count no more than those that tell them apart.

Descriptors of copies are compared by cosine. Unwhitened, most of the cosine comes from the few
directions along which all images vary, and strangers look alike; SSCD and DINO's copy detection
(section 4.2.2 of the paper) whiten for the same reason.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from dino_tutorial.curation.descriptors import SIDE, cosines
from dino_tutorial.evaluation.storage import StoredArray
from dino_tutorial.options import takes, whole

DIM = 128
PER_DIM = 4  # images for each direction kept: with fewer, a copy may get a direction of its own
FEW = 24  # directions kept of a small pool of twice as many images: in fewer, strangers meet
SMALL = 96  # images; a pool of no more is whitened like images at large
CHANNELS_ALIKE = 0.9  # correlation of red, green and blue in photographs
SAMPLE = 20_000  # images that the directions are estimated from


class Whitening(NamedTuple):
    """``x -> normalise((x - mean) @ directions)``.

    Attributes:
        mean: float32 (D,).
        directions: float32 (D, d), principal components divided by √(variance + mean variance):
            the added mean keeps directions of little variance, mostly noise, from growing large.
    """

    mean: Float[np.ndarray, " D"]
    directions: Float[np.ndarray, "D d"]

    def __call__(self, vectors: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "n d"]:
        """float32 (n, D) to unit rows (n, d); a row of zeros stays one."""
        projected = (vectors - self.mean) @ self.directions
        projected[~vectors.any(axis=1)] = 0
        return unit_rows(projected)


@takes(dim=whole(), seed=whole(0, 2**31 - 1))
def fit_whitening(vectors: StoredArray, dim: int = DIM, seed: int = 0) -> Whitening:
    """Estimate the whitening of stored vectors from a sample of at most 20,000.

    Args:
        vectors: (N, D).
        dim: d, the directions kept; fewer when the sample or D is too small for so many.
    """
    sample = vectors.take(random_ids(len(vectors), SAMPLE, seed))
    sample = sample[sample.any(axis=1)]
    mean = sample.mean(axis=0)
    centred = sample - mean
    variance, directions = np.linalg.eigh(centred.T @ centred / max(1, len(sample)))
    few = min(FEW, len(sample) // 2)
    dim = max(1, min(dim, max(few, len(sample) // PER_DIM)))
    scaled = directions[:, -dim:] / np.sqrt(variance[-dim:].clip(0) + variance.mean() + 1e-12)
    return Whitening(mean.astype(np.float32), scaled.astype(np.float32))


def whitening_for(copies: StoredArray, seed: int = 0) -> Whitening:
    """The whitening of a pool's copy descriptors: fitted to them, or, of few, to images at large.

    Args:
        copies: (N, 768), of :func:`copy_descriptors`; zeros for a blank image.
        seed: of the sample that it is fitted to.
    """
    sample = copies.take(random_ids(len(copies), SMALL + 1, seed))
    few = len(copies) <= SMALL or int(sample.any(axis=1).sum()) < SMALL // 2
    return image_whitening() if few else fit_whitening(copies, seed=seed)


def image_whitening(dim: int = DIM) -> Whitening:
    """The whitening of copy descriptors of images at large, for pools too small to fit one.

    Of a dozen images every direction tells some of them apart and none is known to be common to
    all, so that either strangers meet or copies part. Photographs have a power spectrum that
    falls with the square of the frequency (Field 1987), and colour channels that vary together:
    that is the covariance taken here, with mean 0, for descriptors have none. On 400 scenes 999 of
    1,000 pairs of strangers stay below a cosine of 0.4, and all copies that were tried above 0.75.

    Args:
        dim: d, the directions kept.
    """
    waves = cosines(SIDE, SIDE).double().numpy()
    squared = np.add.outer(np.arange(SIDE) ** 2, np.arange(SIDE) ** 2).astype(float)
    squared[0, 0] = np.inf  # each channel has mean 0
    power = SIDE**2 / squared / (1 / squared).sum()
    shares, mixes = np.linalg.eigh(CHANNELS_ALIKE + (1 - CHANNELS_ALIKE) * np.eye(3))
    directions = np.einsum("ci,ux,vy->iuvcxy", mixes, waves, waves).reshape(-1, 3 * SIDE**2)
    variance = (shares[:, None, None] * power).reshape(-1)
    kept = np.argsort(-variance, kind="stable")[:dim]
    scaled = directions[kept] / np.sqrt(variance[kept] + variance.mean())[:, None]
    return Whitening(np.zeros(3 * SIDE**2, np.float32), scaled.T.astype(np.float32))


@takes(block=whole())
def whiten(vectors: StoredArray, whitening: Whitening, folder: Path, block: int) -> StoredArray:
    """Store the whitened vectors (N, d), file by file, ``block`` rows in memory at a time."""
    whitened = StoredArray(folder, len(vectors), vectors.rows)
    for file in range(whitened.files):
        ids = np.array(whitened.span(file))
        parts = np.split(ids, range(block, len(ids), block))
        parts = [whitening(vectors.take(part)) for part in parts]
        whitened.write(file, np.concatenate(parts))
    return whitened


def unit_rows(vectors: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "n D"]:
    """Rows of length 1; a row of zeros stays one."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(length, 1e-12)).astype(np.float32)


def random_ids(n: int, most: int, seed: int) -> Int[np.ndarray, " n"]:
    """At most so many of ``0 … n − 1``, ascending, without drawing a permutation of them all."""
    if n <= most:
        return np.arange(n)
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(n, most, replace=False, shuffle=False))
