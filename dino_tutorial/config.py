"""The whole configuration of a run, and the presets it starts from.

A configuration is built in three layers: the defaults of the dataclasses below, the preset
``(method, budget)``, then the caller's own changes. The result is complete, frozen and written
into the run's folder, where it can be read back.
"""

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dino_tutorial.errors import UserError
from dino_tutorial.methods import METHODS
from dino_tutorial.models import ENCODERS
from dino_tutorial.options import flatten, option, replace_options
from dino_tutorial.training.optim import CLIP_RULES, LR_SCALINGS, OPTIMIZERS
from dino_tutorial.training.sharding import SHARDINGS

BUDGETS = ("smoke", "laptop", "gpu", "paper")
DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True)
class DataConfig:
    """Which images: see ``dino_tutorial.datasets.open_dataset``."""

    root: str | None = None
    image_size: int | None = option(None, low=1)
    limit: int | None = option(None, low=1)


@dataclass(frozen=True)
class ViewsConfig:
    """Sizes in pixels, scales as fractions of the image's area, jitter as in torchvision."""

    global_size: int = option(224, low=8)
    global_scale: tuple[float, float] = option((0.4, 1.0), low=0.01, high=1)
    local_crops: int = option(8, low=0)
    local_size: int = option(96, low=4)
    local_scale: tuple[float, float] = option((0.05, 0.4), low=0.01, high=1)
    brightness: float = option(0.4, low=0)
    contrast: float = option(0.4, low=0)
    saturation: float = option(0.2, low=0)
    hue: float = option(0.1, low=0, high=0.5)
    jitter_p: float = option(0.8, low=0, high=1)
    gray_p: float = option(0.2, low=0, high=1)
    blur_sigma: tuple[float, float] = option((0.1, 2.0), low=0.01)

    def jitter(self) -> dict[str, Any]:
        """The photometric settings, as the recipes of ``dino_tutorial.views`` take them."""
        names = ("brightness", "contrast", "saturation", "hue", "jitter_p", "gray_p", "blur_sigma")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class ModelConfig:
    """The encoder. What is null keeps the value of the named architecture."""

    arch: str = option("vit_small", among=tuple(ENCODERS))
    patch_size: int | None = option(None, low=1)
    embed_dim: int | None = option(None, low=8)
    depth: int | None = option(None, low=1)
    num_heads: int | None = option(None, low=1)
    mlp_ratio: float | None = option(None, low=0.1)
    drop_path_rate: float | None = option(None, low=0, high=0.99)
    drop_path_uniform: bool | None = None
    layer_scale_init: float | None = option(None, low=0)
    num_register_tokens: int | None = option(None, low=0)
    ffn: str | None = option(None, among=("mlp", "swiglu", None))
    stem: str | None = option(None, among=("patch", "conv", None))
    small_images: bool | None = None

    def overrides(self) -> dict[str, Any]:
        """The settings that replace the architecture's own."""
        return {k: v for k, v in flatten(self).items() if v is not None and k != "arch"}


@dataclass(frozen=True)
class OptimConfig:
    """``lr`` is for a batch of 256 and scales with the batch or its square root (DINOv2);
    ``clip = 0`` does not clip."""

    name: str = option("adamw", among=OPTIMIZERS)
    lr: float = option(5e-4, low=0)
    lr_final: float = option(1e-6, low=0)
    lr_scaling: str = option("linear", among=tuple(LR_SCALINGS))
    warmup_epochs: float = option(10, low=0)
    weight_decay: float = option(0.04, low=0)
    weight_decay_final: float = option(0.4, low=0)
    clip: float = option(3.0, low=0)
    clip_rule: str = option("parameter", among=CLIP_RULES)
    layer_decay: float = option(1.0, low=0.01, high=1)
    patch_embed_lr_mult: float = option(1.0, low=0, high=1)


@dataclass(frozen=True)
class TrainConfig:
    """Length and machinery. ``batch_size`` is global; ``*_every`` count steps; ``init`` names the
    folder of a finished run of the same method, whose weights are where this one begins; over
    several processes, ``sharding`` gives each a copy of the model ("none") or a part ("fsdp")."""

    init: str | None = None
    epochs: float = option(100, low=0.001)
    batch_size: int = option(256, low=2)
    accumulate: int = option(1, low=1)
    checkpoint_activations: bool = False
    precision: str = option("auto", among=("auto", "fp32", "bf16"))
    compile: bool = False
    sharding: str = option("none", among=SHARDINGS)
    workers: int = option(4, low=0)
    log_every: int = option(10, low=1)
    eval_every: int = option(1000, low=1)
    checkpoint_every: int = option(500, low=1)


@dataclass(frozen=True)
class KNNConfig:
    """The weighted k-NN classifier, and the size of the small one that watches training."""

    k: int = option(20, low=1)
    temperature: float = option(0.07, low=0.001)
    watch_bank: int = option(2000, low=10)
    watch_queries: int = option(500, low=10)


