"""Colour: jitter, grayscale and solarization, on float images in [0, 1].

Torchvision's formulas, with a factor for each sample. Brightness, contrast and saturation are one
operation, blend(image, base) = factor · image + (1 - factor) · base, clamped: the base is black,
the mean gray of the image, or the gray of each pixel.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)  # weights of red, green and blue in gray
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
SOLARIZE_THRESHOLD = 128 / 255


def grayscale(images: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 1 H W"]:
    """The gray value of each pixel, (n, 3, H, W) -> (n, 1, H, W)."""
    red, green, blue = images.split(1, dim=1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def blend_(
    images: Float[Tensor, "n 3 H W"], kind: Int[Tensor, " n"], factor: Float[Tensor, " n"]
) -> Float[Tensor, "n 3 H W"]:
    """Brightness, contrast or saturation, in place.

    Args:
        images: (n, 3, H, W).
        kind: (n,) BRIGHTNESS, CONTRAST or SATURATION.
        factor: (n,); 1 changes nothing, 0 leaves only the base.
    """
    kind, factor = kind[:, None, None, None], factor[:, None, None, None]
    gray = grayscale(images)
    base = gray.mean(dim=(2, 3), keepdim=True) * (kind == CONTRAST)
    base = gray.mul_(kind == SATURATION).add_(base)
    return images.lerp_(base, 1 - factor).clamp_(0, 1)


def shift_hue_(
    images: Float[Tensor, "n 3 H W"], shift: Float[Tensor, " n"]
) -> Float[Tensor, "n 3 H W"]:
    """Turn the hue of each pixel, in place.

    Angles are in sixths of a turn, from -3 to 3. The hue keeps the largest and the smallest of
    the three channels; a channel is at the largest within one sixth of its own angle, at the
    smallest from two sixths on, and linear between.

    Args:
        images: (n, 3, H, W).
        shift: (n,) in turns.
    """
    red, green, blue = images.split(1, dim=1)
    largest = images.amax(dim=1, keepdim=True)
    smallest = images.amin(dim=1, keepdim=True)
    chroma = largest - smallest
    inverse = chroma.clamp(min=1e-8).reciprocal_()

    # The angle without a case for each channel: with s = (green - blue) / chroma and
    # r = (largest - red) / chroma, its size is |s| + r · (3 - 2 |s|) and its sign that of s.
    s = (green - blue).mul_(inverse)
    r = (largest - red).mul_(inverse)
    angle = torch.copysign(torch.full_like(s, 3.0), s).sub_(s, alpha=2).mul_(r).add_(s)
    angle.add_(6 * shift[:, None, None, None])
    angle.sub_((angle / 6).round_().mul_(6))

    own = _angles(images.device)
    distance = (angle - own).abs_().sub_(3).abs_()  # 3 - distance to the channel's own angle
    torch.addcmul(smallest - chroma, chroma, distance.clamp_(1, 2), out=images)
    return images


def _angles(device: torch.device) -> Tensor:
    """Where red, green and blue lie on the colour circle, in sixths of a turn."""
    return (2.0 * torch.arange(-1, 2, device=device).roll(-1)).view(1, 3, 1, 1)


def color_jitter_(
    images: Float[Tensor, "n 3 H W"],
    factors: Float[Tensor, "n 4"],
    order: Int[Tensor, "n 4"],
    hue_step: int,
) -> Float[Tensor, "n 3 H W"]:
    """The four adjustments in each sample's own order, in place.

    Args:
        images: (n, 3, H, W).
        factors: (n, 4) brightness, contrast, saturation, hue.
        order: (n, 4), a permutation of 0 … 3 for each sample, all with HUE at place ``hue_step``.
        hue_step: 0 … 3.
    """
    chosen = factors.gather(1, order)
    for step in range(4):
        if step == hue_step:
            shift_hue_(images, factors[:, HUE])
        else:
            blend_(images, order[:, step], chosen[:, step])
    return images


def solarize(images: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 H W"]:
    """Invert the pixels that are at least 128 / 255."""
    return torch.where(images >= SOLARIZE_THRESHOLD, 1 - images, images)
