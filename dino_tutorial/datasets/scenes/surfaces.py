"""The table under the objects: sand, wood, cloth, tiles or stone.

Each material is a recipe over two smooth random fields, which are interpolated from a small
lattice of hashed integers. A recipe gives a tone (0 dark paint to 1 light paint) and a relief.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from dino_tutorial.datasets.scenes.factors import FULL


def _sample(lattice: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Look the lattice (n, L, L) up at u, v (n, H, W), where 2 is once across;
    it is continued by its mirror image."""
    grid = torch.stack((u, v), 3)
    return F.grid_sample(
        lattice[:, None], grid, mode="bilinear", padding_mode="reflection", align_corners=True
    )[:, 0]


def surface_tone(
    factors: dict[str, Tensor], lattice: Tensor, x: Tensor, y: Tensor, pixel: float, most: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Tone in [0, 1], relief in canvas units and brightness about 1, (n, H, W) each.

    Args:
        lattice: int64 (n, L, L) in [0, FULL).
        x, y: canvas coordinates that broadcast to (1, H, W).
        pixel: width of a pixel in canvas units.
        most: how far the brightness may be from 1.
    """
    values = lattice.to(torch.float32) / FULL
    smooth = F.interpolate(values[:, None], scale_factor=4, mode="bicubic")[:, 0].clamp_(0, 1)
    angle = factors["surface_angle"].view(-1, 1, 1) * (2 * math.pi / FULL)
    zoom = 0.8 + 0.6 * factors["surface_scale"].view(-1, 1, 1) / FULL
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    u, v = x * cos + y * sin, y * cos - x * sin
    tone, relief = torch.empty_like(u), torch.empty_like(u)
    for kind, recipe in enumerate((_sand, _wood, _cloth, _tiles, _stone)):
        rows = (factors["surface"] == kind).nonzero()[:, 0]
        if len(rows):
            tone[rows], relief[rows] = recipe(smooth[rows], u[rows], v[rows], pixel)
    strength = 0.2 + 0.8 * factors["dapple"].view(-1, 1, 1) / FULL
    spots = _sample(smooth, u * (0.14 / zoom), v * (0.14 / zoom))
    dapple = 1 + most * strength * (2 * spots - 1)
    return tone.clamp_(0, 1), relief, dapple


def _line(x: Tensor, period: float, width: float, pixel: float) -> Tensor:
    """1 on lines at multiples of `period`, 0 between them."""
    distance = (torch.remainder(x + period / 2, period) - period / 2).abs() - width / 2
    return (0.5 - distance / (1.5 * pixel)).clamp_(0, 1)


def _sand(field: Tensor, u: Tensor, v: Tensor, pixel: float) -> tuple[Tensor, Tensor]:
    dunes = _sample(field, u * 0.3, v * 0.3)
    grain = _sample(field, u * 3.1 + 0.3, v * 3.1)
    ripple = torch.sin((v + 0.35 * dunes) * 26) * 0.5 + 0.5
    return 0.5 * dunes + 0.3 * grain + 0.2 * ripple, 0.02 * ripple + 0.01 * grain


def _wood(field: Tensor, u: Tensor, v: Tensor, pixel: float) -> tuple[Tensor, Tensor]:
    broad = _sample(field, u * 0.07, v * 0.6)
    fibre = _sample(field, u * 0.2 + 0.5, v * 3.0)
    rings = torch.sin((v * 1.2 + broad * 2.2) * 12) * 0.5 + 0.5
    gap = _line(v, 0.7, 0.03, pixel)
    return (0.25 + 0.4 * rings * broad + 0.4 * fibre) * (1 - 0.8 * gap), -0.03 * gap


def _cloth(field: Tensor, u: Tensor, v: Tensor, pixel: float) -> tuple[Tensor, Tensor]:
    fold = _sample(field, u * 0.16, v * 0.16)
    weave = torch.sin(u * 44) * torch.sin(v * 44)
    check = (_line(u, 0.62, 0.2, pixel) + _line(v, 0.62, 0.2, pixel)) * 0.3
    return 0.25 + check + 0.12 * weave + 0.2 * fold, 0.25 * fold + 0.004 * weave


def _tiles(field: Tensor, u: Tensor, v: Tensor, pixel: float) -> tuple[Tensor, Tensor]:
    joint = torch.maximum(_line(u, 0.8, 0.05, pixel), _line(v, 0.8, 0.05, pixel))
    glaze = _sample(field, torch.floor(u / 0.8 + 0.5) * 0.37, torch.floor(v / 0.8 + 0.5) * 0.37)
    cloud = _sample(field, u * 0.5, v * 0.5)
    return (0.35 + 0.6 * glaze * 0.7 + 0.3 * cloud) * (1 - 0.7 * joint), -0.02 * joint


def _stone(field: Tensor, u: Tensor, v: Tensor, pixel: float) -> tuple[Tensor, Tensor]:
    cloud = _sample(field, u * 0.35, v * 0.35)
    speck = _sample(field, u * 2.3, v * 2.3 + 0.4)
    vein = 1 - ((_sample(field, u * 0.25 + 0.4, v * 0.25) - 0.5).abs() * 14).clamp_(max=1)
    return 0.2 + 0.45 * cloud + 0.3 * speck + 0.25 * vein, 0.015 * speck
