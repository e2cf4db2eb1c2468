"""The settings of the views: ``views.*``."""

from dataclasses import dataclass
from typing import Any

from dino_tutorial.options import Settings, option

OPERATIONS = (
    "brightness",
    "contrast",
    "saturation",
    "hue",
    "jitter_p",
    "gray_p",
    "blur_sigma",
    "flip_p",
    "blur_p",
    "solarize_p",
)


@dataclass(frozen=True)
class ViewSettings(Settings):
    """Sizes in pixels, scales as fractions of the image's area, jitter as in torchvision."""

    global_size: int = option(
        224, "Side of a global crop, in pixels, and of the images in evaluation.", low=8, high=4096
    )
    global_scale: tuple[float, float] = option(
        (0.4, 1.0),
        "Smallest and largest area of a global crop, as fractions of the image's.",
        low=0.01,
        high=1,
    )
    local_crops: int = option(
        8, "Local crops an image, besides the two global ones.", low=0, high=1000
    )
    local_size: int = option(96, "Side of a local crop, in pixels.", low=4, high=4096)
    local_scale: tuple[float, float] = option(
        (0.05, 0.4),
        "Smallest and largest area of a local crop, as fractions of the image's.",
        low=0.01,
        high=1,
    )
    brightness: float = option(
        0.4, "Its factor is drawn from [1 − a, 1 + a], from 0 on; a is this number.", low=0
    )
    contrast: float = option(0.4, "As brightness, around the image's mean gray.", low=0)
    saturation: float = option(0.2, "As brightness, around the image in gray.", low=0)
    hue: float = option(
        0.1, "The hue is shifted by up to this share of the colour circle.", low=0, high=0.5
    )
    jitter_p: float = option(
        0.8, "Probability that these four are applied, in a random order.", low=0, high=1
    )
    gray_p: float = option(0.2, "Probability that a view loses its colour.", low=0, high=1)
    blur_sigma: tuple[float, float] = option(
        (0.1, 2.0),
        "Range of the standard deviation of the Gaussian blur, in pixels of the view.",
        low=0.01,
    )
    flip_p: float | None = option(
        None,
        "Probability of a horizontal flip, in all views; null is the method's own, one half.",
        low=0,
        high=1,
    )
    blur_p: float | None = option(
        None,
        "Probability of a blur, in all views; null is the method's own, which may differ from "
        "view to view (BYOL and DINO: 1 and 0.1 for the global views, 0.5 for local ones).",
        low=0,
        high=1,
    )
    solarize_p: float | None = option(
        None,
        "Probability that bright pixels are inverted, in all views; null is the method's own "
        "(BYOL and DINO: 0.2 for the second global view, else 0).",
        low=0,
        high=1,
    )

    def operations(self) -> dict[str, Any]:
        """The settings that replace a recipe's own, as the recipes of ``specs.py`` take them."""
        values = {name: getattr(self, name) for name in OPERATIONS}
        return {name: value for name, value in values.items() if value is not None}
