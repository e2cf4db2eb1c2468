"""The constant matrices say what interpolation does, for every size and in both modes."""

import pytest
import torch

from dino_tutorial.models import VisionTransformer
from dino_tutorial.models.positions import interpolate_grid, resample_grid, resampling_matrix

SIZES = [(14, 14), (6, 6), (7, 9), (16, 16), (37, 23), (1, 1), (13, 15)]
MODES = ["antialias", "offset"]


def some_grid(dtype=torch.float32, rows=14, columns=14):
    g = torch.Generator().manual_seed(0)
    return torch.randn(rows, columns, 8, generator=g).to(dtype)


@pytest.fixture
def by_matrices(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
def test_products_with_constants_interpolate(by_matrices, size, mode):
    for grid in (some_grid(), some_grid(rows=5, columns=8)):
        found, expected = resample_grid(grid, *size, mode), interpolate_grid(grid, *size, mode)
        assert found.shape == (*size, 8)
        # Learned positions are of the order of .02 to .2, these of 1.
        torch.testing.assert_close(0.2 * found, 0.2 * expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_in_double_precision_they_are_the_same(by_matrices, mode):
    grid = some_grid(torch.float64)
    for size in SIZES:
        found, expected = resample_grid(grid, *size, mode), interpolate_grid(grid, *size, mode)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_each_new_place_is_a_mean(mode):
    for size in (1, 5, 14, 40):
        matrix = resampling_matrix(14, size, mode)
        torch.testing.assert_close(matrix.sum(dim=1), torch.ones(size, dtype=torch.float64))


def test_on_the_cpu_the_bits_of_interpolation_stay():
    """Checkpoints and records of earlier versions go on from them."""
    model = VisionTransformer(32, 4, 24, 1, 3)
    maps = model.pos_embed[:, 1:].unflatten(1, (8, 8)).permute(0, 3, 1, 2)
    for size in [(4, 4), (5, 11)]:
        kept = torch.nn.functional.interpolate(maps, size=size, mode="bicubic", antialias=True)
        expected = kept.flatten(2).transpose(1, 2)
        assert torch.equal(model.positions(*size)[:, 1:], expected)


def test_gradients_are_those_of_interpolation(by_matrices):
    leaves = [some_grid().requires_grad_() for _ in range(2)]
    for leaf, resample in zip(leaves, (resample_grid, interpolate_grid), strict=True):
        resample(leaf, 6, 9, "antialias").square().sum().backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad, rtol=1e-5, atol=1e-5)


def test_under_autocast_positions_stay_in_float32(by_matrices):
    with torch.autocast("cpu", torch.bfloat16):
        found = resample_grid(some_grid(), 6, 6, "antialias")
    assert found.dtype == torch.float32
    expected = interpolate_grid(some_grid(), 6, 6, "antialias")
    torch.testing.assert_close(0.2 * found, 0.2 * expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_vit_compiles_for_sizes_that_are_not_known_yet(unchecked):
    """Where each network is compiled by itself, as FSDP has it, the second size is a variable."""
    torch.manual_seed(0)
    model = VisionTransformer(32, 8, 24, 2, 3)
    compiled = torch.compile(model, backend="aot_eager", dynamic=True, fullgraph=True)
    for size in (32, 16, 48):
        images = torch.randn(2, 3, size, size)
        losses = []
        for run in (model, compiled):
            model.zero_grad()
            run(images).square().sum().backward()
            losses.append(model.pos_embed.grad.clone())
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)
