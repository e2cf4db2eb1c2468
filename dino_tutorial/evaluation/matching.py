"""Dense matching: which patch of one image is which patch of another, by features alone."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from dino_tutorial.options import takes


class Matches(NamedTuple):
    """Patches of first images and their partners in second images.

    Attributes:
        partner: int64 (B, N), an index into the M patches of the second image; −1 where the
            nearest patch there prefers another one.
        similarity: (B, N), the cosine to the nearest patch, mutual or not.
    """

    partner: Int[Tensor, "B N"]
    similarity: Float[Tensor, "B N"]


@takes(finite=True)
def mutual_matches(first: Float[Tensor, "B N D"], second: Float[Tensor, "B M D"]) -> Matches:
    """Pair patches that are each other's nearest by cosine similarity.

    Args:
        first: (B, N, D) patch tokens of B images.
        second: (B, M, D) of their counterparts.

    Raises:
        UserError: if the shapes do not fit.
    """
    cosines = F.normalize(first.float(), dim=-1) @ F.normalize(second.float(), dim=-1).transpose(
        1, 2
    )
    similarity, there = cosines.max(dim=2)  # (B, N)
    back = cosines.argmax(dim=1).gather(1, there)  # where the nearest would go, (B, N)
    here = torch.arange(first.shape[1], device=first.device)
    return Matches(torch.where(back == here, there, -1), similarity)
