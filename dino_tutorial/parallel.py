"""The little that the rest of the code has to know about several processes (torchrun)."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.utils._pytree import tree_map_only

from dino_tutorial.errors import UserError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

Result = TypeVar("Result")

# How long a process waits for another one that saves, evaluates or has died.
PATIENCE = timedelta(minutes=30)


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
def process_group(device_type: str) -> Iterator[Processes]:
    """Join torchrun's process group for the duration (gloo on CPU, NCCL on CUDA)."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if device_type == "cuda":
        torch.cuda.set_device(local_rank)
    there = torch.device("cuda", local_rank) if device_type == "cuda" else None
    store, rank, world = next(rendezvous("env://", timeout=PATIENCE))
    # torchrun starts dead processes again on the store that still has their old addresses.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    dist.init_process_group(
        "nccl" if device_type == "cuda" else "gloo",
        store=PrefixStore(f"attempt {attempt}", store),
        rank=rank,
        world_size=world,
        timeout=PATIENCE,
        device_id=there,
    )
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), local_rank)
    finally:
        dist.destroy_process_group()


def from_main(value: Any) -> Any:
    """What the main process brings, for all of them; they have to call it together."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    carried = [value]
    dist.broadcast_object_list(carried, src=0)
    return carried[0]


def asked_of_main(ask: Callable[[], Result]) -> Result:
    """What a call returns in the main process, for all of them; only there it is made.

    Raises:
        UserError: in all of them, if it is raised there.
    """
    answer: Result | UserError | None = None
    if rank_and_world()[0] == 0:
        try:
            answer = ask()
        except UserError as error:
            answer = error
    answer = from_main(answer)
    if isinstance(answer, UserError):
        raise answer
    return cast(Result, answer)


def state_from_main(read: Callable[[], dict[str, Any]], device: torch.device) -> dict[str, Any]:
    """A checkpoint that the main process reads, for all of them, who need not see its folder.

    Tensors travel one by one, so that no second copy of all of them is needed; they arrive on the
    CPU.

    Args:
        read: returns dictionaries, lists and tuples of tensors and of what can be pickled.
        device: of the training, over which its process group sends tensors.

    Raises:
        UserError: in all of them, if it is raised in reading.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return read()
    full: list[Tensor] = []

    def outline(tensor: Tensor) -> _Outline:
        full.append(tensor)
        return _Outline(tensor.shape, tensor.dtype)

    outlined = asked_of_main(lambda: tree_map_only(Tensor, outline, read()))
    there = iter(full)

    def fill(leaf: _Outline) -> Tensor:
        tensor = next(there, None)
        if tensor is None:
            tensor = torch.empty(leaf.shape, dtype=leaf.dtype)
        sent = tensor.to(device).contiguous()
        dist.broadcast(sent, src=0)
        return sent.cpu()

    return tree_map_only(_Outline, fill, outlined)


@dataclass(frozen=True)
class _Outline:
    """What has to be known of a tensor before its values come."""

    shape: torch.Size
    dtype: torch.dtype


def sum_over_processes(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all processes; the tensor itself when there is one."""
    if not (dist.is_available() and dist.is_initialized()):
        return tensor
    tensor = tensor.clone()
    dist.all_reduce(tensor)
    return tensor


def mean_over_processes(tensor: Tensor) -> Tensor:
    """The mean of a tensor over all processes; the tensor itself when there is one."""
    return sum_over_processes(tensor) / rank_and_world()[1]


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


def rank_and_world() -> tuple[int, int]:
    """This process's place among how many; (0, 1) when it is alone."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def gather_over_processes(tensor: Tensor) -> Tensor:
    """All processes' rows in the order of their ranks: (B, …) to (W·B, …), with gradient.

    A process's rows are used in the losses of all processes, so their gradient is the sum of
    what all of them send back. Together with DDP, which averages over processes, that makes
    the gradient of the mean of the losses. Every process has to bring as many rows.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return tensor
    return _Gather.apply(tensor)


def own_part(tensor: Tensor) -> Tensor:
    """The part of a tensor that lies here, sharing memory; the tensor itself if it is full."""
    return tensor.to_local() if is_cut_up(tensor) else tensor


def is_cut_up(value: object) -> "TypeGuard[DTensor]":
    """Whether this is a ``DTensor``, of which each process holds a part.

    The module is asked only where somebody else has imported it, as whoever makes such tensors has:
    it takes as long to import as half of torch.
    """
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        rows = len(tensor)
        ctx.own = slice(dist.get_rank() * rows, (dist.get_rank() + 1) * rows)
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient[ctx.own]
