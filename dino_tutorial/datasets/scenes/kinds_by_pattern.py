"""Scenes whose kinds are told by form and pattern, and not by colour.

A kind is its outline and its pattern. Patterns are coarse: they have to be seen at 32 pixels.
Hues are drawn for each object and each table, whatever the kind; light paints lie on dark ones or
dark on light, as often on any kind. Tables are as colourful as objects. So a colour histogram
knows next to nothing, and a gray copy of an image loses nothing that tells its kind.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dino_tutorial.datasets.scenes.factors import PATCHES, Factors, between
from dino_tutorial.datasets.scenes.figures import Figure, circle, ellipse, fold, inside, stripes
from dino_tutorial.datasets.scenes.look import DrawFigure, Look
from dino_tutorial.datasets.scenes.paints import oklch_to_rgb

# Paints are (lightness, chroma, hue) in Oklab.
LIGHT, DARK = (0.76, 0.88), (0.22, 0.34)
CHROMA = (0.03, 0.13)  # of all paints, the table's too
TABLE_MIDDLE = 0.58  # lightness of tables
TABLE_STEP = (0.025, 0.10)  # how far the patches of a table are from that
TABLE_HUES = 0.5  # how far their hues are from the table's, in turns
TABLE_CONTRAST = (0.05, 0.12)  # how far a patch's dark and light paint are from its middle


def ladybird(u: Tensor, v: Tensor, edge: Tensor) -> Figure:
    """Round, dotted all over, with a head in the colour of the dots."""
    w = v.abs()
    body = circle(u, v, -0.08, 0, 0.86)
    head = circle(u, v, 0.7, 0, 0.3)
    row = torch.floor(v / 0.34 + 0.5)
    x = torch.remainder(u / 0.4 + 0.5 * torch.remainder(row, 2), 1) - 0.5
    y = torch.remainder(v / 0.34 + 0.5, 1) - 0.5
    dots = torch.hypot(0.4 * x, 0.34 * y) - 0.135
    second = torch.minimum(torch.maximum(dots, body + 0.06), -body)
    eyes = circle(u, w, 0.84, 0.16, 0.09)
    return Figure(torch.minimum(body, head), inside(second, edge), inside(eyes, edge))


def starfish(u: Tensor, v: Tensor, edge: Tensor) -> Figure:
    """Five thick arms, plain but for a row of beads on each."""
    x, y = fold(u, v, 5)
    outline = torch.maximum(0.53 * (x + 1.6 * y - 1.1), x - 1.0)
    beads = torch.hypot(torch.remainder(x, 0.18) - 0.09, y) - 0.035
    beads = torch.maximum(beads, x - 0.82)
    return Figure(outline, inside(beads, edge), torch.zeros_like(u))


def gift(u: Tensor, v: Tensor, edge: Tensor) -> Figure:
    """A square box with a broad ribbon crosswise and a bow."""
    a, b = u.abs(), v.abs()
    corner = torch.hypot((a - 0.7).clamp(min=0), (b - 0.7).clamp(min=0)) - 0.08
    ribbon = torch.minimum(a, b) - 0.2
    loops = torch.hypot(a - 0.27, b - 0.27) - 0.17
    return Figure(corner, inside(torch.minimum(ribbon, loops), edge), torch.zeros_like(u))


def bee(u: Tensor, v: Tensor, edge: Tensor) -> Figure:
    """A long body ringed with broad bands, and two round wings."""
    w = v.abs()
    body = ellipse(u, v, 0.97, 0.62)
    wings = circle(u * 0.9 + 0.2 * w, w, 0.2, 0.62, 0.33)
    bands = stripes(u + 0.06, 0.44, 0.22)
    eyes = circle(u, w, 0.76, 0.2, 0.09)
    return Figure(
        torch.minimum(body, wings),
        inside(torch.maximum(bands, body), edge),
        inside(-body, edge) * 0.6 + inside(eyes, edge) * inside(body, edge),
    )


def sunflower(u: Tensor, v: Tensor, edge: Tensor) -> Figure:
    """Eight petals around a large disc."""
    x, y = fold(u, v, 8)
    petal = ellipse(x - 0.6, y, 0.4, 0.23)
    radius = torch.hypot(u, v)
    disc = radius - 0.55
    heart = radius - 0.2
    return Figure(torch.minimum(petal, disc), inside(disc, edge), inside(heart, edge))


def leaf(u: Tensor, v: Tensor, edge: Tensor) -> Figure:
    """Pointed at both ends, feathered with slanting veins."""
    w = v.abs()
    blade = torch.hypot(u - 0.06, w + 0.36) - 1.0
    stalk = torch.maximum(w - 0.07, torch.maximum(-1.0 - u, u))
    veins = torch.minimum(stripes(u - 0.9 * w, 0.52, 0.24), w - 0.05)
    return Figure(torch.minimum(blade, stalk), inside(veins, edge), torch.zeros_like(u))


def melon(u: Tensor, v: Tensor, edge: Tensor) -> Figure:
    """An oval with fine wavy bands from end to end."""
    rind = ellipse(u, v, 0.98, 0.8)
    longitude = v / (1.0 - (u * u * 0.8)).clamp(min=0.04).sqrt()
    wave = longitude + 0.05 * torch.sin(u * 12)
    return Figure(rind, inside(stripes(wave, 0.29, 0.145), edge), torch.zeros_like(u))


def turtle(u: Tensor, v: Tensor, edge: Tensor) -> Figure:
    """A shell of large plates, dark and light in turn; head and flippers."""
    w = v.abs()
    shell = ellipse(u + 0.06, v, 0.78, 0.7)
    flippers = torch.minimum(
        ellipse(u - 0.42 - 0.35 * (w - 0.6), w - 0.68, 0.2, 0.32),
        ellipse(u + 0.62 + 0.4 * (w - 0.5), w - 0.56, 0.17, 0.26),
    )
    skin = torch.minimum(circle(u, v, 0.82, 0, 0.2), flippers)
    x, y = fold(u + 0.06, v, 6)
    middle = x - 0.34
    turn = torch.sin(3 * torch.atan2(v, u + 0.06)) * torch.hypot(u + 0.06, v) * 0.33
    plates = torch.minimum(torch.maximum(turn, 0.42 - x), middle)
    plates = torch.maximum(plates, shell + 0.05)
    eyes = circle(u, w, 0.88, 0.1, 0.06)
    return Figure(
        torch.minimum(shell, skin),
        torch.maximum(inside(plates, edge), inside(eyes, edge)),
        inside(-shell, edge) * (1 - inside(eyes, edge)) * 0.5,
    )


def fish(u: Tensor, v: Tensor, edge: Tensor) -> Figure:
    """A body checked with scales, a dark tail and a large eye."""
    w = v.abs()
    body = torch.hypot(u - 0.22, w + 0.2) - 0.8
    tail = torch.maximum(0.6 * w + 0.75 * (u + 0.4), -1.0 - u)
    row = torch.floor(v / 0.22 + 0.5)
    x = torch.remainder(u / 0.4 + 0.5 * torch.remainder(row, 2), 1) - 0.5
    scales = torch.maximum(0.4 * (x.abs() - 0.25), torch.maximum(u - 0.5, -0.42 - u))
    eye = circle(u, v, 0.7, 0.1, 0.15)
    second = torch.minimum(torch.minimum(scales, u + 0.46), eye)
    return Figure(torch.minimum(body, tail), inside(second, edge), inside(eye + 0.09, edge))


def button(u: Tensor, v: Tensor, edge: Tensor) -> Figure:
    """Rings within rings, and four holes."""
    radius = torch.hypot(u, v)
    holes = torch.hypot(u.abs() - 0.16, v.abs() - 0.16) - 0.1
    rings = torch.minimum(0.67 - radius, radius - 0.42)
    second = inside(rings, edge) * (1 - inside(holes, edge))
    return Figure(radius - 0.92, second, torch.zeros_like(u))


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
    """Ground, pattern and accent of the object, (n, 3 paints, 3)."""
    dark = factors["inlay"] == 0  # whether the pattern is the dark one

    def paint(prefix: str, is_light: Tensor) -> Tensor:
        light_l, dark_l = (between(factors[f"{prefix}value"], *ends) for ends in (LIGHT, DARK))
        chroma = between(factors[f"{prefix}saturation"], *CHROMA)
        return oklch_to_rgb(
            torch.where(is_light, light_l, dark_l),
            torch.where(is_light, chroma, chroma * 0.7),
            between(factors[f"{prefix}hue"], 0, 1),
        )

    ground, pattern = paint("", dark), paint("second_", ~dark)
    accent = torch.where(dark[:, None], 1 - (1 - ground) * 0.45, ground * 0.5)
    return torch.stack((ground, pattern, accent), 1)


def clutter_paint(factors: Factors, i: int) -> Tensor:
    """The paint of clutter i, (n, 3)."""
    return oklch_to_rgb(
        between(factors[f"clutter{i}_value"], 0.4, 0.85),
        between(factors[f"clutter{i}_saturation"], *CHROMA),
        between(factors[f"clutter{i}_hue"], 0, 1),
    )


def patch_paints(factors: Factors) -> list[tuple[Tensor, Tensor]]:
    """For each patch of the table, its dark and its light paint, (n, 3) each."""
    contrast = between(factors["surface_contrast"], *TABLE_CONTRAST)
    common = between(factors["table_hue"], 0, 1)
    paints = []
    for i in range(PATCHES):
        hue = common + between(factors[f"patch{i}_hue"], -TABLE_HUES, TABLE_HUES)
        chroma = between(factors[f"patch{i}_saturation"], CHROMA[0], 0.15)
        # Two patches are lighter than the middle and two darker, so that the whole has no tone.
        sign = 1 if i in (0, 3) else -1
        middle = TABLE_MIDDLE + sign * between(factors[f"patch{i}_value"], *TABLE_STEP)
        paints.append(
            (
                oklch_to_rgb(middle - contrast, chroma, hue),
                oklch_to_rgb(middle + contrast, chroma * 0.8, hue),
            )
        )
    return paints


BY_PATTERN = Look(
    figures=FIGURES,
    object_radius=(0.68, 1.05),
    dome=(0.3, 0.1),
    thickness=0.3,
    lifted=0.4,
    exposure=(0.92, 0.98),  # as steady as in one room
    light_height=(0.7, 0.8),
    dapple=0.6,
    object_paints=object_paints,
    clutter_paint=clutter_paint,
    patch_paints=patch_paints,
)
