"""Draw scenes: objects lying on a table, seen from above, in batched tensor operations.

Coordinates: x to the right and y down, the canvas spans [-1, 1] in both, so one unit is half the
canvas whatever its size in pixels. Everything is a map (n, H, W) of one number a pixel; colours
enter at the end, when the maps of how much of each paint is seen are multiplied with the table
of paints, one matrix product a scene.

How a pixel gets its colour: from the topmost layer down, a layer takes its share of what is still
visible; what lies below a layer is darkened by its shadow; the slope of the relief, objects and
table together, gives shading and highlights. Edges are antialiased by coverage, and canvases
below 64 pixels are drawn at twice their size and averaged.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from dino_tutorial.datasets.scenes.factors import CLUTTER, RANGES, Factors, between, lattice_values
from dino_tutorial.datasets.scenes.figures import inside
from dino_tutorial.datasets.scenes.kinds_by_colour import BY_COLOUR
from dino_tutorial.datasets.scenes.kinds_by_pattern import BY_PATTERN
from dino_tutorial.datasets.scenes.look import Look
from dino_tutorial.datasets.scenes.surfaces import surface_tone
from dino_tutorial.errors import UserError
from dino_tutorial.options import takes, whole

CHUNK_PIXELS = 1 << 18  # scenes are drawn in chunks of this many pixels: they stay in the cache
CLUTTER_RADIUS = (0.14, 0.3)  # smallest and largest, in canvas units
UP = -math.pi / 2  # rows grow downwards
SWING = 1.0  # radians by which a heading may differ from UP: an image has a right way round
LOOKS: dict[str, Look] = {"colour": BY_COLOUR, "pattern": BY_PATTERN}  # what tells kinds apart
CAMERA_HEIGHT = 4.0  # distance of the camera from the table, in canvas units


class RenderedScenes(NamedTuple):
    """A batch of scenes on a canvas of S pixels.

    Attributes:
        images: uint8 (n, 3, S, S).
        mask: bool (n, S, S), where the object that the label names is seen.
        depth: float32 (n, S, S), distance from the camera, in units of half the canvas.
        instances: uint8 (n, S, S): 0 the table, 1 the object, 2 and up the clutter.
    """

    images: UInt8[Tensor, "n 3 S S"]
    mask: Bool[Tensor, "n S S"]
    depth: Float[Tensor, "n S S"]
    instances: UInt8[Tensor, "n S S"]


class Pose(NamedTuple):
    """Place and turn of an object: each (n, 1, 1), in canvas units and radians."""

    x: Tensor
    y: Tensor
    radius: Tensor
    angle: Tensor

    def local(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Canvas coordinates to the object's own, in units of its radius."""
        cos, sin = self.angle.cos() / self.radius, self.angle.sin() / self.radius
        dx, dy = x - self.x, y - self.y
        return dx * cos + dy * sin, dy * cos - dx * sin


def object_pose(factors: Factors, radii: tuple[float, float]) -> Pose:
    f = {name: factors[name].view(-1, 1, 1) for name in ("x", "y", "scale", "angle")}
    radius = between(f["scale"], *radii)
    reach = 1.05 - 0.5 * radius  # a large object has less room, and may be cut by the frame
    return Pose(
        between(f["x"], -1, 1) * reach,
        between(f["y"], -1, 1) * reach,
        radius,
        UP + SWING * torch.sin(between(f["angle"], 0, 2 * math.pi)),
    )


def clutter_pose(factors: Factors, i: int) -> Pose:
    f = {n: factors[f"clutter{i}_{n}"].view(-1, 1, 1) for n in ("x", "y", "scale", "angle")}
    return Pose(
        between(f["x"], -1.05, 1.05),
        between(f["y"], -1.05, 1.05),
        between(f["scale"], *CLUTTER_RADIUS) * (0.7 if i == CLUTTER - 1 else 1.0),
        between(f["angle"], 0, 2 * math.pi),
    )


class Layer(NamedTuple):
    """One object, ready to be put on the table; maps are (n, H, W)."""

    cover: Tensor
    shadow: Tensor
    relief: Tensor
    base: float | Tensor  # height above what it lies on, beside the relief
    gloss: Tensor
    shares: list[Tensor]  # how the cover is divided between the paints; sums to 1
    paints: list[Tensor]  # (n, 3) each


def dome(distance: Tensor, width: float) -> Tensor:
    """A quarter-round profile: 0 at the outline, 1 at `width` inside it."""
    t = (distance / -width).clamp(0, 1)
    return (t * (2 - t)).sqrt()


