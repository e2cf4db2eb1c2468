"""Linear depth: how far away each pixel is, told by a linear map of patch tokens.

Tokens are upsampled bilinearly to the pixels and mapped to depth by ridge regression. DINOv2
(Oquab et al. 2024, section 7.4) trains the same map by gradient descent, as a classification of
256 depth bins. Least squares needs no schedule and no luck: it is solved exactly. And because
upsampling is linear, the normal equations never see an upsampled token:
(U X)ᵀ(U X) = Xᵀ(UᵀU)X, where U is the upsampling.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dino_tutorial.errors import UserError
from dino_tutorial.evaluation.inputs import check_width
from dino_tutorial.evaluation.patches import (
    check_dense,
    check_grid,
    split_images,
    standardisation,
    upsample,
    upsampling_matrices,
)
from dino_tutorial.options import number, numbers, pair, takes, tensor, whole

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
CHUNK_TOKENS = 2**24  # token entries held at once in float64: 128 MiB


@dataclass(frozen=True)
class LinearDepth:
    """A linear map from patch tokens to depth, and what it reached.

    Attributes:
        weight: (D,), acts on patch tokens as they came out of the encoder.
        bias: scalar.
        grid: rows and columns of patches.
        ridges: (R,), the penalties that were tried.
        validation_rmse: (R,), over all pixels of the training images that were held out.
        chosen: the index of the best of them.
        rmse: on the test images, see :func:`depth_scores`; of the chosen penalty, fitted again
            on all training images.
        delta1: likewise.
        mean_rmse: of the training images' mean depth in place of a prediction.
        mean_delta1: likewise.
    """

    weight: Float[Tensor, " D"]
    bias: Float[Tensor, ""]
    grid: tuple[int, int]
    ridges: Float[Tensor, " R"]
    validation_rmse: Float[Tensor, " R"]
    chosen: int
    rmse: float
    delta1: float
    mean_rmse: float
    mean_delta1: float

    @takes(finite=True, patches=tensor("n N D", "float"), size=pair())
    def __call__(self, patches: Tensor, size: tuple[int, int]) -> Tensor:
        """Depth (n, H, W) of patch tokens (n, N, D), for images of ``size`` pixels."""
        check_width(patches, self.weight)
        check_grid(patches, self.grid)
        depth = patches.to(self.weight) @ self.weight + self.bias  # (n, N)
        return upsample(depth.unflatten(1, self.grid)[:, None], size)[:, 0]


class DepthScores(NamedTuple):
    """Mean over images of the root mean squared error, and of the share of pixels that are right.

    A pixel is right if predicted and true depth differ by a factor below 1.25 (δ₁).
    """

    rmse: float
    delta1: float


@takes(finite=True, factor=number(1, 1e3, above=True))
def depth_scores(
    predicted: Float[Tensor, "n H W"], truth: Float[Tensor, "n H W"], factor: float = 1.25
) -> DepthScores:
    """Scores of each image, averaged over the images (Eigen et al. 2014).

    Args:
        predicted: (n, H, W), in the unit of ``truth``.
        truth: (n, H, W), positive.
        factor: how far apart two depths may be to count as equal.

    Raises:
        UserError: if the shapes differ.
    """
    if predicted.shape != truth.shape:
        raise ValueError(
            f"predicted and true depth differ in shape: {tuple(predicted.shape)} and "
            f"{tuple(truth.shape)}"
        )
    if not (truth > 0).all():
        raise UserError("some true depths are not positive numbers: leave these images out")
    rmse = (predicted - truth).square().mean(dim=(1, 2)).sqrt()
    # A depth below zero, which a linear map can give, is wrong: products say so, ratios do not.
    right = (predicted * factor > truth) & (predicted < truth * factor)
    return DepthScores(float(rmse.mean()), int(right.sum()) / right.numel())


@takes(finite=True)
def align_depth(
    predicted: Float[Tensor, "n H W"], truth: Float[Tensor, "n H W"]
) -> Float[Tensor, "n H W"]:
    """``predicted`` with the scale and the shift that fit each image best, by least squares.

    What is left is relative depth: what lies before what (Ranftl et al. 2020, section 5).

    Args:
        predicted: (n, H, W); an image of one value becomes the true mean.
        truth: (n, H, W).
    """
    centre, true_centre = (t.mean(dim=(1, 2), keepdim=True) for t in (predicted, truth))
    offset, true_offset = predicted - centre, truth - true_centre
    spread = offset.square().sum(dim=(1, 2), keepdim=True)
    scale = (offset * true_offset).sum(dim=(1, 2), keepdim=True) / spread.clamp_min(1e-12)
    return true_centre + scale * offset


@takes(
    finite=True,
    grid=pair(),
    ridges=numbers(number(0, 1e12, above=True)),
    validation_fraction=number(0, 1),
    seed=whole(0, 2**63 - 1),
)
@torch.no_grad()
def linear_depth(
    train_x: Float[Tensor, "n N D"],
    train_y: Float[Tensor, "n H W"],
    test_x: Float[Tensor, "m N D"],
    test_y: Float[Tensor, "m H2 W2"],
    grid: tuple[int, int],
    *,
    relative: bool = False,
    ridges: Sequence[float] = RIDGES,
    validation_fraction: float = 0.1,
    seed: int = 0,
) -> LinearDepth:
    """Fit linear maps for several penalties, choose one by validation, and test it.

    Args:
        train_x: (n, N, D) frozen patch tokens, row by row; the fit runs on their device, or
            on the CPU if that is Apple's, which has no float64.
        train_y: (n, H, W) depth, positive.
        test_x, test_y: the same for the test images.
        grid: rows and columns of patches, N in all.
        relative: learn the depth of each image up to scale and shift (its mean 0, its standard
            deviation 1), and align each prediction with :func:`align_depth` before it is scored.
            Otherwise depth is metric: learned and scored as it is.
        ridges: penalties of ‖weight‖² beside the mean squared error over pixels, for tokens
            standardised to unit variance; the bias is free.
        validation_fraction: part of the training images that chooses, between 0 and 1.
        seed: of that split.

    Raises:
        UserError: if shapes do not fit, a depth is not positive, or there are too few images to
            give up a validation part.
    """
    for x, y, name in ((train_x, train_y, "training"), (test_x, test_y, "test")):
        check_dense(x, y, grid, name)
        if not (y.isfinite() & (y > 0)).all():
            raise UserError(f"some {name} depths are not positive numbers: leave these images out")
    device = train_x.device if train_x.device.type != "mps" else torch.device("cpu")  # no float64
    train_x, train_y = train_x.to(device), train_y.to(device)
    test_x, test_y = test_x.to(device), test_y.to(device).float()
    targets = _standardised(train_y.float()) if relative else train_y.float()
    targets = targets.to(device)
    mean, std = standardisation(train_x.float())
    x = (train_x.float() - mean) / std

    held_out, kept = (part.to(device) for part in split_images(len(x), validation_fraction, seed))
    fitting, choosing = (_moments(x[part], targets[part], grid) for part in (kept, held_out))
    solutions = _ridge_solutions(fitting, ridges)
    validation = torch.stack([choosing.squared_error(*each) for each in solutions]).sqrt()
    chosen = int(validation.argmin())

    [(weight, bias)] = _ridge_solutions(fitting + choosing, ridges[chosen : chosen + 1])
    weight = weight / std  # standardisation folded in
    bias = bias - mean.double() @ weight
    fit = {"weight": weight.float(), "bias": bias.float(), "grid": grid}
    maps = {"ridges": torch.tensor(ridges), "validation_rmse": validation, "chosen": chosen}
    unscored = LinearDepth(**fit, **maps, rmse=0, delta1=0, mean_rmse=0, mean_delta1=0)
    predicted = unscored(test_x.float(), test_y.shape[1:])
    constant = torch.full_like(test_y, float(targets.mean()))
    if relative:
        predicted, constant = (align_depth(p, test_y) for p in (predicted, constant))
    scores, of_mean = depth_scores(predicted, test_y), depth_scores(constant, test_y)
    return LinearDepth(
        **fit,
        **maps,
        rmse=scores.rmse,
        delta1=scores.delta1,
        mean_rmse=of_mean.rmse,
        mean_delta1=of_mean.delta1,
    )


class _Moments(NamedTuple):
    """Sums over pixels p of images, with upsampled tokens x_p and depths y_p, in float64."""

    pixels: int
    x: Tensor  # (D,) Σ x_p
    y: Tensor  # scalar Σ y_p
    xx: Tensor  # (D, D) Σ x_p x_pᵀ
    xy: Tensor  # (D,) Σ x_p y_p
    yy: Tensor  # scalar Σ y_p²

    def __add__(self, other: "_Moments") -> "_Moments":
        return _Moments(*(a + b for a, b in zip(self, other, strict=True)))

    def squared_error(self, weight: Tensor, bias: Tensor) -> Tensor:
        """The mean of (w·x_p + b − y_p)² over pixels; rounding may not take it below 0."""
        total = weight @ self.xx @ weight + self.pixels * bias**2 + self.yy
        total = total + 2 * (bias * (self.x @ weight - self.y) - self.xy @ weight)
        return (total / self.pixels).clamp_min(0)


def _moments(x: Tensor, y: Tensor, grid: tuple[int, int]) -> _Moments:
    """Moments of tokens (n, N, D) and depths (n, H, W), images in chunks."""
    parts = []
    chunk = max(1, CHUNK_TOKENS // max(x[0].numel(), y[0].numel()))
    for tokens, depth in zip(x.split(chunk), y.split(chunk), strict=True):
        tokens, depth = tokens.double().unflatten(1, grid), depth.double()  # (n, h, w, D)
        rows, columns = upsampling_matrices(grid, depth.shape[1:], tokens)
        summed = torch.outer(rows.sum(dim=0), columns.sum(dim=0))  # Uᵀ1 as a map (h, w)
        spread = torch.einsum("hi,wj,nijd->nhwd", rows.T @ rows, columns.T @ columns, tokens)
        gathered = torch.einsum("ph,npq,qw->nhw", rows, depth, columns)  # Uᵀy as maps
        flat = tokens.flatten(0, 2)
        parts.append(
            _Moments(
                depth.numel(),
                torch.einsum("hw,nhwd->d", summed, tokens),
                depth.sum(),
                flat.T @ spread.flatten(0, 2),
                flat.T @ gathered.flatten(),
                depth.square().sum(),
            )
        )
    return sum(parts[1:], parts[0])


def _ridge_solutions(moments: _Moments, ridges: Sequence[float]) -> list[tuple[Tensor, Tensor]]:
    """Weight (D,) and bias that minimise the mean squared error + ridge · ‖weight‖², for each."""
    mean_x, mean_y = moments.x / moments.pixels, moments.y / moments.pixels
    covariance = moments.xx / moments.pixels - torch.outer(mean_x, mean_x)
    with_y = moments.xy / moments.pixels - mean_x * mean_y
    values, directions = torch.linalg.eigh(covariance)
    coordinates = directions.T @ with_y
    solutions = []
    for ridge in ridges:
        weight = directions @ (coordinates / (values.clamp_min(0) + ridge))
        solutions.append((weight, mean_y - mean_x @ weight))
    return solutions


def _standardised(depth: Tensor) -> Tensor:
    """Each image (H, W) of depths with mean 0 and standard deviation 1."""
    std, mean = torch.std_mean(depth, dim=(1, 2), keepdim=True, correction=0)
    return (depth - mean) / std.clamp_min(1e-6)
