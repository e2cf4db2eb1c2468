"""The settings of the images: ``data.*``."""

from dataclasses import dataclass

from dino_tutorial.options import Settings, option

FITS = ("whole", "center")


@dataclass(frozen=True)
class DataSettings(Settings):
    """Which images: see :func:`dino_tutorial.datasets.open_dataset`."""

    root: str | None = option(
        None, "The folder where downloaded data sets are kept; null is the user's cache."
    )
    image_size: int | None = option(
        None,
        "Side of the canvas that training crops are cut from, in pixels; null keeps the data "
        "set's own.",
        low=1,
        high=4096,
    )
    fit: str = option(
        "whole",
        "What of a photograph training crops are cut from: all of it, in its own shape and made "
        "smaller only where it is larger than the canvas (whole), or its centre square (center). "
        "Evaluation takes the centre square.",
        among=FITS,
    )
    limit: int | None = option(None, "At most this many images of each split.", low=1, high=10**9)
