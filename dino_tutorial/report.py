"""What a run report shows of the encoder: crops, attention, patch components, neighbours."""

from pathlib import Path

import torch
from torch import Tensor, nn

from dino_tutorial.datasets import open_dataset
from dino_tutorial.datasets.part import random_part
from dino_tutorial.evaluation import extract_features, nearest_neighbours, normalize, patch_pca
from dino_tutorial.methods import METHODS
from dino_tutorial.models import VisionTransformer
from dino_tutorial.options import flatten
from dino_tutorial.plots.report import ReportData, write_report
from dino_tutorial.runs import Run
from dino_tutorial.training.batches import mix
from dino_tutorial.views import Augment

BANK, QUERIES, NEIGHBOURS = 2000, 5, 5


def report_again(run: Run) -> Path:
    """Write the report of a finished run once more, from its folder alone."""
    config = run.config
    where = {"root": config.data.root, "limit": config.data.limit}
    size = config.views.global_size
    seen = open_dataset(config.source, "train", image_size=config.data.image_size, **where)
    bank = open_dataset(config.source, "train", image_size=size, **where)
    test = open_dataset(config.source, "test", image_size=size, **where)
    augment = Augment(METHODS[config.method].view_specs(config.views))
    return report_on(run, run.encoder(), augment, seen, bank, test)


@torch.inference_mode()
def report_on(run: Run, encoder: nn.Module, augment: Augment, seen, bank, test) -> Path:
    """Draw the pictures of one encoder on the CPU and write ``report.html``.

    Args:
        seen: what was trained on, for the crops.
        bank, test: splits at evaluation size; neighbours of test images come from the bank.
    """
    data = ReportData(
        config=flatten(run.config),
        summary=run.summary,
        metrics=run.metrics,
        timings=run.timings,
        environment=run.environment,
        classes=bank.classes,
    )
    queries = test if len(test) else bank
    seed = run.config.seed
    _add_crops(data, augment, seen, seed)
    pixels = random_part(queries, 8, mix(seed, 6)).images()
    if isinstance(encoder, VisionTransformer):
        _add_attention_and_components(data, encoder, pixels)
    _add_neighbours(data, encoder, bank, queries, seed)
    return write_report(run.report, data)


def _add_crops(data: ReportData, augment: Augment, seen, seed: int) -> None:
    images = random_part(seen, 2, mix(seed, 6)).images()
    generator = torch.Generator().manual_seed(mix(seed, 7))
    params = augment.sample(len(images), *images.shape[-2:], generator)
    groups = augment.apply(images, params)
    data.source_images = images
    data.crops = [view for group in groups for view in augment.denormalize(group)]
    top, left, height, width = params.boxes.unbind(-1)  # (V, n)
    data.crop_boxes = torch.stack([left, top, left + width, top + height], -1).transpose(0, 1)


def _add_attention_and_components(
    data: ReportData, encoder: VisionTransformer, pixels: Tensor
) -> None:
    inputs = normalize(pixels)
    patch = encoder.patch_size
    height, width = (side // patch for side in pixels.shape[-2:])
    attention = encoder.get_attention(inputs)[:, :, 0, -height * width :]  # (n, heads, N)
    data.attention_images = pixels[:4]
    data.attention = attention[:4].unflatten(-1, (height, width))
    if height * width >= 16:
        patches = encoder.forward_features(inputs).patches  # (n, N, D)
        data.pca_images = pixels
        data.patch_pca = patch_pca(patches, n_components=3).unflatten(1, (height, width))


def _add_neighbours(data: ReportData, encoder: nn.Module, bank, queries, seed: int) -> None:
    stored = random_part(bank, BANK, mix(seed, 8))
    asked = random_part(queries, QUERIES, mix(seed, 6))
    device = torch.device("cpu")
    bank_features, bank_labels = extract_features(encoder, stored, device=device)
    features, labels = extract_features(encoder, asked, device=device)
    nearest = nearest_neighbours(bank_features, features, NEIGHBOURS)  # (q, k)
    data.query_images, data.query_labels = asked.images(), labels
    images = stored.images(nearest.flatten())
    data.neighbour_images = images.unflatten(0, nearest.shape)
    data.neighbour_labels = bank_labels[nearest]

