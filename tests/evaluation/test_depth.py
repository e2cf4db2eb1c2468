"""Linear depth against scikit-learn's ridge regression on tokens upsampled in full."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from dino_tutorial.errors import UserError
from dino_tutorial.evaluation import align_depth, depth, depth_scores, linear_depth
from dino_tutorial.evaluation.patches import split_images, upsample

GRID, SIZE = (3, 4), (7, 8)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def problem(n=30, dim=6, noise=0.2, seed=0):
    """Tokens of unequal scale, and depths that a linear map tells but for noise."""
    g = generator(seed)
    x = torch.randn(n, GRID[0] * GRID[1], dim, generator=g) * torch.logspace(-1, 1, dim) + 2
    weight = torch.randn(dim, generator=generator(99)) / torch.logspace(-1, 1, dim)
    low = (x @ weight).unflatten(1, GRID)[:, None]
    y = upsample(low, SIZE)[:, 0] + noise * torch.randn(n, *SIZE, generator=g)
    return x, 12 + y


def upsampled(x):
    """(n, N, D) to all pixels' tokens (n · H · W, D)."""
    maps = upsample(x.double().transpose(1, 2).unflatten(2, GRID), SIZE)
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


@pytest.mark.parametrize("ridge", [1e-6, 0.1, 3.0])
def test_the_fit_is_scikit_learns_ridge_on_upsampled_tokens(ridge):
    x, y = problem()
    ours = linear_depth(x, y, x, y, GRID, ridges=[ridge])
    std, mean = torch.std_mean(x.flatten(0, 1), dim=0, correction=0)
    pixels = upsampled((x - mean) / std).numpy()
    solver = Ridge(alpha=ridge * len(pixels)).fit(pixels, y.flatten().double().numpy())
    weight = torch.tensor(solver.coef_).float() / std
    torch.testing.assert_close(ours.weight, weight, atol=1e-5, rtol=1e-3)
    predicted = torch.tensor(solver.predict(pixels)).view(y.shape).float()
    torch.testing.assert_close(ours(x, SIZE), predicted, atol=1e-3, rtol=1e-4)
    scores = depth_scores(predicted, y)
    assert ours.rmse == pytest.approx(scores.rmse, rel=1e-3)
    assert ours.delta1 == pytest.approx(scores.delta1, abs=1e-3)


def test_validation_errors_are_those_of_predictions(monkeypatch):
    monkeypatch.setattr(depth, "CHUNK_TOKENS", 200)  # and moments add up over chunks
    x, y = problem()
    result = linear_depth(x, y, x, y, GRID, ridges=(1e-3, 10.0), validation_fraction=0.3)
    held_out, kept = split_images(len(x), 0.3, 0)
    assert len(held_out) == 9 and len({*held_out.tolist(), *kept.tolist()}) == 30
    std, mean = torch.std_mean(x.flatten(0, 1), dim=0, correction=0)
    x = (x - mean) / std
    for ridge, rmse in zip((1e-3, 10.0), result.validation_rmse, strict=True):
        pixels = upsampled(x[kept]).numpy()
        solver = Ridge(alpha=ridge * len(pixels)).fit(pixels, y[kept].flatten().double().numpy())
        predicted = solver.predict(upsampled(x[held_out]).numpy())
        error = np.sqrt(((predicted - y[held_out].flatten().numpy()) ** 2).mean())
        assert float(rmse) == pytest.approx(error, rel=1e-4)
    assert result.chosen == 0 and result.validation_rmse[0] < result.validation_rmse[1]


