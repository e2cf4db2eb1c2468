"""The momentum teacher: a second network that is never trained, only averaged; or a frozen one."""

from copy import deepcopy
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from dino_tutorial.models.block import DropPath
from dino_tutorial.options import instance, number, takes
from dino_tutorial.parallel import own_part

N = TypeVar("N", bound=nn.Module, covariant=True)  # what kind of network the student is


class Teacher(nn.Module, Generic[N]):
    """An exponential moving average of a student network, weights *and* buffers.

    The copy sees no drop path (the student alone is regularised), takes no gradient, and
    normalises by batch statistics in training mode like the student, while its running
    statistics, which evaluation uses, are averages of the student's.

    Args:
        student: the network to copy. Its later values reach the teacher only by :meth:`update`.

    Source: Grill et al. 2020, section 3.1; Caron et al. 2021, section 3.1.
    """

    @takes(student=instance(nn.Module))
    def __init__(self, student: N) -> None:
        super().__init__()
        self.network: N = deepcopy(student).requires_grad_(False)
        for module in self.network.modules():
            if isinstance(module, DropPath):
                module.rate = 0.0
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = 0.0  # running statistics move by update() alone

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            return self.network(*args, **kwargs)

    @takes(momentum=number(0, 1))
    @torch.no_grad()
    def update(self, student: nn.Module, momentum: float) -> None:
        """teacher ← momentum · teacher + (1 − momentum) · student, for all tensors at once.

        Tensors that are not floating point (batch counters) are copied. The student may have
        parts that the teacher has not (BYOL's predictor); not the other way round. Cut up over
        processes alike, each averages what it has of both.
        """
        ours, theirs = _tensors(self.network), _tensors(student)
        averaged = [name for name, tensor in ours.items() if tensor.is_floating_point()]
        torch._foreach_lerp_(
            [ours[name] for name in averaged],
            [theirs[name] for name in averaged],
            1 - momentum,
        )
        for name in ours.keys() - set(averaged):
            ours[name].copy_(theirs[name])


class Frozen(nn.Module):
    """A network in evaluation mode for good, without gradients."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "Frozen":
        return super().train(False)

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.network(*args, **kwargs)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    named = dict(module.named_parameters()) | dict(module.named_buffers())
    return {name: own_part(tensor) for name, tensor in named.items()}
