"""Crop-and-resize and blur: both replace each row of pixels by a weighted sum of a few rows.

Such a sum, with its own rows and weights for each output row, is what an embedding bag computes.
So a crop is two bags, one along each axis, and so is a blur. Each axis costs a handful of
multiplications a pixel, whatever the size of the image, and a flip costs nothing: it reverses the
positions that the bags belong to.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Real
from torch import Tensor

CUBIC_SUPPORT = 2  # the bicubic kernel reaches two (input or output, the coarser) pixels
BLOCK = 32  # pixels of a column that lie together, so that a crop reads only its own part


def column_blocks(images: Real[Tensor, "B 3 H W"]) -> Float[Tensor, "B W blocks 3 rows"]:
    """Lay images out by pixel column, in blocks of rows: what :func:`resized_crop` reads.

    Args:
        images: (B, 3, H, W), uint8, or float in [0, 1].

    Returns:
        float32 (B, W, blocks, 3, rows) in [0, 1] with rows = min(BLOCK, H), the last block filled
        up with zeros.
    """
    rows = min(BLOCK, images.shape[2])
    images = F.pad(images, (0, 0, 0, -images.shape[2] % rows))
    columns = images.unflatten(2, (-1, rows)).permute(0, 4, 2, 1, 3)
    columns = columns.to(torch.float32, memory_format=torch.contiguous_format)
    return columns.div_(255) if images.dtype == torch.uint8 else columns.contiguous()


def resized_crop(
    columns: Float[Tensor, "B W blocks 3 rows"],
    source: Int[Tensor, " n"],
    boxes: Int[Tensor, "n 4"],
    flip: Bool[Tensor, " n"],
    size: int,
    taps: int,
    blocks: int,
) -> Float[Tensor, "n 3 S S"]:
    """Cut boxes out of images and resize them to size × size, bicubic and antialiased as in PIL.

    Args:
        columns: the images, as :func:`column_blocks` gives.
        source: (n,) int64, the image of each crop.
        boxes: (n, 4) top, left, height, width.
        flip: (n,) bool, mirror the crop left-right.
        size: of the crops, in pixels.
        taps, blocks: upper bounds for these boxes, as :func:`max_taps` and :func:`max_blocks` give.

    Returns:
        (n, 3, size, size), not clamped: bicubic overshoots.
    """
    top, left, height, width = boxes.int().unbind(1)
    n, (_, image_width, image_blocks, _, block) = len(boxes), columns.shape
    first = (top // block).clamp(max=image_blocks - blocks)  # block that the window starts with

    index, weight = cubic_taps(width, size, taps, flip)  # along the width: sums of columns
    index = (index + (source.int() * image_width + left)[:, None, None]) * image_blocks
    index = index[:, :, None] + (first[:, None] + _arange(blocks, first))[:, None, :, None]
    weight = weight[:, :, None].expand(index.shape)
    narrow = _bags(columns.flatten(0, 2).flatten(1), index, weight)

    rows = narrow.view(n, size, blocks, 3, block).permute(0, 2, 4, 3, 1).reshape(-1, 3 * size)
    index, weight = cubic_taps(height, size, taps)  # along the height: sums of rows
    index = index + (_arange(n, top) * (blocks * block) + top - first * block)[:, None, None]
    return _bags(rows, index, weight).view(n, size, 3, size).transpose(1, 2)


def max_taps(boxes: Int[Tensor, "n 4"], size: int) -> int:
    """The most pixels that one output pixel depends on, for boxes (n, 4) on the host."""
    longest = int(boxes[:, 2:].max())
    return min(longest, math.ceil(2 * CUBIC_SUPPORT * max(longest / size, 1.0)) + 1)


def max_blocks(boxes: Int[Tensor, "n 4"], height: int) -> int:
    """The most blocks that one box reaches over, for boxes (n, 4) on the host."""
    block = min(BLOCK, height)
    last = (boxes[:, 0] + boxes[:, 2] - 1) // block
    return int((last - boxes[:, 0] // block).max()) + 1


def cubic_taps(
    length: Real[Tensor, " n"], size: int, taps: int, flip: Bool[Tensor, " n"] | None = None
) -> tuple[Int[Tensor, "n size taps"], Float[Tensor, "n size taps"]]:
    """Which pixels count for each output pixel, and how much, when a side is resized.

    When the side shrinks, the kernel is stretched by the scale.

    Args:
        length: (n,) sides in pixels.
        size: of the output, in pixels.
        taps: upper bound of the pixels that count.
        flip: (n,) bool, mirror the output.

    Returns:
        (n, size, taps) int32 indices in 0 … length - 1, and float32 weights that sum to 1.
    """
    length = length.float()[:, None, None]
    scale = length / size
    stretch = scale.clamp(min=1)
    position = _arange(size, length)[:, None].expand(len(length), size, 1)
    if flip is not None:
        position = torch.where(flip[:, None, None], size - 1 - position, position)
    center = (position + 0.5) * scale
    first = (center - CUBIC_SUPPORT * stretch + 0.5).floor().clamp_(min=0)
    index = first + _arange(taps, length)
    weight = _cubic((index - (center - 0.5)).div_(stretch))
    weight.mul_((length - index).clamp_(0, 1))  # 0 past the end of the box, 1 inside
    weight.div_(weight.sum(dim=2, keepdim=True))
    return index.minimum(length - 1).int(), weight


def gaussian_blur(
    images: Float[Tensor, "n 3 H W"],
    which: Int[Tensor, " m"],
    sigma: Float[Tensor, " m"],
    radius: int,
) -> Float[Tensor, "m 3 H W"]:
    """Blur some images, each with its own Gaussian; the border is repeated outward, as in PIL.

    Args:
        images: (n, 3, H, W).
        which: (m,) int64, the images to blur.
        sigma: (m,) in pixels, positive.
        radius: distance in pixels at which the kernels are cut off.

    Returns:
        (m, 3, H, W).
    """
    m = len(which)
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=torch.int32)
    weight = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    weight = (weight / weight.sum(dim=1, keepdim=True))[:, None, None]
    blurred = _sum_rows(images, which.int(), offsets, weight).transpose(2, 3)
    return _sum_rows(blurred, _arange(m, offsets), offsets, weight).transpose(2, 3)


def _sum_rows(images: Tensor, which: Tensor, offsets: Tensor, weight: Tensor) -> Tensor:
    """Of images (m,) out of (n, 3, H, W), the weighted sums of the rows around each row."""
    length = images.shape[2]
    index = (_arange(length, offsets)[:, None] + offsets).clamp_(0, length - 1)
    first = (which[:, None] * 3 + _arange(3, which)) * length  # row of each channel, (m, 3)
    index = index + first[..., None, None]
    blurred = _bags(images.reshape(-1, images.shape[3]), index, weight.expand(index.shape))
    return blurred.view(len(which), *images.shape[1:])


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic kernel with a = -1/2, which PIL uses.

    With n = max(1 - |x|, 0) and m = max(2 - |x|, 0), both of its pieces in one expression.
    """
    m = (2 - x.abs()).clamp_(min=0)
    n = (m - 1).clamp_(min=0)
    return (m * m).mul_(m - 1).mul_(0.5).add_((1 - 2 * n).mul_(n).mul_(n))


def _arange(n: int, like: Tensor) -> Tensor:
    return torch.arange(n, device=like.device, dtype=like.dtype)


def _bags(rows: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """out[i] = sum over k of weight[i, k] · rows[index[i, k]]; index (..., K) -> (bags, width).

    Indices are int32, which halves their memory; they count rows, so 2^31 rows is the limit.
    """
    taps = index.shape[-1]
    return F.embedding_bag(
        index.reshape(-1, taps),
        rows,
        per_sample_weights=weight.reshape(-1, taps),
        mode="sum",
    )
