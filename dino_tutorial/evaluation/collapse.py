"""Numbers that tell whether features or outputs have collapsed.

A self-supervised loss can be small although the network says the same about every image. These
measures look at the features (B, D) or distributions (B, K) of a batch and show it.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


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
    unit = F.normalize(features, dim=-1)
    return unit.std(dim=0, correction=0).mean() * features.shape[-1] ** 0.5


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


def entropy(probabilities: Float[Tensor, "*n K"]) -> Float[Tensor, "*n"]:
    """Entropy in nats of distributions (..., K), over the last dimension: (...,).

    ln K for a uniform distribution, 0 when one entry has all the mass; 0 · ln 0 counts as 0.
    """
    return torch.special.entr(probabilities).sum(dim=-1)
