"""The distribution of one view, and the views that each method asks for."""

from dataclasses import dataclass, fields
from typing import Any

from dino_tutorial.errors import UserError
from dino_tutorial.options import check_number, check_whole, number, numbers

LARGEST_VIEW = 2**14  # pixels
_TWO = numbers(number(0, 1e6, above=True), 2)
_PROBABILITIES = ("flip_p", "jitter_p", "gray_p", "blur_p", "solarize_p")


@dataclass(frozen=True)
class ViewSpec:
    """The distribution that one view of an image is drawn from.

    The defaults are those that BYOL and DINO share; the functions below set the rest.

    Attributes:
        size: side of the square view, in pixels.
        scale: smallest and largest area of the crop, as fractions of the image's area.
        ratio: smallest and largest width / height of the crop, drawn uniformly in the logarithm.
        flip_p: probability of a horizontal flip.
        brightness: its factor is drawn from [max(0, 1 - a), 1 + a].
        contrast: its factor is drawn from [max(0, 1 - a), 1 + a].
        saturation: its factor is drawn from [max(0, 1 - a), 1 + a].
        hue: the shift is drawn from [-hue, hue], in turns of the colour circle, at most 0.5.
        jitter_p: probability that these four are applied, in a random order.
        gray_p: probability of dropping the colour.
        blur_p: probability of a Gaussian blur.
        blur_sigma: range of its standard deviation, in pixels of the view.
        solarize_p: probability of inverting the pixels that are at least 128 / 255.

    Raises:
        UserError: a value is out of range.
    """

    size: int
    scale: tuple[float, float]
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip_p: float = 0.5
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    jitter_p: float = 0.8
    gray_p: float = 0.2
    blur_p: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize_p: float = 0.0

    def __post_init__(self) -> None:
        check_whole("the view's size", self.size, 1, LARGEST_VIEW, "pixels")
        for name in ("scale", "ratio", "blur_sigma"):
            _TWO(f"the view's {name}", getattr(self, name))
            low, high = getattr(self, name)
            if not 0 < low <= high or (name == "scale" and high > 1):
                limit = " <= 1" if name == "scale" else ""
                raise UserError(
                    f"the view's {name} is ({low}, {high}); give two numbers 0 < low <= high{limit}"
                )
        for name in _PROBABILITIES:
            check_number(f"the view's {name}, a probability,", getattr(self, name), 0, 1)
        for name in ("brightness", "contrast", "saturation"):
            check_number(f"the view's {name}", getattr(self, name), 0, 1e6)
        check_number("the view's hue, in turns,", self.hue, 0, 0.5)


def byol_views(
    size: int = 224, scale: tuple[float, float] = (0.08, 1.0), **overrides: Any
) -> tuple[ViewSpec, ViewSpec]:
    """The two views of BYOL: equal except for blur (1.0, 0.1) and solarization (0, 0.2).

    Args:
        size: in pixels.
        scale: smallest and largest share of the image's area.
        overrides: other fields of :class:`ViewSpec`, for both views.

    Raises:
        UserError: a value is out of range, or there is no such field.

    Source: BYOL, appendix B, table 6.
    """
    return (
        _spec({"size": size, "scale": scale, "blur_p": 1.0, "solarize_p": 0.0}, overrides),
        _spec({"size": size, "scale": scale, "blur_p": 0.1, "solarize_p": 0.2}, overrides),
    )


def dino_views(
    global_size: int = 224,
    local_size: int = 96,
    n_local: int = 8,
    global_scale: tuple[float, float] = (0.4, 1.0),
    local_scale: tuple[float, float] = (0.05, 0.4),
    **overrides: Any,
) -> tuple[ViewSpec, ...]:
    """The multi-crop of DINO: BYOL's two views, large, and small ones, half of them blurred.

    Args:
        global_size, local_size: in pixels.
        n_local: number of small views.
        global_scale, local_scale: smallest and largest share of the image's area.
        overrides: other fields of :class:`ViewSpec`, for all views.

    Raises:
        UserError: a value is out of range, or there is no such field.

    Source: DINO, section 3.1 and appendix; ``DataAugmentationDINO`` in facebookresearch/dino.
    """
    check_whole("n_local", n_local, 0, 10**4, "local crops")
    local = {"size": local_size, "scale": local_scale, "blur_p": 0.5, "solarize_p": 0.0}
    return byol_views(global_size, global_scale, **overrides) + tuple(
        _spec(local, overrides) for _ in range(n_local)
    )


def simclr_views(
    size: int = 224, scale: tuple[float, float] = (0.08, 1.0), **overrides: Any
) -> tuple[ViewSpec, ViewSpec]:
    """The two views of SimCLR and MoCo v2: the same distribution, half of them blurred.

    Args:
        size: in pixels.
        scale: smallest and largest share of the image's area.
        overrides: other fields of :class:`ViewSpec`, for both views.

    Raises:
        UserError: a value is out of range, or there is no such field.

    Source: SimCLR, section 3 and appendix A; MoCo v2, section 3.
    """
    first, second = swav_views(size, size, 0, scale, scale, **overrides)
    return first, second


def swav_views(
    global_size: int = 224,
    local_size: int = 96,
    n_local: int = 6,
    global_scale: tuple[float, float] = (0.14, 1.0),
    local_scale: tuple[float, float] = (0.05, 0.14),
    **overrides: Any,
) -> tuple[ViewSpec, ...]:
    """The multi-crop of SwAV: two large and several small views with SimCLR's operations.

    Args:
        global_size, local_size: in pixels.
        n_local: number of small views.
        global_scale, local_scale: smallest and largest share of the image's area.
        overrides: other fields of :class:`ViewSpec`, for all views.

    Raises:
        UserError: a value is out of range, or there is no such field.

    Source: SwAV, section 3.2 and appendix A.
    """
    check_whole("n_local", n_local, 0, 10**4, "local crops")
    operations = {"blur_p": 0.5, "solarize_p": 0.0}
    large = _spec({"size": global_size, "scale": global_scale} | operations, overrides)
    small = _spec({"size": local_size, "scale": local_scale} | operations, overrides)
    return (large,) * 2 + (small,) * n_local


def single_view(
    size: int = 224, scale: tuple[float, float] = (0.08, 1.0), **overrides: Any
) -> tuple[ViewSpec]:
    """One crop, not blurred: supervised training (Inception's crop) and the pretext tasks.

    Args:
        size: in pixels.
        scale: smallest and largest share of the image's area.
        overrides: other fields of :class:`ViewSpec`.

    Raises:
        UserError: a value is out of range, or there is no such field.
    """
    return (_spec({"size": size, "scale": scale, "blur_p": 0.0, "solarize_p": 0.0}, overrides),)


def _spec(values: dict[str, Any], overrides: dict[str, Any]) -> ViewSpec:
    known = [field.name for field in fields(ViewSpec)]
    for name in overrides:
        if name not in known:
            raise UserError(f"a view has no setting {name!r}; there are {', '.join(known)}")
    return ViewSpec(**{**values, **overrides})
