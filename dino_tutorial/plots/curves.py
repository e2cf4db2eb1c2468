"""Figures of numbers over time, drawn from the rows of ``metrics.jsonl`` and ``timings.jsonl``.

A row is a dictionary with ``"step"`` and any of the measured names; a name may be missing from
some rows. Every function returns a figure with ``alt_text`` and accepts rows that hold one
value, the same value throughout, values that are not finite, or none.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from dino_tutorial.errors import UserError
from dino_tutorial.options import instance, numbers, takes
from dino_tutorial.options import number as some_number
from dino_tutorial.plots.style import (
    DescribedFigure,
    colour,
    counted,
    label_at_right,
    new_figure,
    number,
    percent,
    styled,
)

Rows = Sequence[Mapping[str, object]]
Phase = tuple[str, int, int]  # label, first step, last step

BASELINES = {  # key of summary.json -> its name in figures and tables
    "knn_random_init": "untrained encoder",
    "knn_raw_pixels": "raw pixels",
    "knn_color_histogram": "colour histogram",
}
SCHEDULES = {
    "lr": "learning rate",
    "weight_decay": "weight decay",
    "momentum": "teacher momentum",
    "teacher_temp": "teacher temperature",
}


def series(rows: Rows, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of ``key`` in the rows that have it, NaN and infinities kept."""
    told = [row for row in rows if isinstance(row.get(key), Real) and _is_step(row.get("step"))]
    pairs = [(row["step"], row[key]) for row in told]
    steps = np.array([step for step, _ in pairs], dtype=float)
    return steps, np.array([value for _, value in pairs], dtype=float)


def _is_step(value: object) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


def has(rows: Rows, key: str) -> bool:
    """Whether any row holds a number under ``key``."""
    return len(series(rows, key)[0]) > 0


@takes()
@styled
def loss_curve(
    rows: Rows, ln_k: float | None = None, phases: Sequence[Phase] = ()
) -> DescribedFigure:
    """The loss against training steps, and ln K, the loss of a student that knows nothing.

    Args:
        rows: with ``loss``.
        ln_k: in nats; None draws no line.
        phases: (label, first step, last step) of each, drawn as bars over the curve.
    """
    steps, values = series(rows, "loss")
    figure = new_figure(2.9 + 0.2 * len(phases))
    if phases:
        strip, axes = figure.subplots(
            2, 1, sharex=True, height_ratios=(0.2 * len(phases), 2.6), squeeze=True
        )
    else:
        axes = figure.subplots()
    labels = [_line(axes, steps, values, "blue", "loss")]
    if ln_k is not None:
        axes.axhline(ln_k, color=colour("muted"), linestyle=(0, (4, 2)), linewidth=1.2)
        labels.append((ln_k, f"ln K  {number(ln_k)}", "muted"))
    _finish(axes, steps, labels)
    if phases:
        _draw_phases(strip, phases, axes.get_xlim())
    reference = f"; ln K is {number(ln_k)}" if ln_k is not None else ""
    figure.alt_text = _tell("Loss", steps, values) + reference + "." + _not_finite(values)
    for label, first, last in phases:
        figure.alt_text += f" {label[:1].upper()}{label[1:]}: steps {first:,} to {last:,}."
    return figure


@takes()
@styled
def entropy_curves(rows: Rows, ln_k: float | None = None) -> DescribedFigure:
    """Entropy (nats) of the teacher's output for one image, and of its mean over the batch.

    Training is healthy while the first is low and the second stays near ln K: sure about each
    image, and using all prototypes.

    Args:
        rows: with ``teacher_entropy`` and ``batch_entropy``.
        ln_k: in nats; None draws no line.
    """
    figure = new_figure(2.9)
    axes = figure.subplots()
    labels, told, seen = [], [], np.array([])
    for key, name, short, tint in (
        ("batch_entropy", "Entropy of the batch mean", "batch mean", "green"),
        ("teacher_entropy", "Teacher entropy per image", "one image", "blue"),
    ):
        steps, values = series(rows, key)
        if len(steps):
            labels.append(_line(axes, steps, values, tint, short))
            told.append(_tell(name, steps, values) + "." + _not_finite(values))
            seen = np.union1d(seen, steps)
    axes.axhline(0, color=colour("muted"), linestyle=(0, (1, 2)), linewidth=1.2)
    labels.append((0.0, "0  one prototype", "muted"))
    if ln_k is not None:
        axes.axhline(ln_k, color=colour("muted"), linestyle=(0, (4, 2)), linewidth=1.2)
        labels.append((ln_k, f"ln K  {number(ln_k)}", "muted"))
        told.append(f"ln K is {number(ln_k)}.")
    _finish(axes, seen, labels, unit="nats")
    figure.alt_text = " ".join(told) or "No entropies were recorded."
    return figure


