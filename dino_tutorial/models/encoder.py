"""What all encoders have in common, for those who build on one."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from dino_tutorial.errors import UserError
from dino_tutorial.options.arguments import shown


class Encoder(nn.Module):
    """A network from images to features, one vector an image.

    Called with images (B, 3, H, W) it returns (B, D); with several such batches, each of its own
    size, (sum of B, D) in their order.

    Attributes:
        embed_dim: D, the width of the features.
    """

    embed_dim: int


def check_images(x: object, weight: Tensor, channels: int) -> None:
    """Refuse what is no batch of images that a network of this weight can take.

    Raises:
        UserError: it is no tensor (B, C, H, W) in floating point, or lies on another device, or
            has another precision.
    """
    if not isinstance(x, Tensor):
        raise UserError(
            f"the model wants images (B, {channels}, H, W) as a tensor, or a list of such, not "
            f"{shown(x)}"
        )
    if x.ndim != 4 or x.shape[1] != channels or 0 in x.shape:
        raise UserError(
            f"the model wants images (B, {channels}, H, W), not {tuple(x.shape)}: stack single "
            "images, and repeat a gray channel"
        )
    if not x.is_floating_point():
        raise UserError(
            f"the model wants normalised images, not {x.dtype}: "
            "dino_tutorial.evaluation.normalize makes them of uint8"
        )
    check_beside(x, weight, "images")


def check_beside(x: Tensor, weight: Tensor, what: str) -> None:
    """Refuse a tensor that cannot be multiplied with a weight, for where it lies or its type."""
    if x.device != weight.device:
        raise UserError(
            f"the {what} lie on {x.device} and the model on {weight.device}: bring them to one "
            "device with .to(...)"
        )
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        raise UserError(
            f"the {what} are of {x.dtype} and the model of {weight.dtype}: convert them with "
            f".to({weight.dtype})"
        )


def check_batches(x: object) -> None:
    """Refuse what is no list of batches."""
    listed = isinstance(x, list | tuple) and len(x) > 0
    if not listed or not all(isinstance(batch, Tensor) for batch in cast(Sequence[object], x)):
        raise UserError(
            f"the model wants images (B, C, H, W) as a tensor, or a list of such, not {shown(x)}"
        )
