"""Linear semantic segmentation: what class each pixel is, told by a linear map of patch tokens.

The protocol is DINOv2's (Oquab et al. 2024, section 7.4, "linear"): frozen patch tokens, one
linear layer to class logits, these upsampled bilinearly to the pixels, cross-entropy there, mean
intersection over union. As in the linear probe, the head is chosen on a part of the training
images, and the test images are looked at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dino_tutorial.errors import UserError
from dino_tutorial.evaluation.inputs import as_labels, check_classes, check_width
from dino_tutorial.evaluation.patches import (
    check_dense,
    check_grid,
    split_images,
    standardisation,
    upsample,
    upsampling_matrices,
)
from dino_tutorial.options import array, number, numbers, pair, takes, tensor, whole

LEARNING_RATES = (0.1, 0.3, 1.0)
WEIGHT_DECAYS = (0.0, 1e-3)
MOMENTUM = 0.9
IGNORED = -1  # pixels of this class neither train nor count
CHUNK_LOGITS = 2**24  # logits held at once when predicting: 64 MiB in float32


@dataclass(frozen=True)
class LinearSegmentation:
    """A trained linear segmenter, what it reached, and the sweep that it was chosen from.

    Attributes:
        weight: (D, C), acts on patch tokens as they came out of the encoder.
        bias: (C,).
        grid: rows and columns of patches.
        learning_rates: (L,), of each head of the sweep.
        weight_decays: (L,), of each head of the sweep.
        validation_miou: (L,), in 0..1, on the training images that were held out.
        chosen: the index of the best of them.
        confusion: (C, C) int64, test pixels by true class (row) and predicted class (column).
        class_iou: (C,) float64, NaN for a class that neither occurs nor is predicted.
        miou: their mean, in 0..1, of the chosen setting trained again on all training images.
    """

    weight: Float[Tensor, "D C"]
    bias: Float[Tensor, " C"]
    grid: tuple[int, int]
    learning_rates: Float[Tensor, " L"]
    weight_decays: Float[Tensor, " L"]
    validation_miou: Float[Tensor, " L"]
    chosen: int
    confusion: Int[Tensor, "C C"]
    class_iou: Float[Tensor, " C"]
    miou: float

    @takes(finite=True, patches=tensor("n N D", "float"), size=pair())
    def __call__(self, patches: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits (n, C, H, W) of patch tokens (n, N, D), for images of ``size`` pixels."""
        check_width(patches, self.weight)
        check_grid(patches, self.grid)
        logits = patches.to(self.weight) @ self.weight + self.bias  # (n, N, C)
        return upsample(logits.transpose(1, 2).unflatten(2, self.grid), size)


@takes(labels=array("n"))
def class_maps(masks: Bool[Tensor, "n H W"], labels: Int[Tensor, " n"]) -> Int[Tensor, "n H W"]:
    """Where which class is seen: int64 (n, H, W), 0 the background, 1 + label on the object.

    Args:
        masks: bool (n, H, W), the labelled object of each image.
        labels: (n,) int64; the pixels of an object without label (−1) are left out (−1), for they
            are not background.
    """
    labels = as_labels(labels).to(masks.device)
    return masks * torch.where(labels < 0, IGNORED, labels + 1)[:, None, None]


@takes(n_classes=whole(1, 2**15))
def confusion_matrix(
    predicted: Int[Tensor, "*n"], truth: Int[Tensor, "*n"], n_classes: int
) -> Int[Tensor, "C C"]:
    """How many pixels of each class (row) were taken for which (column): (C, C) int64.

    Args:
        predicted: int64 of any shape, classes 0..C−1.
        truth: the same shape; pixels of class −1 do not count.

    Raises:
        UserError: if the shapes differ or a class is out of range.
    """
    if predicted.shape != truth.shape:
        raise UserError(
            f"predicted and true classes differ in shape, {tuple(predicted.shape)} and "
            f"{tuple(truth.shape)}: give a class to each pixel of both"
        )
    counted = truth != IGNORED
    rows, columns = truth[counted], predicted[counted]
    for what, found in (("true", rows), ("predicted", columns)):
        if found.numel() and not 0 <= found.min() <= found.max() < n_classes:
            raise UserError(
                f"{what} classes run from {int(found.min())} to {int(found.max())}: they have to "
                f"lie in 0..{n_classes - 1}, or where the true one is {IGNORED}"
            )
    pairs = rows.long() * n_classes + columns.long()
    return torch.bincount(pairs, minlength=n_classes**2).view(n_classes, n_classes)


