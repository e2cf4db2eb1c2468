"""k-NN against loops over single neighbours, and its refusals."""

import math

import pytest
import torch

from dino_tutorial.errors import UserError
from dino_tutorial.evaluation import accuracy, knn, knn_accuracies, knn_classify, nearest_neighbours


def problem(n_train=40, n_test=9, dim=5, n_classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    train_x = torch.randn(n_train, dim, generator=generator)
    test_x = torch.randn(n_test, dim, generator=generator)
    train_y = torch.randint(n_classes, (n_train,), generator=generator)
    train_y[:n_classes] = torch.arange(n_classes)
    return train_x, train_y, test_x


def votes_by_hand(train_x, train_y, test_x, k, temperature, n_classes):
    """One query and one neighbour at a time, in Python floats."""
    rows = []
    for query in test_x.double():
        cosines = [
            (float(query @ x) / float(query.norm() * x.norm()), int(y))
            for x, y in zip(train_x.double(), train_y, strict=True)
        ]
        row = [0.0] * n_classes
        for cosine, label in sorted(cosines, reverse=True)[:k]:
            row[label] += math.exp(cosine / temperature)
        rows.append([vote / sum(row) for vote in row])
    return torch.tensor(rows)


@pytest.mark.parametrize("k", [1, 3, 40])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_votes_are_the_weighted_neighbours(k, temperature):
    train_x, train_y, test_x = problem()
    votes = knn_classify(train_x, train_y, test_x, k, temperature)
    expected = votes_by_hand(train_x, train_y, test_x, k, temperature, 4)
    torch.testing.assert_close(votes, expected, rtol=1e-4, atol=1e-5)


def test_a_close_neighbour_outvotes_two_distant_ones():
    bank = torch.tensor([[1.0, 0.1], [0.2, 1.0], [0.1, 1.0]])
    labels, query = torch.tensor([0, 1, 1]), torch.tensor([[1.0, 0.0]])
    assert knn_classify(bank, labels, query, k=3, temperature=0.07).argmax() == 0
    assert knn_classify(bank, labels, query, k=3, temperature=100.0).argmax() == 1


def test_length_of_features_does_not_count():
    train_x, train_y, test_x = problem()
    scale = torch.linspace(0.01, 100, len(train_x))[:, None]
    torch.testing.assert_close(
        knn_classify(train_x * scale, train_y, 7 * test_x, 5),
        knn_classify(train_x, train_y, test_x, 5),
    )


def test_chunks_change_nothing(monkeypatch):
    train_x, train_y, test_x = problem(n_test=23)
    whole = knn_classify(train_x, train_y, test_x, 6)
    monkeypatch.setattr(knn, "CHUNK_ENTRIES", 3 * len(train_x))
    torch.testing.assert_close(knn_classify(train_x, train_y, test_x, 6), whole)
    monkeypatch.setattr(knn, "CHUNK_ENTRIES", 1)
    torch.testing.assert_close(knn_classify(train_x, train_y, test_x, 6), whole)


def test_similarities_are_held_a_chunk_at_a_time(monkeypatch):
    train_x, train_y, test_x = problem(n_test=20)
    monkeypatch.setattr(knn, "CHUNK_ENTRIES", 4 * len(train_x))
    sizes = []
    topk = torch.Tensor.topk
    monkeypatch.setattr(
        torch.Tensor, "topk", lambda x, *a, **b: sizes.append(len(x)) or topk(x, *a, **b)
    )
    knn_classify(train_x, train_y, test_x, 6)
    assert len(sizes) >= 5 and set(sizes) == {4}


def test_one_test_image_is_enough():
    train_x, train_y, test_x = problem(n_test=1)
    assert knn_classify(train_x, train_y, test_x, 5).shape == (1, 4)


def test_small_temperature_does_not_overflow():
    train_x, train_y, test_x = problem()
    votes = knn_classify(train_x, train_y, test_x, 10, temperature=1e-4)
    nearest = train_y[nearest_neighbours(train_x, test_x, 1)[:, 0]]
    assert votes.isfinite().all()
    assert (votes.argmax(1) == nearest).all()


def test_classes_missing_from_the_bank_get_no_votes():
    train_x, train_y, test_x = problem()
    votes = knn_classify(train_x, train_y, test_x, 5, n_classes=7)
    assert votes.shape == (9, 7)
    assert (votes[:, 4:] == 0).all()


def test_half_precision_features_are_compared_in_single():
    train_x, train_y, test_x = problem()
    votes = knn_classify(train_x.half(), train_y, test_x.half(), 5)
    assert votes.dtype == torch.float32


def test_knn_accuracies_equal_one_k_at_a_time():
    train_x, train_y, test_x = problem()
    test_y = torch.arange(9) % 4
    together = knn_accuracies(train_x, train_y, test_x, test_y, (1, 5, 20))
    for k, value in together.items():
        assert value == accuracy(knn_classify(train_x, train_y, test_x, k), test_y)


def test_nearest_neighbours_are_sorted_and_find_themselves():
    features = problem()[0]
    index = nearest_neighbours(features, features[5:8], 4)
    assert index[:, 0].tolist() == [5, 6, 7]
    cosine = torch.nn.functional.cosine_similarity(features[5:8, None], features[index], dim=-1)
    assert (cosine.diff(dim=1) <= 0).all()


def test_accuracy_counts():
    votes = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.4, 0.35, 0.25]])
    labels = torch.tensor([0, 1, 2])
    assert accuracy(votes, labels) == pytest.approx(1 / 3)
    assert accuracy(votes, labels, topk=2) == pytest.approx(2 / 3)
    assert accuracy(votes, labels, topk=3) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 41}, "k = 41 neighbours from a bank of 40"),
        ({"k": 0}, "k = 0"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"n_classes": 3}, "n_classes is 3"),
        ({"train_y": torch.full((40,), -1)}, "no label"),
        ({"train_y": torch.zeros(39, dtype=torch.long)}, "N is 39, but 40 in train_x"),
        ({"test_x": torch.zeros(0, 5)}, "at least 1 for n"),
        ({"test_x": torch.zeros(3, 6)}, "D is 6, but 5 in train_x"),
        ({"test_x": torch.full((3, 5), math.nan)}, "NaN"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_mistakes_are_named(change, message):
    train_x, train_y, test_x = problem()
    arguments = {"train_x": train_x, "train_y": train_y, "test_x": test_x, "k": 5} | change
    with pytest.raises(UserError, match=message):
        knn_classify(**arguments)


@pytest.mark.usefixtures("unchecked")
def test_accuracy_names_mistakes():
    with pytest.raises(UserError, match="n is 3, but 2 in votes"):
        accuracy(torch.zeros(2, 3), torch.zeros(3))
    with pytest.raises(UserError, match="topk is 4"):
        accuracy(torch.zeros(2, 3), torch.zeros(2), topk=4)


def test_a_class_without_votes_is_not_among_the_best():
    """With k = 2 two classes at most have votes; the other of the top 3 is only the next number."""
    bank = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.0]])
    votes = knn_classify(bank, torch.tensor([3, 4, 0, 1]), torch.tensor([[1.0, 0.05]]), k=2)
    assert (votes > 0).sum() == 2
    for label, right in ((3, 1.0), (4, 1.0), (0, 0.0), (1, 0.0), (2, 0.0)):
        assert accuracy(votes, torch.tensor([label]), topk=5) == right
    logits = torch.tensor([[0.0, -1.0, 2.0]])  # 0 is a value like any other
    assert accuracy(logits, torch.tensor([0]), topk=2) == 1.0


@pytest.mark.parametrize("n", [150, 64, 20, 129])
def test_a_bank_in_parts_has_the_same_neighbours(monkeypatch, n):
    g = torch.Generator().manual_seed(0)
    bank, queries = torch.randn(n, 8, generator=g), torch.randn(70, 8, generator=g)
    expected = knn.top_neighbours(bank, queries, 20)
    monkeypatch.setattr(knn, "BANK_CHUNK", 64)
    monkeypatch.setattr(knn, "CHUNK_ENTRIES", 64 * 16)
    similarity, index = knn.top_neighbours(bank, queries, 20)
    assert torch.equal(index, expected[1])
    torch.testing.assert_close(similarity, expected[0])
