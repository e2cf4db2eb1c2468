"""The whole configuration of a run, and the presets it starts from.

A configuration is built in layers: the defaults of the settings' dataclasses, what the preset means
for every method (``presets/common.yaml``), what it means for this one (``presets/METHOD.yaml``),
then the caller's own changes. The result is complete, frozen and written into the run's folder,
where it can be read back.
"""

import dataclasses
import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from dino_tutorial import methods
from dino_tutorial.datasets.settings import DataSettings
from dino_tutorial.errors import UserError
from dino_tutorial.evaluation.settings import KNNSettings
from dino_tutorial.files import check_name, read_yaml
from dino_tutorial.methods import METHODS, Method
from dino_tutorial.models.settings import ModelSettings
from dino_tutorial.options import flatten, note, option, replace_options, takes
from dino_tutorial.training.settings import OptimSettings, TrainSettings
from dino_tutorial.views.settings import ViewSettings

#: The names of the presets, from the smallest machine to the published recipe.
PRESETS = ("smoke", "laptop", "gpu", "photo", "paper")
DEVICES = ("auto", "cpu", "cuda", "mps")

# What a transformer keeps of earlier layers when another architecture is named.
NOT_OF_THE_ARCH = ("patch_size", "drop_path_rate", "drop_path_uniform")

# Settings that are no longer there, and the only value that they ever had in a run.
FIXED = {
    "model.mlp_ratio": None,
    "objective.rotations": 4,
    "objective.sinkhorn_iters": 3,
}


# Settings that younger versions have, and the value that all older runs were made with.
ADDED = {
    "views.flip_p": None,
    "views.blur_p": None,
    "views.solarize_p": None,
    "data.fit": "center",
    "train.adapt": False,
    "train.epoch_steps": None,
    "train.images": None,
    "train.init": None,
    "train.logger": "none",
    "train.freeze_backbone_steps": 0,
    "train.checkpoint_activations": False,
    "train.sharding": "none",
    "train.steps": None,
}
WHOLE = "put config.yaml back as the run wrote it, or train again under another --name"

# Presets of methods that were registered from outside the package.
_OF_OTHERS: dict[str, dict[str, Mapping[str, Any]]] = {}