@takes()
@styled
def spread_curve(rows: Rows, reference: float | None = None) -> DescribedFigure:
    """Feature spread over time; 0 means that every image has the same feature.

    Args:
        rows: with ``feature_spread``.
        reference: the spread of features that use all directions evenly, if it is known.
    """
    steps, values = series(rows, "feature_spread")
    figure = new_figure(2.9)
    axes = figure.subplots()
    labels = [_line(axes, steps, values, "purple", "spread")]
    axes.axhline(0, color=colour("muted"), linestyle=(0, (1, 2)), linewidth=1.2)
    labels.append((0.0, "0  collapse", "muted"))
    figure.alt_text = _tell("Feature spread", steps, values) + "; 0 would be collapse."
    if reference is not None:
        axes.axhline(reference, color=colour("muted"), linestyle=(0, (4, 2)), linewidth=1.2)
        labels.append((reference, f"even  {number(reference)}", "muted"))
        figure.alt_text += f" Evenly spread features have {number(reference)}."
    _finish(axes, steps, labels)
    figure.alt_text += _not_finite(values)
    return figure


@takes()
@styled
def collapse_curves(rows: Rows, ln_k: float, healthy: Rows = ()) -> DescribedFigure:
    """Loss, entropies (nats) and feature spread of one run, on axes that all runs share.

    Only a loss far above ln K makes its axis longer. In a collapse the two entropies meet, at 0,
    at ln K or between them, and the spread is small.

    Args:
        rows: with ``loss``, ``teacher_entropy``, ``batch_entropy`` and ``feature_spread``.
        ln_k: in nats.
        healthy: the rows of a run to compare with, drawn thin and gray.
    """
    figure = new_figure(4.6)
    panels = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 2))
    content = (
        ("loss", ln_k, (("loss", "Loss", "loss", "blue"),)),
        (
            "entropy of the teacher, nats",
            ln_k,
            (
                ("batch_entropy", "Entropy of the batch mean", "batch mean", "green"),
                ("teacher_entropy", "Teacher entropy per image", "one image", "blue"),
            ),
        ),
        ("feature spread", 1.0, (("feature_spread", "Feature spread", "spread", "purple"),)),
    )
    told = []
    for axes, (title, top, lines) in zip(panels, content, strict=True):
        labels = []
        for key, name, short, tint in lines:
            if has(healthy, key):
                axes.plot(*series(healthy, key), color=colour("muted"), linewidth=0.9, alpha=0.7)
            steps, values = series(rows, key)
            height, _, text_tint = _line(axes, steps, values, tint, "", smooth=False)
            labels.append((height, short, text_tint))
            told.append(_tell(name, steps, values) + "." + _not_finite(values))
        if key != "feature_spread":
            axes.axhline(ln_k, color=colour("muted"), linestyle=(0, (4, 2)), linewidth=1.2)
            labels.append((ln_k, "ln K", "muted"))
        axes.set_title(title, fontsize=10, pad=3)
        axes.grid(False, axis="x")
        axes.yaxis.set_major_locator(MaxNLocator(3))
        heights = np.concatenate([line.get_ydata() for line in axes.lines] or [[]])
        highest = heights[np.isfinite(heights)].max(initial=0)
        axes.set_ylim(-0.05 * top, max(1.12 * top, 1.04 * highest))
        label_at_right(axes, labels)
    _time_axis(panels[-1], series(rows, "loss")[0])
    figure.alt_text = " ".join([*told, f"ln K is {number(ln_k)}."])
    return figure


