"""DINO's loss in one pass over the logits: what trains, and the same as ``dino_loss``."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def fused_dino_loss(
    student_logits: Float[Tensor, "V B K"], targets: Float[Tensor, "2 B K"], student_temp: float
) -> Float[Tensor, ""]:
    """:func:`~dino_tutorial.losses.dino_loss` with less time and memory for many prototypes.

    Arguments and result are those of the plain function, which ``tests/losses`` holds it equal to;
    but no gradient reaches the targets.
    """
    # Methods call this one at every K. Forward and backward on one thread of an AMD EPYC: half of
    # the plain function's time at K = 65536 (10 views of 32 images; `python -m benchmarks`,
    # loss_k65536), four fifths at 4096 (8 of 64). At 512 it takes a fifth more, which is 0.2 ms
    # of a step (4 of 64): not worth two roads that round differently.
    return _FusedDINOLoss.apply(student_logits, targets, student_temp)


class _FusedDINOLoss(torch.autograd.Function):
    """Mean cross-entropy over the 2V − 2 pairs (teacher view t, student view v ≠ t).

    A cross-entropy is linear in its target: ``H(p, s) = Σ_k p_k · (logsumexp(s) − s_k)``. So
    the pairs of student view v add up to one cross-entropy against the *sum* P_v of its targets,
    and the gradient is ``c_v · softmax(s_v) − P_v``, c_v being the number of targets in that sum.
    One softmax a view instead of one a pair, and one buffer of the size of the logits: written
    in the forward pass as probabilities, turned in place into the gradient, kept for backward.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, temp: float) -> Tensor:
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
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * (grad_loss * ctx.factor)).to(ctx.dtype), None, None
