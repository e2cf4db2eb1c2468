"""Scaling: what a block costs, a straight line in logarithms, a power law above a floor."""

import math

import torch
from torch import Tensor

from dino_tutorial.exercises.exercise import Answer, Exercise, Mistake, Observation, draw, randn


def _block_flops(
    tokens: int,
    width: int,
    ratio: int,
    *,
    per_multiply_add: int = 2,
    square_products: int = 2,
    attention_layers: int = 4,
    mlp_layers: int = 2,
    hidden: str = "wider",
    backward: bool = False,
    per_token: bool = False,
) -> int:
    wider = ratio if hidden == "wider" else 1
    linear = tokens * (attention_layers + mlp_layers * wider) * width**2
    total = per_multiply_add * (linear + square_products * tokens**2 * width)
    return total * (3 if backward else 1) // (tokens if per_token else 1)


def _observe_block(answer: Answer) -> Observation:
    return {
        f"a block of width {width} on {tokens} tokens, ratio {ratio}": answer.number(
            tokens, width, ratio
        ).double()
        for tokens, width, ratio in ((17, 48, 4), (257, 96, 3), (30 + draw() % 90, 40, 2))
    }


BLOCK_FLOPS = Exercise(
    name="block_flops",
    chapter="scaling",
    call="block_flops(tokens, width, ratio)",
    task="`tokens` T, `width` D and `ratio` to the FLOPs of the matrix products of one "
    "transformer block, forward, for one image, T tokens in all: queries, keys, values, "
    "scores, weighted sum, output map, and two layers of the MLP with a hidden width of "
    "ratio · D. A multiplication and an addition are two FLOPs; softmax, biases and norms "
    "do not count.",
    solution=_block_flops,
    variant=_block_flops,
    observe=_observe_block,
    checked="two blocks of different width, length and ratio",
    bounds=(0, math.inf),
    mistakes=(
        Mistake(
            "multiply-adds",
            "these are multiply-adds; a multiplication and an addition are two FLOPs",
            {"per_multiply_add": 1},
        ),
        Mistake(
            "attention-forgotten",
            "the products between tokens are missing: scores and weighted values, T² D each",
            {"square_products": 0},
        ),
        Mistake(
            "one-square-product",
            "attention has two products between tokens, the scores and the weighted values",
            {"square_products": 1},
        ),
        Mistake(
            "projection-forgotten",
            "attention has four linear maps of D x D: queries, keys, values and the output",
            {"attention_layers": 3},
            {"attention_layers": 1},
        ),
        Mistake(
            "one-mlp-layer",
            "the feed-forward network has two layers, to the hidden width and back",
            {"mlp_layers": 1},
        ),
        Mistake(
            "ratio-forgotten",
            "the hidden layer of the feed-forward network is ratio times as wide",
            {"hidden": "same"},
        ),
        Mistake(
            "backward-too",
            "the backward pass is in it; count the forward pass alone",
            {"backward": True},
        ),
        Mistake(
            "per-token",
            "this is for one token; count all T of them",
            {"per_token": True},
        ),
    ),
)


def _power_law(
    sizes: Tensor,
    errors: Tensor,
    *,
    sign: int = -1,
    leave_log: bool = False,
    order: str = "factor first",
    origin: bool = False,
    logs: str = "both",
    points: str = "all",
    regress: str = "errors",
) -> Tensor:
    x = sizes.double().log() if logs == "both" else sizes.double()
    y = errors.double().log()
    if points == "ends":
        ends = [int(x.argmin()), int(x.argmax())]
        x, y = x[ends], y[ends]
    if regress == "sizes":
        slope = ((y - y.mean()) ** 2).sum() / ((x - x.mean()) * (y - y.mean())).sum()
    elif origin:
        slope = (x * y).sum() / (x * x).sum()
    else:
        slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    height = torch.zeros_like(slope) if origin else y.mean() - slope * x.mean()
    factor = height if leave_log else height.exp()
    pair = [factor, sign * slope]
    return torch.stack(pair if order == "factor first" else pair[::-1])


def _observe_power_law(answer: Answer) -> Observation:
    seen = {}
    for seed, (factor, exponent) in enumerate(((3.0, 0.4), (0.7, 0.15))):
        sizes = torch.tensor([700.0, 32.0, 9000.0, 100.0, 2000.0])
        errors = factor * sizes**-exponent * (0.1 * randn(5, seed=seed)).exp()
        found = answer.tensor(sizes, errors)
        seen[f"factor and exponent near ({factor:g}, {exponent:g})"] = found.reshape(-1).double()
    return seen


