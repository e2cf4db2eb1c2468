"""Scaling laws: exact ones are found again, noisy ones as well as scipy finds them."""

import numpy as np
import pytest
from scipy.optimize import curve_fit

from dino_tutorial.errors import UserError
from dino_tutorial.evaluation import ScalingLaw, fit_scaling_law

SIZES = np.array([32.0, 100, 320, 1000, 3200, 10_000])
GRID = np.array([(width, n) for width in (12, 24, 48, 96) for n in (32, 160, 800, 4000)])


def left_over(law, sizes, errors):
    return np.square(law(sizes) - errors).sum()


@pytest.mark.parametrize("floor, factor, exponent", [(0.2, 3.0, 0.5), (0, 0.7, 0.13), (5, 200, 1)])
def test_an_exact_law_is_found_again(floor, factor, exponent):
    law = fit_scaling_law(SIZES, floor + factor * SIZES**-exponent)
    assert law.exponents == pytest.approx([exponent], abs=0.006)
    assert law.factors == pytest.approx([factor], rel=0.05)
    assert law.floor == pytest.approx(floor, abs=0.02)


def test_an_exact_joint_law_is_found_again():
    true = ScalingLaw(0.1, (2.0, 1.5), (0.7, 0.35))
    law = fit_scaling_law(GRID, true(GRID))
    assert law.exponents == pytest.approx(true.exponents, abs=0.006)
    assert law.factors == pytest.approx(true.factors, rel=0.05)
    assert law(GRID) == pytest.approx(true(GRID), abs=1e-3)


def test_the_law_is_what_its_formula_says():
    law = ScalingLaw(0.1, (2.0, 1.5), (0.5, 1.0))
    assert law([(4, 3)]) == pytest.approx([0.1 + 2 / 2 + 1.5 / 3])
    assert ScalingLaw(0.1, (2.0,), (0.5,))([4, 16]) == pytest.approx([1.1, 0.6])


@pytest.mark.parametrize("seed", range(4))
def test_nothing_closer_is_found_by_scipy(seed):
    draw = np.random.default_rng(seed)
    errors = 0.25 + 1.2 * SIZES**-0.4 + 0.01 * draw.standard_normal(len(SIZES))
    law = fit_scaling_law(SIZES, errors)
    found, _ = curve_fit(
        lambda n, floor, factor, exponent: floor + factor * n**-exponent,
        SIZES,
        errors,
        p0=(0.2, 1, 0.5),
        bounds=((0, 0, 0.05), (np.inf, np.inf, 2)),
    )
    best = ScalingLaw(found[0], (found[1],), (found[2],))
    assert left_over(law, SIZES, errors) <= 1.001 * left_over(best, SIZES, errors)
    assert law(SIZES) == pytest.approx(best(SIZES), abs=1e-3)


def test_units_do_not_matter():
    errors = [0.9, 0.7, 0.52, 0.45, 0.41, 0.42]
    law, other = fit_scaling_law(SIZES, errors), fit_scaling_law(SIZES / 1000, errors)
    assert law.exponents == pytest.approx(other.exponents)
    assert law(SIZES) == pytest.approx(other(SIZES / 1000))


@pytest.mark.parametrize("errors", [[0.3] * 6, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]])
def test_what_does_not_fall_is_all_floor(errors):
    law = fit_scaling_law(SIZES, errors)
    assert law.factors == pytest.approx([0], abs=1e-9)
    assert law.floor == pytest.approx(np.mean(errors))


@pytest.mark.parametrize(
    "sizes, errors, says",
    [
        ([1, 2], [0.5, 0.4], "3 numbers to fit, and there are 2"),
        (GRID[:4], np.ones(4), "5 numbers to fit, and there are 4"),
        ([0, 1, 2], np.ones(3), "not positive"),
        ([1, 2, 2, 1], np.ones(4), "size 0 takes 2 value"),
        (GRID[:8], np.ones(8), "size 0 takes 2 value"),
        ([1, 2, 3, 4], [-1, -2, -3, -4], "negative: give errors of 0 or more"),
    ],
)
def test_what_fits_no_law_is_refused(sizes, errors, says):
    with pytest.raises(UserError, match=says):
        fit_scaling_law(sizes, errors)


@pytest.mark.parametrize("sizes, errors", [(SIZES, np.ones(5)), (np.ones((2, 3, 4)), np.ones(2))])
def test_shapes_that_do_not_fit_are_refused(sizes, errors):
    with pytest.raises(ValueError, match=r"give \(M, F\) or \(M,\) and \(M,\)"):
        fit_scaling_law(sizes, errors)
