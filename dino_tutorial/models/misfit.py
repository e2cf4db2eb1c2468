"""What keeps a state dict from fitting a module, in words."""

from collections.abc import Mapping

from torch import Tensor

SHOWN = 4  # names of each kind


def misfit(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """What is missing, unexpected or of another shape; empty if nothing is.

    Args:
        state: what is to be loaded.
        own: the state dict of the module.
    """
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    reshaped = [
        f"{name} ({_size(state[name])} instead of {_size(own[name])})"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    return "; ".join(f"{_first(names)} {kind}" for kind, names in problems.items() if names)


def _first(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more + (" are" if len(names) > 1 else " is")


def _size(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))
