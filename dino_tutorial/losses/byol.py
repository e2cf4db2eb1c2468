"""BYOL's regression loss."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from dino_tutorial.losses.precision import at_least_float32
from dino_tutorial.options import takes


@takes()
def byol_loss(prediction: Float[Tensor, "B D"], target: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
    """Squared distance of the normalised prediction and target, one direction.

    ``‖p̄ − z̄‖² = 2 − 2 cos(p, z)``: 0 when they point the same way, 2 when they are orthogonal,
    4 when they are opposite. The method adds both directions (it does not average them). The
    target carries no gradient; stopping it is part of the loss, so that it cannot be forgotten.

    Args:
        prediction: (B, D), the student's (BYOL: online network's) prediction.
        target: (B, D), the teacher's (BYOL: target network's) projection.

    Returns:
        Scalar, the mean over the batch, in float32 at least, under autocast too.

    Source: Grill et al. 2020, equation 2.
    """
    with torch.autocast(prediction.device.type, enabled=False):
        prediction, target = at_least_float32(prediction), at_least_float32(target.detach())
        return (2 - 2 * cosine_similarity(prediction, target, dim=-1)).mean()
