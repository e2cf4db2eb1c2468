"""Programs that draw a run's rows while it trains: TensorBoard, Weights & Biases, Trackio.

They come as extras and get what metrics.jsonl gets; nothing is read from them, and a run's folder
is complete without them.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

from dino_tutorial.errors import UserError

PROJECT = "dino-tutorial"
# Each with the module that it needs.
LOGGERS = {
    "none": None,
    "tensorboard": "torch.utils.tensorboard",
    "wandb": "wandb",
    "trackio": "trackio",
}


class Tracker:
    """What the loop hands its rows to; this one keeps nothing."""

    def log(self, row: dict[str, Any]) -> None:
        """A row of numbers with its ``step``; None stands for what was not measured."""

    def close(self) -> None:
        """The session ends, with the run or before."""


def check_logger(logger: str) -> None:
    """Refuse one whose package is missing.

    Raises:
        UserError: saying what to install.
    """
    module = LOGGERS[logger]
    if module is None:
        return
    try:
        import_module(module)
    except ImportError:
        raise UserError(
            f"train.logger = {logger} needs a package that is missing: "
            f"pip install 'dino-tutorial[{logger}]'"
        ) from None


def open_tracker(logger: str, folder: Path, step: int) -> Tracker:
    """The tracker of a run.

    Args:
        logger: a key of :data:`LOGGERS`.
        folder: the run's; its name is the run's there too.
        step: that training begins at; later rows of an earlier session are forgotten where the
            program can do that.
    """
    if logger == "tensorboard":
        return _TensorBoard(folder, step)
    if logger in ("wandb", "trackio"):
        return _Service(import_module(logger), folder)
    return Tracker()


class _TensorBoard(Tracker):
    """Event files in the folder ``tensorboard`` of the run."""

    def __init__(self, folder: Path, step: int) -> None:
        module = import_module("torch.utils.tensorboard")
        self._writer = module.SummaryWriter(str(folder / "tensorboard"), purge_step=step)

    def log(self, row: dict[str, Any]) -> None:
        for name, value in _measured(row).items():
            self._writer.add_scalar(name, value, row["step"])
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Service(Tracker):
    """wandb, and trackio, which is called as wandb is."""

    def __init__(self, module: Any, folder: Path) -> None:
        self._module = module
        module.init(project=PROJECT, name=folder.name, resume="allow")

    def log(self, row: dict[str, Any]) -> None:
        self._module.log(_measured(row), step=row["step"])

    def close(self) -> None:
        self._module.finish()


def _measured(row: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name != "step" and value is not None}
