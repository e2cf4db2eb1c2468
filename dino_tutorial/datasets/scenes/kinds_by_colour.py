"""Scenes whose kinds are told by colour more than by form: the tables are gray, kinds have hues."""

from __future__ import annotations

import torch
from torch import Tensor

from dino_tutorial.datasets.scenes.factors import PATCHES, Factors, between
from dino_tutorial.datasets.scenes.figures import Figure, circle, ellipse, fold, inside, stripes
from dino_tutorial.datasets.scenes.look import DrawFigure, Look
from dino_tutorial.datasets.scenes.paints import hsv_to_rgb

# Hue of each class's first paint, in turns. Most hues are shared by several classes, and the two
# other paints are dark or pale whatever the class, so that colour alone cannot tell classes apart.
RED, YELLOW, GREEN, BLUE, PURPLE = 0.99, 0.125, 0.33, 0.59, 0.8
HUES = (RED, PURPLE, RED, YELLOW, YELLOW, GREEN, GREEN, GREEN, BLUE, BLUE)

# The table is nearly gray: its colours would tell the crops of one scene from those of another
# before anything else does, and a self-supervised model would learn tables instead of objects.
# Per material: hue and its spread (turns), saturation of the dark paint.
SURFACE_PAINTS: tuple[tuple[float, float, float], ...] = (
    (0.10, 0.02, 0.05),  # sand
    (0.07, 0.02, 0.08),  # wood
    (0.50, 0.50, 0.04),  # cloth
    (0.50, 0.50, 0.02),  # tiles
    (0.60, 0.10, 0.01),  # stone
)


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


FIGURES: tuple[DrawFigure, ...] = (
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


def object_paints(factors: Factors) -> Tensor:
    """The object's three paints, (n, 3 paints, 3)."""
    saturation = between(factors["saturation"], 0.6, 0.95)
    value = between(factors["value"], 0.6, 0.9)
    hue = torch.tensor(HUES)[factors["class"]] + between(factors["hue"], -0.02, 0.02)
    # The pattern is dark on any kind of object, or pale on any: its colour tells nothing.
    dark = (factors["inlay"] == 0).float()
    second_value = dark * value * 0.16 + (1 - dark) * (value * 1.2).clamp(max=1)
    third_value = dark * (value * 1.2).clamp(max=1) + (1 - dark) * value * 0.16
    return torch.stack(
        (
            hsv_to_rgb(hue, saturation, value),
            hsv_to_rgb(hue, saturation * 0.25, second_value),
            hsv_to_rgb(hue, saturation * 0.25, third_value),
        ),
        1,
    )


def clutter_paint(factors: Factors, i: int) -> Tensor:
    """The paint of clutter i, (n, 3)."""
    return hsv_to_rgb(
        between(factors[f"clutter{i}_hue"], 0, 1),
        between(factors[f"clutter{i}_saturation"], 0.0, 1.0),
        between(factors[f"clutter{i}_value"], 0.4, 0.95),
    )


def patch_paints(factors: Factors) -> list[tuple[Tensor, Tensor]]:
    """For each patch of the table, its dark and its light paint, (n, 3) each."""
    hue, spread, saturation = torch.tensor(SURFACE_PAINTS)[factors["surface"]].unbind(1)
    contrast = between(factors["surface_contrast"], 0.15, 0.4)
    paints = []
    for i in range(PATCHES):
        h = hue + spread * between(factors[f"patch{i}_hue"], -1, 1)
        s = saturation * between(factors[f"patch{i}_saturation"], 0.2, 0.7)
        v = between(factors[f"patch{i}_value"], 0.3, 0.9)
        paints.append(
            (
                hsv_to_rgb(h, s, v * (1 - contrast)),
                hsv_to_rgb(h, s * 0.8, (v * (1 + contrast)).clamp(max=1)),
            )
        )
    return paints


BY_COLOUR = Look(
    figures=FIGURES,
    object_radius=(0.65, 1.0),
    dome=(0.5, 0.42),
    thickness=0.0,
    lifted=0.25,
    exposure=(0.8, 1.1),
    light_height=(0.5, 1.0),
    dapple=0.9,
    object_paints=object_paints,
    clutter_paint=clutter_paint,
    patch_paints=patch_paints,
)
