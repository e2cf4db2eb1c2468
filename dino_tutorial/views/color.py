"""Colour: jitter, grayscale and solarization, on float images in [0, 1].

Torchvision's formulas, with a factor for each sample. Brightness, contrast and saturation are one
operation, blend(image, base) = factor · image + (1 - factor) · base, clamped: the base is black,
the mean gray of the image, or the gray of each pixel.
"""

import torch
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)  # weights of red, green and blue in gray
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
SOLARIZE_THRESHOLD = 128 / 255


def grayscale(images: Tensor) -> Tensor:
    """The gray value of each pixel, (n, 3, H, W) -> (n, 1, H, W)."""
    red, green, blue = images.split(1, dim=1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def blend_(images: Tensor, kind: Tensor, factor: Tensor) -> Tensor:
    """Brightness, contrast or saturation, in place.

    images: (n, 3, H, W). kind: (n,) BRIGHTNESS, CONTRAST or SATURATION. factor: (n,); 1 changes
    nothing, 0 leaves only the base.
    """
    kind, factor = kind[:, None, None, None], factor[:, None, None, None]
    gray = grayscale(images)
    base = gray.mean(dim=(2, 3), keepdim=True) * (kind == CONTRAST)
    base = gray.mul_(kind == SATURATION).add_(base)
    return images.lerp_(base, 1 - factor).clamp_(0, 1)


def shift_hue_(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of each pixel, in place. shift: (n,) in turns of the colour circle.

    In hue, saturation and value each channel is max - chroma · t, where t rises from 0 to 1 as
    the hue moves from one sixth to two sixths of a turn away from the channel's own.
    """
    red, green, blue = images.split(1, dim=1)
    value = images.amax(dim=1, keepdim=True)
    chroma = value - images.amin(dim=1, keepdim=True)
    sixth = 1 / (6 * chroma.clamp(min=1e-8))
    hue = torch.where(
        value == red,
        (green - blue) * sixth,
        torch.where(value == green, (blue - red) * sixth + 1 / 3, (red - green) * sixth + 2 / 3),
    )
    own = torch.tensor([0, 1 / 3, 2 / 3], device=images.device).view(1, 3, 1, 1)
    turn = (hue + shift[:, None, None, None]) - own
    distance = turn.sub_(turn.round()).abs_()
    t = distance.mul_(6).sub_(1).clamp_(0, 1)
    return images.copy_(value).addcmul_(chroma, t, value=-1)


def color_jitter_(images: Tensor, factors: Tensor, order: Tensor, hue_step: int) -> Tensor:
    """The four adjustments in each sample's own order, in place.

    factors: (n, 4) brightness, contrast, saturation, hue. order: (n, 4), a permutation of 0 … 3
    for each sample, all with HUE at place `hue_step`.
    """
    chosen = factors.gather(1, order)
    for step in range(4):
        if step == hue_step:
            shift_hue_(images, factors[:, HUE])
        else:
            blend_(images, order[:, step], chosen[:, step])
    return images


def solarize(images: Tensor) -> Tensor:
    """Invert the pixels that are at least 128 / 255."""
    return torch.where(images >= SOLARIZE_THRESHOLD, 1 - images, images)
