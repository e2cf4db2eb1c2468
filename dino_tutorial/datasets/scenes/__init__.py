"""The embedded data set: ten kinds of object lying on tables, drawn by code (see `render.py`)."""

from dino_tutorial.datasets.scenes.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from dino_tutorial.datasets.scenes.drawing import RenderedScenes, render
from dino_tutorial.datasets.scenes.factors import CLASSES, SURFACES, sample_factors
from dino_tutorial.datasets.scenes.sets import (
    Clips,
    Pool,
    SceneDataset,
    boxes_of,
    curated_seeds,
    make_clips,
    uncurated_pool,
)

__all__ = [
    "CLASSES",
    "CORRUPTIONS",
    "SEVERITIES",
    "SURFACES",
    "Clips",
    "Pool",
    "RenderedScenes",
    "SceneDataset",
    "boxes_of",
    "corrupt",
    "curated_seeds",
    "make_clips",
    "render",
    "sample_factors",
    "uncurated_pool",
]
