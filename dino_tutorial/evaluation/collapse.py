"""Numbers that tell whether features or outputs have collapsed, and what they say.

A self-supervised loss can be small although the network says the same about every image. These
measures look at the features (B, D) or distributions (B, K) of a batch and show it;
:func:`find_collapse` reads the rows in which they are logged.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from dino_tutorial.options import takes


@takes()
def feature_spread(features: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
    """How far apart the directions of a batch's features are: 0 collapsed, about 1 even.

    Features are L2-normalised; the standard deviation over the batch is taken in each of the D
    dimensions, averaged over dimensions, and multiplied by √D, because evenly spread unit
    vectors have standard deviation 1/√D. 1 is the largest possible value. Two spaced-out clusters
    also spread: read it together with :func:`effective_rank`.

    Args:
        features: (B, D), any scale, B ≥ 2.

    Returns:
        A scalar, on the device of the features.

    Source: SimSiam (Chen and He 2021), section 4.1 and figure 2.
    """
    unit = F.normalize(features.float(), dim=-1)
    return unit.std(dim=0, correction=0).mean() * features.shape[-1] ** 0.5


@takes(finite=True)
def effective_rank(features: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
    """How many dimensions the features really use: between 1 and min(B, D).

    exp of the entropy of the singular values divided by their sum. The features are not centred:
    a constant feature has rank 1. All zeros have rank 0.

    Args:
        features: (B, D). The value is at most B, so compare only batches of one size.

    Source: RankMe (Garrido et al. 2023), equation 1; effective rank of Roy and Vetterli 2007.
    """
    values = torch.linalg.svdvals(features.float())
    total = values.sum()
    if total == 0:
        return total
    return entropy(values / total).exp()


@takes()
def entropy(probabilities: Float[Tensor, "*n K"]) -> Float[Tensor, "*n"]:
    """Entropy in nats of distributions (..., K), over the last dimension: (...,).

    ln K for a uniform distribution, 0 when one entry has all the mass; 0 · ln 0 counts as 0.
    """
    return torch.special.entr(probabilities).sum(dim=-1)


# The first rows tell of the initialisation, which can lie near any of the signatures.
FIRST_ROWS = 8
# A single batch can look collapsed; this many in a row, of different images, do not by chance.
LAST_ROWS = 3
# Of ln K. The largest entropy of a teacher that went on to learn is 0.973 ln K in the recorded
# runs; without sharpening, in the clinic, it ends at 0.999 ln K.
UNIFORM_ABOVE = 0.99
# Of ln K: e^(0.05 ln K) prototypes in use are 1.2 of 64 and 1.7 of 65,536, fewer than two. The
# smallest entropy of a batch in the recorded runs is 0.245 ln K.
ONE_PROTOTYPE_BELOW = 0.05
# bfloat16 alone gives vectors of one direction a spread of 0.0013; the smallest of a recorded run
# that learned is 0.0103 (SwAV, whose features share a large common part). No share of the largest
# spread so far would do: that run fell to 1.3 % of its own and doubled its k-NN accuracy.
SPREAD_BELOW = 0.005


@dataclass(frozen=True)
class Collapse:
    """One way to collapse.

    Attributes:
        name: in two or three words.
        signature: what is measured, and what is missing.
        remedy: what to look at.
    """

    name: str
    signature: str
    remedy: str

    def __str__(self) -> str:
        """One sentence or two, without a full stop."""
        return f"{self.signature}. {self.remedy}"


UNIFORM = Collapse(
    "uniform output",
    "the teacher's output is uniform (its entropy is ln K and the loss sits at ln K): nothing "
    "sharpens it",
    "Lower the teacher temperature (0.04), or check that the student's (0.1) is the larger of "
    "the two",
)
ONE_PROTOTYPE = Collapse(
    "one prototype",
    "every image gets the same prototype (the mean teacher distribution has no entropy): nothing "
    "spreads the images out",
    "Check that the center is subtracted and updated (center_momentum below 1)",
)
CONSTANT_FEATURES = Collapse(
    "constant features",
    f"the features are the same for all images (feature spread below {SPREAD_BELOW}): the run has "
    "collapsed",
    "Check the learning rate, the momentum of the teacher if there is one (0.99 or more) and, for "
    "BYOL, the predictor and its batch normalisation",
)


@takes()
def find_collapse(rows: Sequence[Mapping[str, object]]) -> Collapse | None:
    """The collapse that the latest rows of a run's log show, or None.

    A teacher that is uniform for *each* image has entropy ln K; one that gives *all* images the
    same prototype has a batch entropy of 0; constant features have no spread. All of the last
    three rows have to show it, once there are eight. A value that is missing or not finite shows
    nothing. Rows are counted since the steps last began anew or the images last changed their
    size: features of other sizes, or of another run, say nothing about these.

    Args:
        rows: oldest first, as in ``metrics.jsonl`` or from :func:`dino_tutorial.clinic.observe`,
            with any of ``teacher_entropy``, ``batch_entropy`` and ``ln_k`` in nats,
            ``feature_spread``, ``step``, and ``image_size`` in pixels.

    Source: Caron et al. 2021, section 5.3 and figure 7.
    """
    latest = latest_rows(rows)
    if not latest:
        return None
    for collapse, shows in _SIGNS:
        if all(shows(row) for row in latest):
            return collapse
    return None


def latest_rows(rows: Sequence[Mapping[str, object]]) -> Sequence[Mapping[str, object]]:
    """The last three rows; none as long as fewer than eight can be compared with the last one."""
    compared = rows[-FIRST_ROWS:]
    whole = all(_goes_on(before, row) for before, row in pairwise(compared))
    return rows[-LAST_ROWS:] if whole and len(compared) == FIRST_ROWS else ()


def _goes_on(before: Mapping[str, object], row: Mapping[str, object]) -> bool:
    """Whether a row is of the same run and image size as the one before."""
    same_size = before.get("image_size") == row.get("image_size")
    return same_size and not _value(before, "step") >= _value(row, "step")


def _value(row: Mapping[str, object], key: str) -> float:
    """The number under a key; NaN, with which no comparison holds, where there is none."""
    value = row.get(key)
    return float(value) if isinstance(value, Real) else math.nan


_SIGNS = (
    (UNIFORM, lambda row: _value(row, "teacher_entropy") > UNIFORM_ABOVE * _value(row, "ln_k")),
    (
        ONE_PROTOTYPE,
        lambda row: _value(row, "batch_entropy") < ONE_PROTOTYPE_BELOW * _value(row, "ln_k"),
    ),
    (CONSTANT_FEATURES, lambda row: _value(row, "feature_spread") < SPREAD_BELOW),
)
