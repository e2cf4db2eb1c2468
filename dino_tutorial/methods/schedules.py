"""Values that change over training, computed once as a table with one entry a step."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from dino_tutorial.options import number, takes, whole


@takes(
    base=number(-1e12, 1e12),
    final=number(-1e12, 1e12),
    total_steps=whole(low=0, high=10**8),
    warmup_steps=whole(low=-(2**31)),
    warmup_start=number(-1e12, 1e12),
    freeze_steps=whole(low=-(2**31)),
)
def cosine_schedule(
    base: float,
    final: float,
    total_steps: int,
    warmup_steps: int = 0,
    warmup_start: float = 0.0,
    freeze_steps: int = 0,
) -> Float[Tensor, " total_steps"]:
    """Zeros, then a linear warm-up, then half a cosine from ``base`` towards ``final``.

    The convention is the reference code's: the warm-up includes both of its ends, so ``base``
    occurs twice, and the cosine stops one step short of ``final``.

    Args:
        base: value at the end of the warm-up, where the cosine starts.
        final: value that the cosine tends to.
        total_steps: length of the result.
        warmup_steps: steps of the linear warm-up from ``warmup_start`` to ``base``.
        warmup_start: first value of the warm-up.
        freeze_steps: leading zeros (DINOv2 freezes its last layer this way).

    Returns:
        (total_steps,) float64.

    Raises:
        ValueError: if warm-up and freeze are longer than the whole.

    Source: facebookresearch/dino ``utils.cosine_scheduler``; dinov2 ``CosineScheduler``.
    """
    cosine_steps = total_steps - warmup_steps - freeze_steps
    if min(warmup_steps, freeze_steps, cosine_steps) < 0:
        raise ValueError(
            f"{warmup_steps} warm-up and {freeze_steps} frozen steps do not fit into {total_steps}"
        )
    freeze = torch.zeros(freeze_steps, dtype=torch.float64)
    warmup = torch.linspace(warmup_start, base, warmup_steps, dtype=torch.float64)
    phase = torch.arange(cosine_steps, dtype=torch.float64) / max(cosine_steps, 1)
    cosine = final + 0.5 * (base - final) * (1 + torch.cos(math.pi * phase))
    return torch.cat([freeze, warmup, cosine])


@takes(
    start=number(-1e12, 1e12),
    end=number(-1e12, 1e12),
    total_steps=whole(low=0, high=10**8),
    warmup_steps=whole(low=0),
)
def linear_warmup(
    start: float, end: float, total_steps: int, warmup_steps: int
) -> Float[Tensor, " total_steps"]:
    """(total_steps,) float64: from ``start`` to ``end`` over ``warmup_steps``, then constant.

    DINO's teacher temperature: .04 → .07 over 30 epochs in its longer runs.
    """
    warmup_steps = min(warmup_steps, total_steps)
    constant = torch.full((total_steps - warmup_steps,), end, dtype=torch.float64)
    return torch.cat([torch.linspace(start, end, warmup_steps, dtype=torch.float64), constant])
