"""The losses of DINO and iBOT in one pass over the logits: the same as the plain ones."""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from dino_tutorial.options import number, takes, tensor

PART = 2**26  # logits that are worked on at once: 256 MiB in float32


@takes(student_logits=tensor("V>1 B K", "float"), student_temp=number(0, 1e6, above=True))
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
    return _FusedDINOLoss.apply(student_logits, targets.float(), student_temp)


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
        gradient = torch.empty_like(logits, dtype=torch.float32)
        loss = logits.new_zeros((), dtype=torch.float32)
        for part, target, count in _shares(targets, views, _views_together(logits)):
            scaled = logits[part].float() / temp  # (views of this part, B, K)
            torch.softmax(scaled, dim=-1, out=gradient[part])
            # logsumexp(s) = s_k − log softmax(s)_k for any k; the largest is the safest.
            top, index = scaled.max(dim=-1)
            log_sum = top - gradient[part].gather(-1, index[..., None])[..., 0].log()
            products = torch.dot(target.expand_as(scaled).flatten(), scaled.flatten())
            loss += count * log_sum.sum() - products
            gradient[part].mul_(count).sub_(target)
        ctx.save_for_backward(gradient)
        ctx.factor = scale / temp
        ctx.dtype = logits.dtype
        return loss * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * (grad_loss * ctx.factor)).to(ctx.dtype), None, None


def _shares(targets: Tensor, views: int, together: int) -> Iterator[tuple[slice, Tensor, int]]:
    """Views that are worked on together, the sum of the targets of each, and how many those are."""
    if together == 1:
        for view in range(2):  # a global view is compared with the other one
            yield slice(view, view + 1), targets[1 - view], 1
    else:
        yield slice(0, 2), targets.flip(0), 1
    both = targets.sum(dim=0)  # (B, K)
    for first in range(2, views, together):
        yield slice(first, min(first + together, views)), both, 2


def _views_together(logits: Tensor) -> int:
    """One view on a CPU stays in its cache; a GPU does best with few large kernels."""
    return 1 if logits.device.type == "cpu" else max(2, PART // logits[0].numel())


def fused_ibot_loss(
    student_logits: Float[Tensor, "M K"],
    targets: Float[Tensor, "M K"],
    weights: Float[Tensor, " M"],
    n_images: int,
    student_temp: float,
) -> Float[Tensor, ""]:
    """:func:`~dino_tutorial.losses.ibot_loss` with a fourth of its memory.

    Value, gradient and arguments are those of the plain function. It keeps one float32 buffer of
    the size of the logits, the plain one four: 1.2 GB each with 4,500 masked patches and 65,536
    prototypes. Parts of ``PART`` entries come and go.
    """
    return _FusedIBOTLoss.apply(student_logits, targets, weights / n_images, student_temp)


class _FusedIBOTLoss(torch.autograd.Function):
    """``Σ_m w_m H(p_m, s_m)``, with the gradient ``w_m (softmax(s_m) − p_m) / temp`` kept ready."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, weights: Tensor, temp: float) -> Tensor:
        gradient = torch.empty_like(logits, dtype=torch.float32)
        loss = logits.new_zeros((), dtype=torch.float32)
        rows = max(1, PART // logits.shape[1])
        parts = (tensor.split(rows) for tensor in (logits, targets, weights, gradient))
        for student, target, weight, out in zip(*parts, strict=True):
            scaled = student.float() / temp
            torch.softmax(scaled, dim=-1, out=out)
            top, index = scaled.max(dim=-1)
            log_sum = top - out.gather(1, index[:, None])[:, 0].log()
            loss += torch.dot(weight, log_sum - scaled.mul_(target).sum(dim=-1))
            out.sub_(target).mul_(weight[:, None])
        ctx.save_for_backward(gradient)
        ctx.temp, ctx.dtype = temp, logits.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * (grad_loss / ctx.temp)).to(ctx.dtype), None, None, None
