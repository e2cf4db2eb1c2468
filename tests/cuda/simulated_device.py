"""A CUDA device made of CPU tensors: it computes the CPU's values and behaves like a GPU.

Inside :func:`simulated_cuda`, what is put on ``cuda`` becomes a :class:`DeviceTensor`: its values
lie in a CPU tensor, every operator runs there, and the package sees a tensor on ``cuda:0``. Two
things are as strict as on a real device. Tensors of the host and of the device may not meet in one
operator (:class:`DeviceMismatch`), and whatever makes the host wait for the device is written down
in the :class:`Ledger` with the line of the package that asked for it.

What it cannot tell: how long anything takes, how much memory it needs, and whether a kernel of
CUDA rounds as the CPU's does. Autocast changes nothing on it.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch._dynamo.polyfills.loader  # imported here, since it makes tensors of its own
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

import dino_tutorial

DEVICE, HOST = torch.device("cuda", 0), torch.device("cpu")
PACKAGE = str(Path(dino_tutorial.__file__).parent)

aten = torch.ops.aten
COPIES = (aten._to_copy.default, aten.copy_.default)
INDEXING = (
    aten.index.Tensor,
    aten._unsafe_index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
)
# The host needs a value of these, or the shape of their result depends on values.
READ_BY_THE_HOST = (
    aten._local_scalar_dense.default,
    aten.bincount.default,
    aten.equal.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten.repeat_interleave.Tensor,
    aten.unique_dim.default,
    aten._unique2.default,
)
NO_KERNEL = (  # they allocate, or make another view of what is there
    aten.alias.default,
    aten.detach.default,
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.empty_strided.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
)


class DeviceMismatch(RuntimeError):
    """An operator was given tensors of the host and of the device."""


class Wait(NamedTuple):
    """The host waited for the device: what for, and the line of the package where it did."""

    reason: str
    where: str


@dataclass
class Ledger:
    """What has happened on the device.

    Attributes:
        waits: each time that the host waited.
        copies: from pinned memory to the device, which waits for nothing.
        kernels: how often each operator ran on the device.
        wide: operators that made float64 there, which Apple's devices do not have.
    """

    waits: list[Wait] = field(default_factory=list)
    copies: int = 0
    kernels: Counter[str] = field(default_factory=Counter)
    wide: Counter[str] = field(default_factory=Counter)

    def wait(self, reason: str) -> None:
        self.waits.append(Wait(reason, line_of_the_package()))

    def take(self) -> "Ledger":
        """What has happened since the last time, and forget it."""
        taken = Ledger(self.waits, self.copies, self.kernels, self.wide)
        self.waits, self.copies, self.kernels, self.wide = [], 0, Counter(), Counter()
        return taken


LEDGER = Ledger()  # of the device that there is; a tensor cannot be told which one is its own


class DeviceTensor(torch.Tensor):
    """A tensor on the simulated device; ``held`` has its values."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "DeviceTensor":
        # For autograd and autocast, which are written in C++, it is a tensor without storage that
        # has the dispatch keys of CUDA.
        shape = torch.empty_strided(held.shape, held.stride(), dtype=held.dtype, device="meta")
        new = torch.Tensor._make_subclass(
            cls, shape, False, dispatch_device=False, device_for_backend_keys=DEVICE
        )
        new.held = held
        return new

    device = property(lambda self: DEVICE)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    is_meta = property(lambda self: False)

    def tolist(self) -> Any:
        LEDGER.wait("tolist")
        return self.held.tolist()

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def __repr__(self, **_: Any) -> str:
        return f"on the device: {self.held!r}"

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


class OnDevice(TorchDispatchMode):
    """Sends what is asked of the device to :func:`run`, factories included."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        there = any(isinstance(leaf, DeviceTensor) for leaf in tree_leaves((args, kwargs)))
        if there or asks_for_device(kwargs):
            return run(func, args, kwargs)
        return func(*args, **kwargs)


def asks_for_device(kwargs: dict[str, Any]) -> bool:
    """Whether an operator is to make its result there; autograd's own formulas say ``meta``."""
    device = kwargs.get("device")
    return device is not None and torch.device(device).type in ("cuda", "meta")


def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """One operator that has to do with the device."""
    if func is torch.ops.prim.device.default:
        return DEVICE
    leaves = tree_leaves((args, kwargs))
    there = any(isinstance(leaf, DeviceTensor) for leaf in leaves)
    host = [t for t in leaves if isinstance(t, torch.Tensor) and not isinstance(t, DeviceTensor)]
    to_device = asks_for_device(kwargs) or (there and kwargs.get("device") is None)
    if func is aten.copy_.default:
        to_device = isinstance(args[0], DeviceTensor)

    if func in READ_BY_THE_HOST:
        LEDGER.wait(name_of(func))
    if func in COPIES:
        note_copy(func, args, kwargs, to_device)
    elif func in INDEXING:
        check_indexing(func, args, host)
    elif there and (strangers := [t for t in host if t.ndim]):
        raise DeviceMismatch(
            f"{name_of(func)} was given a tensor of the device and one of the host, "
            f"{tuple(strangers[0].shape)}, at {line_of_the_package()}"
        )

    held = tree_map_only(DeviceTensor, lambda t: t.held, (args, kwargs))
    out = func(*held[0], **on_the_host(held[1]))
    if func is aten.copy_.default and not to_device:
        return args[0]
    if not to_device:
        return out
    note_kernel(func, out)
    if func._schema.name.endswith("_") and not func._schema.returns:  # _foreach_…_
        return None
    wrapped = tree_map_only(torch.Tensor, DeviceTensor, out)
    if func._schema.name.startswith("aten::_foreach"):
        return wrapped
    return return_and_correct_aliasing(func, args, kwargs, wrapped)


