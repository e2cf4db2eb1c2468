"""What a student sees: random views of a batch of images, as batched tensor operations.

Read in this order: `specs` (what the papers ask for), `params` (the draw), `resample`, `color`
(the operations), `augment` (all of it together), `masks` (what is hidden from DINOv2's student).
"""

from dino_tutorial.views.augment import IMAGENET, Augment
from dino_tutorial.views.masks import DrawnMasks, PatchMasks, block_masks
from dino_tutorial.views.params import ViewParams, sample_params
from dino_tutorial.views.specs import ViewSpec, byol_views, dino_views

__all__ = [
    "IMAGENET",
    "Augment",
    "DrawnMasks",
    "PatchMasks",
    "ViewParams",
    "ViewSpec",
    "block_masks",
    "byol_views",
    "dino_views",
    "sample_params",
]
