"""Settings that are right each by itself and wrong together, said before anything is written."""

from torch import nn

from dino_tutorial.errors import UserError
from dino_tutorial.methods import Method
from dino_tutorial.runs.config import Config


def check_accumulation(config: Config, method: Method, device: str, world: int = 1) -> None:
    """Refuse parts of a batch that are unequal, or too small for what the method computes.

    Args:
        config: of the run.
        method: built from it.
        device: "cpu", "cuda" or "mps"; CUDA's batch norm is synchronised over processes.
        world: processes that share a batch.

    Raises:
        UserError: naming the settings and what to set.
    """
    batch, parts = config.train.batch_size, config.train.accumulate
    own = batch // world
    if own % parts:
        raise UserError(
            f"train.accumulate = {parts} does not divide the {own} images that a process has of a "
            f"batch: use a divisor of {own}"
        )
    together = own // parts * (world if device == "cuda" else 1)
    if together == 1 and _uses_batch_statistics(method):
        raise UserError(
            f"train.batch_size = {batch} with train.accumulate = {parts} leaves one image at a "
            f"time in a process, and {config.method} normalises by the statistics of several: use "
            f"a larger batch or fewer parts"
        )


def _uses_batch_statistics(method: Method) -> bool:
    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in method.modules())
