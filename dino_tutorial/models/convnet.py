"""Residual networks (He et al., 2016) from torchvision's parts, without their classifier.

torchvision, which takes seconds, is imported by the networks that are made of it.
"""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dino_tutorial.errors import UserError
from dino_tutorial.models.encoder import Encoder, check_batches, check_images
from dino_tutorial.options import numbers, whole

RESNETS = ("resnet18", "resnet34", "resnet50")


class ConvNet(Encoder):
    """A residual network that ends in its average-pooled features.

    Args:
        arch: "resnet18", "resnet34" or "resnet50".
        small_images: replace the first layers, which divide the image by 4, with one 3x3
            convolution of stride 1, as is usual for images of 32 pixels.

    ``embed_dim`` is the feature width D: 512, or 2048 for resnet50.

    Raises:
        UserError: ``arch`` is unknown.
    """

    def __init__(self, arch: str = "resnet50", small_images: bool = False) -> None:
        super().__init__()
        if arch not in RESNETS:
            raise UserError(f"arch={arch!r} is unknown: choose one of {', '.join(RESNETS)}")
        from torchvision.models import get_model

        self.trunk = get_model(arch, weights=None)
        self.embed_dim = self.trunk.fc.in_features
        self.trunk.fc = nn.Identity()
        if small_images:
            self.trunk.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
            nn.init.kaiming_normal_(self.trunk.conv1.weight, mode="fan_out", nonlinearity="relu")
            self.trunk.maxpool = nn.Identity()

    def forward(
        self, x: Float[Tensor, "B 3 H W"] | Sequence[Float[Tensor, "_ 3 _ _"]]
    ) -> Float[Tensor, "_ D"]:
        """Images (B, 3, H, W) to features (B, D); several batches give (sum of B, D)."""
        if not isinstance(x, Tensor):
            check_batches(x)
            return torch.cat([self(batch) for batch in x])
        check_images(x, self.trunk.conv1.weight, 3)
        return self.trunk(x)


class SmallResNet(Encoder):
    """A residual network for images of 32 pixels on a processor without an accelerator.

    A convolution of stride 2, then one block of two 3x3 convolutions for each width; each width
    after the first halves the map again. With 1.2 million parameters, an image of 32x32 pixels
    takes 16 million multiplications, where resnet18 with ``small_images`` takes 560 million.

    Args:
        widths: channels of each stage; the last is the feature width D.
    """

    def __init__(self, widths: Sequence[int] = (32, 64, 128, 256)) -> None:
        super().__init__()
        numbers(whole(1, 2**16))("widths", widths)
        first, self.embed_dim = widths[0], widths[-1]
        self.stem = nn.Sequential(
            nn.Conv2d(3, first, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(inplace=True),
        )
        steps = zip((first, *widths[:-1]), widths, strict=True)
        self.stages = nn.Sequential(*(_stage(i, o) for i, o in steps))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.to(memory_format=torch.channels_last)

    def forward(
        self, x: Float[Tensor, "B 3 H W"] | Sequence[Float[Tensor, "_ 3 _ _"]]
    ) -> Float[Tensor, "_ D"]:
        """Images (B, 3, H, W) to features (B, D); several batches give (sum of B, D)."""
        if not isinstance(x, Tensor):
            check_batches(x)
            return torch.cat([self(batch) for batch in x])
        check_images(x, cast(Tensor, self.stem[0].weight), 3)
        x = x.contiguous(memory_format=torch.channels_last)
        return self.stages(self.stem(x)).mean(dim=(2, 3))


def _stage(width_in: int, width_out: int) -> nn.Module:
    from torchvision.models.resnet import BasicBlock

    if width_in == width_out:
        return BasicBlock(width_in, width_out)
    shortcut = nn.Sequential(
        nn.Conv2d(width_in, width_out, 1, stride=2, bias=False), nn.BatchNorm2d(width_out)
    )
    return BasicBlock(width_in, width_out, stride=2, downsample=shortcut)
