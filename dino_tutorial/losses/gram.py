"""Gram anchoring: the similarities between patches stay those of an earlier teacher."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import mse_loss, normalize

from dino_tutorial.options import takes


class GramLoss(nn.Module):
    """Mean squared difference of two images' matrices of cosines between patches.

    The features themselves are free to move as long as their similarities within an image do not:
    a rotation of all of them costs nothing.

    Source: Siméoni et al. 2025 (DINOv3), section 4.2, as a mean instead of a sum.
    """

    @takes()
    def forward(
        self, student_patches: Float[Tensor, "B N D"], anchor_patches: Float[Tensor, "B N E"]
    ) -> Float[Tensor, ""]:
        """Return the scalar loss.

        Args:
            student_patches: (B, N, D).
            anchor_patches: (B, N, E) from the Gram teacher, which gets no gradient; its width may
                differ.

        Raises:
            UserError: if images or patches differ in number.
        """
        return mse_loss(_cosines(student_patches), _cosines(anchor_patches.detach()))


def _cosines(patches: Float[Tensor, "B N D"]) -> Float[Tensor, "B N N"]:
    """(B, N, D) to (B, N, N), in float32 under autocast too."""
    unit = normalize(patches.float(), dim=-1)
    with torch.autocast(patches.device.type, enabled=False):
        return unit @ unit.transpose(1, 2)
