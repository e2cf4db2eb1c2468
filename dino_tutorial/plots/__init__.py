"""Figures for the book and the run report, drawn from plain tensors and rows of numbers.

Nothing here knows a model or a data set. Every figure has ``alt_text``, written from its data.
"""

from dino_tutorial.plots.answers import answer_figure
from dino_tutorial.plots.comparison import method_dots
from dino_tutorial.plots.curves import (
    collapse_curves,
    entropy_curves,
    knn_curve,
    loss_curve,
    phases_from_metrics,
    schedule_curves,
    spread_curve,
    temperature_curve,
    throughput_curve,
)
from dino_tutorial.plots.images import (
    attention_heads,
    attention_map,
    crop_figure,
    denormalize,
    image_grid,
    mask_overlay,
    neighbour_rows,
    patch_pca_images,
)
from dino_tutorial.plots.interactive import InteractiveFigure
from dino_tutorial.plots.report import ReportData, write_report
from dino_tutorial.plots.stages import Stages, stage_figure, stage_strip
from dino_tutorial.plots.style import COLOURS, PALETTE, STYLE, to_png, to_svg, use_style
from dino_tutorial.plots.table import Table

__all__ = [
    "COLOURS",
    "PALETTE",
    "STYLE",
    "InteractiveFigure",
    "ReportData",
    "Stages",
    "Table",
    "answer_figure",
    "attention_heads",
    "attention_map",
    "collapse_curves",
    "crop_figure",
    "denormalize",
    "entropy_curves",
    "image_grid",
    "knn_curve",
    "loss_curve",
    "mask_overlay",
    "method_dots",
    "neighbour_rows",
    "patch_pca_images",
    "phases_from_metrics",
    "schedule_curves",
    "spread_curve",
    "stage_figure",
    "stage_strip",
    "temperature_curve",
    "throughput_curve",
    "to_png",
    "to_svg",
    "use_style",
    "write_report",
]
