"""What a step costs, from one that is run on tensors without values: memory and multiplications.

PyTorch's fake tensors have shapes and no memory, so a step of any size takes seconds on any
machine. What is alive at a time is counted as the operations make and drop it.
"""

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from dino_tutorial.methods import Method
from dino_tutorial.views import ViewSpec

FEW, MORE = 4, 8  # images of the two steps that the cost of one more image is told from


@dataclass(frozen=True)
class StepCost:
    """Of a step of n images at a time: ``fixed + n * per_image`` bytes.

    Attributes:
        fixed: bytes of weights, gradients, the optimizer's moments and what else does not grow.
        per_image: bytes of views, activations and their gradients.
        flops: operations of one image, forward and backward; a multiplication and an addition
            are two.
    """

    fixed: int
    per_image: int
    flops: int

    def bytes(self, n_images: int) -> int:
        """Of a step that runs so many images at a time."""
        return self.fixed + n_images * self.per_image


def step_cost(method: Method, specs: Sequence[ViewSpec], reduced: bool) -> StepCost:
    """Simulate steps of a method.

    Args:
        method: its parameters and buffers lose their values: build one for this.
        specs: of its views.
        reduced: whether products are computed in 16 bits, under autocast.
    """
    from torch.utils.flop_counter import FlopCounterMode  # brings Triton, which takes long

    states = 4 * sum(p.numel() for p in method.parameters() if p.requires_grad)
    values = {name: float(table[0]) for name, table in method.schedules(1, 1).items()}
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    weights = _without_values(method, fake)
    peaks, flops = {}, {}
    for n in (FEW, MORE):
        masks = method.draw_masks(n, torch.Generator().manual_seed(0))
        asked: dict[str, Any] = {} if masks is None else {"masks": masks.to("cpu")}
        with fake, LiveBytes() as alive, FlopCounterMode(display=False) as counted:
            if method.needs_labels:
                asked["labels"] = torch.zeros(n, dtype=torch.int64)
            _run(method, _views(specs, n), values, asked, reduced)
        peaks[n], flops[n] = alive.peak, counted.get_total_flops()
        for parameter in method.parameters():
            parameter.grad = None
    per_image = (peaks[MORE] - peaks[FEW]) // (MORE - FEW)
    return StepCost(
        fixed=weights + 2 * states + max(0, peaks[FEW] - FEW * per_image),
        per_image=per_image,
        flops=(flops[MORE] - flops[FEW]) // (MORE - FEW),
    )


def _run(
    method: Method,
    views: list[Tensor],
    values: Mapping[str, float],
    asked: dict[str, Any],
    reduced: bool,
) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
        metrics = method(views, values, False, **asked)
    metrics["loss"].backward()


def _views(specs: Sequence[ViewSpec], n: int) -> list[Tensor]:
    return [
        torch.empty(len(list(run)), n, 3, size, size)
        for size, run in groupby(specs, lambda spec: spec.size)
    ]


def _without_values(module: nn.Module, fake: FakeTensorMode) -> int:
    """Put tensors without values in place of parameters and buffers; bytes of those before."""
    total = 0
    for part in module.modules():
        for name, old in list(part._parameters.items()):
            if old is not None:
                total += old.nbytes
                new = fake.from_tensor(old.detach())
                part._parameters[name] = nn.Parameter(new, requires_grad=old.requires_grad)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None:
                total += buffer.nbytes
                part._buffers[name] = fake.from_tensor(buffer)
    return total


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages that operations make, until they are dropped.

    Attributes:
        peak: the most that was alive at a time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_iter(made):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
