"""Objectives: pure functions and small modules on tensors, each after its paper's equation."""

from dino_tutorial.losses.byol import byol_loss
from dino_tutorial.losses.clustering import sinkhorn_knopp, swapped_prediction_loss
from dino_tutorial.losses.contrastive import info_nce, nt_xent
from dino_tutorial.losses.dino import DINOLoss
from dino_tutorial.losses.distillation import distillation_loss
from dino_tutorial.losses.gram import GramLoss
from dino_tutorial.losses.ibot import iBOTPatchLoss
from dino_tutorial.losses.koleo import KoLeoLoss

__all__ = [
    "DINOLoss",
    "GramLoss",
    "KoLeoLoss",
    "byol_loss",
    "distillation_loss",
    "iBOTPatchLoss",
    "info_nce",
    "nt_xent",
    "sinkhorn_knopp",
    "swapped_prediction_loss",
]
