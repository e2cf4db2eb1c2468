"""From BYOL to DINO to DINOv2: the package behind the book."""

__version__ = "0.1.0"
