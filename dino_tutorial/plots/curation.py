"""The curation report: one HTML file that shows what was removed, found and chosen."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator
from torch import Tensor

from dino_tutorial.errors import printable
from dino_tutorial.plots.images import cluster_rows, neighbour_rows, removed_pairs
from dino_tutorial.plots.report import Card, flatten_settings, render_page, write_page
from dino_tutorial.plots.style import (
    DescribedFigure,
    colour,
    counted,
    label_at_right,
    new_figure,
    percent,
    styled,
)

STAGES = {  # key -> name and colour, in the order of the curation
    "pool": ("pool", "muted"),
    "kept": ("without copies", "orange"),
    "retrieved": ("retrieved", "vermillion"),
    "selected": ("selected", "blue"),
}


@dataclass
class CurationReport:
    """All that the report shows. What is None or empty is left out of it.

    Images are uint8 or floats in [0, 1]; a few of each are enough.
    """

    summary: Mapping[str, object]  # summary.json
    command: str | None = None  # makes the curation again
    options: Mapping[str, object] = field(default_factory=dict)
    environment: Mapping[str, object] = field(default_factory=dict)
    classes: Sequence[str] = ()

    kept_images: Tensor | None = None  # (n, 3, H, W), kept of the components of removed ones
    removed_images: Tensor | None = None  # (n, 3, H, W)
    pair_similarity: Tensor | None = None  # (n,)
    pair_is_right: Tensor | None = None  # bool (n,), where the truth is known

    seed_images: Tensor | None = None  # (q, 3, H, W)
    seed_labels: Tensor | None = None  # (q,)
    found_images: Tensor | None = None  # (q, k, 3, H, W), nearest first
    found_labels: Tensor | None = None  # (q, k)

    cluster_images: Tensor | None = None  # (c, k, 3, H, W)
    cluster_sizes: Sequence[int] = ()  # (c,)

    class_counts: Mapping[str, np.ndarray] = field(default_factory=dict)  # stage: (C,)
    cluster_counts: Mapping[str, np.ndarray] = field(default_factory=dict)  # stage: (clusters,)


def write_curation_report(path: str | Path, report: CurationReport) -> Path:
    """Write the report to ``path`` and return it. An older report is replaced in one step.

    Raises:
        UserError: the folder is missing or cannot be written.
    """
    return write_page(path, render_curation_report(report))


def render_curation_report(report: CurationReport) -> str:
    """The report as the text of one HTML page."""
    summary = report.summary
    groups = [
        ("What was removed", "removed", list(_removed_cards(report))),
        ("What was found", "found", list(_found_cards(report))),
        ("Balance before and after", "balance", list(_balance_cards(report))),
    ]
    return render_page(
        kind="curation report",
        method="Curation",
        title={"data": str(summary["pool"]), "details": f"features: {summary['weights']}"},
        verdict=curation_verdict(summary),
        warnings=curation_warnings(summary),
        facts=_facts(summary),
        facts_title="What is known of it",
        command=report.command,
        groups=[group for group in groups if group[2]],
        config=flatten_settings(report.options),
        environment=flatten_settings(report.environment),
    )


def curation_verdict(summary: Mapping[str, object]) -> str:
    """The curation in one sentence: how many images came in and how many are left, and why."""
    removed = percent(summary["copies"] / summary["images"])
    return (
        f"{counted(summary['selected'], 'image')} chosen of {summary['images']:,}: {removed} were"
        f" copies, {summary['retrieved']:,} of the rest were retrieved."
    )


def curation_warnings(summary: Mapping[str, object]) -> list[str]:
    """What in the numbers points to thresholds or features that do not fit the pool."""
    found = []
    largest = summary["largest_component"]
    if largest > max(20, 0.02 * summary["images"]):
        found.append(
            f"One component holds {percent(largest / summary['images'])} of the pool. Unless it"
            " really has so many copies of one image, chains of look-alikes have grown together:"
            " raise the similarity."
        )
    if summary["blank"] > 0.1 * summary["images"]:
        found.append(
            f"{percent(summary['blank'] / summary['images'])} of the images are of a single colour"
            " or cannot be read."
        )
    if summary["near_evaluation"]:
        found.append(
            f"{counted(summary['near_evaluation'], 'image')} were removed because the evaluation"
            " set has an image like them or like a copy of them."
        )
    return found


def _removed_cards(report: CurationReport) -> Iterator[Card]:
    yield Card(
        "From the pool to the set",
        "How many images each step left.",
        stage_bars(report.summary),
    )
    if report.removed_images is not None and len(report.removed_images):
        right = report.pair_is_right
        marks = " A tick says that they are true copies, a cross that they are not."
        yield Card(
            "Removed images beside those kept",
            "Left of each pair the image that was kept, right the one removed for it, and their"
            " similarity. The first pairs are the least similar of all: if those are not copies,"
            " the threshold is too low." + (marks if right is not None else ""),
            removed_pairs(report.kept_images, report.removed_images, report.pair_similarity, right),
        )


def _found_cards(report: CurationReport) -> Iterator[Card]:
    if report.seed_images is not None and len(report.seed_images):
        yield Card(
            "Seeds and what they brought",
            "Left a curated image, right of it the images of the pool that are nearest to it.",
            neighbour_rows(
                report.seed_images,
                report.found_images,
                report.seed_labels,
                report.found_labels,
                report.classes,
            ),
        )
    if report.cluster_images is not None and len(report.cluster_images):
        yield Card(
            "Clusters",
            "Each row is one of the coarse clusters, the largest first, with images drawn from it"
            " at random.",
            cluster_rows(report.cluster_images, report.cluster_sizes),
            finding=False,
        )


def _balance_cards(report: CurationReport) -> Iterator[Card]:
    if report.class_counts:
        yield Card(
            "Classes",
            "The share of each true class, which the curation did not know; images without an"
            " object are left out. A flat curve is a balanced set.",
            share_curves(report.class_counts, report.classes, "class"),
        )
    if report.cluster_counts:
        yield Card(
            "Clusters",
            "The share of each coarse cluster, the largest first. The sample is divided evenly"
            " among them, but a small cluster cannot give more images than it has.",
            share_curves(report.cluster_counts, (), "cluster"),
        )


@styled
def stage_bars(summary: Mapping[str, object]) -> DescribedFigure:
    """Images in the pool, without copies, retrieved and selected, as bars."""
    names = {"images": "pool", "kept": "without copies", "retrieved": "retrieved"}
    counts = {name: int(summary[key]) for key, name in {**names, "selected": "selected"}.items()}
    figure = new_figure(1.7)
    axes = figure.subplots()
    colours = [colour(name) for _, name in STAGES.values()]
    axes.barh(list(counts), list(counts.values()), color=colours, height=0.6)
    for row, count in enumerate(counts.values()):
        axes.annotate(
            f"{count:,}", (count, row), xytext=(4, 0), textcoords="offset points", va="center"
        )
    axes.invert_yaxis()
    axes.set_xlim(0, 1.18 * max(counts.values()))
    axes.grid(False)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    figure.alt_text = "Images: " + ", ".join(f"{n:,} {name}" for name, n in counts.items()) + "."
    return figure


@styled
def share_curves(
    counts: Mapping[str, np.ndarray], names: Sequence[str] = (), what: str = "class"
) -> DescribedFigure:
    """The share of each class or cluster at each stage; unnamed ones in falling order.

    Args:
        counts: by a key of :data:`STAGES`, (C,) images of each class.
        names: (C,) of the classes.
        what: "class" or "cluster", for the axis.
    """
    figure = new_figure(3.0)
    axes = figure.subplots()
    labels, told = [], []
    for stage, values in counts.items():
        name, tint = STAGES[stage]
        shares = np.asarray(values, dtype=float) / max(1, np.sum(values))
        shares = shares if names else np.sort(shares)[::-1]
        axes.plot(
            np.arange(len(shares)),
            shares,
            color=colour(tint),
            marker="o" if len(shares) <= 20 else None,
            markersize=3.5,
            linewidth=2.2 if stage == "selected" else 1.4,
        )
        labels.append((shares[-1], name, "ink" if stage == "selected" else "muted"))
        told.append(f"{name}, {percent(shares.min())} to {percent(shares.max())}")
    if names:
        axes.set_xticks(
            range(len(names)),
            list(map(printable, names)),
            rotation=45,
            ha="right",
            rotation_mode="anchor",
        )
    else:
        axes.set_xlabel(f"{what}s, largest first")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.3g} %"))
    axes.set_ylim(bottom=0)
    axes.set_title(f"share of each {what}")
    label_at_right(axes, labels)
    figure.alt_text = f"Smallest and largest share of a {what}: {'; '.join(told)}."
    return figure


def _facts(summary: Mapping[str, object]) -> list[tuple[str, str]]:
    """Short facts: (name, value); those with a ground truth only where there is one."""
    names = {
        "copies_by_hash": "Copies by hash alone",
        "copies": "Copies, all",
        "largest_component": "Largest component",
        "blank": "Blank or unreadable",
        "near_evaluation": "Near the evaluation set",
        "retrieved_nearest": "Nearest to a seed",
        "retrieved_clusters": "From the seeds' clusters",
        "clusters": "Clusters sampled from",
    }
    facts = [(name, f"{summary[key]:,}") for key, name in names.items()]
    shares = {
        "pair_precision": "Copies: precision of pairs",
        "pair_recall": "Copies: recall of pairs",
        "purity_nearest": "Purity of nearest images",
        "purity_clusters": "Purity of clusters",
        "unlabelled_pool": "Without an object, pool",
        "unlabelled_selected": "Without an object, selected",
        "balance_pool": "Class balance, pool",
        "balance_selected": "Class balance, selected",
    }
    return facts + [(n, f"{summary[key]:.3f}") for key, n in shares.items() if key in summary]
