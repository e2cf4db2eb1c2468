"""The run report: one HTML file that shows what a run learned, and works without a network."""

import math
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path

from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from torch import Tensor

from dino_tutorial.evaluation.collapse import UNIFORM_ABOVE, find_collapse, latest_rows
from dino_tutorial.files import write_text
from dino_tutorial.plots import curves, images
from dino_tutorial.plots.curves import BASELINES, Phase, Rows, has
from dino_tutorial.plots.style import COLOURS, DescribedFigure, number, percent, to_svg


@dataclass
class ReportData:
    """All that a report shows. What is None or empty is left out of it.

    The first five fields are the files of the run folder, read. Images are uint8 or floats in
    [0, 1]; ``plots.denormalize`` brings network inputs there. A few of each are enough: 2 sources
    of crops, 4 images of attention, 8 of patch components, 5 queries with 5 neighbours.
    """

    config: Mapping[str, object]  # config.yaml, nested or flat
    summary: Mapping[str, object]  # summary.json, and `title`, the method's
    metrics: Rows  # metrics.jsonl
    timings: Rows = ()  # timings.jsonl
    environment: Mapping[str, object] = field(default_factory=dict)  # environment.json
    command: str | None = None  # reproduces the run; made from the summary when None
    phases: Sequence[Phase] | None = None  # (label, first step, last step); None: from metrics
    feature_spread_reference: float | None = None  # spread of evenly spread features
    classes: Sequence[str] = ()

    source_images: Sequence[Tensor] | None = None  # n of (3, H, W)
    crops: Sequence[Tensor] | None = None  # V tensors (n, 3, h, w)
    crop_boxes: Tensor | None = None  # (n, V, 4) pixels of the source: left, top, right, bottom

    attention_images: Tensor | None = None  # (n, 3, H, W)
    attention: Tensor | None = None  # (n, heads, h, w) of the CLS token over the patches

    pca_images: Tensor | None = None  # (n, 3, H, W)
    patch_pca: Tensor | None = None  # (n, h, w, 3), any range, NaN: background

    query_images: Tensor | None = None  # (q, 3, H, W)
    query_labels: Tensor | None = None  # (q,)
    neighbour_images: Tensor | None = None  # (q, k, 3, H, W), nearest first
    neighbour_labels: Tensor | None = None  # (q, k)


@dataclass
class Card:
    """One figure of the report with its heading and how to read it."""

    title: str
    how_to_read: str
    figure: DescribedFigure
    finding: bool = True  # whether the alt text is also shown as the finding


def write_report(path: str | Path, data: ReportData) -> Path:
    """Write the report to ``path`` and return it. An older report is replaced in one step.

    Raises:
        UserError: the folder is missing or cannot be written.
    """
    return write_page(path, render_report(data))


def write_page(path: str | Path, page: str) -> Path:
    """Write the text of a page, whole or not at all, and return where."""
    write_text(path, page)
    return Path(path)


def render_report(data: ReportData) -> str:
    """The report as the text of one HTML page."""
    summary = data.summary
    groups = [
        ("What it learned", "learned", list(_learning_cards(data))),
        ("What the networks see", "images", list(_image_cards(data))),
        ("How it was trained", "training", list(_training_cards(data))),
    ]
    return render_page(
        title=_title(summary),
        method=_method_name(summary),
        verdict=verdict(summary),
        warnings=warnings(summary, data.metrics),
        comparison=_comparison(summary),
        facts=_facts(summary, data.timings),
        command=data.command or _command(summary),
        groups=[group for group in groups if group[2]],
        config=flatten_settings(data.config),
        environment=flatten_settings(data.environment),
    )