@dataclass(frozen=True)
class Config:
    """Everything that determines a run."""

    method: str = option("dino", among=tuple(METHODS))
    preset: str = option("laptop", among=BUDGETS)
    source: str = "scenes"
    name: str | None = None
    seed: int = option(0, low=0)
    device: str = option("auto", among=DEVICES)
    folder: str = "runs"
    data: DataConfig = field(default_factory=DataConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: Any = None
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    knn: KNNConfig = field(default_factory=KNNConfig)

    def dump(self) -> str:
        """YAML that :func:`read_config` turns back into the same configuration."""
        return yaml.safe_dump(flatten(self), sort_keys=False)


# What a budget means for every method: data, encoder, machinery. Methods add their own numbers.
COMMON: dict[str, dict[str, Any]] = {
    "smoke": {
        "data.limit": 256,
        "data.image_size": 32,
        "views.global_size": 16,
        "views.local_size": 8,
        "model.arch": "vit_tiny",
        "model.patch_size": 8,
        "model.embed_dim": 32,
        "model.depth": 2,
        "model.num_heads": 2,
        "train.epochs": 2,
        "train.batch_size": 32,
        "train.precision": "fp32",
        "train.workers": 0,
        "train.log_every": 1,
        "train.eval_every": 8,
        "train.checkpoint_every": 4,
        "knn.watch_bank": 128,
        "knn.watch_queries": 64,
        "optim.warmup_epochs": 0.5,
    },
    "laptop": {
        "data.image_size": 32,
        "views.global_size": 32,
        "views.local_size": 16,
        "views.local_scale": [0.15, 0.4],
        # At 32 pixels the papers' blur erases texture, and their hue shift the colour of a kind.
        "views.brightness": 0.3,
        "views.contrast": 0.3,
        "views.saturation": 0.2,
        "views.hue": 0.03,
        "views.gray_p": 0.0,
        "views.blur_sigma": [0.1, 0.5],
        "model.arch": "vit_tiny",
        "model.patch_size": 8,
        "model.embed_dim": 96,
        "model.depth": 3,
        "model.num_heads": 3,
        "model.stem": "conv",
        "train.batch_size": 32,
        "train.precision": "fp32",
        "train.workers": 2,
        "train.eval_every": 400,
        "train.checkpoint_every": 200,
    },
    "gpu": {
        "data.image_size": 32,
        "views.global_size": 32,
        "views.local_size": 16,
        "model.arch": "vit_small",
        "model.patch_size": 4,
        "model.drop_path_rate": 0.1,
        "train.epochs": 200,
        "train.batch_size": 512,
        "train.log_every": 20,
        "train.eval_every": 1000,
        "train.checkpoint_every": 1000,
        "knn.watch_bank": 10_000,
        "knn.watch_queries": 2000,
    },
    "paper": {
        "data.image_size": 256,
        "train.workers": 10,
        "train.log_every": 10,
        "train.eval_every": 12_500,
        "train.checkpoint_every": 2_500,
        "knn.watch_bank": 50_000,
        "knn.watch_queries": 5_000,
    },
}


def configure(
    method: str = "dino",
    data: str = "scenes",
    preset: str = "laptop",
    changes: dict[str, Any] | None = None,
) -> Config:
    """A complete configuration: defaults, then the preset, then ``changes``.

    Args:
        method: a key of ``dino_tutorial.methods.METHODS``.
        data: a data set's name or a folder of images.
        preset: one of ``smoke``, ``laptop``, ``gpu``, ``paper``.
        changes: dotted keys, e.g. ``{"optim.lr": 1e-3, "seed": 1}``.

    Raises:
        UserError: for anything unknown or out of range.
    """
    _known("method", method, METHODS)
    _known("preset", preset, BUDGETS)
    objective = METHODS[method].Options()
    config = Config(method=method, preset=preset, source=str(data), objective=objective)
    layers = [COMMON[preset], METHODS[method].presets[preset], changes or {}]
    for layer in layers:
        config = replace_options(config, layer)
    return config


def read_config(path: Path) -> Config:
    """The configuration that a run wrote into ``config.yaml``."""
    try:
        flat = yaml.safe_load(path.read_text(encoding="utf-8"))
        method = flat["method"]
    except (OSError, yaml.YAMLError, TypeError, KeyError) as error:
        raise UserError(f"{path} cannot be read as a run's configuration ({error})") from None
    _known("method", method, METHODS)
    return replace_options(Config(objective=METHODS[method].Options()), flat)


def _known(what: str, name: str, names) -> None:
    if name not in names:
        near = difflib.get_close_matches(str(name), list(names), n=1)
        hint = f"did you mean '{near[0]}'? There are" if near else "there are"
        raise UserError(f"unknown {what} '{name}': {hint} {', '.join(names)}")
