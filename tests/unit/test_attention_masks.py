"""Masks of known attention, Jaccard of known boxes, components of planted directions."""

import pytest
import torch

from dino_tutorial.errors import UserError
from dino_tutorial.evaluation import (
    attention_jaccard,
    attention_masks,
    center_box,
    cls_attention,
    jaccard,
    patch_pca,
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


def planted_patches(seed=0):
    """Two images, a quarter of the patches far away and spread along three planted directions."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(10, 10, generator=generator)).Q
    inside = torch.zeros(2, 16, dtype=torch.bool)
    inside[:, :4] = True
    patches = 0.01 * torch.randn(2, 16, 10, generator=generator)
    spread = torch.randn(8, 3, generator=generator) * torch.tensor([2.0, 1.0, 0.5])
    patches[inside] += 30 * basis[0] + spread @ basis[1:4]
    return patches, inside, spread


def test_pca_finds_the_foreground_and_its_directions():
    patches, inside, spread = planted_patches()
    components = patch_pca(patches)
    assert components.shape == (2, 16, 3)
    assert torch.equal(components.isfinite().all(-1), inside)
    found = components[inside]
    centred = spread - spread.mean(0)
    left, values, _ = torch.linalg.svd(centred, full_matrices=False)
    expected = left * values
    for i in range(3):
        sign = torch.sign(found[:, i] @ expected[:, i])
        torch.testing.assert_close(found[:, i], sign * expected[:, i], atol=0.1, rtol=0.05)


def test_pca_without_foreground_is_the_svd_of_all_patches():
    patches = torch.randn(3, 7, 6, generator=torch.Generator().manual_seed(0))
    components = patch_pca(patches, n_components=4, foreground=False)
    points = patches.flatten(0, 1)
    left, values, _ = torch.linalg.svd(points - points.mean(0), full_matrices=False)
    expected = (left * values)[:, :4]
    torch.testing.assert_close(components.flatten(0, 1).abs(), expected.abs(), atol=1e-4, rtol=1e-4)


def test_pca_is_one_basis_for_all_images():
    patches = torch.randn(3, 7, 6, generator=torch.Generator().manual_seed(0))
    patches[2] = patches[0]
    components = patch_pca(patches, foreground=False)
    torch.testing.assert_close(components[2], components[0])
    shuffled = patch_pca(patches[[1, 2, 0]], foreground=False)
    torch.testing.assert_close(shuffled, components[[1, 2, 0]], atol=1e-4, rtol=1e-4)


def test_pca_of_collapsed_patches_is_all_background_or_zero():
    components = patch_pca(torch.ones(2, 4, 5))
    assert not (components.nan_to_num().abs() > 1e-6).any()


@pytest.mark.parametrize("call", [
    lambda: attention_masks(torch.rand(1, 2, 7), (2, 3)),
    lambda: attention_masks(torch.rand(1, 2, 5, 5), (2, 3)),
    lambda: attention_masks(torch.rand(1, 2, 6), (2, 3), mass=0.0),
    lambda: attention_masks(torch.rand(1, 2, 6), (2, 3), mass=1.2),
    lambda: patch_pca(torch.rand(2, 4, 2), n_components=3),
    lambda: patch_pca(torch.rand(4, 5)),
])  # fmt: skip
def test_mistakes_are_named(call):
    with pytest.raises(UserError):
        call()
