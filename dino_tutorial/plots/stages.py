"""One training at many of its steps: a frame for each, and a strip of a few for paper.

A frame shows the same scenes at every step, so that what changes is the network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes

from dino_tutorial.plots.style import WIDTH, DescribedFigure, colour, number, percent, styled

LEFT, GAP = 0.95, 0.05  # inches: room for the words beside a row, and between images
MOST = 4  # times the equal share of attention, from which on a patch is as bright as can be


@dataclass(frozen=True)
class Stages:
    """What a training was like at S of its steps, as arrays that are small enough for a page.

    Attributes:
        steps: (S,) in order.
        images: (n, H, W, 3) uint8, the scenes.
        attention: name of a block -> (S, n, h, w), the class token's attention to each patch
            over its equal share.
        components: (S, n, h, w, 3) uint8, patch tokens as colours.
        prototypes: (S, kinds, columns), the teacher's mean probabilities by kind of scene; the
            columns are prototypes, as many for each kind, in the order of the kinds.
        kinds: their names.
        accuracy: (S,) of k-NN, in [0, 1].
        covered: name of a block -> (S,) J, the overlap of its mask with the object.
    """

    steps: Sequence[int]
    images: np.ndarray
    attention: Mapping[str, np.ndarray]
    components: np.ndarray
    prototypes: np.ndarray
    kinds: Sequence[str]
    accuracy: Sequence[float]
    covered: Mapping[str, Sequence[float]]

    def own(self, at: int) -> float:
        """How much of the teacher's probability lies on prototypes of the scene's own kind."""
        columns = self.prototypes.shape[-1] // len(self.kinds)
        by_owner = self.prototypes[at].reshape(len(self.kinds), len(self.kinds), columns).sum(-1)
        return float(by_owner.diagonal().mean())

    def words(self, at: int) -> str:
        """One stage as a sentence or two."""
        looks = ", ".join(
            f"in the {name} block with J {percent(j[at])}" for name, j in self.covered.items()
        )
        return (
            f"Step {number(self.steps[at])}. Attention covers the object {looks}. Of the teacher's "
            f"probability {percent(self.own(at))} lies on the prototypes of a scene's own kind. "
            f"k-NN is right in {percent(self.accuracy[at])}."
        )


@styled
def stage_figure(stages: Stages, step: int) -> DescribedFigure:
    """Scenes, attention, components and prototypes at one step, and k-NN with a mark there.

    Args:
        stages: the training.
        step: one of ``stages.steps``.
    """
    at = list(stages.steps).index(step)
    scenes = len(stages.images)
    side = (WIDTH - LEFT) / scenes - GAP
    rows = {"scene": stages.images / 255} | {
        f"attention,\n{name} block\nJ {percent(stages.covered[name][at])}": _glow(values[at])
        for name, values in stages.attention.items()
    }
    rows["components\nof patches"] = stages.components[at] / 255
    height = len(rows) * (side + GAP) + 2.8
    figure = DescribedFigure(figsize=(WIDTH, height))
    top = height
    for words, arrays in rows.items():
        top -= side + GAP
        figure.text(0.01, (top + side / 2) / height, words, va="center", linespacing=1.25)
        for i, array in enumerate(arrays):
            _image(figure, LEFT + i * (side + GAP), top, side, side, array)
    matrix = _box(figure, LEFT, top - 1.52, WIDTH - LEFT - GAP, 1.25)
    _draw_prototypes(matrix, stages, at)
    _draw_accuracy(_box(figure, LEFT, top - 2.42, WIDTH - LEFT - GAP, 0.52), stages, at)
    figure.alt_text = stages.words(at)
    return figure


@styled
def stage_strip(stages: Stages, steps: Sequence[int]) -> DescribedFigure:
    """A few steps side by side, for where nothing moves: one scene, and the prototypes.

    Args:
        stages: the training.
        steps: some of ``stages.steps``.
    """
    places = [list(stages.steps).index(step) for step in steps]
    side = (WIDTH - LEFT) / len(places) - GAP
    rows = {"scene": [stages.images[0] / 255] * len(places)} | {
        f"attention,\n{name} block": [_glow(values[at])[0] for at in places]
        for name, values in stages.attention.items()
    }
    rows["components"] = [stages.components[at][0] / 255 for at in places]
    rows["prototypes"] = [_matrix(stages, at) for at in places]
    height = len(rows) * (side + GAP) + 0.25
    figure = DescribedFigure(figsize=(WIDTH, height))
    top = height - 0.25
    for i, at in enumerate(places):
        x = LEFT + i * (side + GAP) + side / 2
        words = f"step {number(stages.steps[at])}"
        figure.text(x / WIDTH, (top + 0.06) / height, words, ha="center")
    for words, arrays in rows.items():
        top -= side + GAP
        figure.text(0.01, (top + side / 2) / height, words, va="center", linespacing=1.25)
        for i, array in enumerate(arrays):
            _image(figure, LEFT + i * (side + GAP), top, side, side, array)
    figure.alt_text = "One training in a strip. " + " ".join(stages.words(at) for at in places)
    return figure


def _box(figure: DescribedFigure, x: float, y: float, width: float, height: float) -> Axes:
    """Axes at a place in inches from the lower left corner."""
    wide, high = figure.get_size_inches()
    return figure.add_axes((x / wide, y / high, width / wide, height / high))


def _image(
    figure: DescribedFigure, x: float, y: float, width: float, height: float, array: np.ndarray
) -> None:
    axes = _box(figure, x, y, width, height)
    axes.imshow(array, interpolation="none", aspect="auto")
    axes.axis("off")


def _glow(times_equal: np.ndarray) -> np.ndarray:
    """(n, h, w) to colours (n, h, w, 3), the same at every step."""
    return colormaps["inferno"](np.clip(times_equal / MOST, 0, 1))[..., :3]


def _matrix(stages: Stages, at: int) -> np.ndarray:
    """Prototypes by kind as colours (kinds, columns, 3), on a scale of roots common to all."""
    root = np.sqrt(stages.prototypes.astype(float))
    return colormaps["inferno"](np.clip(root[at] / np.quantile(root, 0.995), 0, 1))[..., :3]


def _draw_prototypes(axes: Axes, stages: Stages, at: int) -> None:
    axes.imshow(_matrix(stages, at), interpolation="none", aspect="auto")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_yticks(range(len(stages.kinds)), stages.kinds, fontsize=8)
    axes.set_xticks([])
    title = f"prototypes, {percent(stages.own(at))} on those of its own kind"
    axes.set_title(title, pad=4)


def _draw_accuracy(axes: Axes, stages: Stages, at: int) -> None:
    values = 100 * np.asarray(stages.accuracy)
    axes.plot(stages.steps, values, color=colour("blue"), marker="o", ms=2.5, lw=1.2)
    axes.plot(stages.steps[at], values[at], "o", ms=8, color=colour("vermillion"))
    axes.axvline(stages.steps[at], color=colour("vermillion"), lw=0.8)
    axes.set(ylim=(0, 100), yticks=(0, 50, 100), xlabel="step")
    axes.set_yticks((0, 50, 100), ("0 %", "50 %", "100 %"), fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_title(f"k-NN accuracy {percent(stages.accuracy[at])}", pad=4)
