"""The embedded data set: ten kinds of object lying on tables, drawn by code (see `render.py`)."""

from dino_tutorial.datasets.scenes.factors import CLASSES, SURFACES, sample_factors
from dino_tutorial.datasets.scenes.render import RenderedScenes, render
from dino_tutorial.datasets.scenes.sets import SceneDataset

__all__ = ["CLASSES", "SURFACES", "RenderedScenes", "SceneDataset", "render", "sample_factors"]
