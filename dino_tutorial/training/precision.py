"""What the products of a training step are computed in, and what keeps small gradients alive."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.amp.grad_scaler import GradScaler

PRECISIONS: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Products in ``precision`` for the duration, what needs a wide range in float32."""
    enabled = precision != "fp32"
    dtype = PRECISIONS[precision] if enabled else None
    return torch.autocast(device.type, dtype, enabled=enabled)


def loss_scaler(
    precision: str, device: torch.device, optimizer: torch.optim.Optimizer, sharded: bool
) -> GradScaler:
    """Scales a loss up in fp16, so that small gradients do not become 0; otherwise does nothing.

    A step whose gradients overflow is left out and the scale is halved; after 2,000 steps without
    one it is doubled (Micikevicius et al. 2018, section 3.2). With AdamW the device decides that
    by itself; LARS, SGD and sharded training wait for it at each step.

    Args:
        precision: a key of ``PRECISIONS``.
        device: of the training.
        optimizer: that is going to be stepped by the scaler.
        sharded: each process sees a part of the gradients only, so they ask each other.
    """
    enabled = precision == "fp16"
    if not (enabled and sharded):
        return GradScaler(device.type, enabled=enabled)
    warnings.filterwarnings("ignore", message="Found a non-scalar tensor with numel=1")
    from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

    # The fused kernel cannot read the one flag of all processes beside shards of parameters.
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    return ShardedGradScaler(device.type)


@contextmanager
def fast_float32(device: torch.device) -> Iterator[None]:
    """On CUDA, float32 products from inputs of 10 bits (TF32) for the duration.

    That is what fp32 means there: several times faster, and more exact than bf16 with its 7 bits.
    Convolutions, whose sizes are the same in every step, are tried out for the fastest way.
    """
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.benchmark = before[1]
