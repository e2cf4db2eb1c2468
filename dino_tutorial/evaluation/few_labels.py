"""How far a few labels go: accuracy of frozen features against labels per class."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from dino_tutorial.errors import UserError
from dino_tutorial.evaluation.inputs import as_features, as_labels, check_classes
from dino_tutorial.evaluation.knn import accuracy, knn_classify
from dino_tutorial.evaluation.linear import check_split
from dino_tutorial.options import array, number, numbers, takes, whole

PER_CLASS = (1, 2, 5, 10, 20, 50, 100)


@dataclass(frozen=True)
class LabelEfficiency:
    """Accuracies on the test set, in 0..1, for S random choices of which images are labelled.

    Attributes:
        per_class: (n,), labels per class.
        knn: (S, n), of weighted k-NN.
        linear: (S, n), of logistic regression.

    ``linear.mean(0)`` is the curve and ``linear.std(0)`` how much it depends on the choice.
    """

    per_class: tuple[int, ...]
    knn: Float[Tensor, "S n"]
    linear: Float[Tensor, "S n"]


@takes(
    finite=True,
    train_x=array("N D"),
    train_y=array("N"),
    test_x=array("m D"),
    test_y=array("m"),
    per_class=numbers(whole(-(2**31))),
    n_subsets=whole(1, 10**6),
    k=whole(),
    temperature=number(0, 1e6, above=True),
    seed=whole(0, 2**63 - 1),
)
def label_efficiency(
    train_x: Float[Tensor, "N D"],
    train_y: Int[Tensor, " N"],
    test_x: Float[Tensor, "m D"],
    test_y: Int[Tensor, " m"],
    per_class: Sequence[int] = PER_CLASS,
    *,
    n_subsets: int = 5,
    k: int = 20,
    temperature: float = 0.07,
    seed: int = 0,
) -> LabelEfficiency:
    """Classify frozen features with few labels, several times over.

    Nothing is chosen by looking: with one label a class there is nothing to validate on, so both
    classifiers keep one setting for every number of labels. k-NN takes k neighbours, but no more
    than a class has labels. The linear classifier is :func:`logistic_regression` with
    scikit-learn's default strength, on features that are standardised by all training images:
    mean and standard deviation need no labels. With many labels :func:`linear_probe`, which
    chooses by validation, may be a little better.

    Baselines are ``pixel_features``, ``color_histogram`` and an untrained encoder's features
    through this same function, with the same seed: they see the same labels.

    Args:
        train_x: (N, D) frozen features; everything runs on their device.
        train_y: (N,) int64 classes from 0.
        test_x: (n_test, D).
        test_y: (n_test,) int64.
        per_class: n numbers of labels.
        n_subsets: S random choices.
        k, temperature: of :func:`knn_classify`.
        seed: of the choices; see :func:`nested_subsets`.

    Raises:
        UserError: if a class has too few images, or shapes or values do not fit.
    """
    train_x, test_x = as_features(train_x, "training features"), as_features(test_x)
    train_y, test_y = as_labels(train_y), as_labels(test_y)
    n_classes = check_split(train_x, train_y, test_x, test_y)
    device = train_x.device
    train_x, train_y = train_x.float(), train_y.to(device)
    test_x, test_y = test_x.to(device).float(), test_y.to(device)
    std, mean = torch.std_mean(train_x, dim=0, correction=0)
    std = std.clamp_min(1e-6 * std.max().clamp_min(1e-6))
    x, held_out = (train_x - mean) / std, (test_x - mean) / std
    choices = [nested_subsets(train_y, per_class, seed + s) for s in range(n_subsets)]
    knn, linear = [], []
    for n, subsets in zip(per_class, zip(*choices, strict=True), strict=True):
        votes = [
            knn_classify(train_x[s], train_y[s], test_x, min(k, n), temperature, n_classes)
            for s in subsets
        ]
        knn.append([accuracy(v, test_y) for v in votes])
        labelled = torch.stack(subsets)  # (S, n·C)
        weight, bias = logistic_regression(x[labelled], train_y[labelled], n_classes)
        logits = held_out @ weight + bias[:, None]  # (S, n_test, C)
        linear.append([accuracy(one, test_y) for one in logits])
    return LabelEfficiency(tuple(per_class), torch.tensor(knn).T, torch.tensor(linear).T)


@takes(labels=array("N"), per_class=numbers(whole(-(2**31))), seed=whole(0, 2**63 - 1))
def nested_subsets(
    labels: Int[Tensor, " N"], per_class: Sequence[int], seed: int = 0
) -> list[Int[Tensor, " _"]]:
    """For each number of labels per class, which images are labelled; few ⊂ many.

    Args:
        labels: (N,) int64 classes from 0; −1 is never chosen.
        per_class: numbers of images of each class.
        seed: another seed chooses other images; the choice depends on nothing else.

    Returns:
        Ascending indices (n·C,), one tensor for each number, on the device of ``labels``.

    Raises:
        UserError: if a class has fewer images than asked for.
    """
    labels = as_labels(labels)
    known = labels[labels >= 0]
    check_classes(int(labels.max()) + 1)
    counts = torch.bincount(known)
    present = counts[counts > 0]
    if len(present) == 0 or min(per_class) < 1 or max(per_class) > int(present.min()):
        raise UserError(
            f"{min(per_class)} to {max(per_class)} labels per class were asked for, but the "
            f"smallest class has {int(present.min()) if len(present) else 0} images: "
            "use numbers from 1 to that"
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator).to(labels.device)
    order = order[labels[order].argsort(stable=True)]  # by class, random within each
    order = order[labels[order] >= 0]
    starts = counts.cumsum(0) - counts
    rank = torch.arange(len(order), device=labels.device) - starts[labels[order]]
    return [order[rank < n].sort().values for n in per_class]


@takes(finite=True, n_classes=whole(1, 2**15), strength=number(0, 1e12, above=True))
def logistic_regression(
    x: Float[Tensor, "S N D"], y: Int[Tensor, "S N"], n_classes: int, strength: float = 1.0
) -> tuple[Float[Tensor, "S D C"], Float[Tensor, "S C"]]:
    """S logistic regressions at once: minimise Σ cross-entropy + ½ · strength · ‖weight‖².

    The problems are small and convex, so L-BFGS runs to convergence in double precision and no
    step size has to be chosen. It works in coordinates in which the curvature at the start is 1
    in every direction of the features, which takes a quarter of the time. Biases are free.

    Args:
        x: (S, N, D) features.
        y: (S, N) int64 in 0..C−1.
        n_classes: C.
        strength: scikit-learn's 1 / C, whose default is 1.

    Returns:
        Weights (S, D, C) and biases (S, C), in the type of ``x``.
    """
    if int(y.min()) < 0 or int(y.max()) >= n_classes:
        raise UserError(
            f"classes run from {int(y.min())} to {int(y.max())}: they have to lie in "
            f"0..{n_classes - 1}"
        )
    inputs = F.pad(x.detach().double(), (0, 1), value=1.0)  # the last row of the heads is the bias
    penalty = torch.full_like(inputs[0, 0], strength)
    penalty[-1] = 0
    # At equal probabilities each class has the curvature xᵀx · p (1 − p) + strength, p = 1 / C.
    curvature = inputs.transpose(1, 2) @ inputs * ((n_classes - 1) / n_classes**2)
    root = torch.linalg.cholesky(curvature + penalty.diag()).transpose(1, 2)
    unknown = inputs.new_zeros(*root.shape[:2], n_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [unknown],
        max_iter=1000,
        tolerance_grad=1e-3,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def heads() -> Tensor:
        return torch.linalg.solve_triangular(root, unknown, upper=True)  # (S, D + 1, C)

    def objective() -> Tensor:
        optimizer.zero_grad()
        now = heads()
        loss = F.cross_entropy((inputs @ now).flatten(0, 1), y.flatten().long(), reduction="sum")
        loss = loss + (penalty[:, None] * now.square()).sum() / 2
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(objective)
    found = heads().detach().to(x.dtype)
    return found[:, :-1], found[:, -1]