POWER_LAW = Exercise(
    name="power_law",
    chapter="scaling",
    call="power_law(sizes, errors)",
    task="`sizes` (M,) and `errors` (M,) to two numbers, (factor, exponent), of the line ln "
    "error = ln factor − exponent · ln size, fitted by least squares of ln error.",
    solution=_power_law,
    variant=_power_law,
    observe=_observe_power_law,
    checked="factor and exponent for two noisy laws",
    mistakes=(
        Mistake(
            "slope",
            "the exponent is the slope itself; the law is factor times n to the power of *minus* "
            "the exponent",
            {"sign": 1},
        ),
        Mistake(
            "log-of-the-factor",
            "the first number is the logarithm of the factor; take its exponential",
            {"leave_log": True},
        ),
        Mistake(
            "swapped",
            "the factor comes first, then the exponent",
            {"order": "exponent first"},
        ),
        Mistake(
            "through-the-origin",
            "the line has no height of its own; fit a slope and an intercept",
            {"origin": True},
        ),
        Mistake(
            "sizes-not-in-logs",
            "the sizes are not in logarithms, which fits an exponential and not a power",
            {"logs": "errors"},
        ),
        Mistake(
            "two-points",
            "only the first and the last point count; least squares uses all of them",
            {"points": "ends"},
        ),
        Mistake(
            "sizes-from-errors",
            "this makes the squares of the sizes' differences small; the errors are what is noisy",
            {"regress": "sizes"},
        ),
    ),
)


def _floor_and_factor(
    sizes: Tensor,
    errors: Tensor,
    exponent: float,
    *,
    sign: int = -1,
    floor: str = "fitted",
    order: str = "floor first",
) -> Tensor:
    power, y = sizes.double() ** (sign * exponent), errors.double()
    if floor == "none":
        pair = [torch.zeros_like(y[0]), (power * y).sum() / (power * power).sum()]
    elif floor == "smallest error":
        pair = [y.min(), (power * (y - y.min())).sum() / (power * power).sum()]
    else:
        spread = power - power.mean()
        factor = (spread * y).sum() / (spread * spread).sum()
        pair = [y.mean() - factor * power.mean(), factor]
    return torch.stack(pair if order == "floor first" else pair[::-1])


def _observe_floor(answer: Answer) -> Observation:
    seen = {}
    for seed, (exponent, floor) in enumerate(((0.3, 0.2), (0.8, 0.2), (0.5, -0.1))):
        sizes = torch.tensor([700.0, 32.0, 9000.0, 100.0, 2000.0])
        errors = floor + 2 * sizes**-exponent + 0.02 * randn(5, seed=seed + 10)
        found = answer.tensor(sizes, errors, exponent)
        seen[f"floor and factor at exponent {exponent:g} and floor near {floor:g}"] = found.reshape(
            -1
        ).double()
    return seen


FLOOR_AND_FACTOR = Exercise(
    name="floor_and_factor",
    chapter="scaling",
    call="floor_and_factor(sizes, errors, exponent)",
    task="`sizes` (M,), `errors` (M,) and a float `exponent` to two numbers, (floor, factor), of"
    " error = floor + factor · size^(−exponent), fitted by unweighted least squares of the "
    "error; either may come out negative.",
    solution=_floor_and_factor,
    variant=_floor_and_factor,
    observe=_observe_floor,
    checked="floor and factor for three exponents, one with a floor below zero",
    mistakes=(
        Mistake(
            "growing",
            "the power grows with the size; the exponent enters with a minus sign",
            {"sign": 1},
        ),
        Mistake(
            "no-floor",
            "there is no floor in it; fit a constant beside the power",
            {"floor": "none"},
        ),
        Mistake(
            "floor-is-the-smallest-error",
            "the floor is the smallest error that was measured; it is fitted, and lies below",
            {"floor": "smallest error"},
        ),
        Mistake("swapped", "the floor comes first, then the factor", {"order": "factor first"}),
    ),
)

EXERCISES = (BLOCK_FLOPS, POWER_LAW, FLOOR_AND_FACTOR)
