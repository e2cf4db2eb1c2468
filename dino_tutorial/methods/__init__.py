"""Methods: each joins models, views and a loss; the training loop runs any of them."""

from dino_tutorial.methods.base import Method, Network
from dino_tutorial.methods.byol import BYOL
from dino_tutorial.methods.dino import DINO
from dino_tutorial.methods.dinov2 import DINOv2
from dino_tutorial.methods.distill import Distill
from dino_tutorial.methods.jigsaw import Jigsaw
from dino_tutorial.methods.moco import MoCo
from dino_tutorial.methods.registry import METHODS, help_of, register, title_of
from dino_tutorial.methods.rotation import Rotation
from dino_tutorial.methods.simclr import SimCLR
from dino_tutorial.methods.supervised import Supervised
from dino_tutorial.methods.swav import SwAV

__all__ = [
    "BYOL",
    "DINO",
    "METHODS",
    "DINOv2",
    "Distill",
    "Jigsaw",
    "Method",
    "MoCo",
    "Network",
    "Rotation",
    "SimCLR",
    "Supervised",
    "SwAV",
    "help_of",
    "register",
    "title_of",
]
