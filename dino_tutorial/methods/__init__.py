"""Methods: each joins models, views and a loss; the training loop runs any of them."""

from dino_tutorial.methods.base import Method, Network
from dino_tutorial.methods.byol import BYOL
from dino_tutorial.methods.dino import DINO
from dino_tutorial.methods.dinov2 import DINOv2

METHODS: dict[str, type[Method]] = {"byol": BYOL, "dino": DINO, "dinov2": DINOv2}

__all__ = ["BYOL", "DINO", "METHODS", "DINOv2", "Method", "Network"]
