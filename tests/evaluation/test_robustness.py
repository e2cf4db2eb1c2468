"""Corruptions whose cost is known, errors written out, and the scenes' own corruptions."""

import math

import pytest
import torch

from dino_tutorial.datasets.scenes import CORRUPTIONS, SceneDataset, corrupt
from dino_tutorial.errors import UserError
from dino_tutorial.evaluation import (
    CorruptedImages,
    Robustness,
    knn_classify,
    mean_corruption_error,
    measure_robustness,
    pixel_features,
)
from dino_tutorial.evaluation.robustness import CHUNK


class Gray:
    """600 gray images of two brightnesses, which are their classes."""

    labels = torch.arange(600) % 2

    def __len__(self):
        return len(self.labels)

    def images(self, indices=None):
        indices = torch.arange(600) if indices is None else indices
        level = (50 + 100 * self.labels[indices]).to(torch.uint8)
        return level[:, None, None, None].expand(-1, 3, 4, 4)


def swap(images, kind, severity, seed):
    """Turn the class over in the first images of each chunk: 10 % of it at each severity."""
    if kind == "nothing":
        return images
    assert images.dtype == torch.uint8
    images = images.clone()
    n = len(images) * severity // 10
    images[:n] = 200 - images[:n]
    return images


def describe(dataset):
    return dataset.images().float().mean((2, 3))


def classify(features):
    return torch.stack([features[:, 0] < 100, features[:, 0] >= 100], 1).float()


def test_accuracy_falls_by_what_the_corruption_turns_over():
    result = measure_robustness(describe, classify, Gray(), swap, ("nothing", "swap"), (1, 5, 10))
    assert (result.kinds, result.severities) == (("nothing", "swap"), (1, 5, 10))
    assert result.clean == 1
    assert result.accuracy[0].tolist() == [1, 1, 1]
    sizes = [CHUNK, CHUNK, 600 - 2 * CHUNK]
    expected = [1 - sum(size * s // 10 for size in sizes) / 600 for s in (1, 5, 10)]
    assert result.accuracy[1].tolist() == pytest.approx(expected)
    assert result.mean_error == pytest.approx(1 - (3 + sum(expected)) / 6)
    assert result.relative_error == pytest.approx(result.mean_error)


def test_each_chunk_is_corrupted_with_its_own_seed():
    seen = []

    def note(images, kind, severity, seed):
        seen.append((len(images), kind, severity, seed))
        return images

    corrupted = CorruptedImages(Gray(), note, "fog", 2, seed=40)
    assert seen == [(CHUNK, "fog", 2, 40), (CHUNK, "fog", 2, 41), (600 - 2 * CHUNK, "fog", 2, 42)]
    picked = torch.tensor([599, 3])
    assert torch.equal(corrupted.images(picked), Gray().images(picked))
    assert len(corrupted) == 600


def test_errors_relative_to_a_reference_by_hand():
    kinds, severities = ("a", "b"), (1, 2)
    result = Robustness(kinds, severities, 0.9, torch.tensor([[0.8, 0.6], [0.9, 0.7]]))
    reference = Robustness(kinds, severities, 0.6, torch.tensor([[0.5, 0.3], [0.5, 0.5]]))
    found = mean_corruption_error(result, reference)
    assert found["mce"] == pytest.approx((0.6 / 1.2 + 0.4 / 1.0) / 2)
    assert found["relative_mce"] == pytest.approx((0.4 / 0.4 + 0.2 / 0.2) / 2)
    assert mean_corruption_error(result, result) == pytest.approx({"mce": 1, "relative_mce": 1})
    assert result.relative_error == pytest.approx(0.15)
    steady = Robustness(kinds, severities, 0.5, torch.full((2, 2), 0.5))
    assert math.isnan(mean_corruption_error(result, steady)["relative_mce"])


def test_pixels_of_scenes_suffer_from_the_scenes_corruptions():
    bank, test = SceneDataset("train", n=300), SceneDataset("val", n=200)
    features = pixel_features(bank)

    def vote(x):
        return knn_classify(features, bank.labels, x, n_classes=10)

    result = measure_robustness(pixel_features, vote, test, corrupt, tuple(CORRUPTIONS), (1, 5))
    assert result.accuracy.shape == (len(CORRUPTIONS), 2)
    assert result.clean > 0.15
    assert result.accuracy[:, 1].mean() < result.accuracy[:, 0].mean() - 0.02
    again = measure_robustness(pixel_features, vote, test, corrupt, ("fog",), (5,))
    fog = list(CORRUPTIONS).index("fog")
    assert again.accuracy[0, 0] == result.accuracy[fog, 1]


def test_mistakes_are_named():
    with pytest.raises(UserError, match="0 corruptions"):
        measure_robustness(describe, classify, Gray(), swap, ())
    one = Robustness(("a",), (1,), 1.0, torch.ones(1, 1))
    other = Robustness(("b",), (1,), 1.0, torch.ones(1, 1))
    with pytest.raises(UserError, match="same corruptions"):
        mean_corruption_error(one, other)
