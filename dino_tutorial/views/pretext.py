"""What the pretext tasks do to a view: turn it, or cut it into tiles and shuffle them."""

import itertools

import numpy as np
import torch
from jaxtyping import Float, Int, Real
from torch import Tensor
from torch.nn.functional import grid_sample

from dino_tutorial.errors import UserError
from dino_tutorial.options import takes, whole

TILE_SHARE = 64 / 75  # of a cell's side: the puzzle's gaps hide that lines go on next door
FLAT = 0.1  # standard deviation below which a tile counts as flat and is not stretched


@takes()
def rotations(images: Real[Tensor, "B 3 S S"], n: int = 4) -> Real[Tensor, "n B 3 S S"]:
    """Each image turned counter-clockwise by the multiples of 360° / n.

    Args:
        images: (B, 3, S, S).
        n: 4, or 2 for upright and upside down only.

    Returns:
        (n, B, 3, S, S); the first are the images themselves.

    Source: Gidaris et al. 2018, section 2.2.
    """
    if n not in (2, 4):
        raise UserError(f"n is {n}: images are turned by 90° (n = 4) or by 180° (n = 2)")
    return torch.stack([images.rot90(turns, (-2, -1)) for turns in range(0, 4, 4 // n)])


@takes(n_tiles=whole(2, 9), count=whole(-(2**31)))
def permutation_set(n_tiles: int, count: int) -> Int[Tensor, "count n_tiles"]:
    """``count`` permutations of the tiles that differ from each other in many places.

    Greedy, from the identity on: the next is always the one with the largest sum of Hamming
    distances to those chosen, so that no permutation is mistaken for another because of a pair
    of similar tiles.

    Args:
        n_tiles: 4 or 9, for a grid of 2 × 2 or 3 × 3.
        count: how many of the n_tiles! permutations.

    Returns:
        (count, n_tiles) int64.

    Raises:
        UserError: if there are not so many permutations.

    Source: Noroozi and Favaro 2016, algorithm 1.
    """
    everything = itertools.chain.from_iterable(itertools.permutations(range(n_tiles)))
    # One row a place: comparing column by column is then a pass over contiguous memory.
    places = np.fromiter(everything, dtype=np.int8).reshape(-1, n_tiles).T.copy()
    total = places.shape[1]
    if not 2 <= count <= total:
        raise UserError(
            f"{n_tiles} tiles have {total} permutations, so objective.permutations lies in "
            f"[2, {total}], not at {count}"
        )
    distances = np.zeros(total, dtype=np.int32)
    chosen = [0]
    while len(chosen) < count:
        for place in places:
            distances += place != place[chosen[-1]]
        distances[chosen[-1]] = -n_tiles * count  # never again
        chosen.append(int(distances.argmax()))
    return torch.from_numpy(places[:, chosen].T.astype(np.int64))


@takes(size=whole(1, 2**14))
def shuffled_tiles(
    images: Float[Tensor, "B 3 S S"],
    order: Int[Tensor, "B T"],
    place: Float[Tensor, "B T 2"],
    size: int,
) -> Float[Tensor, "T B 3 s s"]:
    """Cut each image into a grid, take a window of each cell, and put the windows in order.

    The window has 64 / 75 of the cell's side, is resized to ``size``, and has its own mean and
    standard deviation removed: neither edges nor brightness tell which tiles are neighbours. No
    pixel of another cell is mixed into a tile.

    Args:
        images: (B, 3, S, S), normalised.
        order: (B, T) int64; which cell, in reading order, comes at place t. T is a square.
        place: (B, T, 2) numbers in [0, 1]: where in its cell the window lies, from left and top.
        size: side of a tile in pixels.

    Returns:
        (T, B, 3, size, size).

    Source: Noroozi and Favaro 2016, section 4 (windows of 64 pixels in cells of 75).
    """
    n_tiles, side = order.shape[1], images.shape[-1]
    grid = round(n_tiles**0.5)
    cell = side / grid
    column_row = torch.stack([order % grid, order // grid], dim=-1)[..., None]  # (B, T, 2, 1)
    steps = (torch.arange(size, device=images.device) + 0.5) / size * TILE_SHARE
    start = column_row + place[..., None] * (1 - TILE_SHARE)
    pixels = (start + steps) * cell - 0.5  # (B, T, 2, size); whole numbers are centres of pixels
    first, last = (column_row * cell).ceil(), ((column_row + 1) * cell).floor() - 1
    x, y = ((2 * pixels.clamp(first, last) + 1) / side - 1).unbind(dim=2)  # as grid_sample counts
    points = torch.stack(
        [x[:, :, None].expand(-1, -1, size, -1), y[..., None].expand(-1, -1, -1, size)], dim=-1
    )
    points = points.flatten(1, 2).to(images.dtype)
    tiles = grid_sample(images, points, align_corners=False)  # one below the other
    tiles = tiles.unflatten(2, (n_tiles, size)).permute(2, 0, 1, 3, 4)
    std, mean = torch.std_mean(tiles, dim=(2, 3, 4), correction=0, keepdim=True)
    return (tiles - mean) / std.clamp(min=FLAT)
