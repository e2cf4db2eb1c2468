"""A run, from its configuration to its record."""

from dino_tutorial.runs.build import build_method, trained_method
from dino_tutorial.runs.config import PRESETS, Config, configure, read_config, register
from dino_tutorial.runs.folder import Run, load_run, new_encoder
from dino_tutorial.runs.lifecycle import train
from dino_tutorial.runs.records import record
from dino_tutorial.runs.scores import evaluate
from dino_tutorial.runs.start import start_from

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
