"""DINO's loss: cross-entropy between a centred, sharpened teacher and the student, pair by pair."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dino_tutorial.losses.centering import CenteredLoss


class DINOLoss(CenteredLoss):
    """Cross-entropy of every student view against every *other* teacher view.

    Teacher probabilities are ``softmax((t − center) / teacher_temp)``, the student's
    ``softmax(s / student_temp)``. The first two student views are the two global crops that the
    teacher sees too; a view is never compared with itself. The loss is the mean over the
    remaining ``2V − 2`` pairs and over the batch.

    ``center`` (1, K) is an exponential average of the teacher's mean logits. In training mode it
    is updated *after* the loss of the same step, unless ``update_center=False`` leaves that to
    the caller (who then calls ``update_center``, for instance once for several micro-batches
    or with a mean over processes).

    Args:
        out_dim: K, the number of prototypes.
        student_temp: τ_s of the paper.
        center_momentum: m of the paper's equation 4.

    Source: Caron et al. 2021, equations 1, 3 and 4 and algorithm 1.
    """

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        teacher_temp: float,
        update_center: bool = True,
    ) -> Tensor:
        """Return the scalar loss.

        Args:
            student_logits: (V, B, K), global views first, then local ones.
            teacher_logits: (2, B, K), the two global views; no gradient flows into them.
            teacher_temp: τ_t, this step's teacher temperature.
            update_center: whether to move ``center`` afterwards (training mode only).

        Raises:
            ValueError: if the shapes do not fit together.
        """
        self._check(student_logits, teacher_logits)
        targets = self.teacher_probabilities(teacher_logits, teacher_temp)
        loss = pair_cross_entropy(student_logits, targets, self.student_temp)
        if self.training and update_center:
            self.update_center(teacher_logits.detach().float().mean(dim=(0, 1)))
        return loss

    def _check(self, student_logits: Tensor, teacher_logits: Tensor) -> None:
        views, batch, out_dim = student_logits.shape
        if teacher_logits.shape != (2, batch, out_dim) or views < 2:
            raise ValueError(
                f"DINOLoss wants student logits (V ≥ 2, B, K) and teacher logits (2, B, K), "
                f"got {tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}"
            )
        if out_dim != self.center.shape[1]:
            raise ValueError(f"the logits have K = {out_dim}, the center {self.center.shape[1]}")


def pair_cross_entropy(student_logits: Tensor, targets: Tensor, student_temp: float) -> Tensor:
    """DINO's loss for given targets, however they were made (centring, Sinkhorn-Knopp).

    Args:
        student_logits: (V, B, K), the two global views first.
        targets: (2, B, K), the teacher's probabilities of the global views.
        student_temp: τ_s.

    Returns:
        Scalar, the mean over the 2V − 2 pairs of different views and over the batch.
    """
    return _PairCrossEntropy.apply(student_logits, targets, student_temp)


class _PairCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy over the 2V − 2 pairs (teacher view t, student view v ≠ t).

    A cross-entropy is linear in its target: ``H(p, s) = Σ_k p_k · (logsumexp(s) − s_k)``. So
    the pairs of student view v add up to one cross-entropy against the *sum* P_v of its targets,
    and the gradient is ``c_v · softmax(s_v) − P_v``, c_v being the number of targets in that sum.
    One softmax a view instead of one a pair, and one buffer of the size of the logits: written
    in the forward pass as probabilities, turned in place into the gradient, kept for backward.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, targets: Tensor, temp: float) -> Tensor:
        views, batch, _ = logits.shape
        scale = 1 / ((2 * views - 2) * batch)
        both = targets.sum(dim=0)  # (B, K), for the local views
        gradient = torch.empty_like(logits, dtype=torch.float32)
        loss = logits.new_zeros((), dtype=torch.float32)
        for view in range(views):  # ten views at most: a loop that stays in the cache
            target = targets[1 - view] if view < 2 else both
            count = 1 if view < 2 else 2
            scaled = logits[view].float() / temp
            torch.softmax(scaled, dim=-1, out=gradient[view])
            # logsumexp(s) = s_k − log softmax(s)_k for any k; the largest is the safest.
            top, index = scaled.max(dim=-1)
            log_sum = top - gradient[view].gather(1, index[:, None])[:, 0].log()
            loss += count * log_sum.sum() - torch.dot(target.flatten(), scaled.flatten())
            gradient[view].mul_(count).sub_(target)
        ctx.save_for_backward(gradient)
        ctx.factor = scale / temp
        ctx.dtype = logits.dtype
        return loss * scale

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss: Tensor):
        (gradient,) = ctx.saved_tensors
        return (gradient * (grad_loss * ctx.factor)).to(ctx.dtype), None, None