@takes(baselines=instance(Mapping, none=True))
@styled
def knn_curve(rows: Rows, baselines: Mapping[str, float | None] | None = None) -> DescribedFigure:
    """k-NN accuracy over training, with baselines as level lines.

    Args:
        rows: with ``knn_top1``, in [0, 1].
        baselines: accuracies by name; None where one was not measured.
    """
    steps, values = series(rows, "knn_top1")
    baselines = {k: v for k, v in (baselines or {}).items() if v is not None and math.isfinite(v)}
    figure = new_figure(2.9)
    axes = figure.subplots()
    last = _last(values)
    name = f"{100 * last:.0f} % trained" if last is not None else ""
    labels = [_line(axes, steps, values, "blue", name, markers=True, with_value=False)]
    dashes = ((4, 2), (1, 1.5), (6, 2, 1, 2), (3, 3))
    for index, (baseline, value) in enumerate(baselines.items()):
        axes.axhline(value, color=colour("muted"), linestyle=(0, dashes[index % 4]), linewidth=1.2)
        labels.append((value, f"{100 * value:.0f} % {baseline}", "muted"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.0f} %"))
    heights = [label[0] for label in labels]
    _finish(axes, steps, labels, bottom=0.0 if min(heights, default=0) < 0.3 else None)
    figure.alt_text = _tell("k-NN accuracy", steps, values, show=percent) + "."
    if baselines:
        told = ", ".join(f"{name} {percent(value)}" for name, value in baselines.items())
        figure.alt_text += f" Baselines: {told}."
    figure.alt_text += _not_finite(values)
    return figure


@takes()
@styled
def schedule_curves(rows: Rows, keys: Sequence[str] | None = None) -> DescribedFigure:
    """The schedules that the run followed, one small panel each above a common time axis.

    Args:
        rows: with the keys.
        keys: names in the rows; by default all schedules that the rows have.
    """
    keys = [key for key in (keys or SCHEDULES) if has(rows, key)]
    figure = new_figure(max(1.2, 0.35 + 0.85 * len(keys)))
    panels = figure.subplots(max(1, len(keys)), 1, sharex=True, squeeze=False)[:, 0]
    told = []
    for axes, key in zip(panels, keys, strict=False):
        steps, values = series(rows, key)
        name = SCHEDULES.get(key, key)
        _line(axes, steps, values, "blue", "", smooth=False)
        axes.set_title(name, fontsize=10, pad=3)
        axes.yaxis.set_major_locator(MaxNLocator(2))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: number(round(y, 12))))
        axes.margins(y=0.18)
        axes.grid(False, axis="x")
        told.append(_tell_schedule(name[:1].upper() + name[1:], steps, values) + ".")
    _time_axis(panels[-1], series(rows, keys[0])[0] if keys else np.array([]))
    figure.alt_text = " ".join(told) or "No schedules were recorded."
    return figure


@takes()
@styled
def throughput_curve(rows: Rows) -> DescribedFigure:
    """Images per second over training, from the rows of ``timings.jsonl``."""
    steps, values = series(rows, "images_per_second")
    figure = new_figure(2.3)
    axes = figure.subplots()
    label = _line(axes, steps, values, "orange", "images/s", smooth=False, with_value=False)
    finite = values[np.isfinite(values)]
    _finish(axes, steps, [(label[0], "images/s", "ink")], bottom=0.0)
    figure.alt_text = (
        f"Images per second: median {number(np.median(finite))}, from {number(finite.min())} to"
        f" {number(finite.max())}."
        if len(finite)
        else "No throughput was recorded."
    )
    return figure


