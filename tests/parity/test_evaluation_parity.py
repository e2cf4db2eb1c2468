"""The same protocols, written another way.

`dino_knn` and `dino_masks` are this test's own implementations of what DINO's release measures;
scikit-learn is a third opinion where it is installed.
"""

import pytest
import torch
from torch.nn.functional import normalize

from dino_tutorial.evaluation import (
    accuracy,
    attention_masks,
    jaccard,
    knn_classify,
    linear,
    linear_probe,
)

NEEDS_SKLEARN = "scikit-learn is a third opinion; the other comparisons do not need it"


def clusters(n, seed, dim=16, n_classes=5):
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(n_classes, dim, generator=torch.Generator().manual_seed(7))
    labels = torch.randint(n_classes, (n,), generator=generator)
    return centers[labels] + 1.2 * torch.randn(n, dim, generator=generator), labels


def dino_knn(train_x, train_y, test_x, test_y, k, temperature, n_classes):
    """Top-1 and top-5 of DINO's protocol: unnormalised weights, one query after the other."""
    train_x, test_x = normalize(train_x.double(), dim=1), normalize(test_x.double(), dim=1)
    top1 = top5 = 0
    for query, label in zip(test_x, test_y, strict=True):
        similarity = train_x @ query
        order = similarity.argsort(descending=True)[:k]
        score = torch.zeros(n_classes, dtype=torch.float64)
        for index in order:
            score[train_y[index]] += torch.exp(similarity[index] / temperature)
        ranking = score.argsort(descending=True)
        top1 += int(ranking[0] == label)
        top5 += int(label in ranking[:5])
    return top1 / len(test_y), top5 / len(test_y)


@pytest.mark.parametrize("k", [1, 10, 20, 200])
def test_knn_as_dino(k):
    train_x, train_y = clusters(300, 0, n_classes=8)
    test_x, test_y = clusters(120, 1, n_classes=8)
    votes = knn_classify(train_x, train_y, test_x, k, 0.07)
    top1, top5 = dino_knn(train_x, train_y, test_x, test_y, k, 0.07, 8)
    assert accuracy(votes, test_y) == pytest.approx(top1, abs=1e-9)
    if k >= 20:  # with few neighbours classes without a vote tie, and ties are broken at will
        assert accuracy(votes, test_y, topk=5) == pytest.approx(top5, abs=0.01)
    assert 0.3 < top1 < 0.99


def dino_masks(attention, mass):
    """DINO's: from the weakest patch upwards, drop what together holds at most 1 − mass."""
    masks = torch.ones_like(attention, dtype=torch.bool)
    for row, mask in zip(attention.flatten(0, 1), masks.flatten(0, 1), strict=True):
        total, dropped = float(row.sum()), 0.0
        for index in row.argsort().tolist():
            dropped += float(row[index]) / total
            mask[index] = dropped > 1 - mass
    return masks


@pytest.mark.parametrize("mass", [0.2, 0.6, 0.9])
def test_masks_as_dino(mass):
    generator = torch.Generator().manual_seed(0)
    attention = (2 * torch.randn(3, 6, 28, generator=generator).double()).softmax(-1)
    masks = attention_masks(attention, (4, 7), mass)
    assert torch.equal(masks.flatten(2), dino_masks(attention, mass))
    large = attention_masks(attention, (4, 7), mass, size=(32, 56))
    blocks = masks.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    assert torch.equal(large, blocks)


def test_knn_as_sklearn():
    neighbors = pytest.importorskip("sklearn.neighbors", reason=NEEDS_SKLEARN)
    train_x, train_y = clusters(300, 0)
    test_x, _ = clusters(120, 1)
    other = neighbors.KNeighborsClassifier(
        n_neighbors=20,
        metric="cosine",
        algorithm="brute",
        weights=lambda distance: torch.exp((1 - torch.tensor(distance)) / 0.07).numpy(),
    ).fit(train_x.numpy(), train_y.numpy())
    expected = torch.tensor(other.predict_proba(test_x.numpy())).float()
    votes = knn_classify(train_x, train_y, test_x, 20, 0.07)
    torch.testing.assert_close(votes, expected, atol=1e-4, rtol=1e-3)


def test_heads_as_sklearn_logistic_regression():
    models = pytest.importorskip("sklearn.linear_model", reason=NEEDS_SKLEARN)
    x, y = clusters(400, 0)
    x = (x - x.mean(0)) / x.std(0)
    decay = 0.02
    weight, bias = linear.train_heads(
        x, y, 5, torch.tensor([0.2]), torch.tensor([decay]), steps=800, batch_size=400
    )
    # sklearn minimises C · Σ loss + ½ |W|²; ours is mean loss + decay/2 · |W|².
    other = models.LogisticRegression(C=1 / (decay * len(x)), max_iter=5000, tol=1e-8)
    other.fit(x.double().numpy(), y.numpy())
    expected = torch.tensor(other.coef_).T.float()
    torch.testing.assert_close(weight[0], expected, atol=3e-3, rtol=1e-2)
    probabilities = torch.tensor(other.predict_proba(x.double().numpy())).float()
    torch.testing.assert_close(
        (x @ weight[0] + bias[0]).softmax(1), probabilities, atol=3e-3, rtol=0
    )


def test_probe_is_as_good_as_sklearn_logistic_regression():
    models = pytest.importorskip("sklearn.linear_model", reason=NEEDS_SKLEARN)
    train_x, train_y = clusters(1000, 0)
    test_x, test_y = clusters(1000, 1)
    probe = linear_probe(train_x, train_y, test_x, test_y, steps=500)
    other = models.LogisticRegression(max_iter=2000).fit(train_x.numpy(), train_y.numpy())
    score = other.score(test_x.numpy(), test_y.numpy())
    assert 0.7 < score < 0.99
    assert probe.test_accuracy == pytest.approx(score, abs=0.015)


def test_jaccard_as_sklearn():
    metrics = pytest.importorskip("sklearn.metrics", reason=NEEDS_SKLEARN)
    generator = torch.Generator().manual_seed(0)
    masks, truth = (torch.rand(2, 5, 9, 9, generator=generator) < 0.4).unbind(0)
    expected = [
        metrics.jaccard_score(a.flatten().numpy(), b.flatten().numpy())
        for a, b in zip(masks, truth, strict=True)
    ]
    assert jaccard(masks, truth).tolist() == pytest.approx(expected)