@takes()
def intersection_over_union(confusion: Int[Tensor, "C C"]) -> Float[Tensor, " C"]:
    """IoU of each class, (C,) float64, from a confusion matrix (C, C).

    Pixels of a class that were found, over pixels that are of it or were taken for it; NaN where
    there are none.
    """
    found = confusion.diagonal().double()
    return found / (confusion.sum(dim=0) + confusion.sum(dim=1) - found)


@takes(
    finite=True,
    grid=pair(),
    n_classes=whole(1, 2**15, none=True),
    learning_rates=numbers(number(0, 1e6, above=True)),
    weight_decays=numbers(number(0, 1e6)),
    steps=whole(),
    batch_size=whole(),
    validation_fraction=number(0, 1),
    seed=whole(0, 2**63 - 1),
)
def linear_segmentation(
    train_x: Float[Tensor, "n N D"],
    train_y: Int[Tensor, "n H W"],
    test_x: Float[Tensor, "m N D"],
    test_y: Int[Tensor, "m H2 W2"],
    grid: tuple[int, int],
    *,
    n_classes: int | None = None,
    learning_rates: Sequence[float] = LEARNING_RATES,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
    steps: int = 500,
    batch_size: int = 16,
    validation_fraction: float = 0.1,
    seed: int = 0,
) -> LinearSegmentation:
    """Train a sweep of linear segmenters, choose one by validation, and test it.

    Tokens are standardised with the training set's mean and standard deviation. SGD with
    momentum 0.9 and a cosine schedule to 0.

    Args:
        train_x: (n, N, D) frozen patch tokens, row by row; the heads train on their device.
        train_y: int64 (n, H, W), a class from 0 for each pixel, −1 for those to leave out.
        test_x, test_y: the same for the test images.
        grid: rows and columns of patches, N in all.
        n_classes: C; by default the largest class plus 1.
        learning_rates: every one is combined with every weight decay; L heads train together.
        weight_decays: factors of ½‖weight‖² in the loss; biases are free.
        steps: of SGD.
        batch_size: images a step.
        validation_fraction: part of the training images that chooses, between 0 and 1.
        seed: of the split and of the batches. The same seed gives the same segmenter.

    Raises:
        UserError: if shapes do not fit, or there are too few images to give up a validation part.
    """
    check_dense(train_x, train_y, grid, "training")
    check_dense(test_x, test_y, grid, "test")
    train_y, test_y = train_y.long(), test_y.long()
    for name, y in (("training", train_y), ("test", test_y)):
        if (y == IGNORED).all():
            raise UserError(f"no pixel of the {name} images has a class: give some from 0 on")
    highest = max(int(train_y.max()), int(test_y.max())) + 1
    check_classes(highest)
    n_classes = highest if n_classes is None else n_classes
    lowest = min(int(train_y.min()), int(test_y.min()))
    if lowest < IGNORED or highest > n_classes or highest < 1:
        raise UserError(
            f"classes of pixels run from {lowest} to {highest - 1}: give classes from 0 to "
            f"{n_classes - 1}, and {IGNORED} to pixels that do not count"
        )
    device = train_x.device
    train_y, test_x, test_y = (t.to(device) for t in (train_y, test_x, test_y))
    mean, std = standardisation(train_x.float())
    x = (train_x.float() - mean) / std
    settings = torch.cartesian_prod(
        *(torch.tensor(v).float() for v in (learning_rates, weight_decays))
    )
    rates, decays = settings.view(-1, 2).unbind(1)
    schedule = {"steps": steps, "batch_size": batch_size, "seed": seed}

    held_out, kept = (part.to(device) for part in split_images(len(x), validation_fraction, seed))
    heads = train_heads(
        x[kept], train_y[kept], grid, n_classes, rates.tolist(), decays.tolist(), **schedule
    )
    validation = torch.stack(
        [
            _miou(_confusion(x[held_out], train_y[held_out], grid, *head))
            for head in zip(*heads, strict=True)
        ]
    )
    chosen = int(validation.argmax())

    best = [float(rates[chosen])], [float(decays[chosen])]
    weight, bias = train_heads(x, train_y, grid, n_classes, *best, **schedule)
    weight = weight[0] / std[:, None]  # standardisation folded in
    bias = bias[0] - mean @ weight
    confusion = _confusion(test_x.float(), test_y, grid, weight, bias)
    return LinearSegmentation(
        weight,
        bias,
        grid,
        rates,
        decays,
        validation,
        chosen,
        confusion,
        intersection_over_union(confusion),
        float(_miou(confusion)),
    )