def render_page(**content: object) -> str:
    """Fill in the template that all reports share."""
    environment = Environment(
        loader=PackageLoader("dino_tutorial.plots", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    prefixes = (f"f{index}" for index in range(100))
    environment.filters["unbroken"] = lambda text: text.replace(" %", "\N{NO-BREAK SPACE}%")
    environment.filters["svg"] = lambda figure: Markup(to_svg(figure, next(prefixes)))
    page = environment.get_template("report.html").render(colours=COLOURS, **content)
    return page.encode("utf-8", "backslashreplace").decode()  # a path may hold what is no UTF-8


def verdict(summary: Mapping[str, object]) -> str:
    """The run in one sentence: k-NN accuracy and how far it lies from its baselines."""
    knn = _finite(summary, "knn_top1")
    if knn is None:
        loss = _finite(summary, "final_loss")
        ending = f"Training ended at loss {number(loss)}" if loss is not None else "Training ended"
        return f"{ending}; k-NN accuracy was not measured."
    parts = []
    for key, name in (("knn_random_init", "untrained encoder"), ("knn_raw_pixels", "raw pixels")):
        baseline = _finite(summary, key)
        if baseline is not None:
            points = 100 * (knn - baseline)
            the = "the " if key == "knn_random_init" else ""
            side = "above" if points >= 0 else "below"
            unit = "" if parts else " point" if f"{abs(points):.1f}" == "1.0" else " points"
            parts.append(f"{abs(points):.1f}{unit} {side} {the}{name}")
    return f"k-NN {percent(knn)}" + (": " + ", ".join(parts) if parts else "") + "."


def warnings(summary: Mapping[str, object], metrics: Rows) -> list[str]:
    """What in the numbers points to a collapse or a failed run, in plain words.

    Args:
        summary: as in ``summary.json``; accuracies in [0, 1].
        metrics: rows of ``metrics.jsonl``, oldest first.
    """
    found = []
    losses = curves.series(metrics, "loss")[1]
    if len(losses) and not math.isfinite(losses[-1]):
        found.append("The loss ended as a number that is not finite: the run diverged.")
    elif collapse := find_collapse(metrics):
        found.append(f"{str(collapse)[0].upper()}{str(collapse)[1:]}.")
    elif _stays_at_ln_k(metrics):
        found.append("The loss is still at ln K: the student has not begun to learn.")
    knn, untrained = (_finite(summary, key) for key in ("knn_top1", "knn_random_init"))
    if knn is not None and untrained is not None and knn <= untrained:
        found.append("k-NN is no better than the untrained encoder's: nothing useful was learned.")
    return found


def _stays_at_ln_k(metrics: Rows) -> bool:
    """Whether the latest losses are those of an output that prefers nothing.

    ln K is to be compared with one cross-entropy, so with DINO's where a loss has several parts.
    """
    latest = latest_rows(metrics)
    losses = [_finite(row, "dino_loss") or _finite(row, "loss") or 0.0 for row in latest]
    limits = [_finite(row, "ln_k") or math.inf for row in latest]
    return bool(latest) and all(
        loss > UNIFORM_ABOVE * limit for loss, limit in zip(losses, limits, strict=True)
    )


def _learning_cards(data: ReportData) -> Iterator[Card]:
    rows, ln_k = data.metrics, _finite(data.summary, "ln_k")
    phases = curves.phases_from_metrics(rows) if data.phases is None else data.phases
    if has(rows, "knn_top1"):
        baselines = {name: _finite(data.summary, key) for key, name in BASELINES.items()}
        yield Card(
            "k-NN accuracy",
            "How often the nearest neighbours in feature space vote for the right class. The"
            " dashed lines are what needs no training at all.",
            curves.knn_curve(rows, baselines),
        )
    if has(rows, "loss"):
        yield Card(
            "Loss against ln K" if ln_k is not None else "Loss",
            "ln K is the loss of an output that gives all K prototypes, classes or candidates"
            " the same probability. Learning starts where the curve leaves that line."
            if ln_k is not None
            else "The distance between the student's prediction and the teacher's output.",
            curves.loss_curve(rows, ln_k, phases),
        )
    if has(rows, "teacher_entropy") or has(rows, "batch_entropy"):
        yield Card(
            "Teacher entropies",
            "Low for one image: the teacher is sure. High for the batch mean: it uses all"
            " prototypes. Both at ln K, or both at 0, is collapse.",
            curves.entropy_curves(rows, ln_k),
        )
    if has(rows, "feature_spread"):
        yield Card(
            "Feature spread",
            "How different the features of different images are. It must not sink to 0.",
            curves.spread_curve(rows, data.feature_spread_reference),
        )


def _image_cards(data: ReportData) -> Iterator[Card]:
    if _given(data.source_images, data.crops, data.crop_boxes):
        yield Card(
            "Crops the student saw",
            "Left, where each crop was taken: solid boxes are global crops, dashed ones local."
            " Right, the same crops after colour changes, flips and blur.",
            images.crop_figure(data.source_images, data.crops, data.crop_boxes),
            finding=False,
        )
    if _given(data.attention_images, data.attention):
        yield Card(
            "Attention per head",
            "Bright patches are those that the CLS token of the last layer reads most. Nobody"
            " told the network where the objects are.",
            images.attention_heads(data.attention_images, data.attention),
        )
    if _given(data.pca_images, data.patch_pca):
        yield Card(
            "Principal components of the patches",
            "Equal colours mean similar patch features, across all the images.",
            images.patch_pca_images(data.pca_images, data.patch_pca),
            finding=False,
        )
    if _given(data.query_images, data.neighbour_images):
        labelled = _given(data.query_labels, data.neighbour_labels) and bool(
            ((data.query_labels[:, None] >= 0) & (data.neighbour_labels >= 0)).any()
        )
        marks = " A tick and a solid frame mark the right class, a cross and a dashed frame a"
        marks += " wrong one."
        yield Card(
            "Nearest neighbours",
            "Left, an image that was held out; right of it, the training images whose features"
            " are nearest." + (marks if labelled else ""),
            images.neighbour_rows(
                data.query_images,
                data.neighbour_images,
                data.query_labels,
                data.neighbour_labels,
                data.classes,
            ),
        )


def _training_cards(data: ReportData) -> Iterator[Card]:
    if any(has(data.metrics, key) for key in curves.SCHEDULES):
        yield Card(
            "Schedules",
            "The values that change during training by plan.",
            curves.schedule_curves(data.metrics),
        )
    if has(data.timings, "images_per_second"):
        yield Card(
            "Speed",
            "Images trained on in a second, each with all its crops.",
            curves.throughput_curve(data.timings),
        )


def _comparison(summary: Mapping[str, object]) -> list[dict[str, object]]:
    """Rows of the table of accuracies: name, share in percent, difference from the trained."""
    trained = _finite(summary, "knn_top1")
    if trained is None:
        return []
    rows = [{"name": f"{_method_name(summary)}, trained", "value": trained, "trained": True}]
    for key, name in BASELINES.items():
        value = _finite(summary, key)
        if value is not None:
            rows.append({"name": name, "value": value, "trained": False})
    for row in rows:
        row["percent"] = percent(row["value"])
        row["width"] = f"{100 * min(max(row['value'], 0), 1):.1f}%"
        gain = f"{100 * (trained - row['value']):+.1f}".replace("-", "\N{MINUS SIGN}")
        row["gain"] = "" if row["trained"] else gain
    return rows


def _facts(summary: Mapping[str, object], timings: Rows) -> list[tuple[str, str]]:
    """Short facts beside the table: (name, value)."""
    facts = []
    loss, ln_k = _finite(summary, "final_loss"), _finite(summary, "ln_k")
    if loss is not None:
        against = f" (ln K {number(ln_k)})" if ln_k is not None else ""
        facts.append(("Final loss", number(loss) + against))
    for key, name in (
        ("teacher_entropy", "Teacher entropy"),
        ("steps", "Steps"),
        ("parameters", "Parameters"),
    ):
        value = _finite(summary, key)
        if value is not None:
            facts.append((name, _amount(value)))
    seconds = _finite(summary, "train_seconds")
    if seconds is not None:
        facts.append(("Training time", _duration(seconds)))
    speed = _finite(summary, "images_per_second")
    if speed is None and has(timings, "images_per_second"):
        speed = statistics.median(curves.series(timings, "images_per_second")[1])
    if speed is not None:
        facts.append(("Images per second", number(speed)))
    memory = curves.series(timings, "memory_mib")[1]
    if len(memory):
        facts.append(("Peak memory", f"{memory.max():,.0f} MiB"))
    if summary.get("device"):
        facts.append(("Device", str(summary["device"])))
    return facts


def _title(summary: Mapping[str, object]) -> dict[str, str]:
    """Method and data for the heading, preset and seed for the line under it."""
    details = [
        f"{key} {summary[key]}" for key in ("preset", "seed") if summary.get(key) is not None
    ]
    return {"data": str(summary.get("data", "")), "details": " · ".join(details)}


def _method_name(summary: Mapping[str, object]) -> str:
    return str(summary.get("title") or summary.get("method", "run"))


def _command(summary: Mapping[str, object]) -> str | None:
    """The command that the summary implies, when it says enough."""
    if not all(summary.get(key) for key in ("method", "data", "preset")):
        return None
    words = ["dino-tutorial", "train", summary["method"], "--data", summary["data"]]
    words += ["--preset", summary["preset"]]
    if summary.get("seed") is not None:
        words += ["--set", f"seed={summary['seed']}"]
    return shlex.join(str(word) for word in words)


def flatten_settings(values: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """A nested configuration as (dotted name, text) pairs in its own order."""
    rows = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            rows += flatten_settings(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", _plain(value)))
    return rows


def _plain(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value)
    return str(value)


def _finite(summary: Mapping[str, object], key: str) -> float | None:
    value = summary.get(key)
    return float(value) if isinstance(value, Real) and math.isfinite(value) else None


def _amount(value: float) -> str:
    return f"{value / 1e6:.1f} million" if value >= 1e6 else number(value)


def _duration(seconds: float) -> str:
    """``48 s``, ``2 min 51 s``, ``3 h 20 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds) // 60} min {int(seconds) % 60} s"
    return f"{int(seconds) // 3600} h {int(seconds) % 3600 // 60} min"


def _given(*values: object) -> bool:
    return all(value is not None and len(value) > 0 for value in values)
