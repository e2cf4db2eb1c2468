"""Rankings against scikit-learn, loops from the definitions, and features with a known answer."""

import math

import pytest
import torch
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from torch.nn.functional import normalize, one_hot

from dino_tutorial.datasets.scenes import uncurated_pool
from dino_tutorial.errors import UserError
from dino_tutorial.evaluation import copy_detection, recall_at, retrieval, retrieval_map


def noisy_classes(n, n_classes=4, dim=8, noise=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(n_classes, (n,), generator=generator)
    centers = torch.randn(n_classes, dim, generator=torch.Generator().manual_seed(9))
    return centers[labels] + noise * torch.randn(n, dim, generator=generator), labels


def cosines(queries, gallery):
    return normalize(queries, dim=1) @ normalize(gallery, dim=1).T


@pytest.mark.parametrize("chunk", [2**22, 100])
def test_map_and_recall_as_sklearn_and_by_sorting(monkeypatch, chunk):
    monkeypatch.setattr(retrieval, "CHUNK_ENTRIES", chunk)  # queries in one piece, and in many
    queries, wanted = noisy_classes(20, seed=0)
    gallery, labels = noisy_classes(70, seed=1)
    wanted[3], labels[:5] = 9, -1  # a query with nothing to find, and distractors
    similarity = cosines(queries, gallery)
    precisions, firsts = [], []
    for scores, label in zip(similarity, wanted, strict=True):
        right = labels == label
        if right.any():
            precisions.append(average_precision_score(right.numpy(), scores.numpy()))
            firsts.append(right[scores.argsort(descending=True)].tolist().index(True))
    assert len(precisions) == 19
    found = retrieval_map(queries, wanted, gallery, labels)
    assert found == pytest.approx(sum(precisions) / 19, abs=1e-6)
    assert 0.3 < found < 0.95
    recall = recall_at(queries, wanted, gallery, labels, ks=(1, 2, 70))
    assert recall == {k: sum(first < k for first in firsts) / 19 for k in (1, 2, 70)}


def test_without_a_gallery_each_query_is_left_out():
    x, labels = noisy_classes(30, noise=2.0)
    similarity = cosines(x, x)
    precisions = []
    for i in range(30):
        rest = torch.arange(30) != i
        right = (labels == labels[i])[rest].numpy()
        precisions.append(average_precision_score(right, similarity[i, rest].numpy()))
    found = retrieval_map(x, labels)
    assert found == pytest.approx(sum(precisions) / 30, abs=1e-6)
    assert found < retrieval_map(x, labels, x, labels) - 0.02  # where each finds itself first


def test_known_average_precision():
    gallery = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.5, 0.5], [0.0, 1.0]])
    labels = torch.tensor([0, 1, 0, 1])
    # Right at ranks 1 and 3 of four.
    assert retrieval_map(gallery[:1], torch.tensor([0]), gallery, labels) == pytest.approx(
        (1 / 1 + 2 / 3) / 2
    )


