"""The ten kinds of object, each drawn by a function of two local coordinates.

A figure is drawn in its own frame: `u` points forward, `v` to its left, one unit is its radius.
Each function returns a `Figure`: the signed distance to the outline (negative inside) and how much
of the second and third colour covers each point. Distances need only be right near the outline,
where they decide the antialiasing; `edge` is the width of a pixel in the same units.
"""

from __future__ import annotations

import math
from collections.abc import Callable
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


def ladybird(u: Tensor, v: Tensor, edge: Tensor) -> Figure:
    w = v.abs()
    body = circle(u, v, -0.08, 0, 0.82)
    head = circle(u, v, 0.68, 0, 0.33)
    spots = torch.minimum(circle(u, w, 0.3, 0.38, 0.23), circle(u, w, -0.2, 0.52, 0.24))
    spots = torch.minimum(spots, circle(u, w, -0.55, 0.2, 0.2))
    spots = torch.minimum(spots, w - 0.05)
    black = torch.minimum(spots, -body)
    eyes = circle(u, w, 0.82, 0.17, 0.08)
    return Figure(torch.minimum(body, head), inside(black, edge), inside(eyes, edge))


def starfish(u: Tensor, v: Tensor, edge: Tensor) -> Figure:
    x, y = fold(u, v, 5)
    outline = (x - 0.92) * 0.35 + y * 0.936 - 0.06
    outline = torch.maximum(outline, x - 0.98)
    bumps = torch.hypot(torch.remainder(x, 0.2) - 0.1, y) - 0.075
    ridge = torch.hypot(torch.remainder(x + 0.1, 0.2) - 0.1, y - 0.14) - 0.045
    return Figure(outline, inside(torch.minimum(bumps, ridge), edge), torch.zeros_like(u))


def gift(u: Tensor, v: Tensor, edge: Tensor) -> Figure:
    a, b = u.abs(), v.abs()
    corner = torch.hypot((a - 0.64).clamp(min=0), (b - 0.64).clamp(min=0)) - 0.08
    ribbon = torch.minimum(a, b) - 0.19
    bow = torch.hypot(a - 0.2, b - 0.2) - 0.2
    knot = (torch.hypot(a - 0.2, b - 0.2) - 0.1).abs() - 0.025
    return Figure(corner, inside(torch.minimum(ribbon, bow), edge), inside(knot, edge) * 0.8)


def bee(u: Tensor, v: Tensor, edge: Tensor) -> Figure:
    w = v.abs()
    body = ellipse(u, v, 0.92, 0.56)
    wings = circle(u, w, 0.12, 0.56, 0.38)
    bands = torch.minimum(stripes(u, 0.42, 0.2), 0.64 - u)
    outline = torch.minimum(body, wings)
    return Figure(
        outline,
        inside(torch.maximum(bands, body), edge),
        inside(-body, edge),
    )


def sunflower(u: Tensor, v: Tensor, edge: Tensor) -> Figure:
    x, y = fold(u, v, 11)
    petal = ellipse(x - 0.56, y, 0.4, 0.2)
    disc = torch.hypot(u, v) - 0.42
    seeds = torch.hypot(
        torch.remainder(u + 0.07, 0.14) - 0.07, torch.remainder(v + 0.07, 0.14) - 0.07
    )
    brown = inside(disc, edge)
    vein = inside(y - 0.015, edge) * inside(x - 0.85, edge) * (1 - brown) * 0.7
    return Figure(
        torch.minimum(petal, disc), brown, torch.maximum(vein, inside(seeds - 0.03, edge) * brown)
    )


def leaf(u: Tensor, v: Tensor, edge: Tensor) -> Figure:
    w = v.abs()
    blade = torch.hypot(u - 0.08, w + 0.42) - 0.98
    stalk = torch.maximum(w - 0.05, torch.maximum(-0.98 - u, u))
    veins = torch.minimum(stripes(u - 0.75 * w, 0.3, 0.07), w - 0.045)
    return Figure(torch.minimum(blade, stalk), inside(veins, edge), inside(-blade, edge))


def melon(u: Tensor, v: Tensor, edge: Tensor) -> Figure:
    rind = ellipse(u, v, 0.95, 0.74)
    longitude = v / (1.0 - (u * u * 1.0)).clamp(min=0.04).sqrt()
    wave = longitude + 0.05 * torch.sin(u * 17)
    bands = stripes(wave, 0.36, 0.17)
    return Figure(rind, inside(bands, edge), inside(circle(u, v, 0.9, 0, 0.09), edge))


def turtle(u: Tensor, v: Tensor, edge: Tensor) -> Figure:
    w = v.abs()
    shell = ellipse(u + 0.08, v, 0.72, 0.6)
    skin = torch.minimum(circle(u, v, 0.78, 0, 0.21), circle(u.abs(), w, 0.46, 0.56, 0.2))
    x, y = 8.4 * (u + 0.08), 4.85 * v
    hexagons = torch.cos(x) + 2 * torch.cos(0.5 * x) * torch.cos(1.732 * y)
    seams = torch.minimum((hexagons + 0.55) * 0.1, 0.1 + shell)
    return Figure(
        torch.minimum(shell, skin),
        inside(torch.maximum(seams, shell), edge),
        inside(-shell, edge),
    )


def fish(u: Tensor, v: Tensor, edge: Tensor) -> Figure:
    w = v.abs()
    body = torch.hypot(u - 0.2, w + 0.3) - 0.8
    tail = torch.maximum(0.66 * w + 0.75 * (u + 0.42), -0.95 - u)
    row = torch.floor(v / 0.2)
    x = torch.remainder(u / 0.26 + 0.5 * torch.remainder(row, 2), 1) - 0.5
    y = torch.remainder(v / 0.2, 1) - 0.5
    scales = ((torch.hypot(x, y) - 0.38).abs() - 0.12) * 0.2
    scales = torch.maximum(scales, u - 0.42)
    white = circle(u, v, 0.64, 0.1, 0.13)
    return Figure(
        torch.minimum(body, tail),
        torch.maximum(inside(scales, edge), inside(white, edge)),
        inside(white + 0.06, edge),
    )


def button(u: Tensor, v: Tensor, edge: Tensor) -> Figure:
    radius = torch.hypot(u, v)
    holes = torch.hypot(u.abs() - 0.21, v.abs() - 0.21) - 0.13
    rim = (radius - 0.6).abs() - 0.045
    return Figure(radius - 0.86, inside(rim, edge), inside(holes, edge))


FIGURES: tuple[Callable[[Tensor, Tensor, Tensor], Figure], ...] = (
    ladybird,
    starfish,
    gift,
    bee,
    sunflower,
    leaf,
    melon,
    turtle,
    fish,
    button,
)