@pytest.mark.usefixtures("unchecked")
def test_scores_by_hand_loops():
    g = generator(1)
    predicted, truth = 1 + torch.randn(4, 5, 6, generator=g), 0.5 + torch.rand(4, 5, 6, generator=g)
    errors, right = [], []
    for p, t in zip(predicted, truth, strict=True):
        squares = []
        for a, b in zip(p.flatten().tolist(), t.flatten().tolist(), strict=True):
            squares.append((a - b) ** 2)
            right.append(a > 0 and max(a / b, b / a) < 1.25)
        errors.append((sum(squares) / len(squares)) ** 0.5)
    scores = depth_scores(predicted, truth)
    assert scores.rmse == pytest.approx(sum(errors) / 4, rel=1e-5)
    assert scores.delta1 == pytest.approx(sum(right) / len(right))
    assert 0.1 < scores.delta1 < 0.9 and (predicted < 0).any()
    with pytest.raises(ValueError, match="H is 4, but . in predicted"):
        depth_scores(predicted, truth[:, :4])


def test_alignment_is_a_line_fitted_to_each_image():
    g = generator(2)
    predicted, truth = torch.randn(3, 5, 6, generator=g), 3 + torch.randn(3, 5, 6, generator=g)
    aligned = align_depth(predicted, truth)
    for p, t, a in zip(predicted, truth, aligned, strict=True):
        line = np.polyfit(p.flatten().numpy(), t.flatten().numpy(), 1)
        torch.testing.assert_close(a, torch.tensor(np.polyval(line, p.numpy())).float())
    flat = align_depth(torch.ones(3, 5, 6), truth)
    torch.testing.assert_close(flat, truth.mean((1, 2), keepdim=True).expand_as(truth))


@settings(max_examples=30, deadline=None)
@given(st.floats(0.1, 20), st.floats(-5, 5), st.integers(0, 1000))
def test_aligned_depth_does_not_know_scale_and_shift(scale, shift, seed):
    predicted, truth = torch.randn(2, 2, 5, 6, generator=generator(seed)).double()
    moved = align_depth(scale * predicted + shift, truth)
    torch.testing.assert_close(moved, align_depth(predicted, truth), atol=1e-6, rtol=1e-6)


def test_relative_depth_does_not_care_how_far_away_a_scene_is():
    """Scenes at unknown distances: hopeless as metric depth, easy as relative depth."""
    x, y = problem(noise=0.05)
    far = 30 * torch.rand(30, 1, 1, generator=generator(5))
    size = 0.5 + torch.rand(30, 1, 1, generator=generator(6))
    y = y * size + far
    metric = linear_depth(x[:20], y[:20], x[20:], y[20:], GRID)
    relative = linear_depth(x[:20], y[:20], x[20:], y[20:], GRID, relative=True)
    assert relative.rmse < 0.1 * metric.rmse and relative.rmse < 0.2 * relative.mean_rmse
    assert relative.mean_rmse == pytest.approx(
        float(y[20:].std(dim=(1, 2), correction=0).mean()), rel=1e-4
    )


def test_the_test_split_chooses_nothing():
    x, y = problem()
    honest = linear_depth(x[:20], y[:20], x[20:], y[20:], GRID)
    fooled = linear_depth(x[:20], y[:20], x[20:].flip(1), y[20:] + 3, GRID)
    assert torch.equal(honest.weight, fooled.weight) and honest.chosen == fooled.chosen
    assert honest.rmse < honest.mean_rmse and honest.rmse < fooled.rmse


def test_a_dimension_that_says_nothing_and_one_said_twice_do_no_harm():
    x, y = problem()
    plain = linear_depth(x, y, x, y, GRID, ridges=[1e-6])
    wide = torch.cat([x, x[..., :1], torch.full_like(x[..., :1], 7.0)], dim=-1)
    assert linear_depth(wide, y, wide, y, GRID, ridges=[1e-6]).rmse == pytest.approx(
        plain.rmse, rel=1e-4
    )


@pytest.mark.usefixtures("unchecked")
def test_what_does_not_fit_is_one_sentence():
    x, y = problem()
    with pytest.raises(UserError, match="some test depths are not positive"):
        linear_depth(x, y, x, y - 100, GRID)
    with pytest.raises(UserError, match="N is .*, but 5 in train_x"):
        linear_depth(x[:, :5], y, x, y, GRID)
    with pytest.raises(UserError, match="leaves nothing to choose by"):
        linear_depth(x, y, x, y, GRID, validation_fraction=1.0)
