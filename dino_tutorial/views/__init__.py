"""What a student sees: random views of a batch of images, as batched tensor operations.

Read in this order: `specs` (what the papers ask for), `params` (the draw), `resample`, `color`
(the operations), `augment` (all of it together). `pretext` turns and cuts what comes out, `masks`
masks patches for DINOv2's student.
"""

from dino_tutorial.views.augment import Augment
from dino_tutorial.views.masks import DrawnMasks, PatchMasks, block_masks
from dino_tutorial.views.params import ViewParams, sample_params
from dino_tutorial.views.pretext import permutation_set, rotations, shuffled_tiles
from dino_tutorial.views.specs import (
    ViewSpec,
    byol_views,
    dino_views,
    simclr_views,
    single_view,
    swav_views,
)

__all__ = [
    "Augment",
    "DrawnMasks",
    "PatchMasks",
    "ViewParams",
    "ViewSpec",
    "block_masks",
    "byol_views",
    "dino_views",
    "permutation_set",
    "rotations",
    "sample_params",
    "shuffled_tiles",
    "simclr_views",
    "single_view",
    "swav_views",
]
