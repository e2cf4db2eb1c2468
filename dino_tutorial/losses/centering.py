"""What DINO's and iBOT's losses share: a teacher that is centred and sharpened."""

import torch
from torch import Tensor, nn


class CenteredLoss(nn.Module):
    """A loss whose target is ``softmax((t − center) / teacher_temp)``.

    ``center`` (1, K) is an exponential average of the teacher's mean logits.

    Args:
        out_dim: K, the number of prototypes.
        student_temp: τ_s of the paper.
        center_momentum: m of the paper's equation 4.

    Source: Caron et al. 2021, equations 1 and 4.
    """

    center: Tensor

    def __init__(self, out_dim: int, student_temp: float = 0.1, center_momentum: float = 0.9):
        super().__init__()
        self.student_temp = student_temp
        self.center_momentum = center_momentum
        self.register_buffer("center", torch.zeros(1, out_dim))

    @torch.no_grad()
    def teacher_probabilities(self, teacher_logits: Tensor, teacher_temp: float) -> Tensor:
        """Logits (…, K) to the probabilities that the student has to match."""
        return ((teacher_logits.float() - self.center) / teacher_temp).softmax(dim=-1)

    @torch.no_grad()
    def update_center(self, mean_logits: Tensor) -> None:
        """Move ``center`` towards the teacher's mean logits (K,) over the global batch."""
        self.center.lerp_(mean_logits[None], 1 - self.center_momentum)
