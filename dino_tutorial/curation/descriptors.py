"""What tells copies of an image from other images: a perceptual hash and small pixels.

Networks like DINO's are trained to ignore what makes two images of one kind of thing differ, so
their features are poor at telling copies. DINOv2 takes the copy-detection network SSCD for it;
here small standardised pixels, whitened over the pool (`whitening.py`), take its place.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Real
from torch import Tensor

from dino_tutorial.options import takes, tensor

SIDE = 16  # px of the small image that describes an image
GRAY = (0.299, 0.587, 0.114)
HASH_CANVAS, HASH_SIDE = 32, 8  # px; lowest frequencies kept each way


@takes(images=tensor("B>=0 3 H W", "real"))
def perceptual_hash(images: Real[Tensor, "B 3 H W"]) -> Int[Tensor, " B"]:
    """64 bits that stay the same when an image is scaled, recompressed or saved again.

    The image is made gray and 32 x 32 px; of its discrete cosine transform, the 8 x 8 lowest
    frequencies are compared with their median, the mean brightness left out (pHash, Zauner 2010).

    Args:
        images: uint8 (B, 3, H, W).

    Returns:
        int64 (B,). Images with equal hashes look alike; flat ones all have the same hash.
    """
    gray = (images.float() * torch.tensor(GRAY, device=images.device)[:, None, None]).sum(1)
    small = F.interpolate(
        gray[:, None],
        size=(HASH_CANVAS, HASH_CANVAS),
        mode="bilinear",
        antialias=True,
        align_corners=False,
    )[:, 0]
    basis = cosines(HASH_CANVAS, HASH_SIDE).to(images.device)
    low = (basis @ small @ basis.T).flatten(1)
    low[:, 0] = 0  # the mean
    # A flat image has only rounding errors left; their signs would be noise.
    bits = (low > low[:, 1:].median(dim=1, keepdim=True).values) & (low.abs() > 1e-2)
    weights = torch.ones(64, dtype=torch.int64, device=images.device) << torch.arange(
        64, device=images.device
    )
    return (bits * weights).sum(1)


@takes(images=tensor("B>=0 3 H W", "real"))
def copy_descriptors(images: Real[Tensor, "B 3 H W"]) -> Float[Tensor, "B 768"]:
    """An image reduced to 16 x 16 px, each colour channel with mean 0 and variance 1, flattened.

    Brightness and contrast of the channels drop out; what lies where stays.

    Args:
        images: uint8 (B, 3, H, W).

    Returns:
        float32 (B, 768); all zero for an image of a single colour.
    """
    small = F.adaptive_avg_pool2d(images.float(), SIDE)
    centred = small - small.mean((2, 3), keepdim=True)
    spread = centred.square().mean((2, 3), keepdim=True).sqrt()
    # Less than a gray level is nothing but rounding.
    return torch.where(spread > 0.5, centred / spread.clamp_min(0.5), 0).flatten(1)


def cosines(n: int, lowest: int) -> Tensor:
    """The first rows of the orthonormal discrete cosine transform (type II), (lowest, n)."""
    frequency, place = torch.arange(lowest)[:, None], torch.arange(n) + 0.5
    basis = torch.cos(math.pi / n * frequency * place) * math.sqrt(2 / n)
    basis[0] /= math.sqrt(2)
    return basis
