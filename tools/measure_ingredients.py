"""What the parts of DINOv2's objective are for: single scenes found again, and colour kept.

    python tools/measure_ingredients.py RUN [RUN ...]

Adds to what `dino-tutorial eval RUN --save` may have kept of each run, on test scenes:

- ``same_scene_map``: two views of every scene, drawn as in the run's training; the first is the
  query, and its scene's second view has to be found among those of all scenes. Mean average
  precision, the measure of Oxford and Paris in Oquab et al. 2024, table 9.
- ``knn_top1_gray``, ``miou_gray``: as ``knn_top1`` and ``miou``, with every scene in gray, for what
  they are fitted to as for what they are told of.
- ``chroma_r2``: how much of the variance of a patch's colour (its mean red, green and blue less
  their mean) a linear map from its token tells; fitted to two thirds of the scenes, told of the
  rest. ``chroma_r2_random_init`` is the same of the encoder before training.
"""

import argparse

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from dino_tutorial import load_run
from dino_tutorial.datasets import open_dataset
from dino_tutorial.datasets.base import ImageDataset
from dino_tutorial.evaluation import (
    accuracy,
    class_maps,
    extract_features,
    extract_patches,
    knn_classify,
    linear_segmentation,
    retrieval_map,
)
from dino_tutorial.evaluation.dense import DenseImages
from dino_tutorial.evaluation.patches import patch_size_of
from dino_tutorial.methods.registry import METHODS
from dino_tutorial.runs.folder import Run, new_encoder
from dino_tutorial.runs.scores import DENSE_IMAGES, with_pixels
from dino_tutorial.views import Augment

SEED = 7  # of the views that are searched
RIDGE = 1e-3  # for each image of the fit; tokens are standardised


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN")
    for folder in parser.parse_args().runs:
        run = load_run(folder)
        scenes = open_dataset(run.config.source, "test", image_size=run.config.views.global_size)
        found = measure(run, scenes)
        where = {"data": scenes.name, "image_size": scenes.image_size}
        run.save_evaluation(run.evaluations.get(scenes.name, where) | found)
        print(folder, *(f"{name} {value:.3f}" for name, value in found.items()), flush=True)


def measure(run: Run, scenes: ImageDataset) -> dict[str, float]:
    encoder, untrained = run.encoder(), new_encoder(run.config)
    views = Augment(METHODS[run.config.method].view_specs(run.config.views)[:2])
    colours = chroma(scenes.images(), patch_size_of(encoder))
    bank = open_dataset(run.config.source, "train", image_size=scenes.image_size)
    return {
        "same_scene_map": same_scene_map(encoder, views, scenes),
        **in_gray(encoder, with_pixels(bank), with_pixels(scenes)),
        "chroma_r2": explained(extract_patches(encoder, scenes), colours),
        "chroma_r2_random_init": explained(extract_patches(untrained, scenes), colours),
    }


@torch.inference_mode()
def same_scene_map(encoder: nn.Module, augment: Augment, scenes: ImageDataset) -> float:
    images, generator = scenes.images(), torch.Generator().manual_seed(SEED)
    params = augment.sample(len(images), *images.shape[-2:], generator)
    views = augment.apply(images, params)[0]  # (2, N, 3, S, S)
    queries, gallery = (torch.cat([encoder(part) for part in view.split(250)]) for view in views)
    scene = torch.arange(len(images))
    return retrieval_map(queries, scene, gallery, scene)


def in_gray(encoder: nn.Module, bank: DenseImages, queries: DenseImages) -> dict[str, float]:
    (x, y), (told, wanted) = (extract_features(encoder, Gray(part)) for part in (bank, queries))
    grid = tuple(side // patch_size_of(encoder) for side in queries.images().shape[-2:])
    few = Gray(bank, DENSE_IMAGES)
    patches = [extract_patches(encoder, part) for part in (few, Gray(queries))]
    classes = [class_maps(part.masks(), part.labels) for part in (few, queries)]
    segmented = linear_segmentation(patches[0], classes[0], patches[1], classes[1], grid)
    return {
        "knn_top1_gray": accuracy(knn_classify(x, y, told), wanted),
        "miou_gray": segmented.miou,
    }


class Gray:
    """The first ``n`` scenes without their colours (luma of ITU-R 601, as the views' gray)."""

    def __init__(self, scenes: DenseImages, n: int | None = None) -> None:
        self.scenes, self.chosen = scenes, torch.arange(len(scenes))[:n]
        self.labels, self.classes = scenes.labels[:n], scenes.classes

    def __len__(self) -> int:
        return len(self.chosen)

    def images(self, indices: Tensor | None = None) -> Tensor:
        coloured = self.scenes.images(self.chosen if indices is None else indices).float()
        luma = (coloured * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
        return luma.round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()

    def masks(self) -> Tensor:
        return self.scenes.masks(self.chosen)


def chroma(images: Tensor, patch: int) -> Tensor:
    """(B, 3, H, W) uint8 -> (B, N, 3), the colour of each patch without its brightness."""
    means = avg_pool2d(images.double() / 255, patch).flatten(2).transpose(1, 2)
    return means - means.mean(dim=-1, keepdim=True)


def explained(x: Tensor, y: Tensor) -> float:
    """R² of a ridge regression from (B, N, D) to (B, N, C), on the last third of the images."""
    x, y = x.double(), y.double()
    fitted = len(x) * 2 // 3
    mean, std = x[:fitted].mean(dim=(0, 1)), x[:fitted].std(dim=(0, 1)).clamp_min(1e-6)
    x = torch.cat([(x - mean) / std, torch.ones_like(x[..., :1])], dim=-1)
    known, wanted = x[:fitted].flatten(0, 1), y[:fitted].flatten(0, 1)
    gram = known.T @ known + RIDGE * fitted * torch.eye(known.shape[1], dtype=known.dtype)
    told = x[fitted:] @ torch.linalg.solve(gram, known.T @ wanted)
    missed = (y[fitted:] - told).square().sum()
    return float(1 - missed / (y[fitted:] - wanted.mean(dim=0)).square().sum())


if __name__ == "__main__":
    main()
