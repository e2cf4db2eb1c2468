"""A linear classifier on frozen features, with its hyper-parameters chosen honestly.

Every combination of learning rate and weight decay is one head. All L heads see the same
batches, so they train together as one (D, L·C) matrix: a sweep costs little more than one
probe. DINOv2 evaluates the same way, but picks the head on the split that it reports; here the
head is picked on a part of the training set, and the test set is looked at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from dino_tutorial.errors import UserError
from dino_tutorial.evaluation.inputs import as_features, as_labels, check_classes, check_width
from dino_tutorial.evaluation.knn import accuracy
from dino_tutorial.options import array, number, numbers, takes, whole

LEARNING_RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
WEIGHT_DECAYS = (0.0, 1e-4, 1e-3, 1e-2)
MOMENTUM = 0.9
CHUNK_LOGITS = 2**26  # of all heads, held at once: 256 MiB in float32


@dataclass(frozen=True)
class LinearProbe:
    """A trained linear classifier, and the sweep that it was chosen from.

    Attributes:
        weight: (D, C), acts on features as they came out of the encoder.
        bias: (C,).
        learning_rates: (L,), of each head of the sweep.
        weight_decays: (L,), of each head of the sweep.
        validation_accuracy: (L,), in 0..1, on the part of the training set that was held out.
        chosen: the index of the head with the best validation accuracy.
        test_accuracy: in 0..1, of the chosen setting trained again on the whole training set.
    """

    weight: Float[Tensor, "D C"]
    bias: Float[Tensor, " C"]
    learning_rates: Float[Tensor, " L"]
    weight_decays: Float[Tensor, " L"]
    validation_accuracy: Float[Tensor, " L"]
    chosen: int
    test_accuracy: float

    @takes(finite=True, features=array("n D"))
    def __call__(self, features: Tensor) -> Tensor:
        """Logits (n, C) of features (n, D)."""
        features = as_features(features)
        check_width(features, self.weight)
        return features.to(self.weight).matmul(self.weight) + self.bias


@takes(
    finite=True,
    train_x=array("N D"),
    train_y=array("N"),
    test_x=array("n D"),
    test_y=array("n"),
    learning_rates=numbers(number(0, 1e6, above=True)),
    weight_decays=numbers(number(0, 1e6)),
    steps=whole(),
    batch_size=whole(),
    validation_fraction=number(0, 1),
    seed=whole(0, 2**63 - 1),
)
@torch.no_grad()
def linear_probe(
    train_x: Float[Tensor, "N D"],
    train_y: Int[Tensor, " N"],
    test_x: Float[Tensor, "n D"],
    test_y: Int[Tensor, " n"],
    *,
    learning_rates: Sequence[float] = LEARNING_RATES,
    weight_decays: Sequence[float] = WEIGHT_DECAYS,
    steps: int = 3000,
    batch_size: int = 256,
    validation_fraction: float = 0.1,
    seed: int = 0,
) -> LinearProbe:
    """Train a sweep of linear classifiers, choose one by validation, and test it.

    Features are standardised with the training set's mean and standard deviation (one number a
    dimension), so that the same learning rates suit every encoder. SGD with momentum 0.9 and a
    cosine schedule to 0, cross-entropy loss. The chosen setting is trained once more on the
    training set with its validation part.

    Args:
        train_x: (N, D) frozen features; the probe trains on their device.
        train_y: (N,) int64 classes from 0.
        test_x: (n, D).
        test_y: (n,) int64.
        learning_rates: every one is combined with every weight decay; L heads in all.
        weight_decays: factors of ½‖weight‖² in the loss; biases are free.
        steps: of SGD, whatever the size of the training set: 15 passes over 50,000 features.
        batch_size: B, features a step.
        validation_fraction: part of the training set that chooses, between 0 and 1; at least one
            image.
        seed: of the split and of the order of the batches. The same seed gives the same probe.

    Raises:
        UserError: if labels are missing, shapes do not fit, or the training set is too small to
            give up a validation part.
    """
    train_x, test_x = as_features(train_x, "training features"), as_features(test_x)
    train_y, test_y = as_labels(train_y), as_labels(test_y)
    n_classes = check_split(train_x, train_y, test_x, test_y)
    n_validation = max(1, round(validation_fraction * len(train_x)))
    if n_validation >= len(train_x) or validation_fraction <= 0:
        raise UserError(
            f"a validation part of {validation_fraction:g} of the {len(train_x)} training images "
            "leaves none to train on or none to choose by: use at least two images, and a part "
            "between 0 and 1"
        )
    device = train_x.device
    train_x, train_y = train_x.float(), train_y.to(device)
    std, mean = torch.std_mean(train_x, dim=0, correction=0)
    std = std.clamp_min(1e-6 * std.max().clamp_min(1e-6))  # a constant dimension says nothing
    x = (train_x - mean).div_(std)
    grid = torch.cartesian_prod(*(torch.tensor(v).float() for v in (learning_rates, weight_decays)))
    rates, decays = grid.view(-1, 2).to(device).unbind(1)
    schedule = {"steps": steps, "batch_size": batch_size, "seed": seed}

    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).to(device)
    held_out, kept = order[:n_validation], order[n_validation:]
    heads = train_heads(x[kept], train_y[kept], n_classes, rates, decays, **schedule)
    validation = accuracies(*heads, x[held_out], train_y[held_out])
    chosen = int(validation.argmax())

    best = slice(chosen, chosen + 1)
    weight, bias = train_heads(x, train_y, n_classes, rates[best], decays[best], **schedule)
    weight = weight[0] / std[:, None]  # standardisation folded in
    bias = bias[0] - mean @ weight
    logits = test_x.to(device).float() @ weight + bias
    return LinearProbe(weight, bias, rates, decays, validation, chosen, accuracy(logits, test_y))


@torch.no_grad()
def train_heads(
    x: Float[Tensor, "N D"],
    y: Int[Tensor, " N"],
    n_classes: int,
    learning_rates: Float[Tensor, " L"],
    weight_decays: Float[Tensor, " L"],
    *,
    steps: int,
    batch_size: int,
    seed: int = 0,
) -> tuple[Float[Tensor, "L D C"], Float[Tensor, "L C"]]:
    """L linear classifiers on the same batches, each with its own rate and decay.

    The gradient of the cross-entropy of a linear classifier is short enough to write down:
    ``xᵀ (softmax(x W + b) − onehot(y)) / B``.

    Args:
        x: (N, D), standardised.
        y: (N,) int64 in 0..C−1.
        learning_rates, weight_decays: (L,), on the device of ``x``.

    Returns:
        Weights (L, D, C) and biases (L, C).
    """
    n, dim = x.shape
    n_heads = len(learning_rates)
    size = min(batch_size, n)
    weight = x.new_zeros(dim + 1, n_heads, n_classes)
    velocity = torch.zeros_like(weight)
    decay = weight_decays[:, None].expand(dim + 1, n_heads, 1).clone()
    decay[-1] = 0
    rows = torch.arange(size, device=x.device)
    generator = torch.Generator().manual_seed(seed)
    cosine = 0.5 * (1 + torch.cos(torch.pi * torch.arange(steps) / steps))
    batches: list[Tensor] = []
    for factor in cosine.tolist():
        if not batches:
            order = torch.randperm(n, generator=generator).to(x.device)
            batches = list(order[: n - n % size].split(size))  # all of one size: no noisy last one
        batch = batches.pop()
        inputs = F.pad(x[batch], (0, 1), value=1.0)  # the last row of the weights is the bias
        error = (inputs @ weight.flatten(1)).unflatten(1, weight.shape[1:]).softmax(dim=-1)
        error[rows, :, y[batch]] -= 1  # what softmax says minus the truth
        gradient = (inputs.T @ error.flatten(1) / len(batch)).view_as(weight)
        velocity.mul_(MOMENTUM).add_(gradient).addcmul_(decay, weight)
        weight -= factor * learning_rates[:, None] * velocity
    heads = weight.movedim(0, 1)  # (L, D + 1, C)
    return heads[:, :-1], heads[:, -1]


def accuracies(
    weight: Float[Tensor, "L D C"],
    bias: Float[Tensor, "L C"],
    x: Float[Tensor, "n D"],
    y: Int[Tensor, " n"],
) -> Float[Tensor, " L"]:
    """Accuracy (L,) of every head; a head that diverged has 0."""
    right, finite = torch.zeros_like(bias[:, 0]), torch.ones_like(bias[:, 0], dtype=torch.bool)
    at_once = max(1, CHUNK_LOGITS // bias.numel())
    for some, truth in zip(x.split(at_once), y.split(at_once), strict=True):
        logits = torch.einsum("nd,ldc->lnc", some, weight) + bias[:, None]
        right += (logits.argmax(dim=-1) == truth).sum(dim=1)
        finite &= logits.isfinite().flatten(1).all(dim=1)
    return right / len(x) * finite


def check_split(train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor) -> int:
    """Return C after making sure that features and labels fit together."""
    for name, x, y in (("training", train_x, train_y), ("test", test_x, test_y)):
        if x.ndim != 2 or y.shape != (len(x),) or len(x) == 0:
            raise UserError(
                f"{name} features must be (N, D) with N labels, N at least 1, "
                f"not {tuple(x.shape)} with labels {tuple(y.shape)}"
            )
        if int(y.min()) < 0:
            raise UserError(f"some {name} images have no label (−1): leave them out")
        if not x.isfinite().all():
            raise UserError(f"{name} features hold NaN or infinity: the encoder has diverged")
    if train_x.shape[1] != test_x.shape[1]:
        raise UserError(
            f"training features have {train_x.shape[1]} dimensions, "
            f"test features {test_x.shape[1]}: use the same encoder for both"
        )
    n_classes = max(int(train_y.max()), int(test_y.max())) + 1
    check_classes(n_classes)
    return n_classes
