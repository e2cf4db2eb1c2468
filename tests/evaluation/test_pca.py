"""Components of planted directions, and their colours."""

import math

import numpy as np
import pytest
import torch

from dino_tutorial.errors import UserError
from dino_tutorial.evaluation import component_colors, patch_pca


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


def test_pca_does_not_depend_on_the_sign_or_the_basis_of_the_features():
    patches = torch.randn(3, 7, 6, generator=torch.Generator().manual_seed(0))
    first = patch_pca(patches, foreground=False)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        patch_pca(patches[..., order], foreground=False), first, atol=1e-4, rtol=1e-4
    )


def test_colors_are_stretched_between_percentiles_of_all_images_together():
    components = torch.randn(2, 20, 3, generator=torch.Generator().manual_seed(0)) * 7 - 3
    components[0, 0] = math.nan
    components[1, 3, 2] = math.nan  # one channel missing: background all the same
    colors = component_colors(components)
    shown = torch.ones(2, 20, dtype=torch.bool)
    shown[0, 0] = shown[1, 3] = False
    assert torch.equal(colors.isfinite().all(-1), shown)
    assert colors[~shown].isnan().all()
    points = components[shown].numpy()
    low, high = np.percentile(points, [1, 99], axis=0)
    expected = ((points - low) / (high - low)).clip(0, 1)
    np.testing.assert_allclose(colors[shown].numpy(), expected, atol=1e-5)


def test_colors_without_spread_or_without_foreground():
    assert (component_colors(torch.full((1, 4, 3), 2.0)) == 0).all()
    assert component_colors(torch.full((1, 4, 3), math.nan)).isnan().all()


@pytest.mark.parametrize(
    "call",
    [
        lambda: patch_pca(torch.rand(2, 4, 2), n_components=3),
        lambda: patch_pca(torch.rand(4, 5)),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_mistakes_are_named(call):
    with pytest.raises(UserError):
        call()
