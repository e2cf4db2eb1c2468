"""Collapse measures on features whose collapse is known."""

import math

import pytest
import torch

from dino_tutorial.evaluation import effective_rank, entropy, feature_spread


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_spread_of_even_features_is_one():
    assert feature_spread(normal(4096, 64)).item() == pytest.approx(1, abs=0.01)


def test_spread_of_one_repeated_feature_is_zero():
    assert feature_spread(normal(1, 64).expand(32, 64)).item() == pytest.approx(0, abs=1e-5)


def test_spread_ignores_length_but_not_direction():
    direction = normal(1, 16)
    lengths = torch.linspace(0.1, 10, 32)[:, None]
    assert feature_spread(direction * lengths).item() == pytest.approx(0, abs=1e-5)
    features = normal(32, 16)
    torch.testing.assert_close(feature_spread(features * lengths), feature_spread(features))


def test_spread_by_hand():
    # Unit vectors (1, 0) and (0, 1): standard deviation 1/2 in both dimensions.
    assert feature_spread(torch.tensor([[2.0, 0.0], [0.0, 5.0]])).item() == pytest.approx(
        0.5 * math.sqrt(2)
    )


def test_effective_rank_of_orthogonal_directions():
    basis = torch.linalg.qr(normal(20, 20)).Q
    assert effective_rank(basis[:7]).item() == pytest.approx(7, rel=1e-4)


def test_effective_rank_by_hand():
    features = torch.diag(torch.tensor([3.0, 1.0]))  # shares 3/4 and 1/4
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert effective_rank(features).item() == pytest.approx(expected, rel=1e-5)


def test_effective_rank_of_collapse():
    assert effective_rank(normal(1, 8).expand(50, 8)).item() == pytest.approx(1, abs=1e-3)
    line = normal(50, 1) @ normal(1, 8, seed=1)
    assert effective_rank(line).item() == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.zeros(5, 4)).item() == 0


def test_effective_rank_tells_what_spread_cannot():
    two_clusters = torch.tensor([[1.0] * 16, [-1.0] * 16]).repeat(10, 1)
    assert feature_spread(two_clusters).item() == pytest.approx(1, abs=1e-4)
    assert effective_rank(two_clusters).item() == pytest.approx(1, abs=1e-3)


def test_entropy():
    uniform = torch.full((2, 3, 8), 1 / 8)
    torch.testing.assert_close(entropy(uniform), torch.full((2, 3), math.log(8)))
    assert entropy(torch.eye(5)).tolist() == [0.0] * 5
    p = torch.tensor([0.5, 0.25, 0.25])
    assert entropy(p).item() == pytest.approx(1.5 * math.log(2))