def object_layer(
    factors: Factors, look: Look, x: Tensor, y: Tensor, light: Tensor, pixel: float
) -> Layer:
    """The object that the label names."""
    kind = factors["class"]
    pose = object_pose(factors, look.object_radius)
    u, v = pose.local(x, y)
    flip = 1.0 - 2.0 * factors["mirror"].view(-1, 1, 1)
    v = v * flip
    su, sv = pose.local(x - light[:, 0, None, None] * 0.16, y - light[:, 1, None, None] * 0.16)
    sv = sv * flip
    edge = pixel / pose.radius
    soft = 0.12 / pose.radius
    distance, second, third, shadow = (torch.empty_like(u) for _ in range(4))
    for c, draw in enumerate(look.figures):
        rows = (kind == c).nonzero()[:, 0]
        if not len(rows):
            continue
        figure = draw(u[rows], v[rows], edge[rows])
        distance[rows], second[rows], third[rows] = figure
        shadow[rows] = inside(draw(su[rows], sv[rows], edge[rows]).distance, soft[rows])
    visible = (factors["present"] == 0).view(-1, 1, 1)
    first = (1 - second) * (1 - third)
    return Layer(
        inside(distance, edge) * visible,
        shadow * visible,
        dome(distance, look.dome[0]) * (pose.radius * look.dome[1]) * visible,
        pose.radius * look.thickness * visible,
        between(factors["gloss"], 0.1, 0.5).view(-1, 1, 1),
        [first, second * (1 - third), third],
        list(look.object_paints(factors).unbind(1)),
    )


def clutter_layer(
    factors: Factors, look: Look, i: int, x: Tensor, y: Tensor, light: Tensor, pixel: float
) -> Layer:
    """A plain small object: marble, pill, block, whatever its proportions and corners make it."""
    f = {n: factors[f"clutter{i}_{n}"] for n in ("roundness", "aspect")}
    pose = clutter_pose(factors, i)
    corner = between(f["roundness"], 0.15, 1.0).view(-1, 1, 1)
    half_v = between(f["aspect"], 0.45, 1.0).view(-1, 1, 1)
    corner = torch.minimum(corner, half_v)

    def distance(u: Tensor, v: Tensor) -> Tensor:
        a = u.abs_().sub_(1 - corner).clamp_(min=0)
        b = v.abs_().sub_(half_v - corner).clamp_(min=0)
        return torch.hypot(a, b).sub_(corner)

    d = distance(*pose.local(x, y))
    lx, ly = light[:, 0, None, None] * 0.1, light[:, 1, None, None] * 0.1
    return Layer(
        inside(d, pixel / pose.radius),
        inside(distance(*pose.local(x - lx, y - ly)), 0.1 / pose.radius),
        dome(d, 0.6) * (pose.radius * 0.5),
        look.lifted if i == CLUTTER - 1 else 0.0,
        torch.full_like(pose.radius, 0.4),
        [torch.ones(1)],
        [look.clutter_paint(factors, i)],
    )


