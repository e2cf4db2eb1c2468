"""Methods: each joins models, views and a loss; the training loop runs any of them."""

from dino_tutorial.methods.base import Method, Network
from dino_tutorial.methods.byol import BYOL
from dino_tutorial.methods.dino import DINO

METHODS: dict[str, type[Method]] = {"byol": BYOL, "dino": DINO}

__all__ = ["BYOL", "DINO", "METHODS", "Method", "Network"]