def on_the_host(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments for the operator that makes the values."""
    changed = {"device": HOST} if kwargs.get("device") is not None else {}
    if kwargs.get("pin_memory"):
        changed["pin_memory"] = False
    return kwargs | changed


def note_copy(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], to_device: bool) -> None:
    """A copy between host and device waits, unless asked not to and able not to."""
    source = args[1] if func is aten.copy_.default else args[0]
    from_device = isinstance(source, DeviceTensor)
    free = kwargs.get("non_blocking", False)
    if func is aten.copy_.default and len(args) > 2:
        free = args[2]
    if from_device and not to_device and not free:
        LEDGER.wait("a copy to the host")
    if to_device and not from_device and (source.ndim or func is not aten.copy_.default):
        if free and getattr(source, "is_in_pinned_memory", False):
            LEDGER.copies += 1
        else:
            LEDGER.wait("a copy to the device out of memory that is not pinned")


def check_indexing(func: Any, args: tuple[Any, ...], host: list[torch.Tensor]) -> None:
    """Indices may lie on the host, and cost a copy; boolean ones have to be counted."""
    indices = [index for index in args[1] if index is not None]
    others = [t for t in host if t.ndim and not any(t is index for index in indices)]
    if others or not isinstance(args[0], DeviceTensor):
        raise DeviceMismatch(f"{name_of(func)} across devices at {line_of_the_package()}")
    if not all(isinstance(index, DeviceTensor) for index in indices):
        LEDGER.wait(f"{name_of(func)} by indices on the host")
    if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
        LEDGER.wait(f"{name_of(func)} by a mask")


def note_kernel(func: Any, out: Any) -> None:
    if not is_view(func) and func not in NO_KERNEL:
        LEDGER.kernels[name_of(func)] += 1
        if any(isinstance(t, torch.Tensor) and t.dtype == torch.float64 for t in tree_leaves(out)):
            LEDGER.wide[f"{name_of(func)} at {line_of_the_package()}"] += 1


@cache
def is_view(func: Any) -> bool:
    aliases = [value.alias_info for value in func._schema.returns if value.alias_info is not None]
    return any(not alias.is_write for alias in aliases)


@cache
def name_of(func: Any) -> str:
    return str(func).removeprefix("aten.")


def line_of_the_package() -> str:
    """``room/file.py:line`` of the innermost frame that belongs to the package."""
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(PACKAGE):
            return f"{path.removeprefix(PACKAGE).lstrip('/')}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "outside the package"


def pinned(tensor: torch.Tensor, *_: Any) -> torch.Tensor:
    """A copy in memory that a device could read without the host."""
    copy = tensor.clone()
    copy.is_in_pinned_memory = True  # type: ignore[attr-defined]
    return copy


def device_aware_tensor(make: Any) -> Any:
    """``torch.tensor``, which does not go through the dispatcher to reach a device."""

    def tensor(data: Any, *, dtype: Any = None, device: Any = None, **others: Any) -> torch.Tensor:
        if device is None or torch.device(device).type != "cuda":
            return make(data, dtype=dtype, device=device, **others)
        LEDGER.wait("torch.tensor on the device")
        return DeviceTensor(make(data, dtype=dtype, **others))

    return tensor


def save_held(save: Any) -> Any:
    """``torch.save`` of the values, as if they had come from a device."""

    def save_values(tree: Any, *args: Any, **kwargs: Any) -> None:
        save(tree_map_only(DeviceTensor, lambda t: t.held, tree), *args, **kwargs)

    return save_values


def no_gradients(mode: bool = True) -> Any:
    """For ``torch.inference_mode``, whose tensors cannot be wrapped."""
    return torch.no_grad() if mode else nullcontext()


@contextmanager
def simulated_cuda(native_bf16: bool = True) -> Iterator[Ledger]:
    """For the duration there is a CUDA device, ``cuda:0``; yields its :class:`Ledger`.

    Args:
        native_bf16: whether it multiplies bf16 in hardware; a T4 does not.
    """
    LEDGER.take()
    replaced = {
        (torch.cuda, "is_available"): lambda: True,
        (torch.cuda, "is_bf16_supported"): lambda including_emulation=True: (
            native_bf16 or including_emulation
        ),
        (torch.cuda, "device_count"): lambda: 1,
        (torch.cuda, "current_device"): lambda: 0,
        (torch.cuda, "get_device_name"): lambda *_: "a simulated device",
        (torch.cuda, "get_device_properties"): lambda *_: SimpleNamespace(total_memory=16 * 2**30),
        (torch.cuda, "get_device_capability"): lambda *_: (7, 5) if not native_bf16 else (8, 0),
        (torch.cuda, "max_memory_allocated"): lambda *_: 0,
        (torch.cuda, "manual_seed_all"): lambda seed: None,
        (torch.cuda, "_lazy_init"): lambda: None,
        (torch.Tensor, "pin_memory"): pinned,
        (torch, "tensor"): device_aware_tensor(torch.tensor),
        (torch, "save"): save_held(torch.save),
        (torch, "inference_mode"): no_gradients,
        (torch.optim.Optimizer, "_accelerator_graph_capture_health_check"): lambda self: None,
        (torch.optim.Optimizer, "_cuda_graph_capture_health_check"): lambda self: None,
    }
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    with ExitStack() as stack:
        for (owner, name), value in replaced.items():
            if hasattr(owner, name):
                stack.enter_context(mock.patch.object(owner, name, value))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # made of operators that the CPU has
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(OnDevice())
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            yield LEDGER
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
