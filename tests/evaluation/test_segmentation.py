"""Linear segmentation against scikit-learn and hand loops, its honesty, and the scenes."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import jaccard_score

from dino_tutorial.datasets.scenes import SceneDataset
from dino_tutorial.errors import UserError
from dino_tutorial.evaluation import (
    class_maps,
    confusion_matrix,
    evaluate_dense,
    extract_patches,
    intersection_over_union,
    linear_segmentation,
    patch_pixels,
    segmentation,
)
from dino_tutorial.evaluation.patches import upsample, upsampling_matrices
from dino_tutorial.models import ConvNet, VisionTransformer

GRID, SIZE = (3, 4), (6, 8)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def problem(n=40, dim=5, n_classes=3, grid=GRID, size=SIZE, noise=1.0, seed=0):
    """Tokens that tell the class of their patch with noise, and the classes of all pixels."""
    g = generator(seed)
    centers = 2 * torch.randn(n_classes, dim, generator=generator(99))
    classes = torch.randint(n_classes, (n, *grid), generator=g)
    x = centers[classes].flatten(1, 2) + noise * torch.randn(n, grid[0] * grid[1], dim, generator=g)
    up = [s // p for s, p in zip(size, grid, strict=True)]
    return x * 3 + 1, classes.repeat_interleave(up[0], 1).repeat_interleave(up[1], 2)


def test_confusion_and_iou_are_scikit_learns():
    g = generator(0)
    truth, predicted = (torch.randint(5, (4, 9, 7), generator=g) for _ in range(2))
    predicted = torch.where(torch.rand(4, 9, 7, generator=g) < 0.5, truth, predicted)
    truth[truth == 3] = -1  # class 3 is only ever predicted
    counted = truth >= 0
    matrix = confusion_matrix(predicted, truth, 6)
    expected = sklearn_confusion(truth[counted], predicted[counted], labels=range(6))
    assert matrix.tolist() == expected.tolist()
    iou = intersection_over_union(matrix)
    scores = jaccard_score(truth[counted], predicted[counted], labels=range(5), average=None)
    torch.testing.assert_close(iou[:5], torch.tensor(scores))
    assert iou[3] == 0 and iou[5].isnan()  # class 5 neither occurs nor is predicted


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(0, 2**20))
def test_properties_of_the_confusion_matrix(n_classes, seed):
    truth = torch.randint(-1, n_classes, (3, 5, 5), generator=generator(seed))
    predicted = torch.randint(n_classes, (3, 5, 5), generator=generator(seed + 1))
    matrix = confusion_matrix(predicted, truth, n_classes)
    assert matrix.sum() == (truth >= 0).sum()
    iou = intersection_over_union(matrix)
    seen = iou[~iou.isnan()]
    assert ((seen >= 0) & (seen <= 1)).all()
    right = intersection_over_union(confusion_matrix(truth.clamp(min=0), truth, n_classes))
    assert (right[~right.isnan()] == 1).all()


@pytest.mark.usefixtures("unchecked")
def test_classes_out_of_range_and_shapes_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        confusion_matrix(torch.zeros(2, 3, dtype=int), torch.zeros(3, 2, dtype=int), 2)
    with pytest.raises(ValueError, match="0..1"):
        confusion_matrix(torch.zeros(2, dtype=int), torch.tensor([0, 2]), 2)


def test_class_maps_keep_background_apart():
    masks = torch.tensor([[[True, False]], [[False, True]]])
    assert class_maps(masks, torch.tensor([0, 6])).tolist() == [[[1, 0]], [[0, 7]]]


def test_heads_trained_together_equal_convolutions_one_by_one():
    """Each against a 1x1 convolution, its map resized and compared pixel by pixel."""
    x, y = problem(12)
    y[0, :3] = -1
    rates, decays, steps = [0.3, 0.05], [0.0, 0.1], 25
    weights, biases = segmentation.train_heads(
        x / 3, y, GRID, 3, rates, decays, steps=steps, batch_size=12, seed=0
    )
    maps = (x / 3).transpose(1, 2).unflatten(2, GRID)
    for head in range(2):
        conv = torch.nn.Conv2d(5, 3, 1)
        torch.nn.init.zeros_(conv.weight), torch.nn.init.zeros_(conv.bias)
        sgd = torch.optim.SGD(
            [{"params": [conv.weight], "weight_decay": decays[head]}, {"params": [conv.bias]}],
            lr=rates[head],
            momentum=0.9,
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, steps)
        for _ in range(steps):
            logits = F.interpolate(conv(maps), size=SIZE, mode="bilinear")
            pixels = logits.permute(0, 2, 3, 1)[y >= 0]
            sgd.zero_grad()
            F.cross_entropy(pixels, y[y >= 0]).backward()
            sgd.step()
            schedule.step()
        ours, theirs = weights[head], conv.weight[:, :, 0, 0].T
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(biases[head], conv.bias, atol=1e-5, rtol=1e-4)


def test_with_one_pixel_a_patch_it_is_logistic_regression():
    train_x, train_y = problem(40, size=GRID)
    test_x, test_y = problem(40, size=GRID, seed=1)
    test_y[0, 0] = -1
    ours = linear_segmentation(
        train_x,
        train_y,
        test_x,
        test_y,
        GRID,
        learning_rates=[0.3],
        weight_decays=[0.01],
        steps=400,
        batch_size=40,
    )
    mean, std = train_x.mean((0, 1)), train_x.flatten(0, 1).std(0, correction=0)
    pixels = ((train_x - mean) / std).flatten(0, 1)
    solver = LogisticRegression(C=1 / (0.01 * len(pixels)), tol=1e-8, max_iter=1000)
    solver.fit(pixels, train_y.flatten())
    predicted = torch.tensor(solver.predict(((test_x - mean) / std).flatten(0, 1)))
    truth = test_y.flatten()
    matrix = sklearn_confusion(truth[truth >= 0], predicted[truth >= 0])
    assert ours.confusion.tolist() == matrix.tolist()
    ours_weight = ours.weight * std[:, None]
    ours_weight = ours_weight - ours_weight.mean(dim=1, keepdim=True)
    theirs = torch.tensor(solver.coef_.T).float()
    torch.testing.assert_close(ours_weight, theirs, atol=2e-3, rtol=1e-2)


def test_the_result_can_be_applied_and_is_what_was_scored():
    train_x, train_y = problem()
    test_x, test_y = problem(20, seed=1)
    result = linear_segmentation(train_x, train_y, test_x, test_y, GRID, steps=60)
    logits = result(test_x, SIZE)
    assert logits.shape == (20, 3, *SIZE)
    again = confusion_matrix(logits.argmax(dim=1), test_y, 3)
    assert torch.equal(again, result.confusion)
    assert result.miou == pytest.approx(result.class_iou.nanmean().item())
    # Bilinear maps cannot follow the jumps between neighbouring patches of random classes.
    assert 0.45 < result.miou < 0.95


def test_the_test_split_chooses_nothing_and_a_seed_decides_all():
    train_x, train_y = problem()
    test_x, test_y = problem(10, seed=1)
    honest, again, fooled = (
        linear_segmentation(train_x, train_y, x, y, GRID, steps=30)
        for x, y in ((test_x, test_y), (test_x, test_y), (test_x.flip(1), (test_y + 1) % 3))
    )
    for other in (again, fooled):
        assert torch.equal(honest.weight, other.weight) and torch.equal(honest.bias, other.bias)
        assert torch.equal(honest.validation_miou, other.validation_miou)
    assert torch.equal(honest.confusion, again.confusion) and honest.miou > fooled.miou
    assert honest.validation_miou[honest.chosen] == honest.validation_miou.max()


def test_prediction_in_chunks_changes_nothing(monkeypatch):
    train_x, train_y = problem()
    whole = linear_segmentation(train_x, train_y, train_x, train_y, GRID, steps=20)
    monkeypatch.setattr(segmentation, "CHUNK_LOGITS", 500)
    parts = linear_segmentation(train_x, train_y, train_x, train_y, GRID, steps=20)
    assert torch.equal(whole.confusion, parts.confusion)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"grid": (4, 4)}, "grid of 4 by 4"),
        ({"train_y": torch.full((40, *SIZE), -2)}, "classes of pixels run from -2"),
        ({"n_classes": 2}, "classes of pixels run from 0 to 2: give classes from 0 to 1"),
        ({"validation_fraction": 0.0}, "leaves nothing to choose by"),
        ({"test_x": torch.full((40, 12, 5), float("nan"))}, "diverged"),
    ],
)
def test_what_does_not_fit_is_one_sentence(change, sentence):
    x, y = problem()
    given = {"train_x": x, "train_y": y, "test_x": x, "test_y": y, "grid": GRID} | change
    with pytest.raises(UserError, match=sentence):
        linear_segmentation(**given)


def test_upsampling_as_matrices_is_interpolation():
    maps = torch.randn(2, 3, *GRID, generator=generator(0))
    for size in ((6, 8), (7, 9), (3, 4)):
        rows, columns = upsampling_matrices(GRID, size, maps)
        torch.testing.assert_close(rows @ maps @ columns.T, upsample(maps, size))


def test_patches_of_a_data_set_are_the_encoders():
    torch.manual_seed(0)
    encoder = VisionTransformer(32, 8, 24, 2, 3, num_register_tokens=2).eval()
    scenes = SceneDataset("train", 32, 5)
    options = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    found = extract_patches(encoder, scenes, batch_size=2, **options)
    beside = extract_patches(encoder, scenes, batch_size=2, with_cls=True, **options)
    expected = encoder.forward_features(scenes.images().float() / 127.5 - 1)
    assert found.shape == (5, 16, 24) and beside.shape == (5, 16, 48)
    torch.testing.assert_close(found, expected.patches, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(beside[..., :24], found)
    for i in range(16):
        torch.testing.assert_close(beside[:, i, 24:], expected.cls, atol=1e-5, rtol=1e-4)
    with pytest.raises(UserError, match="ConvNet has no patch tokens"):
        extract_patches(ConvNet("resnet18"), scenes)
    with pytest.raises(UserError, match="ConvNet has no patch tokens"):
        evaluate_dense(ConvNet("resnet18"), scenes, scenes)


def test_on_scenes_tokens_that_know_the_class_beat_raw_pixels():
    sets = [SceneDataset(split, 32, n) for split, n in (("train", 160), ("test", 60))]
    maps = [class_maps(s.masks(), s.labels) for s in sets]
    known = [
        F.adaptive_avg_pool2d(F.one_hot(m, 11).permute(0, 3, 1, 2).float(), 8).flatten(2).mT
        for m in maps
    ]
    pixels = [patch_pixels(s.images(), 4) for s in sets]
    known, pixels = (
        linear_segmentation(
            x[0],
            maps[0],
            x[1],
            maps[1],
            (8, 8),
            steps=60,
            learning_rates=[1.0],
            weight_decays=[0.0],
        ).miou
        for x in (known, pixels)
    )
    assert known > 0.6 and pixels < 0.4


def test_an_encoder_on_scenes_with_its_baselines():
    torch.manual_seed(0)
    encoder, untrained = (VisionTransformer(32, 8, 24, 1, 3).eval() for _ in range(2))
    sets = [SceneDataset(split, 32, n) for split, n in (("train", 60), ("test", 30))]
    results = evaluate_dense(encoder, *sets, untrained=untrained, steps=10)
    for name in ("miou", "depth_rmse", "depth_delta1"):
        for baseline in ("", "_random_init", "_raw_pixels"):
            assert 0 < results[name + baseline] <= 1
    assert results["miou"] != results["miou_random_init"]
    assert results == evaluate_dense(encoder, *sets, untrained=untrained, steps=10)
    constant = (sets[1].depth() - sets[0].depth().mean()).square().mean((1, 2)).sqrt().mean()
    assert results["depth_rmse_mean"] == pytest.approx(float(constant), rel=1e-5)
