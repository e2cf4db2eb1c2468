"""iBOT's loss: the student names what lies behind each hidden patch."""

import torch.nn.functional as F
from torch import Tensor

from dino_tutorial.losses.centering import CenteredLoss


class iBOTPatchLoss(CenteredLoss):
    """Cross-entropy at the hidden patches between the teacher, who sees them, and the student.

    Only logits of hidden patches are given, gathered from all images of the batch. Each image that
    has any counts the same, however many it has; images without any count as zero:
    ``(1/B) Σ_images (1/M_i) Σ_patches H(teacher, student)``.

    In training mode ``center`` is updated *after* the loss of the same step, unless
    ``update_center=False`` leaves that to the caller.

    Args:
        out_dim: K, the number of prototypes.
        student_temp: τ_s.
        center_momentum: as DINO's.

    Source: Zhou et al. 2022, equation 2; facebookresearch/dinov2 ``ibot_patch_loss.py``.
    """

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        teacher_temp: float,
        weights: Tensor,
        n_images: int,
        update_center: bool = True,
    ) -> Tensor:
        """Return the scalar loss.

        Args:
            student_logits: (M, K) of the student, who sees the mask token in these M places.
            teacher_logits: (M, K) of the teacher in the same places; no gradient flows into them.
            teacher_temp: τ_t, this step's teacher temperature.
            weights: (M,), 1 / (hidden patches of the same image).
            n_images: B, all images of the batch, those without hidden patches too.
            update_center: whether to move ``center`` afterwards (training mode only).

        Raises:
            ValueError: if the shapes do not fit together.
        """
        targets = self.teacher_probabilities(teacher_logits, teacher_temp)
        loss = masked_patch_loss(student_logits, targets, weights, n_images, self.student_temp)
        if self.training and update_center and len(teacher_logits):
            self.update_center(teacher_logits.detach().float().mean(dim=0))
        return loss


def masked_patch_loss(
    student_logits: Tensor, targets: Tensor, weights: Tensor, n_images: int, student_temp: float
) -> Tensor:
    """iBOT's loss for given targets, however they were made (centring, Sinkhorn-Knopp).

    Args:
        student_logits: (M, K).
        targets: (M, K), each row sums to 1.
        weights: (M,), 1 / (hidden patches of the same image).
        n_images: B.
        student_temp: τ_s.

    Returns:
        Scalar; 0 where nothing is hidden.

    Raises:
        ValueError: if the shapes do not fit together.
    """
    if student_logits.shape != targets.shape or weights.shape != student_logits.shape[:1]:
        raise ValueError(
            f"the patch loss wants logits and targets (M, K) and weights (M,), got "
            f"{tuple(student_logits.shape)}, {tuple(targets.shape)} and {tuple(weights.shape)}"
        )
    entropies = F.cross_entropy(student_logits.float() / student_temp, targets, reduction="none")
    return (entropies * weights).sum() / n_images