def _draw(factors: Factors, look: Look, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images (n, 3, side, side) in [0, 1], depth (n, side, side), seen (n, layers, side, side)."""
    n = len(factors["class"])
    axis = (torch.arange(side, dtype=torch.float32) + 0.5) * (2 / side) - 1
    x, y = axis.view(1, 1, -1), axis.view(1, -1, 1)
    pixel = 2 / side
    turn = between(factors["light_angle"], 0, 2 * math.pi)
    light = torch.stack((turn.cos(), turn.sin()), 1)  # where shadows fall

    layers = [clutter_layer(factors, look, CLUTTER - 1, x, y, light, pixel)]
    layers.append(object_layer(factors, look, x, y, light, pixel))
    layers += [clutter_layer(factors, look, i, x, y, light, pixel) for i in range(CLUTTER - 1)]

    visible = torch.ones(n, side, side)
    lit = torch.ones(n, side, side)
    relief = torch.zeros(n, side, side)
    height = torch.zeros(n, side, side)
    gloss = torch.zeros(n, side, side)
    shares, paints, seen = [], [], []
    for layer in layers:
        share = visible * layer.cover
        seen.append(share)
        relief += share * layer.relief
        height += share * (layer.relief + layer.base)
        gloss += share * layer.gloss
        bright = share * lit
        for part, paint in zip(layer.shares, layer.paints, strict=True):
            shares.append(bright * part)
            paints.append(paint)
        visible = visible - share
        lit = lit * (1 - 0.5 * layer.shadow)
    seen.append(visible)

    lattice = lattice_values(factors["lattice"])
    tone, bumps, dapple = surface_tone(factors, lattice, x, y, pixel, look.dapple)
    bright = visible * lit
    for cover, (low, high) in zip(
        quilt(factors, x, y, pixel), look.patch_paints(factors), strict=True
    ):
        share = bright * cover
        light_part = share * tone
        shares += [share - light_part, light_part]
        paints += [low, high]
    relief += visible * bumps

    steep = between(factors["light_height"], *look.light_height).view(-1, 1, 1)
    slope_x = torch.diff(relief, dim=2, prepend=relief[:, :, :1]) / pixel
    slope_y = torch.diff(relief, dim=1, prepend=relief[:, :1]) / pixel
    toward = slope_x * -light[:, 0, None, None] + slope_y * -light[:, 1, None, None]
    # Light comes from where shadows do not fall; a slope that rises along the shadow's way is lit.
    facing = -toward
    norm = torch.rsqrt(1 + slope_x * slope_x + slope_y * slope_y)
    diffuse = ((steep + 0.75 * facing) * norm).clamp_(min=0) / steep
    shade = (0.42 + 0.58 * diffuse) * dapple
    half = ((1 + 0.45 * facing) * norm * 0.912).clamp_(0, 1)
    shine = half.pow_(24) * gloss

    exposure = between(factors["exposure"], *look.exposure).view(-1, 1, 1)
    warmth = between(factors["light_warmth"], -0.04, 0.04)
    tint = torch.stack((1 + warmth, torch.ones(n), 1 - warmth), 1)
    table = torch.stack(paints, 2) * tint[:, :, None]  # (n, 3, paints)
    weights = (torch.stack(shares, 1) * (shade * exposure)[:, None]).flatten(2)
    images = torch.bmm(table, weights).view(n, 3, side, side)
    images += shine[:, None]

    # The table is level: a slant would be in the depth and not in the image.
    depth = CAMERA_HEIGHT - height
    return images.clamp_(0, 1), depth, torch.stack(seen, 1)


def quilt(factors: Factors, x: Tensor, y: Tensor, pixel: float) -> list[Tensor]:
    """The table's patches: two seams divide it into PATCHES parts; covers (n, H, W) sum to 1."""
    f = {n: factors[f"seam_{n}"].view(-1, 1, 1) for n in ("angle", "bend", "x", "y")}
    at_x, at_y = between(f["x"], -0.6, 0.6), between(f["y"], -0.6, 0.6)
    first = between(f["angle"], 0, 2 * math.pi)
    second = first + between(f["bend"], 0.3 * math.pi, 0.7 * math.pi)
    sides = [
        (0.5 + ((x - at_x) * turn.cos() + (y - at_y) * turn.sin()) / pixel).clamp_(0, 1)
        for turn in (first, second)
    ]
    both = sides[0] * sides[1]
    return [both, sides[0] - both, sides[1] - both, 1 - sides[0] - sides[1] + both]


def check_look(look: str) -> None:
    if look not in LOOKS:
        raise UserError(f"scenes have no look {look!r}; choose one of {', '.join(LOOKS)}")


def check_size(size: int) -> None:
    if not 16 <= size <= 512:
        raise UserError(f"scenes are drawn at 16 to 512 pixels, not at {size}")


@takes(size=whole())
def render(factors: Factors, size: int, look: str = "colour") -> RenderedScenes:
    """Draw scenes.

    Args:
        factors: integers (n,) by name, from `sample_factors`; continuous ones may lie outside
            their range, which is how clips move things.
        size: S, the side of the canvas in pixels, 16 to 512.
        look: a key of `LOOKS`: what tells the kinds apart.

    Raises:
        UserError: the size is out of range, or there is no such look.
    """
    check_size(size)
    check_look(look)
    if missing := RANGES.keys() - factors.keys():
        raise UserError(f"factors lack {', '.join(sorted(missing))}: sample_factors makes them all")
    oversampling = 2 if size < 64 else 1
    side = size * oversampling
    n = len(factors["class"])
    chunk = max(1, CHUNK_PIXELS // side**2)
    result = RenderedScenes(
        torch.empty(n, 3, size, size, dtype=torch.uint8),
        torch.empty(n, size, size, dtype=torch.bool),
        torch.empty(n, size, size),
        torch.empty(n, size, size, dtype=torch.uint8),
    )
    for start in range(0, n, chunk):
        rows = slice(start, start + chunk)
        images, depth, seen = _draw({k: v[rows] for k, v in factors.items()}, LOOKS[look], side)
        if oversampling > 1:
            images, seen = F.avg_pool2d(images, 2), F.avg_pool2d(seen, 2)
            depth = F.avg_pool2d(depth[:, None], 2)[:, 0]
        owner = owners(seen)
        result.images[rows] = images.mul_(255).round_().to(torch.uint8)
        result.instances[rows] = owner
        result.mask[rows] = owner == 1
        result.depth[rows] = depth
    return result


def owners(seen: Float[Tensor, "n layers S S"]) -> UInt8[Tensor, "n S S"]:
    """The instance of which most is seen at each pixel; of equals the upper one.

    One layer after the other, because ``argmax`` over a dimension in the middle takes as long as
    a fifth of the drawing.
    """
    # Layers are drawn from the top: clutter above, object, clutter below, table.
    top, *below = [CLUTTER + 1, 1, *range(2, CLUTTER + 1), 0]
    most = seen[:, 0].clone()
    owner = torch.full_like(most, top, dtype=torch.uint8)
    for number, share in zip(below, seen[:, 1:].unbind(1), strict=True):
        owner.masked_fill_(share > most, number)
        torch.maximum(most, share, out=most)
    return owner
