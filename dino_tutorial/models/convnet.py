"""Residual networks (He et al., 2016) from torchvision, without their classifier."""

from collections.abc import Sequence

import torch
import torchvision
from torch import Tensor, nn

from dino_tutorial.errors import UserError

RESNETS = ("resnet18", "resnet34", "resnet50")


class ConvNet(nn.Module):
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
            raise UserError(f"arch={arch!r} is unknown: choose one of {', '.join(RESNETS)}.")
        self.trunk = torchvision.models.get_model(arch, weights=None)
        self.embed_dim = self.trunk.fc.in_features
        self.trunk.fc = nn.Identity()
        if small_images:
            self.trunk.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
            nn.init.kaiming_normal_(self.trunk.conv1.weight, mode="fan_out", nonlinearity="relu")
            self.trunk.maxpool = nn.Identity()

    def forward(self, x: Tensor | Sequence[Tensor]) -> Tensor:
        """Images (B, 3, H, W) to features (B, D); several batches give (sum of B, D)."""
        if not isinstance(x, Tensor):
            return torch.cat([self.trunk(batch) for batch in x])
        return self.trunk(x)
