"""Linear segmentation and depth of an encoder, with what they have to beat beside them."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dino_tutorial.evaluation.baselines import patch_pixels
from dino_tutorial.evaluation.depth import linear_depth
from dino_tutorial.evaluation.features import LabelledImages
from dino_tutorial.evaluation.patches import extract_patches, patch_size_of
from dino_tutorial.evaluation.segmentation import class_maps, linear_segmentation
from dino_tutorial.options import on_device, takes, whole


@runtime_checkable
class DenseImages(LabelledImages, Protocol):
    """A data set that knows its pixels, such as the scenes."""

    def masks(self, indices: Int[Tensor, " n"] | None = None) -> Bool[Tensor, "n H W"]:
        """Where the labelled object is seen, bool (n, H, W)."""
        ...

    def depth(self, indices: Int[Tensor, " n"] | None = None) -> Float[Tensor, "n H W"]:
        """float32 (n, H, W), positive."""
        ...


@takes(steps=whole(), seed=whole(0, 2**63 - 1), device=on_device)
def evaluate_dense(
    encoder: nn.Module,
    train_set: DenseImages,
    test_set: DenseImages,
    *,
    untrained: nn.Module | None = None,
    steps: int = 500,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> dict[str, float]:
    """mIoU and depth errors of frozen patch tokens and of every baseline, under one protocol.

    Args:
        encoder: a vision transformer.
        train_set: images that the linear maps are fitted to.
        test_set: images that are looked at once.
        untrained: the same encoder at initialisation, for ``…_random_init``.
        steps, seed: of :func:`linear_segmentation`; the seed also splits the images for depth.
        device: where the encoder is, and where segmenters are trained; depth is fitted on the CPU,
            in float64.

    Returns:
        ``miou``, ``depth_rmse`` and ``depth_delta1`` of the encoder; the same names with
        ``_raw_pixels`` for the pixels of each patch and, if ``untrained`` is given, with
        ``_random_init``; ``depth_rmse_mean`` and ``depth_delta1_mean`` for the mean depth.
    """
    patch = patch_size_of(encoder)
    tokens = {"": encoder, "_raw_pixels": None}
    if untrained is not None:
        tokens["_random_init"] = untrained
    classes = [class_maps(images.masks(), images.labels) for images in (train_set, test_set)]
    depths = [images.depth() for images in (train_set, test_set)]
    grid = tuple(side // patch for side in depths[0].shape[1:])
    results = {}
    for name, model in tokens.items():
        train_x, test_x = (
            extract_patches(model, images, device=device)
            if model is not None
            else patch_pixels(images.images(), patch)
            for images in (train_set, test_set)
        )
        measured = linear_depth(train_x, depths[0], test_x, depths[1], grid, seed=seed)
        segmented = linear_segmentation(
            train_x.to(device), classes[0], test_x, classes[1], grid, steps=steps, seed=seed
        )
        results[f"miou{name}"] = segmented.miou
        results[f"depth_rmse{name}"] = measured.rmse
        results[f"depth_delta1{name}"] = measured.delta1
    results["depth_rmse_mean"] = measured.mean_rmse
    results["depth_delta1_mean"] = measured.mean_delta1
    return results
