"""Scenes: what holds for every index, seed, size and mask."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dino_tutorial.datasets.scenes import boxes_of, render, sample_factors
from dino_tutorial.datasets.scenes.factors import RANGES, SPLITS


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 2**62), min_size=1, max_size=6),
    st.sampled_from(SPLITS),
    st.integers(0, 2**31),
)
def test_each_scene_is_known_without_the_others(indices, split, seed):
    together = sample_factors(torch.tensor(indices), split, seed)
    for place, index in enumerate(indices):
        alone = sample_factors(torch.tensor([index]), split, seed)
        for name, count in RANGES.items():
            assert together[name][place] == alone[name][0]
            assert 0 <= alone[name][0] < count


@settings(max_examples=10, deadline=None)
@given(st.integers(16, 80), st.integers(0, 10**9))
def test_a_scene_of_any_size_is_whole(size, index):
    scene = render(sample_factors(torch.tensor([index])), size)
    assert scene.images.shape == (1, 3, size, size)
    assert torch.equal(scene.mask, scene.instances == 1)
    assert scene.depth.isfinite().all() and (scene.depth > 0).all()
    assert scene.images.float().std() > 1


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**31))
def test_boxes_hold_their_masks_and_no_more(height, width, seed):
    mask = torch.rand(1, height, width, generator=torch.Generator().manual_seed(seed)) > 0.8
    x0, y0, x1, y1 = boxes_of(mask)[0].tolist()
    inner = mask[0, y0:y1, x0:x1]
    assert inner.sum() == mask.sum()
    if mask.any():
        assert inner[0].any() and inner[-1].any() and inner[:, 0].any() and inner[:, -1].any()
