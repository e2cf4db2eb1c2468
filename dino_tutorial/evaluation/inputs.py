"""What evaluations are handed: features and labels as tensors, whatever they come as."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dino_tutorial.errors import UserError

MOST_CLASSES = 2**20  # scores of so many classes still fit in memory for some images


def as_features(values: Any, what: str = "features") -> Tensor:
    """A floating-point tensor, without its history, of a tensor, an array or lists of numbers.

    Args:
        values: of any shape and any real type; whole numbers become float32.
        what: what to call them in an error.

    Raises:
        UserError: they are nothing of the kind.
    """
    tensor = _as_tensor(values, what, "a tensor, a numpy array or lists of numbers")
    return tensor if tensor.is_floating_point() else tensor.float()


def as_labels(values: Any, what: str = "labels") -> Tensor:
    """An int64 tensor of labels, which may come in any integer type, as lists, or as 3.0.

    Raises:
        UserError: they are nothing of the kind, or no whole numbers.
    """
    tensor = _as_tensor(values, what, "whole numbers, as a tensor, a numpy array or a list")
    if tensor.is_floating_point() and not (tensor == tensor.round()).all():
        raise UserError(f"{what} have to be whole numbers from 0, and some are not")
    return tensor.to(torch.int64)


def check_classes(n_classes: int) -> None:
    """Refuse labels that are numbers of something else, such as names of files."""
    if n_classes > MOST_CLASSES:
        raise UserError(
            f"a label is {n_classes - 1:,}: number the classes from 0, such as by "
            "torch.unique(labels, return_inverse=True)"
        )


def check_width(features: Tensor, weight: Tensor) -> None:
    """Refuse features of another encoder than a linear map was fitted to."""
    if features.shape[-1] != len(weight):
        raise UserError(
            f"features have {features.shape[-1]} dimensions, and these were fitted to "
            f"{len(weight)}: use the same encoder for both"
        )


def _as_tensor(values: Any, what: str, wanted: str) -> Tensor:
    try:
        if isinstance(values, np.ndarray):
            values = np.ascontiguousarray(values)  # torch takes no negative strides
        tensor = torch.as_tensor(values).detach()
    except (TypeError, ValueError, RuntimeError, OverflowError):
        tensor = None
    if tensor is None or tensor.is_complex():
        raise UserError(f"{what} have to be {wanted}, not {type(values).__name__}") from None
    return tensor
