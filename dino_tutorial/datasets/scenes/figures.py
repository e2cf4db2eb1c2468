"""What figures are drawn with: signed distances in an object's own frame.

A figure is drawn in its own frame: `u` points forward, `v` to its left, one unit is its radius.
Each figure function returns a `Figure`: the signed distance to the outline (negative inside) and
how much of the second and third paint covers each point. Distances need only be right near the
outline, where they decide the antialiasing; `edge` is the width of a pixel in the same units.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Figure(NamedTuple):
    """What a figure function returns; each is a map (n, H, W)."""

    distance: Tensor
    second: Tensor
    third: Tensor


def inside(distance: Tensor, edge: Tensor) -> Tensor:
    """How much of a pixel lies inside an outline, 0 to 1."""
    return (0.5 - distance / edge).clamp_(0, 1)


def circle(u: Tensor, v: Tensor, cu: float, cv: float, radius: float) -> Tensor:
    return torch.hypot(u - cu, v - cv) - radius


def ellipse(u: Tensor, v: Tensor, a: float, b: float) -> Tensor:
    return (torch.hypot(u / a, v / b) - 1) * min(a, b)


def stripes(x: Tensor, period: float, width: float) -> Tensor:
    """Distance to the nearest of parallel bars, one at every multiple of `period`."""
    return (torch.remainder(x + period / 2, period) - period / 2).abs() - width / 2


def fold(u: Tensor, v: Tensor, sectors: int) -> tuple[Tensor, Tensor]:
    """Fold the plane into one sector of a rotational symmetry: (along its axis, across it)."""
    step = 2 * math.pi / sectors
    radius = torch.hypot(u, v)
    angle = (torch.remainder(torch.atan2(v, u) + step / 2, step) - step / 2).abs()
    return radius * angle.cos(), radius * angle.sin()
