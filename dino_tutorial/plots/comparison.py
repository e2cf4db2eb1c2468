"""A figure of several methods side by side: one row each, one dot for each seed."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import FuncFormatter

from dino_tutorial.errors import UserError
from dino_tutorial.options import takes
from dino_tutorial.plots.style import DescribedFigure, colour, counted, new_figure, percent, styled

DASHES = ((4, 2), (1, 1.5), (6, 2, 1, 2))


@takes()
@styled
def method_dots(
    values: Mapping[str, Sequence[float]],
    untrained: Mapping[str, Sequence[float]],
    levels: Mapping[str, float],
    measure: str = "k-NN accuracy",
) -> DescribedFigure:
    """Methods from best to worst, each seed a dot, with what needs no training beside them.

    Args:
        values: of each method, a fraction for every seed.
        untrained: of each method, the same with its encoder before training (hollow dots).
        levels: name and fraction of the baselines that hold for all rows (dashed lines).
        measure: what the fractions are.
    """
    if not values or any(len(seeds) == 0 for seeds in values.values()):
        raise UserError("there is nothing to draw: give each method a fraction for a seed or more")
    if missing := values.keys() - untrained.keys():
        raise UserError(f"untrained lacks {', '.join(sorted(missing))}: give fractions of them too")
    order = sorted(values, key=lambda name: -np.mean(values[name]))
    figure = new_figure(0.85 + 0.3 * len(order))
    axes = figure.subplots()
    for row, name in enumerate(order):
        before, after = untrained[name], values[name]
        axes.plot([np.mean(before), np.mean(after)], [row, row], color=colour("grid"), zorder=1)
        axes.scatter(
            before, [row] * len(before), s=26, facecolors="none", edgecolors=colour("muted")
        )
        axes.scatter(after, [row] * len(after), s=26, color=colour("blue"))
    for (name, level), dashes in zip(levels.items(), DASHES, strict=False):
        axes.axvline(level, color=colour("muted"), linewidth=1.2, linestyle=(0, dashes))
        # A word a line: neighbours and edges keep their distance.
        words = name.replace(" ", "\n")
        axes.text(level, -0.75, words, ha="center", va="bottom", color=colour("muted"), fontsize=9)
    axes.set_yticks(range(len(order)), order)
    axes.set_ylim(len(order) - 0.5, -0.6)
    axes.tick_params(axis="y", labelcolor=colour("ink"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.0f} %"))
    axes.set_xlabel(f"{measure} (hollow: the untrained encoder)")
    axes.grid(False, axis="y")
    seeds = counted(max(map(len, values.values())), "seed")
    told = "; ".join(
        f"{name} {percent(np.mean(values[name]))}, untrained {percent(np.mean(untrained[name]))}"
        for name in order
    )
    figure.alt_text = (
        f"{measure} of {counted(len(order), 'method')}, means of {seeds}, best first: {told}."
    )
    if levels:
        beside = ", ".join(f"{name} {percent(level)}" for name, level in levels.items())
        figure.alt_text += f" Baselines: {beside}."
    return figure
