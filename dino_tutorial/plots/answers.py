"""Figures of a teacher's outputs: how probable each prototype is for each image."""

import math

from matplotlib.axes import Axes
from matplotlib.patches import Polygon
from torch import Tensor

from dino_tutorial.evaluation.collapse import entropy
from dino_tutorial.options import takes, tensor, whole
from dino_tutorial.plots.style import (
    WIDTH,
    DescribedFigure,
    colour,
    number,
    percent,
    styled,
)

FAINTEST = 1e-4  # probability at the foot of a bar


@takes(finite=True, answers=tensor("B K>1", "float"), shown=whole())
@styled
def answer_figure(answers: Tensor, shown: int = 2) -> DescribedFigure:
    """Bars for the outputs for the first images, and under them two entropies of all outputs.

    The axes do not depend on the outputs, so that figures of equal K can be compared.

    Args:
        answers: (B, K) probabilities over K prototypes.
        shown: number of images with bars.
    """
    n_prototypes = answers.shape[1]
    ln_k = math.log(n_prototypes)
    figure = DescribedFigure(figsize=(WIDTH, 1.15 * shown + 1.25))
    told = []
    for index, answer in enumerate(answers[:shown]):
        axes = _panel(figure, top=1.15 * index + 0.25, height=0.8)
        _draw_bars(axes, answer)
        axes.set_title(f"image {index + 1}", fontsize=10, pad=3)
        if index + 1 < shown:
            axes.set_xticklabels([])
        best = int(answer.argmax())
        told.append(
            f"Image {index + 1}: prototype {best + 1} has most, {percent(answer[best].item())}."
        )
    axes.set_xlabel("prototype", labelpad=1)
    each, batch = entropy(answers).mean().item(), entropy(answers.mean(dim=0)).item()
    _draw_scale(_panel(figure, top=1.15 * shown + 0.6, height=0.3), each, batch, ln_k)
    told.append(
        f"Entropy of one output {number(each)} on average, of the mean output {number(batch)},"
        f" difference {number(max(batch - each, 0.0))}; ln K is {number(ln_k)}."
    )
    figure.alt_text = " ".join(told)
    return figure


def _panel(figure: DescribedFigure, top: float, height: float) -> Axes:
    """Axes at a place in inches. Solving a layout takes longer than drawing, and many are drawn."""
    across, up = figure.get_size_inches()
    left, right = 0.68, 0.5
    return figure.add_axes(
        (left / across, 1 - (top + height) / up, 1 - (left + right) / across, height / up)
    )


def _draw_bars(axes: Axes, answer: Tensor) -> None:
    """Probabilities on a logarithmic axis from FAINTEST to 1, and the uniform distribution."""
    n_prototypes = len(answer)
    heights = answer.clamp_min(FAINTEST).tolist()
    corners = [(0.5, FAINTEST)]
    for prototype, height in enumerate(heights):
        if height != corners[-1][1]:
            corners += [(prototype + 0.5, corners[-1][1]), (prototype + 0.5, height)]
    corners += [(n_prototypes + 0.5, heights[-1]), (n_prototypes + 0.5, FAINTEST)]
    axes.add_artist(Polygon(corners, color=colour("blue"), linewidth=0))
    axes.axhline(1 / n_prototypes, color=colour("muted"), linestyle=(0, (4, 2)), linewidth=1)
    axes.text(
        n_prototypes + 3, 1 / n_prototypes, "1/K", color=colour("muted"), va="center_baseline"
    )
    axes.set(yscale="log", ylim=(FAINTEST, 1), xlim=(0.5, n_prototypes + 0.5))
    axes.set_yticks([1, 0.01, FAINTEST], ["1", "0.01", "0.0001"])
    axes.minorticks_off()
    axes.grid(False, axis="x")


def _draw_scale(axes: Axes, each: float, batch: float, ln_k: float) -> None:
    """A line from 0 to ln K with a mark for each of the two entropies, and the gap between."""
    axes.set(xlim=(0, ln_k), ylim=(0, 1), yticks=[])
    axes.plot([each, batch], [0, 0], color=colour("orange"), linewidth=5, clip_on=False)
    for value, name, tint, mark, height in (
        (each, "one output", "blue", "o", 7),
        (batch, "mean output", "green", "D", 20),
    ):
        axes.plot([value], [0], mark, color=colour(tint), markersize=7, clip_on=False, zorder=3)
        axes.annotate(
            name,
            (value, 0),
            xytext=(0, height),
            textcoords="offset points",
            ha="left" if value < ln_k / 2 else "right",
            color=colour(f"{tint}-text"),
        )
    axes.set_xticks([0, ln_k], ["0", f"ln K  {number(ln_k)}"])
    axes.tick_params(pad=6)
    axes.set_xlabel("entropy, nats", labelpad=-9)
    axes.spines["left"].set_visible(False)
    axes.grid(False)
