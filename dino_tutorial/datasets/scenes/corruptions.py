"""Ways to corrupt an image, each in five severities, after Hendrycks and Dietterich (ICLR 2019).

They work on any batch of square images, drawn or photographed, and are deterministic by seed.
Widths in pixels scale with the canvas, so that a severity means the same at 32 and at 224.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from dino_tutorial.errors import UserError
from dino_tutorial.options import takes, tensor, whole

#: How severe a corruption can be, from mild to hardly recognisable.
SEVERITIES = (1, 2, 3, 4, 5)


def _gaussian_noise(x: Tensor, severity: int, rng: torch.Generator) -> Tensor:
    sigma = (0.04, 0.08, 0.12, 0.18, 0.26)[severity - 1]
    return x + sigma * torch.randn(x.shape, generator=rng)


def _impulse_noise(x: Tensor, severity: int, rng: torch.Generator) -> Tensor:
    share = (0.01, 0.03, 0.06, 0.11, 0.17)[severity - 1]
    dice = torch.rand(x.shape, generator=rng)
    return torch.where(dice < share / 2, 0.0, torch.where(dice > 1 - share / 2, 1.0, x))


def _blur(x: Tensor, severity: int, rng: torch.Generator) -> Tensor:
    sigma = (0.015, 0.025, 0.04, 0.055, 0.08)[severity - 1] * x.shape[-1]
    radius = min(int(3 * sigma + 1), x.shape[-1] - 1)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    taps = (taps / taps.sum()).expand(3, 1, 1, -1)
    x = F.pad(x, (radius,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(x, taps, groups=3), taps.transpose(2, 3), groups=3)


def _pixelate(x: Tensor, severity: int, rng: torch.Generator) -> Tensor:
    side = x.shape[-1]
    few = max(2, round(side * (0.6, 0.45, 0.35, 0.28, 0.22)[severity - 1]))
    return F.interpolate(F.adaptive_avg_pool2d(x, few), size=side, mode="nearest")


def _contrast(x: Tensor, severity: int, rng: torch.Generator) -> Tensor:
    keep = (0.7, 0.55, 0.4, 0.28, 0.18)[severity - 1]
    mean = x.mean((2, 3), keepdim=True)
    return mean + keep * (x - mean)


def _brightness(x: Tensor, severity: int, rng: torch.Generator) -> Tensor:
    return x + (0.1, 0.18, 0.27, 0.36, 0.46)[severity - 1]


def _fog(x: Tensor, severity: int, rng: torch.Generator) -> Tensor:
    amount = (0.25, 0.38, 0.5, 0.62, 0.75)[severity - 1]
    cloud = sum(
        F.interpolate(
            torch.rand(len(x), 1, cells, cells, generator=rng),
            size=x.shape[-2:],
            mode="bilinear",
            align_corners=False,
        )
        / weight
        for cells, weight in ((3, 2), (6, 4), (12, 8))
    )
    thickness = amount * (0.5 + 0.6 * cloud)
    return x * (1 - thickness) + 0.9 * thickness


def _gray(x: Tensor, severity: int, rng: torch.Generator) -> Tensor:
    amount = severity / 5
    luma = (x * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    return x + amount * (luma - x)


def _occlude(x: Tensor, severity: int, rng: torch.Generator) -> Tensor:
    side = x.shape[-1]
    width = round(side * (0.15, 0.22, 0.3, 0.38, 0.46)[severity - 1])
    corner = (torch.rand(len(x), 2, generator=rng) * (side - width + 1)).to(torch.int64)
    axis = torch.arange(side)
    hit = (axis >= corner[..., None]) & (axis < corner[..., None] + width)  # (n, 2, S)
    square = hit[:, 0, :, None] & hit[:, 1, None, :]
    return torch.where(square[:, None], 0.5, x)


#: What :func:`corrupt` can do to images, by name: noise, blur, weather of light, occlusion.
CORRUPTIONS: dict[str, Callable[[Tensor, int, torch.Generator], Tensor]] = {
    "gaussian_noise": _gaussian_noise,
    "impulse_noise": _impulse_noise,
    "blur": _blur,
    "pixelate": _pixelate,
    "contrast": _contrast,
    "brightness": _brightness,
    "fog": _fog,
    "gray": _gray,
    "occlude": _occlude,
}


@takes(images=tensor("n>=0 3 S S", "uint8"), severity=whole(), seed=whole(0, 2**63 - 1))
def corrupt(
    images: UInt8[Tensor, "n 3 S S"], kind: str, severity: int, seed: int = 0
) -> UInt8[Tensor, "n 3 S S"]:
    """Corrupt images.

    Args:
        images: uint8 (n, 3, S, S).
        kind: a key of CORRUPTIONS.
        severity: 1 (slight) to 5 (hard to recognise).
        seed: of the noise, for the whole batch.

    Returns:
        uint8 (n, 3, S, S).

    Raises:
        UserError: no such kind or severity.
    """
    if not isinstance(kind, str) or kind not in CORRUPTIONS:
        raise UserError(f"there is no corruption {kind!r}; choose one of {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise UserError(f"the severity of {kind} goes from 1 to 5, not {severity}")
    rng = torch.Generator().manual_seed(seed)
    corrupted = CORRUPTIONS[kind](images.to(torch.float32) / 255, severity, rng)
    return corrupted.clamp(0, 1).mul(255).round().to(torch.uint8)
