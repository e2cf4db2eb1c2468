"""Losses are computed in float32, whatever the networks were run in."""

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """A tensor of half precision in float32, and any other as it is.

    Similarities are divided by temperatures of a tenth and less before a softmax: of bf16's three
    decimal digits one would be left.
    """
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
