"""The integers behind a scene: a stateless hash from (seed, split, index, factor name).

Nothing here is a float and nothing has a state, so scene 7,000,000 is known without scene 0, any
subset can be rendered alone, and every machine gets the same scenes. The renderer turns the
integers into metres, degrees and colours (`render.py`). The hash is splitmix64 (`seeds.py`).
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from dino_tutorial.errors import UserError
from dino_tutorial.options import takes, tensor, whole
from dino_tutorial.seeds import splitmix64

#: The ten kinds of object; a label is an index into them.
CLASSES = (
    "ladybird",
    "starfish",
    "gift",
    "bee",
    "sunflower",
    "leaf",
    "melon",
    "turtle",
    "fish",
    "button",
)
#: What a table can be made of; the factor ``surface`` is an index into them.
SURFACES = ("sand", "wood", "cloth", "tiles", "stone")
CLUTTER = 3  # small plain objects in a scene: the last one lies on top, the others below
PATCHES = 4  # parts of the table, each in its own colour
FULL = 1 << 16  # a continuous factor is an integer in [0, FULL)
LATTICE = 24  # the surface's relief is interpolated from LATTICE x LATTICE hashed integers

# What each factor counts up to. The class is the only one that the label tells.
RANGES: dict[str, int] = {
    "class": len(CLASSES),
    "present": 1,  # always 0 here; the pool sets 1 to leave the object out
    "hue": FULL,
    "saturation": FULL,
    "value": FULL,
    "second_hue": FULL,
    "second_saturation": FULL,
    "second_value": FULL,
    "x": FULL,
    "y": FULL,
    "scale": FULL,
    "angle": FULL,
    "mirror": 2,
    "gloss": FULL,
    "light_angle": FULL,
    "light_height": FULL,
    "light_warmth": FULL,
    "exposure": FULL,
    "surface": len(SURFACES),
    "surface_contrast": FULL,
    "surface_angle": FULL,
    "surface_scale": FULL,
    "inlay": 2,
    "table_hue": FULL,
    "seam_angle": FULL,
    "seam_bend": FULL,
    "seam_x": FULL,
    "seam_y": FULL,
    "dapple": FULL,
    "lattice": 1 << 31,
}
for _i in range(PATCHES):
    for _name in ("hue", "saturation", "value"):
        RANGES[f"patch{_i}_{_name}"] = FULL
for _i in range(CLUTTER):
    for _name in ("hue", "saturation", "value", "x", "y", "scale", "angle", "roundness", "aspect"):
        RANGES[f"clutter{_i}_{_name}"] = FULL

Factors = dict[str, Tensor]  # integers (n,) by name

SPLITS = ("train", "val", "test", "pool", "seeds", "clips", "speeds", "dice")


def _word(text: str) -> np.uint64:
    return np.uint64(zlib.crc32(text.encode()))


@takes(indices=tensor("n>=0", "int"), seed=whole(0, 2**63 - 1))
def sample_factors(
    indices: Int[Tensor, " n"], split: str = "train", seed: int = 0
) -> dict[str, Int[Tensor, " n"]]:
    """The factors of the scenes at `indices`.

    Args:
        indices: int64 (n,), not negative.
        split: one of SPLITS; another split shares no scene.
        seed: another seed gives another world of scenes.

    Returns:
        for each name in RANGES, int64 (n,) in [0, RANGES[name]).
    """
    if split not in SPLITS:
        raise UserError(f"scenes have no split {split!r}; choose one of {', '.join(SPLITS)}")
    with np.errstate(over="ignore"):
        world = splitmix64(splitmix64(np.array([seed]).astype(np.uint64)) ^ _word(split))
        scene = splitmix64(world ^ splitmix64(indices.cpu().numpy().astype(np.uint64)))
        return {
            name: torch.from_numpy(
                # The high bits, scaled to the range: no modulo bias to speak of.
                ((splitmix64(scene ^ _word(name)) >> np.uint64(32)) * np.uint64(count))
                .__rshift__(np.uint64(32))
                .astype(np.int64)
            )
            for name, count in RANGES.items()
        }


def between(factor: Tensor, low: float, high: float) -> Tensor:
    """Turn an integer of [0, FULL) into a float32 of (low, high)."""
    return low + (high - low) * ((factor.to(torch.float32) + 0.5) / FULL)


def lattice_values(lattice: Int[Tensor, " n"]) -> Int[Tensor, "n side side"]:
    """The hashed values that a surface is interpolated from.

    Args:
        lattice: int64 (n,), the factor of that name.

    Returns:
        int64 (n, LATTICE, LATTICE) in [0, FULL).
    """
    base = splitmix64(lattice.cpu().numpy().astype(np.uint64))[:, None]
    cells = np.arange(LATTICE * LATTICE, dtype=np.uint64)[None]
    values = splitmix64(base ^ cells) >> np.uint64(48)
    return torch.from_numpy(values.astype(np.int64)).view(-1, LATTICE, LATTICE)
