"""KoLeo: features of a batch keep away from their nearest neighbours."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from dino_tutorial.options import takes, tensor

DUPLICATE = 1e-4  # a distance far below any between different images, far above rounding


class KoLeoLoss(nn.Module):
    """−mean log of the distance to the nearest neighbour on the unit sphere.

    Minus the Kozachenko-Leonenko estimate of the differential entropy, up to constants: the more
    evenly the features fill the sphere, the lower the loss. Distances are ``sqrt(d² + ε²)`` with
    ε = 10⁻⁴, so two equal features cost −log ε, which is finite, and have no gradient: there is no
    direction in which to part them. A batch of one has no neighbour and costs 0.

    Source: Sablayrolles et al. 2019, equation 2; Oquab et al. 2024, section 4.
    """

    @takes(features=tensor("B>=0 D", "float"))
    def forward(self, features: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
        """Return the scalar loss, computed in float32.

        Args:
            features: (B, D), the student's features of *different* images, of any length.

        Raises:
            UserError: if they are not (B, D).
        """
        if len(features) < 2:
            return 0.0 * features.float().sum()
        with torch.autocast(features.device.type, enabled=False):
            unit = normalize(features.float(), dim=-1)
            with torch.no_grad():
                nearest = (unit @ unit.T).fill_diagonal_(-2.0).argmax(dim=1)
            squares = (unit - unit[nearest]).pow(2).sum(dim=-1)
            return -0.5 * (squares + DUPLICATE**2).log().mean()
