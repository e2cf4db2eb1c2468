"""What must hold for rankings, films, discovered objects and chosen labels, whatever they are."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dino_tutorial.evaluation import (
    box_iou,
    copy_detection,
    lost_masks,
    mask_boxes,
    nested_subsets,
    propagate_labels,
    recall_at,
    region_and_boundary,
    retrieval_map,
    token_cut_masks,
)

seeds = st.integers(0, 2**31)
quick = settings(max_examples=25, deadline=None)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shuffle(seed, n):
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


@quick
@given(seed=seeds, n=st.integers(4, 30), levels=st.integers(1, 4))
def test_scores_of_a_ranking_do_not_depend_on_the_order_of_storage(seed, n, levels):
    # Features of few values tie often.
    x = torch.nn.functional.one_hot((normal(seed, n).abs() * levels).long() % levels, 4).float()
    labels = torch.arange(n) % 3
    order = shuffle(seed, n)
    first, second = retrieval_map(x, labels), retrieval_map(x[order], labels[order])
    assert 0 < first <= 1
    assert abs(first - second) < 1e-6
    assert recall_at(x, labels) == recall_at(x[order], labels[order])
    found, again = (copy_detection(a, b) for a, b in ((x, labels), (x[order], labels[order])))
    for name in ("auc", "average_precision", "recall_at_precision"):
        assert abs(found[name] - again[name]) < 1e-6
        assert 0 <= found[name] <= 1


@quick
@given(seed=seeds, n=st.integers(3, 25))
def test_recall_grows_with_k_and_reaches_one(seed, n):
    labels = torch.arange(n) % (n // 2)
    recall = recall_at(normal(seed, n, 4), labels, ks=range(1, n))
    values = [recall[k] for k in range(1, n)]
    assert values == sorted(values)
    assert values[-1] == 1


@quick
@given(
    seed=seeds,
    frames=st.integers(1, 5),
    h=st.integers(1, 4),
    w=st.integers(1, 4),
    context=st.integers(0, 3),
    near=st.integers(0, 4),
    topk=st.integers(1, 6),
)
def test_labels_stay_distributions_and_ignore_the_scale_of_features(
    seed, frames, h, w, context, near, topk
):
    features, first = normal(seed, frames, h * w, 3), normal(seed + 1, h * w, 2).softmax(-1)
    settings = ((h, w), context, near, topk)
    labels = propagate_labels(features, first, *settings)
    torch.testing.assert_close(labels.sum(-1), torch.ones(frames, h * w))
    low, high = first.amin(0) - 1e-5, first.amax(0) + 1e-5
    assert ((labels >= low) & (labels <= high)).all()  # means of what was given
    torch.testing.assert_close(propagate_labels(4 * features, first, *settings), labels)


@quick
@given(seed=seeds, p=st.floats(0, 1), q=st.floats(0, 1))
def test_region_and_boundary_are_similarities(seed, p, q):
    generator = torch.Generator().manual_seed(seed)
    a = torch.rand(3, 7, 9, generator=generator) < p
    b = torch.rand(3, 7, 9, generator=generator) < q
    for one, other in zip(region_and_boundary(a, b), region_and_boundary(b, a), strict=True):
        torch.testing.assert_close(one, other)
        assert ((one >= 0) & (one <= 1)).all()
    for score in region_and_boundary(a, a):
        torch.testing.assert_close(score, torch.ones(3))


@quick
@given(seed=seeds, h=st.integers(2, 5), w=st.integers(2, 5), all_expand=st.booleans())
def test_discovered_objects_are_never_empty_and_turn_with_the_image(seed, h, w, all_expand):
    patches = normal(seed, 8, h * w, 5)
    k = h * w if all_expand else 1  # between them, ties of degree would decide who expands
    found = lost_masks(patches, (h, w), k)
    degree = (patches @ patches.transpose(1, 2) > 0).sum(-1)
    one_seed = (degree == degree.amin(1, keepdim=True)).sum(1) == 1
    mirrored = patches.unflatten(1, (h, w)).flip(2).flatten(1, 2)
    turned = lost_masks(mirrored, (h, w), k).flip(2)
    assert torch.equal(found[one_seed], turned[one_seed])
    for masks in (found, token_cut_masks(patches, (h, w))):
        assert masks.flatten(1).any(1).all()


@quick
@given(seed=seeds, p=st.floats(0.01, 1))
def test_boxes_hold_their_masks_tightly(seed, p):
    masks = torch.rand(5, 6, 8, generator=torch.Generator().manual_seed(seed)) < p
    for mask, (left, top, right, bottom) in zip(masks, mask_boxes(masks).tolist(), strict=True):
        inside = mask[top:bottom, left:right]
        assert inside.sum() == mask.sum()
        if mask.any():
            for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
                assert edge.any()
    boxes = mask_boxes(masks)
    assert ((box_iou(boxes, boxes) == 1) == masks.flatten(1).any(1)).all()


@quick
@given(seed=seeds, n=st.integers(10, 60), classes=st.integers(1, 4))
def test_chosen_labels_are_balanced_and_nested(seed, n, classes):
    labels = torch.arange(n) % classes
    most = n // classes
    few, many = nested_subsets(labels, (1, most), seed)
    assert torch.bincount(labels[few]).tolist() == [1] * classes
    assert torch.bincount(labels[many]).tolist() == [most] * classes
    assert torch.isin(few, many).all()
