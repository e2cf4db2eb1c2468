"""What a learned feature has to beat: pixels, colours, and the encoder before training.

A k-NN accuracy says nothing by itself. `evaluate_knn` therefore never returns one without the
same protocol on raw pixels, on a colour histogram and, given the untrained encoder, on that.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from dino_tutorial.errors import UserError
from dino_tutorial.evaluation.features import (
    LabelledImages,
    extract_features,
    normalize,
)
from dino_tutorial.evaluation.knn import knn_accuracies
from dino_tutorial.normalization import IMAGENET_MEAN, IMAGENET_STD
from dino_tutorial.options import number, numbers, on_device, takes, whole

CHUNK = 1024  # images at a time
BASELINE_BANK = 50_000  # images: as pixels, 2.3 GiB at 64 x 64
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)


@takes(
    mean=numbers(number(-1e6, 1e6), 3),
    std=numbers(number(0, 1e6, above=True), 3),
    max_size=whole(),
)
def pixel_features(
    dataset: LabelledImages,
    *,
    mean: Sequence[float] = CIFAR10_MEAN,
    std: Sequence[float] = CIFAR10_STD,
    max_size: int = 64,
) -> Float[Tensor, "N D"]:
    """The normalised pixels themselves, flattened: (N, 3·h·w) float32.

    Args:
        dataset: N images of H×W pixels.
        mean, std: of red, green, blue for pixels in [0, 1]. CIFAR-10's are the default for any
            data set, because they make the baseline a little stronger than ImageNet's (45.8 %
            instead of 45.4 % on CIFAR-10, k = 20).
        max_size: larger images are first averaged down to at most this many pixels a side,
            which keeps memory bounded; pixel by pixel comparison gains nothing from more.
    """

    def describe(pixels: Tensor) -> Tensor:
        height, width = pixels.shape[-2:]
        shrink = min(1.0, max_size / max(height, width))
        values = normalize(pixels, mean, std)
        if shrink < 1:
            size = [max(1, round(side * shrink)) for side in (height, width)]
            values = F.interpolate(values, size=size, mode="area")
        return values.flatten(1)

    return _in_chunks(dataset, describe)


@takes(bins=whole(1, 256))
def color_histogram(dataset: LabelledImages, bins: int = 8) -> Float[Tensor, "N bins"]:
    """Joint RGB histogram of each image: (N, bins³) float32, each row of unit length.

    Red, green and blue are cut into ``bins`` equal parts each, so that a cell counts the pixels
    of one colour; where they are does not matter. Entries are square roots of frequencies: the
    cosine of two rows is then the Bhattacharyya coefficient of the two histograms.
    """
    place = torch.tensor([bins * bins, bins, 1])[:, None]

    def describe(pixels: Tensor) -> Tensor:
        level = pixels.flatten(2).to(torch.int64) * bins // 256  # (n, 3, H·W)
        cell = (level * place.to(level.device)).sum(dim=1)
        counts = torch.zeros(len(pixels), bins**3, device=pixels.device)
        counts.scatter_add_(1, cell, torch.ones_like(cell, dtype=counts.dtype))
        return (counts / cell.shape[1]).sqrt()

    return _in_chunks(dataset, describe)


@takes(
    patch_size=whole(),
    mean=numbers(number(-1e6, 1e6), 3),
    std=numbers(number(0, 1e6, above=True), 3),
)
def patch_pixels(
    images: UInt8[Tensor, "B 3 H W"],
    patch_size: int,
    *,
    mean: Sequence[float] = CIFAR10_MEAN,
    std: Sequence[float] = CIFAR10_STD,
) -> Float[Tensor, "B N D"]:
    """The normalised pixels of every patch, in place of a transformer's patch features.

    Args:
        images: uint8 (B, 3, H, W), sides multiples of the patch size.
        patch_size: P in pixels.
        mean, std: as for :func:`pixel_features`.

    Returns:
        (B, N, 3·P²) float32, patches row by row.

    Raises:
        UserError: if the sides are no multiples.
    """
    if images.shape[-2] % patch_size or images.shape[-1] % patch_size:
        raise UserError(
            f"images of {images.shape[-2]} by {images.shape[-1]} pixels cannot be cut into patches "
            f"of {patch_size}: use sides that are multiples of it"
        )
    return F.unfold(normalize(images, mean, std), patch_size, stride=patch_size).transpose(1, 2)


@takes(
    ks=numbers(whole()),
    temperature=number(0, 1e6, above=True),
    batch_size=whole(),
    device=on_device,
    mean=numbers(number(-1e6, 1e6), 3),
    std=numbers(number(0, 1e6, above=True), 3),
)
def evaluate_knn(
    encoder: nn.Module,
    train_set: LabelledImages,
    test_set: LabelledImages,
    ks: Sequence[int] = (10, 20),
    *,
    temperature: float = 0.07,
    untrained: nn.Module | None = None,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    progress: bool = False,
) -> dict[str, dict[int, float]]:
    """k-NN accuracy of an encoder and of every baseline, all under one protocol.

    Args:
        encoder: ``forward(images (B, 3, H, W)) -> (B, D)``.
        train_set: the bank; all of it is used, but for the pixels and colours of a bank of more
            than ``BASELINE_BANK`` images, of which they take so many (``baseline_bank``).
        test_set: the queries; all of them are used.
        ks: numbers of neighbours, each at most the size of the bank.
        temperature: of the votes.
        untrained: the same encoder at initialisation, for ``knn_random_init``.
        batch_size, device, mean, std, progress: as in :func:`extract_features`.

    Returns:
        ``{name: {k: top-1 accuracy in 0..1}}`` for the names ``knn_top1``, ``knn_raw_pixels``,
        ``knn_color_histogram`` and, if ``untrained`` is given, ``knn_random_init``.
    """

    def encode(model: nn.Module) -> tuple[Tensor, Tensor]:
        options = {
            "batch_size": batch_size,
            "device": device,
            "mean": mean,
            "std": std,
            "progress": progress,
        }
        sets = (train_set, test_set)
        bank, queries = (extract_features(model, images, **options)[0] for images in sets)
        return bank, queries

    def measure(bank: Tensor, queries: Tensor, labels: Tensor) -> dict[int, float]:
        if torch.device(device or "cpu").type == "cuda":  # which the bank visits part by part
            queries = queries.to(device)
        return knn_accuracies(bank, labels, queries, test_set.labels, ks, temperature)

    results = {"knn_top1": measure(*encode(encoder), train_set.labels)}
    if untrained is not None:
        results["knn_random_init"] = measure(*encode(untrained), train_set.labels)
    bank = baseline_bank(train_set)
    for name, describe in (
        ("knn_raw_pixels", pixel_features),
        ("knn_color_histogram", color_histogram),
    ):
        results[name] = measure(describe(bank), describe(test_set), bank.labels)
    return results


class _Sample:
    """Some images of a data set."""

    def __init__(self, dataset: LabelledImages, chosen: Tensor) -> None:
        self.dataset, self.chosen = dataset, chosen
        self.labels = dataset.labels[chosen]

    def __len__(self) -> int:
        return len(self.chosen)

    def images(self, indices: Tensor | None = None) -> Tensor:
        return self.dataset.images(self.chosen if indices is None else self.chosen[indices])


def baseline_bank(dataset: LabelledImages) -> LabelledImages:
    """The images that baselines have as their bank: all, or ``BASELINE_BANK`` of them.

    The same ones every time, in the order of the data set.
    """
    if len(dataset) <= BASELINE_BANK:
        return dataset
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
    return _Sample(dataset, order[:BASELINE_BANK].sort().values)


def _in_chunks(dataset: LabelledImages, describe) -> Tensor:
    features = None
    for indices in torch.arange(len(dataset)).split(CHUNK):
        found = describe(dataset.images(indices))
        if features is None:
            features = torch.empty(len(dataset), found.shape[1])
        features[indices[0] : indices[-1] + 1] = found
    return features
