"""What must hold for any features, attention and masks."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dino_tutorial.evaluation import (
    attention_masks,
    cls_attention,
    color_histogram,
    effective_rank,
    entropy,
    feature_spread,
    jaccard,
    knn_classify,
    patch_pca,
)

seeds = st.integers(0, 2**31)
quick = settings(max_examples=30, deadline=None)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@quick
@given(
    seed=seeds,
    n=st.integers(1, 30),
    n_test=st.integers(1, 7),
    dim=st.integers(1, 6),
    data=st.data(),
)
def test_votes_are_distributions_and_do_not_depend_on_the_order_of_the_bank(
    seed, n, n_test, dim, data
):
    k = data.draw(st.integers(1, n))
    bank, queries = normal(seed, n, dim).double(), normal(seed + 1, n_test, dim).double()
    labels = torch.arange(n) % 3
    votes = knn_classify(bank, labels, queries, k, n_classes=3)
    assert (votes >= 0).all()
    torch.testing.assert_close(votes.sum(1), torch.ones(n_test))
    if dim > 1:  # in one dimension all similarities are ties, and ties may fall either way
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        again = knn_classify(bank[order], labels[order], queries, k, n_classes=3)
        torch.testing.assert_close(again, votes, atol=1e-4, rtol=1e-4)


@quick
@given(seed=seeds, n=st.integers(2, 20))
def test_with_all_neighbours_and_endless_temperature_the_largest_class_wins(seed, n):
    labels = torch.randint(3, (n,), generator=torch.Generator().manual_seed(seed))
    votes = knn_classify(normal(seed, n, 4), labels, normal(seed + 1, 3, 4), n, 1e6, n_classes=3)
    share = torch.bincount(labels, minlength=3) / n
    torch.testing.assert_close(votes, share.expand(3, 3), atol=1e-4, rtol=1e-4)


@quick
@given(
    seed=seeds,
    h=st.integers(1, 6),
    w=st.integers(1, 6),
    low=st.floats(0.05, 0.95),
    more=st.floats(0, 1),
)
def test_masks_hold_their_mass_and_grow_with_it(seed, h, w, low, more):
    high = low + (1 - low) * more
    attention = (2 * normal(seed, 2, 3, h * w)).softmax(-1)
    small = attention_masks(attention, (h, w), low)
    large = attention_masks(attention, (h, w), high)
    assert (small <= large).all()
    held = (cls_attention(attention, (h, w)) * small.flatten(2)).sum(-1)
    assert (held >= low - 1e-5).all()
    assert small.flatten(2).any(-1).all()


@quick
@given(seed=seeds, p=st.floats(0, 1), q=st.floats(0, 1))
def test_jaccard_is_a_similarity(seed, p, q):
    generator = torch.Generator().manual_seed(seed)
    a = torch.rand(4, 5, 6, generator=generator) < p
    b = torch.rand(4, 5, 6, generator=generator) < q
    score = jaccard(a, b)
    assert ((score >= 0) & (score <= 1)).all()
    assert torch.equal(score, jaccard(b, a))
    assert (jaccard(a, a) == 1).all()
    assert ((score == 1) == (a == b).flatten(1).all(1)).all()


@quick
@given(seed=seeds, batch=st.integers(2, 30), dim=st.integers(1, 20), scale=st.floats(0.1, 10))
def test_collapse_measures_stay_in_their_ranges(seed, batch, dim, scale):
    features = normal(seed, batch, dim)
    assert 0 <= feature_spread(features) <= 1 + 1e-5
    rank = effective_rank(features)
    assert 1 - 1e-4 <= rank <= min(batch, dim) + 1e-3
    torch.testing.assert_close(effective_rank(scale * features), rank, atol=1e-3, rtol=1e-3)
    h = entropy(features.softmax(-1))
    assert ((h >= 0) & (h <= math.log(dim) + 1e-5)).all()


@quick
@given(seed=seeds, bins=st.integers(1, 9), size=st.integers(1, 5))
def test_histograms_have_unit_length(seed, bins, size):
    class Images:
        labels = torch.zeros(3)
        pixels = (255 * normal(seed, 3, 3, size, size).abs().clamp(0, 1)).to(torch.uint8)

        def __len__(self):
            return 3

        def images(self, indices=None):
            return self.pixels[indices]

    histogram = color_histogram(Images(), bins)
    assert histogram.shape == (3, bins**3)
    torch.testing.assert_close(histogram.norm(dim=1), torch.ones(3))


@quick
@given(seed=seeds, n=st.integers(4, 12), shift=st.floats(-5, 5))
def test_patch_components_are_centred_uncorrelated_and_ignore_a_shift(seed, n, shift):
    patches = normal(seed, 2, n, 5)
    points = patch_pca(patches, 3, foreground=False).flatten(0, 1)
    torch.testing.assert_close(points.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    gram = points.T @ points
    off_diagonal = gram - gram.diag().diag()
    assert (off_diagonal.abs() < 1e-3 * gram.diag().max()).all()
    assert (gram.diag().diff() <= 1e-3).all()
    moved = patch_pca(patches + shift, 3, foreground=False).flatten(0, 1)
    torch.testing.assert_close(moved.abs(), points.abs(), atol=1e-2, rtol=1e-2)
