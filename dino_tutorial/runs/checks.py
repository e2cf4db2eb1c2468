"""Settings that are right each by itself and wrong together, said before anything is written."""

from torch import nn

from dino_tutorial.errors import UserError
from dino_tutorial.methods import Method
from dino_tutorial.runs.config import Config


def check_accumulation(config: Config, method: Method, world: int = 1) -> None:
    """Refuse parts of a batch that are unequal, or too small for what the method computes.

    Args:
        config: of the run.
        method: built from it.
        world: processes that share a batch.

    Raises:
        UserError: naming the setting and what to set.
    """
    own, parts = config.train.batch_size // world, config.train.accumulate
    if own % parts:
        raise UserError(
            f"train.accumulate = {parts} does not divide the {own} images that a process has of a "
            f"batch: use a divisor of {own}"
        )
    if own == parts and _uses_batch_statistics(method):
        raise UserError(
            f"train.accumulate = {parts} runs one image at a time, and {config.method} normalises "
            f"by the statistics of several: use train.accumulate={max(1, own // 2)} or less"
        )


def _uses_batch_statistics(method: Method) -> bool:
    return any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in method.modules())
