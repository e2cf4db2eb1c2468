"""From BYOL to DINO to DINOv2: the package behind the book.

>>> import dino_tutorial
>>> run = dino_tutorial.train(dino_tutorial.configure("dino", preset="smoke"))
>>> run.summary["knn_top1"], dino_tutorial.evaluate(run)["knn_raw_pixels"]
"""

__version__ = "0.1.0"

_FACE = ("configure", "evaluate", "load_run", "train")
__all__ = [*_FACE, "__version__"]


def __getattr__(name: str):
    if name in _FACE:  # torch is imported when it is needed, so that --help answers at once
        from dino_tutorial import runs

        return getattr(runs, name)
    raise AttributeError(f"module 'dino_tutorial' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
