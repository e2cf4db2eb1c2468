"""Block masks: what has to hold for any batch, grid and setting."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dino_tutorial.errors import UserError
from dino_tutorial.views import DrawnMasks, block_masks, masks
from dino_tutorial.views.masks import DrawnBlocks, draw_blocks

GRIDS = st.tuples(st.integers(2, 12), st.integers(2, 12))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@st.composite
def ratios(draw):
    low = draw(st.floats(0, 0.9))
    return low, draw(st.floats(low, 1.0))


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 40), grid=GRIDS, ratio=ratios(), share=st.floats(0, 1), seed=st.integers(0))
def test_share_of_images_and_one_ratio_from_each_stratum(n, grid, ratio, share, seed):
    masks = block_masks(n, grid, generator(seed % 2**32), ratio, share)
    n_patches = math.prod(grid)
    assert masks.shape == (n, n_patches) and masks.dtype == torch.bool
    counts = sorted(masks.sum(dim=1).tolist())
    n_masked = int(n * share)
    assert sum(count > 0 for count in counts) == n_masked
    for i, count in enumerate(counts[n - n_masked :]):
        low, high = (ratio[0] + (ratio[1] - ratio[0]) * (i + end) / n_masked for end in (0, 1))
        # The number is exact up to rounding down, and at least one.
        assert max(1, math.floor(n_patches * low - 1e-6)) <= count
        assert count <= max(1, math.floor(n_patches * high + 1e-6))


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 20), grid=GRIDS, seed=st.integers(0, 1000))
def test_same_generator_same_masks_and_the_same_number_of_draws(n, grid, seed):
    states = []
    for ratio in ((0.1, 0.5), (0.1, 0.5), (0.5, 0.9)):
        g = generator(seed)
        states.append((block_masks(n, grid, g, ratio), g.get_state()))
    assert torch.equal(states[0][0], states[1][0])
    assert torch.equal(states[0][1], states[2][1])


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 12), grid=GRIDS, seed=st.integers(0, 1000), parts=st.integers(1, 3))
def test_blocks_of_a_part_are_those_of_the_whole_bit_for_bit(n, grid, seed, parts):
    whole = block_masks(2 * n, grid, generator(seed)).view(2, n, -1)
    draw = draw_blocks(2 * n, grid, generator(seed), (0.1, 0.5), 0.5)
    drawn = DrawnBlocks(draw, torch.arange(2 * n).view(2, n))
    assert torch.equal(drawn.masks, whole)
    for part in torch.arange(n).tensor_split(parts):
        for ours, theirs in zip(
            drawn[part].to("cpu"), DrawnMasks(whole)[part].to("cpu"), strict=True
        ):
            assert torch.equal(ours, theirs)
    first = slice(n // 2, n)
    assert torch.equal(drawn[first][:1].masks, whole[:, first][:, :1])  # a rank's, then a part
    turned = torch.arange(n).flip(0)
    assert torch.equal(drawn[turned].masks, whole[:, turned])


def test_blocks_are_placed_of_the_images_alone_that_are_wanted(monkeypatch):
    """Of a batch of many processes, each places its own."""
    placed = []
    place = masks._place_blocks
    monkeypatch.setattr(
        masks, "_place_blocks", lambda m, *rest: (placed.append(len(m)), place(m, *rest))
    )
    draw = draw_blocks(200, (4, 4), generator(), (0.1, 0.5), 0.5)
    drawn = DrawnBlocks(draw, torch.arange(200).view(2, 100))
    assert drawn[:10].to("cpu").masks.shape == (20, 16) and set(placed) == {20}


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 12), grid=GRIDS, seed=st.integers(0, 1000), parts=st.integers(1, 3))
def test_places_and_weights_point_at_the_hidden_patches(n, grid, seed, parts):
    masks = block_masks(2 * n, grid, generator(seed)).view(2, n, -1)
    for part in torch.arange(n).tensor_split(parts):
        hidden = DrawnMasks(masks)[part].to("cpu")
        expected = masks[:, part].reshape(2 * len(part), math.prod(grid))
        assert torch.equal(hidden.masks, expected)
        found = [
            (i * expected.shape[1] + j, 1 / expected[i].sum().item())
            for i in range(expected.shape[0])
            for j in range(expected.shape[1])
            if expected[i, j]
        ]
        assert hidden.indices.tolist() == [place for place, _ in found]
        assert hidden.weights.tolist() == pytest.approx([weight for _, weight in found])


def test_what_is_hidden_comes_in_blocks():
    """Almost every hidden patch lies in a hidden 2 x 2 square; single ones would rarely do so."""
    masks = block_masks(300, (14, 14), generator(), share=1).view(-1, 14, 14)

    def in_a_square(masks):
        square = masks[:, 1:, 1:] & masks[:, 1:, :-1] & masks[:, :-1, 1:] & masks[:, :-1, :-1]
        covered = torch.zeros_like(masks)
        for rows in (slice(1, None), slice(None, -1)):
            for columns in (slice(1, None), slice(None, -1)):
                covered[:, rows, columns] |= square
        return (covered & masks).sum() / masks.sum()

    scattered = masks.flatten(1)[:, torch.randperm(196, generator=generator(1))].view_as(masks)
    assert in_a_square(masks) > 0.85
    assert in_a_square(scattered) < 0.4


def test_every_place_is_hidden_about_as_often_as_its_mirror_image():
    masks = block_masks(4000, (6, 6), generator(), share=1).view(-1, 6, 6).float().mean(dim=0)
    torch.testing.assert_close(masks, masks.flip(0), atol=0.04, rtol=0)
    torch.testing.assert_close(masks, masks.flip(1), atol=0.04, rtol=0)
    torch.testing.assert_close(masks, masks.T, atol=0.04, rtol=0)
    assert masks.mean().item() == pytest.approx(0.3, abs=0.02)


def test_the_images_that_are_masked_are_drawn_anew():
    g = generator()
    masked = [block_masks(16, (4, 4), g).any(dim=1) for _ in range(200)]
    often = torch.stack(masked).float().mean(dim=0)
    assert often.min() > 0.35 and often.max() < 0.65


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_images": 0}, "n_images must be 1"),
        ({"grid": (0, 4)}, r"grid\[0\] must be 1"),
        ({"ratio": (0.5, 0.1)}, r"ratio is \(0.5, 0.1\)"),
        ({"share": 1.5}, "share is 1.5"),
    ],
)
def test_impossible_masks_are_refused(arguments, message):
    wanted = {"n_images": 4, "grid": (4, 4), "generator": generator()} | arguments
    with pytest.raises(UserError, match=message):
        block_masks(**wanted)