@takes(temperatures=numbers(some_number(0, 1e6, above=True)), entropies=numbers(instance(Real)))
@styled
def temperature_curve(
    temperatures: Sequence[float],
    entropies: Sequence[float],
    ln_k: float | None = None,
    marks: Mapping[str, float] | None = None,
) -> DescribedFigure:
    """Entropy (nats) of a softmax against its temperature.

    Args:
        temperatures, entropies: both of length n.
        ln_k: in nats.
        marks: temperatures to point out by name, e.g. ``{"teacher": 0.04, "student": 0.1}``.
    """
    if len(temperatures) != len(entropies):
        raise UserError(
            f"{len(temperatures)} temperatures need as many entropies, not {len(entropies)}"
        )
    order = np.argsort(np.asarray(temperatures, dtype=float))
    x = np.asarray(temperatures, dtype=float)[order]
    y = np.asarray(entropies, dtype=float)[order]
    figure = new_figure(2.9)
    axes = figure.subplots()
    labels = [_line(axes, x, y, "blue", "entropy", smooth=False, with_value=False)]
    axes.axhline(0, color=colour("muted"), linestyle=(0, (1, 2)), linewidth=1.2)
    labels.append((0.0, "0  one-hot", "muted"))
    if ln_k is not None:
        axes.axhline(ln_k, color=colour("muted"), linestyle=(0, (4, 2)), linewidth=1.2)
        labels.append((ln_k, f"ln K  {number(ln_k)}", "muted"))
    _finish(axes, x, labels, unit="nats")
    if len(x) and x[0] > 0 and x[-1] > 10 * x[0]:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(round(value, 12))))
    axes.set_xlabel("temperature")
    ok = np.isfinite(y)
    figure.alt_text = "Entropy against temperature: " + (
        f"{number(y[ok][0])} at {number(x[ok][0])}, {number(y[ok][-1])} at {number(x[ok][-1])}."
        if ok.any()
        else "no finite values."
    )
    marked = sorted((marks or {}).items(), key=lambda mark: mark[1]) if ok.any() else []
    for name, temperature in marked:
        height = float(np.interp(temperature, x[ok], y[ok]))
        axes.plot([temperature], [height], "o", color=colour("vermillion"), markersize=6)
        axes.annotate(
            f"{name} {number(temperature)}",
            (temperature, height),
            xytext=(10, -7),  # the curve rises, so that there is room beneath it
            textcoords="offset points",
            color=colour("vermillion-text"),
            fontsize=10,
            va="center",
        )
        figure.alt_text += f" At the {name}'s {number(temperature)} it is {number(height)}."
    return figure


@takes()
def phases_from_metrics(rows: Rows) -> list[Phase]:
    """The warm-ups that the recorded schedules show: learning rate and teacher temperature."""
    phases = []
    for key, label in (
        ("lr", "learning rate warms up"),
        ("teacher_temp", "teacher temperature warms up"),
    ):
        steps, values = series(rows, key)
        if len(steps) > 1 and values[0] < np.nanmax(values):
            phases.append((label, int(steps[0]), int(steps[np.nanargmax(values)])))
    return phases


