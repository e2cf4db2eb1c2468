"""Crop-and-resize and blur: both replace each row of pixels by a weighted sum of a few rows.

Such a sum, with its own rows and weights for each output row, is what an embedding bag computes.
So a crop is two bags, one along each axis, and so is a blur; a flip is a reversed list of bags.
Each axis costs a handful of multiplications a pixel, whatever the size of the image.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

CUBIC_SUPPORT = 2.0  # the bicubic kernel reaches two (input or output, the coarser) pixels


def resized_crop(
    columns: Tensor, source: Tensor, boxes: Tensor, flip: Tensor, size: int, taps: int
) -> Tensor:
    """Cut boxes out of images and resize them to size × size, bicubic and antialiased as in PIL.

    columns: (B, W, 3, H) float images, each pixel column in one piece, as `image_columns` gives.
    source: (n,) int64, the image that each crop is taken from.
    boxes: (n, 4) top, left, height, width. flip: (n,) bool, mirror the crop left-right.
    taps: how many pixels may count for one output pixel, `max_taps(longest side, size)`.
    Returns (n, 3, size, size), not clamped: bicubic overshoots.
    """
    top, left, height, width = boxes.unbind(1)
    b, w, c, h = columns.shape
    index, weight = cubic_taps(width, size, taps)
    index = index + (left + source * w)[:, None, None]
    index = torch.where(flip[:, None, None], index.flip(1), index)
    weight = torch.where(flip[:, None, None], weight.flip(1), weight)
    narrow = _bags(columns.view(b * w, c * h), index, weight)  # (n · size, 3 · H)

    n = len(boxes)
    rows = narrow.view(n, size, c, h).permute(0, 2, 3, 1).contiguous()  # (n, 3, H, size)
    index, weight = cubic_taps(height, size, taps)
    index = (index + top[:, None, None])[:, None] + _starts(n, c, h, index.device)
    weight = weight[:, None].expand(index.shape)
    return _bags(rows.view(-1, size), index, weight).view(n, c, size, size)


def image_columns(images: Tensor) -> Tensor:
    """(B, 3, H, W) images, uint8 or float, as float32 (B, W, 3, H) in [0, 1]."""
    columns = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    return columns.div_(255) if images.dtype == torch.uint8 else columns


def max_taps(longest: int, size: int) -> int:
    """The most input pixels that one output pixel can depend on, for sides up to `longest`."""
    return min(longest, math.ceil(2 * CUBIC_SUPPORT * max(longest / size, 1.0)) + 1)


def cubic_taps(length: Tensor, size: int, taps: int) -> tuple[Tensor, Tensor]:
    """Which pixels count for each output pixel, and how much, when a side is resized.

    length: (n,) sides in pixels. Returns (n, size, taps) int64 indices in 0 … length - 1 and
    float32 weights that sum to 1. When the side shrinks, the kernel is stretched by the scale.
    """
    length = length.float()[:, None, None]
    scale = length / size
    stretch = scale.clamp(min=1)
    center = (torch.arange(size, device=length.device) + 0.5)[None, :, None] * scale
    first = (center - CUBIC_SUPPORT * stretch + 0.5).floor().clamp(min=0)
    index = first + torch.arange(taps, device=length.device)
    weight = _cubic((index + 0.5 - center) / stretch) * (index < length)
    weight = weight / weight.sum(dim=2, keepdim=True)
    return index.minimum(length - 1).long(), weight


def gaussian_blur(images: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Blur each image with its own Gaussian; the border pixels are repeated outward, as in PIL.

    images: (n, 3, H, W). sigma: (n,) in pixels, positive. radius: where the kernel is cut off.
    """
    n, c, h, w = images.shape
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    weight = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    weight = (weight / weight.sum(dim=1, keepdim=True))[:, None, None]

    def blur_rows(rows: Tensor, length: int, width: int) -> Tensor:
        index = (torch.arange(length, device=images.device)[:, None] + offsets)
        index = index.clamp(0, length - 1) + _starts(n, c, length, images.device)
        blurred = _bags(rows.reshape(-1, width), index, weight.expand(index.shape))
        return blurred.view(n, c, length, width)

    vertical = blur_rows(images, h, w)
    return blur_rows(vertical.transpose(2, 3), w, h).transpose(2, 3)


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -1/2, which PIL uses."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _starts(n: int, channels: int, length: int, device: torch.device) -> Tensor:
    """The number of the first row of each channel of each image, (n, channels, 1, 1)."""
    return (torch.arange(n * channels, device=device) * length).view(n, channels, 1, 1)


def _bags(rows: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """out[i] = sum over k of weight[i, k] · rows[index[i, k]]; index (..., K) -> (prod, width)."""
    taps = index.shape[-1]
    return F.embedding_bag(
        index.reshape(-1, taps).int(), rows,
        per_sample_weights=weight.reshape(-1, taps), mode="sum",
    )
