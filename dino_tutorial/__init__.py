"""From BYOL to DINO to DINOv2: the package behind the book.

>>> import dino_tutorial
>>> run = dino_tutorial.train(dino_tutorial.configure("dino", preset="smoke"))
>>> run.summary["knn_top1"], dino_tutorial.evaluate(run)["knn_raw_pixels"]
"""

from importlib import import_module

__version__ = "0.1.0"

_FACE = {  # name: its room, imported when it is needed, so that --help answers at once
    "configure": "runs",
    "evaluate": "runs",
    "load_run": "runs",
    "shipped": "files.shipped",
    "train": "runs",
}
__all__ = [*_FACE, "__version__"]


def __getattr__(name: str):
    if name in _FACE:
        return getattr(import_module(f"dino_tutorial.{_FACE[name]}"), name)
    raise AttributeError(f"module 'dino_tutorial' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
