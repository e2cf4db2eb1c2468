"""The little that the rest of the code has to know about several processes (torchrun)."""

import os
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Processes:
    """This process's place among those that torchrun started; alone, ``Processes()``."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0


@contextmanager
def process_group(device_type: str):
    """Join torchrun's process group for the duration (gloo on CPU, NCCL on CUDA)."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if device_type == "cuda":
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if device_type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), local_rank)
    finally:
        dist.destroy_process_group()


def mean_over_processes(tensor: Tensor) -> Tensor:
    """The mean of a tensor over all processes; the tensor itself when there is one."""
    if not (dist.is_available() and dist.is_initialized()):
        return tensor
    tensor = tensor.clone()
    dist.all_reduce(tensor)
    return tensor / dist.get_world_size()


def logsumexp_over_processes(tensor: Tensor) -> Tensor:
    """log Σ exp over the first dimension, of all processes' rows together: (B, K) to (1, K).

    Processes may have different numbers of rows, none included. No gradient passes.
    """
    local = tensor.logsumexp(dim=0, keepdim=True)
    if not (dist.is_available() and dist.is_initialized()):
        return local
    largest = local.clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    total = (local - largest).exp()
    dist.all_reduce(total)
    return total.log() + largest