def train_heads(
    x: Float[Tensor, "n N D"],
    y: Int[Tensor, "n H W"],
    grid: tuple[int, int],
    n_classes: int,
    learning_rates: list[float],
    weight_decays: list[float],
    *,
    steps: int,
    batch_size: int,
    seed: int,
) -> tuple[Float[Tensor, "L D C"], Float[Tensor, "L C"]]:
    """L linear segmenters on the same batches, each with its own rate and decay.

    Args:
        x: (n, N, D), standardised.
        y: int64 (n, H, W) in 0..C−1, or −1.

    Returns:
        Weights (L, D, C) and biases (L, C).
    """
    weights = [x.new_zeros(x.shape[-1], n_classes, requires_grad=True) for _ in learning_rates]
    biases = [x.new_zeros(n_classes, requires_grad=True) for _ in learning_rates]
    groups = []
    for weight, bias, rate, decay in zip(
        weights, biases, learning_rates, weight_decays, strict=True
    ):
        groups.append({"params": [weight], "lr": rate, "weight_decay": decay})
        groups.append({"params": [bias], "lr": rate})
    optimizer = torch.optim.SGD(groups, lr=0.0, momentum=MOMENTUM)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rows, columns = upsampling_matrices(grid, y.shape[1:], x)
    generator = torch.Generator().manual_seed(seed)
    size = min(batch_size, len(x))
    batches: list[Tensor] = []
    for _ in range(steps):
        if not batches:
            order = torch.randperm(len(x), generator=generator).to(x.device)
            batches = list(order[: len(x) - len(x) % size].split(size))
        batch = batches.pop()
        with torch.enable_grad():
            # All heads as one wide layer; each one's loss reaches only its own weights.
            logits = x[batch] @ torch.cat(weights, dim=1) + torch.cat(biases)  # (B, N, L·C)
            # As matrix products, whose gradients are matrix products too: faster than upsample.
            pixels = rows @ logits.transpose(1, 2).unflatten(2, grid) @ columns.T
            pixels = pixels.unflatten(1, (-1, n_classes)).flatten(0, 1)  # (B·L, C, H, W)
            truth = y[batch]
            every = truth.repeat_interleave(len(weights), dim=0)
            loss = F.cross_entropy(pixels, every, ignore_index=IGNORED, reduction="sum")
            loss = loss / (truth != IGNORED).sum().clamp(min=1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        cosine.step()
    return torch.stack(weights).detach(), torch.stack(biases).detach()


def _confusion(x: Tensor, y: Tensor, grid: tuple[int, int], weight: Tensor, bias: Tensor) -> Tensor:
    """The confusion matrix of one head, images in chunks; one that diverged sees only class 0."""
    n_classes, size = len(bias), y.shape[1:]
    chunk = max(1, CHUNK_LOGITS // (n_classes * size.numel()))
    total = torch.zeros(n_classes, n_classes, dtype=torch.int64, device=x.device)
    for images, truth in zip(x.split(chunk), y.split(chunk), strict=True):
        logits = (images @ weight + bias).transpose(1, 2).unflatten(2, grid)
        total += confusion_matrix(upsample(logits, size).argmax(dim=1), truth, n_classes)
    return total


def _miou(confusion: Tensor) -> Tensor:
    return intersection_over_union(confusion).nanmean()
