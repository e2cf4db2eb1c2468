"""Masks of known attention, Jaccard of known boxes."""

import pytest
import torch

from dino_tutorial.errors import UserError
from dino_tutorial.evaluation import (
    attention_jaccard,
    attention_masks,
    center_box,
    cls_attention,
    jaccard,
)


def random_attention(batch=3, heads=4, grid=(3, 5), extra=1, seed=0):
    """Attention (B, heads, T, T) with rows that sum to 1; ``extra`` tokens before the patches."""
    tokens = grid[0] * grid[1] + extra
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(batch, heads, tokens, tokens, generator=generator)).softmax(-1)


def test_masks_hold_the_mass_with_the_fewest_patches():
    grid, mass = (3, 5), 0.6
    attention = random_attention(grid=grid)
    masks = attention_masks(attention, grid, mass).flatten(2)
    share = cls_attention(attention, grid).double()
    held = torch.where(masks, share, 0.0).sum(-1)
    assert (held >= mass - 1e-6).all()
    for b, head in torch.cartesian_prod(torch.arange(3), torch.arange(4)).tolist():
        strongest = sorted(share[b, head].tolist(), reverse=True)
        count = int(masks[b, head].sum())
        assert sum(strongest[: count - 1]) < mass  # one fewer would not do
        assert share[b, head][masks[b, head]].min() >= strongest[count - 1] - 1e-12


def test_known_mask():
    attention = torch.tensor([0.3, 0.05, 0.35, 0.1, 0.1, 0.1]).view(1, 1, 6)
    expected = torch.tensor([[True, False, True], [False, False, False]])
    assert torch.equal(attention_masks(attention, (2, 3), 0.6)[0, 0], expected)
    assert attention_masks(attention, (2, 3), 0.3).sum() == 1
    assert attention_masks(attention, (2, 3), 1.0).all()


def test_only_the_class_tokens_look_at_the_patches_counts():
    grid = (2, 3)
    attention = random_attention(1, 2, grid, extra=5)  # class token and four registers
    row = attention[:, :, 0, 5:]
    assert torch.equal(attention_masks(attention, grid), attention_masks(row, grid))
    torch.testing.assert_close(cls_attention(attention, grid).sum(-1), torch.ones(1, 2))
    changed = attention.clone()
    changed[:, :, 1:] = 0.123
    changed[:, :, 0, :5] = 9.0
    assert torch.equal(attention_masks(changed, grid), attention_masks(attention, grid))


def test_masks_are_enlarged_in_blocks():
    attention = torch.zeros(1, 1, 6)
    attention[..., 4] = 1  # row 1, column 1 of 2 x 3
    large = attention_masks(attention, (2, 3), size=(8, 12))
    assert large.dtype == torch.bool
    assert large.sum() == 16
    assert large[0, 0, 4:, 4:8].all()


def test_jaccard_of_boxes():
    masks = torch.zeros(3, 6, 6, dtype=torch.bool)
    truth = torch.zeros(3, 6, 6, dtype=torch.bool)
    masks[0, :4, :2], truth[0, 2:, :2] = True, True  # 8 and 8, 4 common
    masks[1, 0, 0], truth[1, 5, 5] = True, True
    assert jaccard(masks, truth).tolist() == pytest.approx([4 / 12, 0.0, 1.0])


def test_best_and_mean_head_of_a_made_up_image():
    truth = torch.zeros(1, 4, 4, dtype=torch.bool)
    truth[:, :2, :2] = True
    attention = torch.full((1, 2, 4), 0.02)
    attention[0, 0, 0] = 1.0  # the first head looks at the object
    attention[0, 1, 3] = 3.0  # the second at the opposite corner
    scores = attention_jaccard(attention, (2, 2), truth)
    assert scores["heads"].tolist() == [[1.0, 0.0]]
    assert scores["best_head"].tolist() == [1.0]
    # Both heads count alike whatever their sums: together they need two patches, one of them right.
    assert scores["mean_head"].tolist() == [0.5]
    assert scores["whole_image"].tolist() == [0.25]
    assert scores["center_box"].tolist() == pytest.approx([1 / 7])


def test_best_head_never_loses():
    truth = torch.zeros(3, 12, 20, dtype=torch.bool)
    truth[:, 3:9, 5:15] = True
    scores = attention_jaccard(random_attention(), (3, 5), truth)
    assert (scores["best_head"][:, None] >= scores["heads"]).all()
    assert scores["mean_head"].shape == (3,)


def test_center_box():
    box = center_box((8, 12))
    assert box.sum() == 4 * 6
    assert box[2:6, 3:9].all()


@pytest.mark.parametrize(
    "call",
    [
        lambda: attention_masks(torch.rand(1, 2, 7), (2, 3)),
        lambda: attention_masks(torch.rand(1, 2, 5, 5), (2, 3)),
        lambda: attention_masks(torch.rand(1, 2, 6), (2, 3), mass=0.0),
        lambda: attention_masks(torch.rand(1, 2, 6), (2, 3), mass=1.2),
    ],
)
def test_mistakes_are_named(call):
    with pytest.raises(UserError):
        call()
