"""A run, from its configuration to its record."""

from dino_tutorial.runs.build import build_method, start_from, trained_method
from dino_tutorial.runs.config import PRESETS, Config, configure, read_config, register
from dino_tutorial.runs.evaluate import evaluate
from dino_tutorial.runs.folder import Run, load_run, new_encoder
from dino_tutorial.runs.record import record
from dino_tutorial.runs.train import train

__all__ = [
    "PRESETS",
    "Config",
    "Run",
    "build_method",
    "configure",
    "evaluate",
    "load_run",
    "new_encoder",
    "read_config",
    "record",
    "register",
    "start_from",
    "train",
    "trained_method",
]
