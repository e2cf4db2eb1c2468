"""Scaling laws: how an error falls with model, data or compute, fitted by least squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import nnls

from dino_tutorial.errors import UserError

EXPONENTS = (0.05, 2.0)  # where the fit looks; a steeper fall than n^-2 has not been reported
STEPS = (0.05, 0.005, 0.0005)  # of the search: everywhere, then twice around the best so far


@dataclass(frozen=True)
class ScalingLaw:
    """A floor and one falling power for each size: e(x) = floor + sum_f factor_f x_f^-exponent_f.

    With one size this is the saturating power law of Hestness et al. (2017); with parameters and
    data, equation 2 of Hoffmann et al. (2022).

    Args:
        floor: the error that no size takes away.
        factors: one for each size, at least 0. Where it is 0, the exponent beside it says nothing.
        exponents: one for each size.
    """

    floor: float
    factors: tuple[float, ...]
    exponents: tuple[float, ...]

    def __call__(self, sizes: ArrayLike) -> np.ndarray:
        """The errors (M,) at sizes (M, F), or (M,) if the law has one size."""
        x = _rows(sizes)
        if x.shape[-1] != len(self.exponents) or not (x > 0).all():
            raise UserError(
                f"sizes of shape {x.shape} do not fit a law of {len(self.exponents)} size(s): give "
                "(M, F) sizes above 0"
            )
        return self.floor + _powers(x, self.exponents) @ np.array(self.factors)


def fit_scaling_law(sizes: ArrayLike, errors: ArrayLike) -> ScalingLaw:
    """The law that comes closest to measured errors, by least squares.

    For given exponents the law is linear in floor and factors, which are found exactly and held at
    0 or above; so only the exponents are searched, between 0.05 and 2, on a grid and then on finer
    ones around its best point. Nothing is drawn and nothing has to be started well.

    Args:
        sizes: (M, F) positive, or (M,) for one size.
        errors: (M,), none below 0, in any unit; the squares of their differences are what is made
            small.

    Returns:
        A :class:`ScalingLaw` with F powers. It describes the range of ``sizes`` and is no more
        than a guess outside.

    Raises:
        UserError: fewer points than numbers to fit (1 + 2F), sizes that are not positive, errors
            below 0, or a size that takes fewer than three values: two of them fit any exponent.
        UserError: shapes that do not go together.
    """
    x, y = _rows(sizes), _numbers("errors", errors)
    _check(x, y)
    middle = np.exp(np.log(x).mean(axis=0))  # powers near 1 are better conditioned
    low, high = EXPONENTS
    best, reach = [(low + high) / 2] * x.shape[1], (high - low) / 2
    for step in STEPS:
        offsets = np.arange(-reach, reach + step / 2, step)
        near = [np.clip(b + offsets, low, high) for b in best]
        best = min(product(*near), key=lambda b: _solve(x / middle, y, b)[1])
        reach = step
    floor, *factors = _solve(x / middle, y, best)[0]
    return ScalingLaw(
        float(floor),
        tuple(float(a * m**b) for a, m, b in zip(factors, middle, best, strict=True)),
        tuple(float(b) for b in best),
    )


def _solve(x: np.ndarray, y: np.ndarray, exponents: Sequence[float]) -> tuple[np.ndarray, float]:
    """Floor and factors for given exponents, none below 0, and the length of what is left."""
    return nnls(np.column_stack([np.ones(len(x)), _powers(x, exponents)]), y)


def _powers(x: np.ndarray, exponents: Sequence[float]) -> np.ndarray:
    return x ** -np.asarray(exponents)


def _rows(sizes: ArrayLike) -> np.ndarray:
    x = _numbers("sizes", sizes)
    return np.atleast_2d(x.T).T if x.ndim < 2 else x


def _numbers(name: str, values: ArrayLike) -> np.ndarray:
    try:
        found = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        found = None
    if found is None or not found.size or not np.isfinite(found).all():
        raise UserError(
            f"{name} have to be finite numbers, as a list or an array, and some are not"
        )
    return found


def _check(x: np.ndarray, y: np.ndarray) -> None:
    if x.ndim != 2 or y.shape != (len(x),):
        raise UserError(
            f"sizes have the shape {x.shape} and errors {y.shape}: give (M, F) or (M,) and (M,)"
        )
    if len(x) < 1 + 2 * x.shape[1]:
        raise UserError(
            f"a law of {x.shape[1]} size(s) has {1 + 2 * x.shape[1]} numbers to fit, and there are "
            f"{len(x)} measurements: measure more sizes"
        )
    if not (x > 0).all():
        raise UserError("a size is not positive: a power law needs sizes above 0")
    if (y < 0).any():
        raise UserError("an error is negative: give errors of 0 or more, such as 1 - accuracy")
    few = [len(np.unique(column)) for column in x.T]
    if min(few) < 3:
        raise UserError(
            f"size {few.index(min(few))} takes {min(few)} value(s), which any exponent fits: "
            f"measure three or more"
        )
