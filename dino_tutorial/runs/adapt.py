"""A preset's batch on this machine: as large as the images, the processor and the memory allow."""

import torch

from dino_tutorial.methods import Method
from dino_tutorial.options import replace_options
from dino_tutorial.runs.build import build_method
from dino_tutorial.runs.config import Config
from dino_tutorial.runs.cost import StepCost, step_cost
from dino_tutorial.runs.environment import choose_precision, device_memory

GIB = 2**30
RESERVED = 1.5 * GIB  # bytes of a GPU for its driver, for views in the making, and to spare
USABLE = 0.92  # share of a GPU's memory that blocks of changing sizes leave usable
OF_A_CPU = 0.5  # share of a machine's memory: there are other programs
# Pixels of the views of a batch on a CPU: a step of photographs takes seconds then, not minutes.
CPU_PIXELS = 1_500_000
FEWEST = 2  # images at a time that a loss compares


def adapted(
    config: Config, n_images: int, n_classes: int, device: torch.device, world: int, held: int
) -> tuple[Config, str | None]:
    """The configuration with a batch that fits, if it asks for one (``train.adapt``).

    What the caller named stays as it is: ``train.batch_size`` is then only run in parts, and with
    ``train.accumulate`` too nothing is chosen.

    Args:
        config: of the run.
        n_images, n_classes: to train on.
        device: where.
        world: processes that share a batch.
        held: bytes of the images that are kept on the device.

    Returns:
        The configuration to run and to write down, and a sentence about what was chosen.
    """
    if not config.train.adapt:
        return config, None
    batch = config.train.batch_size
    if "train.batch_size" not in config.named:
        batch = _batch(config, n_images, device, world)
    own, parts = batch // world, config.train.accumulate
    if "train.accumulate" not in config.named:
        cost = simulated(config, n_classes, device)
        parts = parts_that_fit(cost, own, usable_memory(device) - held)
        if "train.batch_size" not in config.named:
            batch = own // parts * parts * world
        else:
            parts = next(n for n in range(parts, own + 1) if own % n == 0)
    changes = {"train.batch_size": batch, "train.accumulate": parts, "train.adapt": False}
    told = f"a batch of {batch} images, run in {parts} part{'s' if parts > 1 else ''}"
    return replace_options(config, changes), f"{told} ({_reasons(config, batch, parts)})"


def simulated(config: Config, n_classes: int, device: torch.device) -> StepCost:
    """What a step of a configuration costs on a device, see :mod:`dino_tutorial.runs.cost`."""
    method: Method = build_method(config, n_classes).train()
    reduced = choose_precision(config.train.precision, device) != "fp32"
    return step_cost(method, method.view_specs(config.views), reduced)


def parts_that_fit(cost: StepCost, n_images: int, budget: float) -> int:
    """The fewest parts of a batch of so many images whose steps need at most ``budget`` bytes.

    Where not even two images fit, they are what is tried.
    """
    at_a_time = max(FEWEST, int((budget - cost.fixed) // max(1, cost.per_image)))
    return -(-n_images // min(at_a_time, n_images))


def _batch(config: Config, n_images: int, device: torch.device, world: int) -> int:
    """The preset's batch, lowered to the images and to the processor; a multiple of ``world``.

    It is one of ``train.accumulate`` too, where the caller named that and there are enough images.
    """
    parts = config.train.accumulate if "train.accumulate" in config.named else 1
    batch = min(config.train.batch_size, n_images)
    if device.type == "cpu":
        views = config.views
        pixels = 2 * views.global_size**2 + views.local_crops * views.local_size**2
        batch = min(batch, max(FEWEST, CPU_PIXELS // pixels))
    together = world * parts if world * parts <= batch else world
    return max(world, batch // together * together)


def usable_memory(device: torch.device) -> float:
    """Bytes that a training may take of a device."""
    memory = device_memory(device)
    return USABLE * memory - RESERVED if device.type == "cuda" else OF_A_CPU * memory


def _reasons(config: Config, batch: int, parts: int) -> str:
    before = config.train
    if (batch, parts) == (before.batch_size, before.accumulate):
        return "as the preset says"
    return f"the preset says {before.batch_size}: what the images, the device and its memory allow"