def _line(
    axes: Axes,
    steps: np.ndarray,
    values: np.ndarray,
    tint: str,
    name: str,
    *,
    smooth: bool = True,
    markers: bool = False,
    with_value: bool = True,
) -> tuple[float, str, str]:
    """Draw one series, and return its label for the right edge. Long series get a running mean."""
    values = np.where(np.isfinite(values), values, np.nan)
    last = _last(values)
    if last is None:
        axes.text(
            0.5,
            0.5,
            "no finite values",
            transform=axes.transAxes,
            ha="center",
            color=colour("muted"),
        )
        return (math.nan, "", tint)
    marker = "o" if markers or np.isfinite(values).sum() < 3 else None
    if smooth and not markers and len(values) >= 60:
        axes.plot(steps, values, color=colour(tint), linewidth=0.8, alpha=0.35)
        axes.plot(steps, running_mean(values, len(values) // 40), color=colour(tint))
    else:
        axes.plot(steps, values, color=colour(tint), marker=marker, markersize=4.5)
    text_tint = f"{tint}-text" if tint in ("blue", "vermillion", "green", "purple") else "ink"
    return (last, f"{name}  {number(last)}" if with_value else name, text_tint)


def running_mean(values: np.ndarray, half_width: int) -> np.ndarray:
    """Mean over ``2 * half_width + 1`` neighbours, fewer at the ends; gaps stay out of it."""
    present = np.isfinite(values)
    kernel = np.ones(2 * half_width + 1)
    total = np.convolve(np.where(present, values, 0.0), kernel)[half_width:-half_width]
    count = np.convolve(present.astype(float), kernel)[half_width:-half_width]
    return np.where(present, total / np.maximum(count, 1), np.nan)


def _finish(
    axes: Axes,
    steps: np.ndarray,
    labels: Sequence[tuple[float, str, str]],
    *,
    unit: str | None = None,
    bottom: float | None = None,
) -> None:
    """Axes and direct labels, once everything is drawn."""
    axes.margins(y=0.08)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.grid(False, axis="x")
    if unit:
        axes.set_ylabel(unit)
    _time_axis(axes, steps)
    low, high = axes.get_ylim()
    low = low if bottom is None else bottom
    if high - low < 1e-6 * max(abs(high), 1e-30):  # a constant series
        low, high = low - 0.5, high + 0.5
    axes.set_ylim(low, high)
    label_at_right(axes, [label for label in labels if label[1]])


def _time_axis(axes: Axes, steps: np.ndarray) -> None:
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    if len(steps) > 1:
        axes.set_xlim(steps[0], steps[-1])


def _draw_phases(strip: Axes, phases: Sequence[Phase], limits: tuple[float, float]) -> None:
    """Bars with their names, one row each, beside the bar or, where it is long, inside it."""
    strip.set_ylim(len(phases) - 0.5, -0.5)
    strip.axis("off")
    span = limits[1] - limits[0]
    for row, (label, first, last) in enumerate(phases):
        strip.barh(row, last - first, left=first, height=0.6, color=colour("grid"))
        outside = (last - limits[0]) / span < 0.4
        start = last if outside else max(first, limits[0])
        strip.annotate(
            label,
            (start, row),
            xytext=(5, 0),
            textcoords="offset points",
            va="center_baseline",
            fontsize=8.5,
            color=colour("muted"),
            annotation_clip=False,
        ).set_in_layout(False)
    strip.set_xlim(limits)


def _last(values: np.ndarray) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite[-1]) if len(finite) else None


def _tell(
    name: str,
    steps: np.ndarray,
    values: np.ndarray,
    show: Callable[[float], str] = number,
    tolerance: float = 0.005,
) -> str:
    """One clause: where the series begins, where it ends, over how many steps.

    A change below ``tolerance``, relative to the larger end, counts as none.
    """
    ok = np.isfinite(values)
    if not ok.any():
        return f"{name} has no finite values"
    first, last = values[ok][0], values[ok][-1]
    span = int(steps[ok][-1] - steps[ok][0])
    if ok.sum() == 1:
        return f"{name} is {show(last)} at step {int(steps[ok][0]):,}"
    if abs(last - first) <= tolerance * max(abs(first), abs(last)):
        return f"{name} stays at {show(last)} for {counted(span, 'step')}"
    verb = "rises" if last > first else "falls"
    return f"{name} {verb} from {show(first)} to {show(last)} in {counted(span, 'step')}"


def _tell_schedule(name: str, steps: np.ndarray, values: np.ndarray) -> str:
    """Like :func:`_tell`, and names the peak of a schedule that rises and then falls."""
    ok = np.isfinite(values)
    finite, at = values[ok], steps[ok]
    if len(finite) < 3 or finite.max() <= max(finite[0], finite[-1]):
        return _tell(name, steps, values, tolerance=1e-9)
    peak = finite.argmax()
    return (
        f"{name} rises from {number(finite[0])} to {number(finite[peak])} at step"
        f" {int(at[peak]):,}, then falls to {number(finite[-1])} at step {int(at[-1]):,}"
    )


def _not_finite(values: np.ndarray) -> str:
    missing = int((~np.isfinite(values)).sum())
    return f" {missing} of {counted(len(values), 'value')} not finite." if missing else ""
