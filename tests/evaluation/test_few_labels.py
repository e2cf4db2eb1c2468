"""Nested subsets, logistic regression against scikit-learn, and curves that have to rise."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from dino_tutorial.errors import UserError
from dino_tutorial.evaluation import label_efficiency, linear_probe, nested_subsets
from dino_tutorial.evaluation.few_labels import logistic_regression


def noisy_classes(n, n_classes=4, dim=10, noise=1.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % n_classes
    centers = torch.randn(n_classes, dim, generator=torch.Generator().manual_seed(9))
    scale = torch.logspace(-1, 1, dim)  # dimensions of very different size
    return scale * (centers[labels] + noise * torch.randn(n, dim, generator=generator)), labels


def test_subsets_are_balanced_nested_and_depend_on_the_seed_alone():
    labels = torch.randint(-1, 5, (300,), generator=torch.Generator().manual_seed(0))
    subsets = nested_subsets(labels, (1, 3, 20), seed=7)
    for n, chosen in zip((1, 3, 20), subsets, strict=True):
        assert torch.bincount(labels[chosen], minlength=5).tolist() == [n] * 5
        assert len(chosen.unique()) == len(chosen) == 5 * n
    assert set(subsets[0].tolist()) < set(subsets[1].tolist()) < set(subsets[2].tolist())
    assert torch.equal(nested_subsets(labels, (3,), seed=7)[0], subsets[1])
    assert not torch.equal(nested_subsets(labels, (3,), seed=8)[0], subsets[1])


def test_every_image_is_chosen_equally_often():
    labels = torch.arange(12) % 3
    counts = torch.zeros(12)
    for seed in range(800):
        counts[nested_subsets(labels, (1,), seed)[0]] += 1
    assert ((counts / 800 - 0.25).abs() < 0.07).all()  # 4.5 standard deviations


@pytest.mark.parametrize("strength", [1.0, 0.05])
def test_logistic_regressions_as_sklearn_one_by_one(strength):
    x = torch.stack([noisy_classes(40, seed=s)[0] for s in (0, 1)])
    y = torch.stack([torch.arange(40) % 4] * 2)
    weight, bias = logistic_regression(x, y, 4, strength)
    assert weight.dtype == torch.float32
    for s in range(2):
        other = LogisticRegression(C=1 / strength, max_iter=10000, tol=1e-10)
        other.fit(x[s].double().numpy(), y[s].numpy())
        expected = torch.tensor(other.predict_proba(x[s].double().numpy())).float()
        found = (x[s] @ weight[s] + bias[s]).softmax(1)
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_accuracies_are_those_of_sklearn_on_the_same_labels():
    train_x, train_y = noisy_classes(400, seed=0)
    test_x, test_y = noisy_classes(200, seed=1)
    result = label_efficiency(train_x, train_y, test_x, test_y, (1, 20), n_subsets=2, seed=3)
    scaler = StandardScaler().fit(train_x.numpy())
    for s in range(2):
        for column, chosen in enumerate(nested_subsets(train_y, (1, 20), 3 + s)):
            model = LogisticRegression(max_iter=5000, tol=1e-8)
            model.fit(scaler.transform(train_x[chosen].numpy()), train_y[chosen].numpy())
            score = model.score(scaler.transform(test_x.numpy()), test_y.numpy())
            assert float(result.linear[s, column]) == pytest.approx(score, abs=0.0051)


def test_more_labels_help_and_the_choice_matters_less():
    train_x, train_y = noisy_classes(2000, seed=0)
    test_x, test_y = noisy_classes(500, seed=1)
    result = label_efficiency(train_x, train_y, test_x, test_y, (1, 10, 200), n_subsets=4)
    assert result.per_class == (1, 10, 200)
    for curve in (result.knn, result.linear):
        assert curve.shape == (4, 3)
        assert (curve.mean(0).diff() > 0.02).all()
        assert curve.std(0)[2] < curve.std(0)[0]
    probe = linear_probe(train_x, train_y, test_x, test_y, steps=300)
    assert result.linear.mean(0)[2] == pytest.approx(probe.test_accuracy, abs=0.03)


def test_features_that_are_the_class_need_one_label_and_shuffled_ones_stay_at_chance():
    labels = torch.arange(300) % 5
    x = torch.nn.functional.one_hot(labels).float()
    perfect = label_efficiency(x, labels, x, labels, (1, 3), n_subsets=2)
    assert (perfect.knn == 1).all()
    assert (perfect.linear == 1).all()
    mixed = labels[torch.randperm(300, generator=torch.Generator().manual_seed(0))]
    noise = torch.randn(300, 6, generator=torch.Generator().manual_seed(1))
    chance = label_efficiency(noise[:200], mixed[:200], noise[200:], mixed[200:], (20,))
    assert chance.knn.mean() == pytest.approx(0.2, abs=0.06)
    assert chance.linear.mean() == pytest.approx(0.2, abs=0.06)


def test_neighbours_are_never_more_than_labels_of_a_class():
    train_x, train_y = noisy_classes(40)
    test_x, test_y = noisy_classes(40, seed=1)
    one = label_efficiency(train_x, train_y, test_x, test_y, (1,), n_subsets=1, k=20)
    nearest = label_efficiency(train_x, train_y, test_x, test_y, (1,), n_subsets=1, k=1)
    assert torch.equal(one.knn, nearest.knn)


@pytest.mark.parametrize("per_class", [(0, 1), (1, 11)])
def test_too_few_images_are_named(per_class):
    x, y = noisy_classes(40)
    with pytest.raises(UserError, match="smallest class has 10 images"):
        label_efficiency(x, y, x, y, per_class)
