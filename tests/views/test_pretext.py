"""What rotation prediction and the jigsaw do to pictures, against slices and slow searches."""

import itertools

import pytest
import torch

from dino_tutorial.errors import UserError
from dino_tutorial.views import permutation_set, rotations, shuffled_tiles
from dino_tutorial.views.pretext import FLAT


def pictures(n, size, seed=0):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_rotations_turn_pixels_counter_clockwise():
    images = pictures(2, 5)
    turned = rotations(images)
    assert turned.shape == (4, 2, 3, 5, 5)
    for row, column in itertools.product(range(5), repeat=2):
        pixel = images[:, :, row, column]
        places = [(row, column), (4 - column, row), (4 - row, 4 - column), (column, 4 - row)]
        for k, (r, c) in enumerate(places):
            assert torch.equal(turned[k, :, :, r, c], pixel)
    assert torch.equal(rotations(images, 2), turned[[0, 2]])


def hamming(one, two):
    return sum(a != b for a, b in zip(one, two, strict=True))


def test_permutations_are_the_greedy_choice():
    """Algorithm 1 with every distance counted again, for four tiles and all 24 permutations."""
    everything = list(itertools.permutations(range(4)))
    chosen = [everything[0]]
    while len(chosen) < 24:
        left = [p for p in everything if p not in chosen]
        chosen.append(max(left, key=lambda p: sum(hamming(p, other) for other in chosen)))
    assert [tuple(row) for row in permutation_set(4, 24).tolist()] == chosen


def test_nine_permutations_of_nine_tiles_agree_nowhere():
    rows = permutation_set(9, 9).tolist()
    assert all(sorted(row) == list(range(9)) for row in rows)
    assert all(hamming(a, b) == 9 for a, b in itertools.combinations(rows, 2))


def test_a_large_set_is_far_apart_and_has_no_repeats():
    """Noroozi and Favaro's table 4 has an average distance of 8 for 1000 permutations of 9."""
    table = permutation_set(9, 100)
    distances = (table[:, None] != table[None]).sum(dim=-1)
    off = distances[~torch.eye(100, dtype=torch.bool)]
    assert off.min() >= 2 and off.float().mean() > 8


@pytest.mark.parametrize("n_tiles, count", [(4, 25), (4, 1), (9, 362_881)])
def test_more_permutations_than_there_are(n_tiles, count):
    with pytest.raises(UserError, match=r"objective.permutations lies in \[2, (24|362880)\]"):
        permutation_set(n_tiles, count)


def standardised(tile):
    return (tile - tile.mean()) / max(tile.std(correction=0), FLAT)


def test_tiles_are_the_papers_slices():
    """225 pixels, 3 × 3 cells of 75, windows of 64: whole pixels when the place is k / 11."""
    g = torch.Generator().manual_seed(1)
    images = pictures(2, 225)
    order = torch.stack([torch.randperm(9, generator=g) for _ in range(2)])
    offset = torch.randint(0, 12, (2, 9, 2), generator=g)
    tiles = shuffled_tiles(images, order, offset / 11, 64)
    assert tiles.shape == (9, 2, 3, 64, 64)
    for b, t in itertools.product(range(2), range(9)):
        row, column = divmod(order[b, t].item(), 3)
        left, top = (offset[b, t] + torch.tensor([75 * column, 75 * row])).tolist()
        window = images[b, :, top : top + 64, left : left + 64]
        torch.testing.assert_close(tiles[t, b], standardised(window), atol=2e-3, rtol=1e-3)


def test_tiles_of_small_pictures_never_leave_their_cell():
    """Each cell has its own gray; a tile of one gray shows that it saw no neighbour."""
    cells = torch.arange(4.0).view(2, 2).repeat_interleave(16, 0).repeat_interleave(16, 1)
    images = cells.expand(1, 3, 32, 32)
    order = torch.tensor([[3, 1, 0, 2]])
    for corner in itertools.product((0.0, 1.0), repeat=2):
        place = torch.tensor(corner).expand(1, 4, 2)
        tiles = shuffled_tiles(images, order, place, 16)
        assert tiles.abs().max() < 1e-4  # flat, mean removed, and not stretched to noise
