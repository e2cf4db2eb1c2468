"""A method sharded over processes: each holds a shard of every parameter (FSDP2).

What makes shards imports torch's modules for it where it needs them: a training that is not sharded
starts without.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from dino_tutorial.models import VisionTransformer
from dino_tutorial.models.block import Block
from dino_tutorial.parallel import is_cut_up

SHARDINGS = ("none", "fsdp")


def shard(method: nn.Module, device_type: str) -> None:
    """Leave each of W processes 1/W of every parameter, a shard along its first dimension.

    Parameters are gathered when they are needed and given up right after, one unit at a
    time: each block of a transformer, what else a backbone has, each head; student, teacher and
    any frozen network alike. Gradients, the optimizer's state and the moving average then live
    on the shards alone. Buffers (centers, queues, running statistics) stay full.

    Args:
        method: changed in place; every process holds the same weights. Its parameters become
            ``DTensor``, so the optimizer has to be built afterwards.
        device_type: "cpu" or "cuda".

    Source: Zhao et al. 2023; ``torch.distributed.fsdp.fully_shard``.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    # Tokens leave a backbone as views of one tensor, which is safe: nothing is written into them.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    for parameter in method.parameters():  # FSDP2 shards no other layout, as a ConvNet's may be
        parameter.data = parameter.data.contiguous()
    mesh = init_device_mesh(device_type, (dist.get_world_size(),))
    blocks = [module for module in method.modules() if isinstance(module, Block)]
    networks = [module for module in method.modules() if hasattr(module, "backbone")]
    parts = [part for network in networks for part in network.children()]
    for unit in (*blocks, *parts, method):
        fully_shard(unit, mesh=mesh)
    for part in parts:
        if isinstance(part, VisionTransformer):
            register_fsdp_forward_method(part, "forward_features")


@contextmanager
def without_reduction(method: nn.Module) -> Iterator[None]:
    """Gradients of a sharded method are not summed over processes for the duration, but kept.

    For all but the last part of a batch: one reduction a step, at the cost of full gradients until
    then. What is not sharded is left alone.
    """
    if not any(is_cut_up(parameter) for parameter in method.parameters()):
        yield
        return
    from torch.distributed.fsdp import FSDPModule

    FSDPModule.set_requires_gradient_sync(method, False)  # type: ignore[arg-type]
    try:
        yield
    finally:
        FSDPModule.set_requires_gradient_sync(method, True)  # type: ignore[arg-type]


def gathered(tree: Any, keep: bool) -> Any:
    """State dictionaries with every tensor full, on the CPU where it was sharded.

    All processes have to call it together.

    Args:
        tree: dictionaries and lists, in each other, of tensors and anything else.
        keep: whether this process wants the tensors; otherwise None stands for the sharded ones.
    """
    if is_cut_up(tree):
        full = tree.full_tensor()
        return full.cpu() if keep else None
    if isinstance(tree, dict):
        return {name: gathered(value, keep) for name, value in tree.items()}
    if isinstance(tree, list):
        return [gathered(value, keep) for value in tree]
    return tree


def sharded_like(full: Any, example: Tensor | None) -> Any:
    """This process's shard of a full tensor, laid out as ``example`` is; no process is asked.

    What has another shape, and what goes with an example that is full or missing, is returned as
    it is.
    """
    if not is_cut_up(example) or getattr(full, "shape", None) != example.shape:
        return full
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(
        full.to(example.device), example.device_mesh, example.placements, src_data_rank=None
    )
