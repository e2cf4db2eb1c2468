"""What makes one world of scenes look unlike another: its figures, its paints, its light."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from dino_tutorial.datasets.scenes.factors import Factors
from dino_tutorial.datasets.scenes.figures import Figure

DrawFigure = Callable[[Tensor, Tensor, Tensor], Figure]  # u, v, edge


class Look(NamedTuple):
    """How scenes are drawn. Pairs are the smallest and the largest of what is drawn at random.

    Attributes:
        figures: a function for each class.
        object_radius: in canvas units.
        dome: width and height of an object's rounded edge, in its radii.
        thickness: of an object, in its radii: it is in the depth and not in the shading.
        lifted: height of the clutter on top, in canvas units.
        exposure: brightness of the whole image.
        light_height: sine of the lamp's elevation.
        dapple: how far the light on the table may vary from place to place.
        object_paints: factors -> (n, 3 paints, 3).
        clutter_paint: factors and the clutter's number -> (n, 3).
        patch_paints: factors -> for each patch of the table its dark and light paint, (n, 3) each.
    """

    figures: tuple[DrawFigure, ...]
    object_radius: tuple[float, float]
    dome: tuple[float, float]
    thickness: float
    lifted: float
    exposure: tuple[float, float]
    light_height: tuple[float, float]
    dapple: float
    object_paints: Callable[[Factors], Tensor]
    clutter_paint: Callable[[Factors, int], Tensor]
    patch_paints: Callable[[Factors], list[tuple[Tensor, Tensor]]]
