"""What a run report shows of the encoder: crops, attention, patch components, neighbours."""

from functools import partial
from pathlib import Path

from torch import Tensor, nn

from dino_tutorial.datasets import ImageDataset, open_dataset
from dino_tutorial.datasets.subset import random_subset
from dino_tutorial.methods import METHODS, title_of
from dino_tutorial.models import VisionTransformer
from dino_tutorial.options import flatten
from dino_tutorial.plots.report import ReportData, write_report
from dino_tutorial.runs.folder import Run
from dino_tutorial.runs.gallery import (
    attention_maps,
    crops_of,
    filled,
    nearest_images,
    patch_components,
)
from dino_tutorial.seeds import Stream, mix
from dino_tutorial.views import Augment

BANK, QUERIES, NEIGHBOURS = 2000, 5, 5


def report_again(run: Run) -> Path:
    """Write the report of a finished run once more, from its folder alone."""
    config = run.config
    data, size = config.data, config.views.global_size
    opened = partial(open_dataset, config.source, root=data.root, limit=data.limit)
    seen = opened("train", image_size=data.image_size, fit=data.fit)
    bank, test = opened("train", image_size=size), opened("test", image_size=size)
    augment = Augment(METHODS[config.method].view_specs(config.views))
    return report_on(run, run.encoder(), augment, seen, bank, test)


def report_on(
    run: Run,
    encoder: nn.Module,
    augment: Augment,
    seen: ImageDataset,
    bank: ImageDataset,
    test: ImageDataset,
) -> Path:
    """Draw the figures of one encoder and write ``report.html``.

    Args:
        encoder: describes the bank where it is, and comes to the CPU for the figures.
        seen: what was trained on, for the crops.
        bank, test: splits at evaluation size; neighbours of test images come from the bank. Of a
            data set without test images, those of the bank are shown among the others.
    """
    data = ReportData(
        config=flatten(run.config),
        summary=run.summary | {"title": title_of(run.config.method)},
        metrics=run.metrics,
        timings=run.timings,
        environment=run.environment,
        classes=bank.classes,
    )
    queries = test if len(test) else bank
    seed = run.config.seed
    _add_crops(data, augment, seen, seed)
    pixels = random_subset(queries, 8, mix(seed, Stream.SHOWN)).images()
    if len(test) or len(bank) > 1:  # one image has no neighbours
        _add_neighbours(data, encoder, bank, queries, seed)
    if isinstance(encoder, VisionTransformer):
        _add_attention_and_components(data, encoder.cpu(), pixels)
    return write_report(run.report, data)


def _add_crops(data: ReportData, augment: Augment, seen: ImageDataset, seed: int) -> None:
    images, sizes = random_subset(seen, 2, mix(seed, Stream.SHOWN)).placed()
    data.source_images = filled(images, sizes)
    data.crops, data.crop_boxes = crops_of(augment, images, sizes, mix(seed, Stream.CROPS))


def _add_attention_and_components(
    data: ReportData, encoder: VisionTransformer, pixels: Tensor
) -> None:
    data.attention_images, data.attention = pixels[:4], attention_maps(encoder, pixels[:4])
    if data.attention[0, 0].numel() >= 16:
        data.pca_images, data.patch_pca = pixels, patch_components(encoder, pixels)


def _add_neighbours(
    data: ReportData, encoder: nn.Module, bank: ImageDataset, queries: ImageDataset, seed: int
) -> None:
    stored = random_subset(bank, BANK, mix(seed, Stream.BANK))
    asked = random_subset(queries, QUERIES, mix(seed, Stream.SHOWN))
    data.query_images, data.query_labels = asked.images(), asked.labels
    data.neighbour_images, data.neighbour_labels = nearest_images(
        encoder, stored, asked, NEIGHBOURS
    )