def test_perfect_features_find_everything_and_collapsed_ones_nothing_in_any_order():
    labels = torch.arange(5).repeat_interleave(6)
    assert retrieval_map(one_hot(labels).float(), labels) == 1
    collapsed = torch.ones(30, 4)
    # All 29 tie, five of them right: precision 5/29 whatever the storage order.
    assert retrieval_map(collapsed, labels) == pytest.approx(5 / 29)
    assert recall_at(collapsed, labels, ks=(1, 29)) == {1: 0.0, 29: 1.0}
    shuffled = torch.randn(600, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(600) % 10
    assert retrieval_map(shuffled, labels) == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("chunk", [2**22, 64])
def test_copies_as_sklearn_on_the_list_of_pairs(monkeypatch, chunk):
    monkeypatch.setattr(retrieval, "CHUNK_ENTRIES", chunk)
    generator = torch.Generator().manual_seed(0)
    originals = torch.randn(25, 6, generator=generator)
    copies = originals[:15] + 0.9 * torch.randn(15, 6, generator=generator)
    copies = torch.cat([copies, torch.randn(4, 6, generator=generator)])
    sources = torch.cat([torch.arange(15), torch.full((4,), -1)])
    gallery_sources = torch.arange(25)
    gallery_sources[20:] = -1  # −1 matches nothing, not even another −1
    found = copy_detection(copies, sources, originals, gallery_sources, precision=0.6)
    scores = cosines(copies, originals).flatten().numpy()
    truth = ((sources[:, None] == gallery_sources) & (sources >= 0)[:, None]).flatten().numpy()
    assert truth.sum() == 15
    assert found["auc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-6)
    assert found["average_precision"] == pytest.approx(
        average_precision_score(truth, scores), abs=1e-6
    )
    precision, recall, thresholds = precision_recall_curve(truth, scores)
    best = max((r, t) for p, r, t in zip(precision, recall, thresholds, strict=False) if p >= 0.6)
    assert found["recall_at_precision"] == pytest.approx(best[0])
    assert found["threshold"] == pytest.approx(best[1], abs=1e-6)
    assert found["chance"] == pytest.approx(15 / (19 * 25))
    assert 0.5 < found["auc"] < 1
    assert 0 < found["recall_at_precision"] < 1


def test_ties_between_pairs_count_half():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    sources = torch.tensor([0, 0, 1, 2])
    similarity, truth = [], []
    for i in range(4):
        for j in range(4):
            if i != j:
                similarity.append(float(x[i] @ x[j]))
                truth.append(bool(sources[i] == sources[j]))
    found = copy_detection(x, sources)
    assert found["auc"] == pytest.approx(roc_auc_score(truth, similarity))
    assert found["average_precision"] == pytest.approx(average_precision_score(truth, similarity))
    assert found["recall_at_precision"] == 0
    assert math.isnan(found["threshold"])


def test_exact_copies_are_found_and_collapsed_features_find_none():
    originals = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(40)
    found = copy_detection(2 * originals, ids, originals, ids)
    assert found["auc"] == found["average_precision"] == found["recall_at_precision"] == 1
    assert found["threshold"] == pytest.approx(1, abs=1e-5)
    nothing = copy_detection(torch.ones(40, 8), ids, torch.ones(40, 8), ids)
    assert nothing["auc"] == 0.5
    assert nothing["average_precision"] == pytest.approx(nothing["chance"]) == 1 / 40


def test_pixels_tell_the_planted_duplicates_of_the_pool_from_other_pairs():
    pool = uncurated_pool(300)
    index = torch.arange(300)
    sources = torch.where(pool.duplicate_of >= 0, pool.duplicate_of, index)
    pixels = pool.images.flatten(1).float() - 128
    found = copy_detection(pixels, sources)
    pairs = sum(int(n) * (int(n) - 1) for n in torch.bincount(sources))
    assert found["chance"] == pytest.approx(pairs / (300 * 299))
    assert found["auc"] > 0.9
    assert found["average_precision"] > 20 * found["chance"]
    shuffled = pixels[torch.randperm(300, generator=torch.Generator().manual_seed(0))]
    assert copy_detection(shuffled, sources)["auc"] < 0.7


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: retrieval_map(x, torch.arange(6)), "nothing can be found"),
        (lambda x, y: retrieval_map(x, y[:5]), "Q is 5, but 6 in queries"),
        (lambda x, y: retrieval_map(x, y, x), "not none"),
        (lambda x, y: retrieval_map(x, y, x[:, :2], y), "D is 2, but . in queries"),
        (lambda x, y: retrieval_map(x * float("nan"), y), "NaN"),
        (lambda x, y: recall_at(x, y, ks=(0, 1)), "must be 1 to"),
        (lambda x, y: copy_detection(x, y - 5), "0 of 30 pairs"),
        (lambda x, y: copy_detection(x, y * 0), "30 of 30 pairs"),
        (lambda x, y: copy_detection(x, y, precision=0.0), "precision is 0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_mistakes_are_named(call, message):
    with pytest.raises(UserError, match=message):
        call(torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 2)
