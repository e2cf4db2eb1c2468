"""What the frozen features of a run, or of any encoder, are worth."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from dino_tutorial.datasets import open_dataset
from dino_tutorial.datasets.base import ImageDataset
from dino_tutorial.datasets.subset import labelled_subset
from dino_tutorial.errors import UserError
from dino_tutorial.evaluation import (
    evaluate_dense,
    evaluate_knn,
    extract_features,
    linear_probe,
)
from dino_tutorial.evaluation.baselines import baseline_bank
from dino_tutorial.evaluation.dense import DenseImages
from dino_tutorial.options import number, takes, whole
from dino_tutorial.runs.environment import choose_device
from dino_tutorial.runs.folder import Run, load_run, new_encoder

K = 20  # neighbours that vote when nobody says
DENSE_IMAGES = 2000  # that linear segmentation and depth are fitted to


@takes(k=whole(none=True), temperature=number(0, 1e6, above=True))
def evaluate(
    run_or_weights: Run | str | Path | nn.Module,
    data: str | Path | None = None,
    *,
    k: int | None = None,
    temperature: float = 0.07,
    probe: bool = False,
    dense: bool = False,
    device: str = "auto",
    limit: int | None = None,
    image_size: int | None = None,
) -> dict[str, Any]:
    """Measure frozen features by weighted k-NN, with the baselines beside it.

    The bank is the whole training split, the queries are the whole test split.

    Args:
        run_or_weights: a run, its folder, or any encoder with ``forward(x) -> (B, D)``.
        data: a data set's name or folder; by default the one that the run was trained on.
        k, temperature: of the k-NN classifier (Wu et al. 2018; DINO: 20, 0.07). Without a k it is
            20, or all images of a bank that has fewer.
        probe: also train a linear classifier on the training split's features.
        dense: also measure patches, by linear segmentation and linear depth, see
            :func:`dino_tutorial.evaluation.evaluate_dense`; fitted to at most 2,000 images. The
            data have to come with masks and depth, as the scenes do.
        device: auto, cpu, cuda or mps.
        limit: at most this many images of each split.
        image_size: canvas in pixels; by default the run's global view size.

    Returns:
        ``knn_top1`` and the baselines ``knn_raw_pixels``, ``knn_color_histogram`` and, for a
        run, ``knn_random_init`` (the same encoder before training), as fractions.

    Raises:
        UserError: no data are named, or they have too few labels, or no masks and depth.
    """
    torch_device = choose_device(device)
    if isinstance(run_or_weights, str | Path):
        run_or_weights = load_run(run_or_weights)
    encoder: nn.Module
    untrained: nn.Module | None
    if isinstance(run_or_weights, Run):
        config = run_or_weights.config
        encoder, untrained = run_or_weights.encoder(), new_encoder(config)
        data = config.source if data is None else data
        image_size = config.views.global_size if image_size is None else image_size
    else:
        encoder, untrained = run_or_weights, None
        if data is None:
            raise UserError("evaluate needs data: name a data set or a folder of images")
    bank = labelled_subset(open_dataset(data, "train", image_size=image_size, limit=limit))
    queries = labelled_subset(open_dataset(data, "test", image_size=bank.image_size, limit=limit))
    if dense:
        with_pixels(bank)  # before the work on the rest
    results = {"data": bank.name, "image_size": bank.image_size}
    k = min(K, max(1, len(bank))) if k is None else k
    results |= measure_knn(encoder, untrained, bank, queries, k, temperature, torch_device)
    if probe:
        train_x, train_y = extract_features(encoder, bank, device=torch_device)
        if torch_device.type == "cuda":
            train_x = train_x.to(torch_device)  # where the probe trains
        test_x, test_y = extract_features(encoder, queries, device=torch_device)
        results["linear_top1"] = linear_probe(train_x, train_y, test_x, test_y).test_accuracy
    if dense:
        few = min(len(bank), DENSE_IMAGES)
        fitted = open_dataset(data, "train", image_size=bank.image_size, limit=few)
        results |= evaluate_dense(
            encoder,
            with_pixels(fitted),
            with_pixels(queries),
            untrained=untrained,
            device=torch_device,
        )
    return results


def with_pixels(images: ImageDataset) -> DenseImages:
    """The images; or say that nothing is known of their pixels."""
    if not isinstance(images, DenseImages):
        raise UserError(f"{images.name} has no masks and depth to measure patches with: use scenes")
    return images


def measure_knn(
    encoder: nn.Module,
    untrained: nn.Module | None,
    bank: ImageDataset,
    queries: ImageDataset,
    k: int,
    temperature: float,
    device: torch.device,
) -> dict[str, Any]:
    """k-NN of the encoder and of every baseline under one protocol, with the protocol.

    Args:
        encoder, untrained: moved to ``device``; without the second one its baseline is left out.
        bank, queries: images that all have a label.
        k, temperature: of the classifier.
        device: where features are computed.

    Raises:
        UserError: the bank has fewer than two classes, or there are no queries.
    """
    if len(bank.classes) < 2 or len(bank) == 0:
        raise UserError(
            f"{bank.name} has no class labels to evaluate with (no labelled training images of two "
            "classes or more): use images by class"
        )
    if len(queries) == 0:
        raise UserError(
            f"{queries.name} has no labelled test images: put them in one folder a class, as the "
            "training images are"
        )
    top1 = evaluate_knn(
        encoder.to(device),
        bank,
        queries,
        [k],
        temperature=temperature,
        untrained=untrained.to(device) if untrained is not None else None,
        device=device,
    )
    compared = len(baseline_bank(bank))  # with pixels and colours
    sampled = {"baseline_bank": compared} if compared < len(bank) else {}
    protocol = {"bank": len(bank), "queries": len(queries), "k": k, "temperature": temperature}
    return protocol | sampled | {name: accuracies[k] for name, accuracies in top1.items()}
