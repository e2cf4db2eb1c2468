"""Objectives: pure functions and small modules on tensors, each after its paper's equation."""

from dino_tutorial.losses.byol import byol_loss
from dino_tutorial.losses.clustering import sinkhorn_knopp, swapped_prediction_loss
from dino_tutorial.losses.contrastive import info_nce, nt_xent
from dino_tutorial.losses.dino import DINOLoss

__all__ = [
    "DINOLoss",
    "byol_loss",
    "info_nce",
    "nt_xent",
    "sinkhorn_knopp",
    "swapped_prediction_loss",
]