@dataclass(frozen=True)
class Config:
    """Everything that determines a run."""

    method: str = option("dino", "What trains the encoder.")
    preset: str = option("laptop", "The preset that the settings start from.", among=PRESETS)
    source: str = option("scenes", "A data set's name, or a folder of images.")
    name: str | None = option(None, "The run's name; null is method-data-preset.", check=check_name)
    seed: int = option(
        0, "Of all randomness: weights, batches, views, masks.", low=0, high=2**32 - 1
    )
    device: str = option(
        "auto", "Where it runs; auto takes CUDA, else MPS, else the CPU.", among=DEVICES
    )
    folder: str = option("runs", "Where the folders of runs are.")
    data: DataSettings = field(default_factory=DataSettings)
    views: ViewSettings = field(default_factory=ViewSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    objective: Any = None
    optim: OptimSettings = field(default_factory=OptimSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    knn: KNNSettings = field(default_factory=KNNSettings)
    named: frozenset[str] = note(frozenset())  # keys that :meth:`changed` was told, no preset's

    def dump(self) -> str:
        """YAML that :func:`read_config` turns back into the same configuration."""
        return yaml.safe_dump(flatten(self), sort_keys=False)

    def changed(self, changes: dict[str, Any]) -> "Config":
        """This configuration with a caller's changes over it.

        It remembers their keys in ``named``: some of the checks at the start of a run hold a
        person to what a preset may leave (``runs/checks.py``).

        A layer that names ``model.arch`` means that architecture, not what an earlier layer made
        of another one: the other ``model.*`` settings go back to its own. A transformer keeps what
        is no part of its name: the patch size, chosen for the size of the images, and the rate of
        stochastic depth.

        Args:
            changes: dotted keys, e.g. ``{"optim.lr": 1e-3, "seed": 1}``.

        Raises:
            UserError: for anything unknown or out of range, and for another method or preset, since
                all other settings start from them.
        """
        for key in ("method", "preset"):
            if changes.get(key, getattr(self, key)) != getattr(self, key):
                raise UserError(
                    f"{key} = {changes[key]!r} cannot replace {getattr(self, key)!r}, from which "
                    f"the other settings start: begin with that {key}"
                )
        named = self.named.union(changes)
        return dataclasses.replace(self._with_layer(changes), named=named)

    def _with_layer(self, changes: dict[str, Any]) -> "Config":
        config = self
        if (arch := changes.get("model.arch")) is not None:
            kept = NOT_OF_THE_ARCH if str(arch).startswith("vit") else ()
            model = ModelSettings(**{name: getattr(self.model, name) for name in kept})
            config = dataclasses.replace(self, model=model)
        return replace_options(config, changes)


@takes()
def configure(
    method: str = "dino",
    data: str | os.PathLike[str] = "scenes",
    preset: str = "laptop",
    changes: Mapping[str, Any] | None = None,
) -> Config:
    """A complete configuration: defaults, then the preset, then ``changes``.

    Args:
        method: a key of ``dino_tutorial.methods.METHODS``.
        data: a data set's name or a folder of images.
        preset: one of ``smoke``, ``laptop``, ``gpu``, ``photo``, ``paper``.
        changes: dotted keys, e.g. ``{"optim.lr": 1e-3, "seed": 1}``.

    Raises:
        UserError: for anything unknown or out of range.
    """
    _known("method", method, METHODS)
    _known("preset", preset, PRESETS)
    objective = METHODS[method].Settings()
    config = Config(method=method, preset=preset, source=str(data), objective=objective)
    common = _read_presets("common")
    for layer in (
        common[preset],
        common.get(f"{preset}@{data}", {}),
        preset_of(method, preset, str(data)),
    ):
        config = config._with_layer(layer)
    return config.changed(dict(changes or {}))


@takes()
def register(
    name: str, method: type[Method], presets: Mapping[str, Mapping[str, Any]] | None = None
) -> None:
    """Make a method of your own known to :func:`configure`, and so to everything else.

    Args:
        name: what ``configure(name)`` takes.
        method: its class, see :class:`dino_tutorial.methods.Method`.
        presets: for each preset the dotted keys that differ from what it means for every method,
            such as ``{"laptop": {"views.local_crops": 0}}``.

    Raises:
        UserError: the name is taken or no name, or there is no such preset.
    """
    for preset in presets or {}:
        _known("preset", preset, PRESETS)
    methods.register(name, method)
    _OF_OTHERS[name] = dict(presets or {})


def preset_of(method: str, preset: str, data: str = "") -> dict[str, Any]:
    """What a preset means for one method, under dotted keys.

    A preset that begins with ``like: METHOD`` has that method's values where it names none. What
    is under ``PRESET@DATA`` holds for that data set only, over the preset's own values.
    """
    of_method = _OF_OTHERS[method] if method in _OF_OTHERS else _read_presets(method)
    values = {**of_method.get(preset, {}), **of_method.get(f"{preset}@{data}", {})}
    if (other := values.pop("like", None)) is not None:
        values = {**preset_of(other, preset, data), **values}
    return values


@takes()
def read_config(path: Path) -> Config:
    """The configuration that a run wrote into ``config.yaml``.

    Raises:
        UserError: it cannot be read, or is not whole: what is missing would get another value than
            the run was made with.
    """
    flat = read_yaml(path, WHOLE)
    if "method" not in flat:
        raise UserError(f"{path} is not a run's configuration, it names no method: {WHOLE}")
    try:
        _known("method", flat["method"], METHODS)
        empty = Config(objective=METHODS[flat["method"]].Settings())
        config = empty._with_layer(ADDED | _without_fixed(flat, path))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    missing = [key for key in flatten(config) if key not in flat and key not in ADDED]
    if missing:
        raise UserError(
            f"{path} is not whole, it lacks {missing[0]}"
            f"{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}: {WHOLE}"
        )
    return config


def _without_fixed(flat: dict[str, Any], path: Path) -> dict[str, Any]:
    """Pass over settings that earlier versions had, as long as they say what holds today."""
    for name, value in FIXED.items():
        if flat.get(name, value) != value:
            raise UserError(
                f"{path} has {name} = {flat[name]!r}, which is {value!r} for all runs now: use the "
                f"version of dino-tutorial that the run was made with"
            )
    return {name: value for name, value in flat.items() if name not in FIXED}


@cache
def _read_presets(name: str) -> dict[str, dict[str, Any]]:
    path = Path(__file__).parent / "presets" / f"{name}.yaml"
    if not path.is_file():  # a method of one's own that was given none
        return {}
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _known(what: str, name: Any, names: Iterable[str]) -> None:
    if not isinstance(name, str) or name not in names:
        near = difflib.get_close_matches(str(name), list(names), n=1)
        hint = f"did you mean '{near[0]}'? There are" if near else "there are"
        raise UserError(f"unknown {what} '{name}': {hint} {', '.join(names)}")
