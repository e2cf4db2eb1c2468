"""Feature extraction leaves no trace; baselines are what they say; numbers come with company."""

import colorsys

import pytest
import torch
from torch import nn

from dino_tutorial.errors import UserError
from dino_tutorial.evaluation import (
    accuracy,
    baselines,
    color_histogram,
    evaluate_knn,
    evaluating,
    extract_features,
    knn_accuracies,
    knn_classify,
    normalize,
    pixel_features,
)


class Images:
    def __init__(self, n=11, size=8, seed=0, pixels=None):
        generator = torch.Generator().manual_seed(seed)
        shape = (n, 3, size, size)
        random = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        self.pixels = random if pixels is None else pixels
        self.labels = torch.arange(len(self.pixels)) % 3
        self.asked = []

    def __len__(self):
        return len(self.pixels)

    def images(self, indices=None):
        if indices is None:
            return self.pixels
        self.asked.append(len(indices))
        return self.pixels[indices]


def encoder(size=8):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(4 * size * size, 6),
    )


def test_features_do_not_depend_on_the_batch_size():
    images, model = Images(), encoder()
    few, labels = extract_features(model, images, batch_size=4)
    assert images.asked == [4, 4, 3]
    whole, _ = extract_features(model, images, batch_size=100)
    torch.testing.assert_close(few, whole)
    assert few.shape == (11, 6) and few.dtype == torch.float32
    assert torch.equal(labels, images.labels)


def test_features_are_the_encoder_on_normalised_pixels():
    images, model = Images(), encoder().eval()
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    pixels = images.pixels.double() / 255
    for channel in range(3):
        pixels[:, channel] = (pixels[:, channel] - mean[channel]) / std[channel]
    with torch.no_grad():
        expected = model(pixels.float())
    features, _ = extract_features(model, images, mean=mean, std=std)
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)


def test_bytes_and_unit_floats_normalise_alike():
    pixels = Images().pixels
    torch.testing.assert_close(normalize(pixels), normalize(pixels.float() / 255))


def test_modes_and_statistics_are_left_alone():
    model = encoder().train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    extract_features(model, Images())
    assert [part.training for part in model] == [True, False, True, True, True]
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_modes_come_back_after_an_error():
    model = encoder().train()
    with pytest.raises(RuntimeError), evaluating(model):
        assert not model[3].training
        raise RuntimeError
    assert model.training and model[3].training


def test_features_can_be_trained_on():
    features, _ = extract_features(encoder(), Images())
    layer = nn.Linear(6, 2)
    layer(features).sum().backward()  # tensors of inference mode would refuse
    assert not features.requires_grad
    assert layer.weight.grad is not None


def test_mistakes_are_named():
    with pytest.raises(UserError, match="data set is empty"):
        extract_features(encoder(), Images(0))
    with pytest.raises(UserError, match=r"must return features \(B, D\)"):
        extract_features(nn.Conv2d(3, 4, 3), Images())


def test_pixel_features_are_the_normalised_pixels():
    images = Images()
    features = pixel_features(images, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    expected = (images.pixels.float() / 127.5 - 1).flatten(1)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)


def test_large_images_are_averaged_down():
    images = Images(3, size=12)
    small = pixel_features(images, mean=(0, 0, 0), std=(1, 1, 1), max_size=4)
    blocks = images.pixels.float().unflatten(2, (4, 3)).unflatten(4, (4, 3)).mean((3, 5)) / 255
    torch.testing.assert_close(small, blocks.flatten(1), atol=1e-5, rtol=1e-5)


def test_histogram_counts_colours_one_pixel_at_a_time():
    images, bins = Images(4, size=5), 4
    histogram = color_histogram(images, bins)
    for row, picture in zip(histogram, images.pixels.tolist(), strict=True):
        counts = [0] * bins**3
        for line in range(5):
            for column in range(5):
                r, g, b = (picture[c][line][column] // 64 for c in range(3))
                counts[(r * bins + g) * bins + b] += 1
        expected = torch.tensor([(count / 25) ** 0.5 for count in counts])
        torch.testing.assert_close(row, expected)
    torch.testing.assert_close(histogram.norm(dim=1), torch.ones(4))


def test_histogram_forgets_places():
    images = Images(4)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    moved = Images(pixels=images.pixels.flatten(2)[:, :, order].view_as(images.pixels))
    torch.testing.assert_close(color_histogram(moved), color_histogram(images))


def coloured_images(n, seed):
    """Three classes that differ in hue only; noise everywhere."""
    generator = torch.Generator().manual_seed(seed)
    hues = (torch.arange(n) % 3) / 3
    colors = torch.tensor([colorsys.hsv_to_rgb(float(hue), 0.7, 0.8) for hue in hues])
    noise = 40 * torch.randn(n, 3, 8, 8, generator=generator)
    return Images(pixels=(255 * colors[:, :, None, None] + noise).clamp(0, 255).to(torch.uint8))


def test_evaluation_brings_its_baselines():
    train, test = coloured_images(60, 0), coloured_images(21, 1)
    model, untrained = encoder(), encoder()
    results = evaluate_knn(model, train, test, ks=(1, 5), untrained=untrained, batch_size=16)
    assert set(results) == {"knn_top1", "knn_random_init", "knn_raw_pixels", "knn_color_histogram"}
    assert results["knn_color_histogram"] == {1: 1.0, 5: 1.0}
    assert results["knn_top1"] == results["knn_random_init"]  # the same weights
    bank, _ = extract_features(model, train)
    queries, _ = extract_features(model, test)
    for k in (1, 5):
        votes = knn_classify(bank, train.labels, queries, k)
        assert results["knn_top1"][k] == accuracy(votes, test.labels)


def test_no_untrained_encoder_no_untrained_number():
    train, test = coloured_images(20, 0), coloured_images(6, 1)
    assert "knn_random_init" not in evaluate_knn(encoder(), train, test, ks=(3,))


def test_pixels_of_a_large_bank_are_a_sample_that_is_always_the_same(monkeypatch):
    bank, queries = Images(90), Images(12)
    assert baselines.baseline_bank(bank) is bank
    monkeypatch.setattr(baselines, "BASELINE_BANK", 40)
    some = baselines.baseline_bank(bank)
    assert len(some) == 40 and len(some.labels) == 40
    assert torch.equal(some.chosen, baselines.baseline_bank(bank).chosen.unique())
    assert torch.equal(some.images(), bank.pixels[some.chosen])
    top1 = evaluate_knn(encoder(), bank, queries, [5])
    expected = knn_accuracies(
        pixel_features(bank)[some.chosen],
        bank.labels[some.chosen],
        pixel_features(queries),
        queries.labels,
        [5],
    )
    assert top1["knn_raw_pixels"] == expected
