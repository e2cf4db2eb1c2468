"""Encoders, heads, and released weights in and out."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from dino_tutorial.errors import UserError
from dino_tutorial.models.convnet import RESNETS, ConvNet, SmallResNet
from dino_tutorial.models.encoder import Encoder
from dino_tutorial.models.heads import BYOLHead, DINOHead, ProjectionHead
from dino_tutorial.models.released import load_weights, pretrained, to_timm
from dino_tutorial.models.vit import (
    Features,
    VisionTransformer,
    vit_base,
    vit_giant,
    vit_large,
    vit_small,
    vit_tiny,
)
from dino_tutorial.options import takes

#: What :func:`build_encoder` builds, by name: ``model.arch`` is one of these.
ENCODERS: dict[str, Callable[..., Encoder]] = {
    "vit_tiny": vit_tiny,
    "vit_small": vit_small,
    "vit_base": vit_base,
    "vit_large": vit_large,
    "vit_giant": vit_giant,
    "resnet10": SmallResNet,
    **{arch: partial(ConvNet, arch) for arch in RESNETS},
}


@takes()
def build_encoder(arch: str, **overrides: Any) -> Encoder:
    """An untrained encoder by name.

    Args:
        arch: a key of ``ENCODERS``: "vit_tiny", ..., "resnet50".
        overrides: arguments of its class that replace the named ones.

    Returns:
        a module with ``embed_dim`` and ``forward(x) -> (B, embed_dim)``.

    Raises:
        UserError: ``arch`` or one of ``overrides`` is unknown.
    """
    if arch not in ENCODERS:
        raise UserError(f"arch={arch!r} is unknown: choose one of {', '.join(ENCODERS)}")
    named = ENCODERS[arch]
    model = VisionTransformer if arch.startswith("vit_") else getattr(named, "func", named)
    known = [name for name in inspect.signature(model).parameters if name != "arch"]
    unknown = [name for name in overrides if name not in known]
    if unknown:
        raise UserError(f"{arch} has no argument {', '.join(unknown)}: it takes {', '.join(known)}")
    return ENCODERS[arch](**overrides)


__all__ = [
    "ENCODERS",
    "BYOLHead",
    "ConvNet",
    "DINOHead",
    "Encoder",
    "Features",
    "ProjectionHead",
    "SmallResNet",
    "VisionTransformer",
    "build_encoder",
    "load_weights",
    "pretrained",
    "to_timm",
    "vit_base",
    "vit_giant",
    "vit_large",
    "vit_small",
    "vit_tiny",
]
