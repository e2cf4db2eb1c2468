"""Objectives: pure functions and small modules on tensors, each after its paper's equation."""

from dino_tutorial.losses.byol import byol_loss
from dino_tutorial.losses.clustering import sinkhorn_knopp, swapped_prediction_loss
from dino_tutorial.losses.contrastive import info_nce, nt_xent
from dino_tutorial.losses.dino import DINOLoss, dino_loss
from dino_tutorial.losses.distillation import distillation_loss
from dino_tutorial.losses.gram import GramLoss
from dino_tutorial.losses.ibot import ibot_loss, iBOTPatchLoss
from dino_tutorial.losses.koleo import KoLeoLoss

__all__ = [
    "DINOLoss",
    "GramLoss",
    "KoLeoLoss",
    "byol_loss",
    "dino_loss",
    "distillation_loss",
    "iBOTPatchLoss",
    "ibot_loss",
    "info_nce",
    "nt_xent",
    "sinkhorn_knopp",
    "swapped_prediction_loss",
]
