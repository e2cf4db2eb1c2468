"""Collapse measures on features whose collapse is known."""

import json
import math
from pathlib import Path

import pytest
import torch

from dino_tutorial.evaluation import effective_rank, entropy, feature_spread, find_collapse
from dino_tutorial.evaluation.collapse import CONSTANT_FEATURES, ONE_PROTOTYPE, UNIFORM


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


LN_K = math.log(4096)
RECORDS = Path(__file__).resolve().parents[2] / "data" / "results"


def curve(n=20, image_size=None, **ends):
    """Rows whose values go straight from the first to the second number of a pair."""
    rows = [{"step": 10 * i, "ln_k": LN_K} for i in range(n)]
    for i, row in enumerate(rows):
        row |= {key: a + (b - a) * i / (n - 1) for key, (a, b) in ends.items()}
        row |= {} if image_size is None else {"image_size": image_size}
    return rows


HEALTHY = {
    "teacher_entropy": (7.5, 2.0),
    "batch_entropy": (8.0, 6.0),
    "feature_spread": (0.3, 0.8),
}


@pytest.mark.parametrize(
    "ends, collapse",
    [
        ({}, None),
        ({"teacher_entropy": (7.0, LN_K), "batch_entropy": (7.5, LN_K)}, None),  # one row only
        ({"teacher_entropy": (8.3, LN_K), "batch_entropy": (8.3, LN_K)}, UNIFORM),
        ({"teacher_entropy": (0.0, 0.0), "batch_entropy": (0.3, 0.0)}, ONE_PROTOTYPE),
        ({"feature_spread": (0.004, 0.0)}, CONSTANT_FEATURES),
        ({"feature_spread": (0.5, 0.011)}, None),  # a large common part; SwAV learns with it
    ],
)
def test_each_collapse_is_found_on_its_curve(ends, collapse):
    assert find_collapse(curve(**HEALTHY | ends)) is collapse


COLLAPSED = {"teacher_entropy": (LN_K, LN_K), "feature_spread": (0.0, 0.0)}


def test_the_start_of_training_is_too_early_to_tell():
    assert find_collapse([]) is None
    assert find_collapse(curve(7, **COLLAPSED)) is None
    assert find_collapse(curve(8, **COLLAPSED)) is UNIFORM


def test_a_healthy_row_among_the_last_three_is_no_collapse():
    rows = curve(**COLLAPSED)
    rows[-2] = rows[-2] | {"teacher_entropy": 5.0, "feature_spread": 0.4}
    assert find_collapse(rows) is None
    assert find_collapse(curve(**COLLAPSED) + curve(3, **HEALTHY)) is None


def test_rows_of_other_image_sizes_are_not_counted():
    small, large = curve(20, 32, **COLLAPSED), curve(7, 64, **COLLAPSED)
    for i, row in enumerate(large):
        row["step"] = 1000 + i
    assert find_collapse(small) is UNIFORM
    assert find_collapse(small + large) is None  # seven rows at 64 pixels are too few
    assert find_collapse(small + large + [large[-1] | {"step": 1007}]) is UNIFORM


def test_rows_of_the_run_before_are_not_counted():
    first, finish = curve(**COLLAPSED), curve(7, **COLLAPSED)
    assert find_collapse(first + finish) is None


@pytest.mark.parametrize("value", [math.nan, None, "gone"])
def test_what_is_not_a_number_shows_nothing(value):
    rows = curve(**COLLAPSED)
    for key in ("teacher_entropy", "feature_spread"):
        rows[-1][key] = value
    assert find_collapse(rows) is None
    rows[-1]["feature_spread"] = 0.0  # the entropy says nothing, the spread still does
    assert find_collapse(rows) is CONSTANT_FEATURES
    unknown = [row | {"ln_k": value, "feature_spread": 0.5} for row in curve(**COLLAPSED)]
    assert find_collapse(unknown) is None


def test_no_recorded_run_is_called_collapsed_at_any_row():
    """All of them went on to learn: their k-NN beats the untrained encoder's."""
    found, runs = [], 0
    for path in sorted(RECORDS.glob("*/metrics.jsonl")):
        summary = json.loads((path.parent / "summary.json").read_text())
        if summary["knn_top1"] is None:  # of images without classes
            continue
        if summary["knn_top1"] <= summary["knn_random_init"]:
            continue
        runs += 1
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        if any(find_collapse(rows[:n]) for n in range(len(rows) + 1)):
            found.append(path.parent.name)
    assert runs > 50 and found == []
