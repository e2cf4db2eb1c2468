"""The logged spread of features is that of images: alike pictures have none, whatever the views."""

import pytest
import torch
from tiny_training import trainer

from dino_tutorial.datasets import ArrayDataset
from dino_tutorial.methods import METHODS
from dino_tutorial.methods.base import spread_of, spread_within


def logged_spread(method, folder, pixels, **changes):
    """The spread of the first step, on these pictures."""
    run = trainer(method, folder, train__epochs=0.1, train__log_every=1, **changes)
    run.dataset = ArrayDataset(pixels, torch.arange(64) % 4, ("a", "b", "c", "d"), "alike")
    run.fit()
    return run.rows[0]["feature_spread"]


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"distill"}))
def test_black_pictures_have_no_spread(tmp_path, method):
    black = torch.zeros(64, 3, 32, 32, dtype=torch.uint8)
    assert logged_spread(method, tmp_path, black) < 0.01


def test_spread_within_views_does_not_count_what_tells_views_apart():
    g = torch.Generator().manual_seed(0)
    places = torch.randn(4, 1, 8, generator=g).expand(4, 16, 8)
    assert spread_of(places) > 0.3 and spread_within(places) < 1e-3
    images = torch.randn(1, 512, 64, generator=g).expand(4, 512, 64)
    torch.testing.assert_close(spread_within(images), spread_of(images), atol=1e-3, rtol=0)
