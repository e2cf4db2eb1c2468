"""Colours by hue, saturation and value; or by lightness, chroma and hue in Oklab (Ottosson 2020).

In Oklab a colour is as light to the eye as it says, whatever its hue: so a light pattern on a dark
ground is one in any colour, and in gray.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_TO_LMS = torch.tensor(
    [
        [1, 0.3963377774, 0.2158037573],
        [1, -0.1055613458, -0.0638541728],
        [1, -0.0894841775, -1.2914855480],
    ]
)
_TO_RGB = torch.tensor(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def oklch_to_rgb(lightness: Tensor, chroma: Tensor, hue: Tensor) -> Tensor:
    """(n,) in [0, 1], (n,) from 0 to about .3, (n,) turns -> sRGB (n, 3), clipped to the gamut."""
    angle = hue * (2 * math.pi)
    lab = torch.stack((lightness, chroma * angle.cos(), chroma * angle.sin()), 1)
    linear = ((lab @ _TO_LMS.T) ** 3 @ _TO_RGB.T).clamp(0, 1)
    return torch.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp(min=1e-6) ** (1 / 2.4) - 0.055
    )


def hsv_to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """(n,) turns, (n,) and (n,) in [0, 1] -> (n, 3)."""
    k = torch.remainder(torch.tensor([5.0, 3.0, 1.0]) + hue[:, None] * 6, 6)
    chroma = torch.minimum(k, 4 - k).clamp(0, 1)
    return value[:, None] * (1 - saturation[:, None] * chroma)
