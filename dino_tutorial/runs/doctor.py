"""What this machine is and what fits on it, in a form to paste into a bug report."""

import shutil
import time

import torch

from dino_tutorial.runs.adapt import parts_that_fit, simulated, usable_memory
from dino_tutorial.runs.config import configure
from dino_tutorial.runs.environment import (
    choose_device,
    choose_precision,
    describe_environment,
    device_memory,
)

GIB = 2**30
# Images of the data set that a preset was made for, CIFAR-10; photo counts in steps.
IMAGES = {"gpu": 50_000, "photo": 10_000}
REACHED = 0.3  # share of a device's rate of large products that a training step reaches, about
SIDE = 2048  # of the products that are timed
MINUTE, HOUR, DAY = 60, 3600, 86400


def examine() -> str:
    """Lines ``name: value``, then which presets fit, and about how long DINO takes with them."""
    device = choose_device("auto")
    facts = describe_environment(device)
    facts["memory"] = f"{device_memory(torch.device('cpu')) / GIB:.1f} GiB"
    if device.type == "cuda":
        facts["device memory"] = f"{device_memory(device) / GIB:.1f} GiB"
        facts["cuda"] = torch.version.cuda
    facts["free disk here"] = f"{shutil.disk_usage('.').free / GIB:.1f} GiB"
    width = max(map(len, facts))
    lines = [f"{name + ':':<{width + 2}}{value}" for name, value in facts.items()]
    return "\n".join([*lines, "", *_presets(device)])


def _presets(device: torch.device) -> list[str]:
    rate = products_per_second(device)
    several = "several GPUs under torchrun, for days"
    return [
        "preset smoke:   fits (seconds)",
        "preset laptop:  fits (about three minutes of training on two CPU cores)",
        *(f"{f'preset {name}:':<16}{fit_in_words(name, device, rate)}" for name in IMAGES),
        f"preset paper:   {several if device.type == 'cuda' else 'needs several CUDA GPUs'}",
    ]


def fit_in_words(preset: str, device: torch.device, rate: float) -> str:
    """Whether DINO fits in memory with a preset, in how many parts, and how long it takes."""
    config = configure("dino", preset=preset)
    cost = simulated(config, 0, device)
    n, batch = IMAGES[preset], config.train.batch_size
    length = config.train.total_steps(n) * batch * cost.flops / (REACHED * rate)
    if usable_memory(device) < cost.bytes(2):
        return f"needs {cost.bytes(2) / GIB:.1f} GiB for two images, more than there is"
    parts = parts_that_fit(cost, batch, usable_memory(device))
    pieces = "" if parts == 1 else f", a batch of {batch} in {parts} parts"
    where = "here" if device.type == "cpu" else "on this GPU"
    return f"about {_told(length)} {where} for {n:,} images{pieces}"


def products_per_second(device: torch.device) -> float:
    """Operations a second of large matrix products, in the precision that training uses."""
    half = choose_precision("auto", device) != "fp32"
    one = torch.ones(SIDE, SIDE, device=device, dtype=torch.bfloat16 if half else torch.float32)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        (one @ one)[0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return 2 * SIDE**3 / min(seconds)


def _told(seconds: float) -> str:
    """A length of time in one digit or two, and in the unit that suits it."""
    units = ((DAY, "day"), (HOUR, "hour"), (MINUTE, "minute"))
    length, name = next((u for u in units if seconds >= 1.5 * u[0]), units[-1])
    number = max(1.0, float(f"{seconds / length:.{1 if seconds < 10 * length else 2}g}"))
    return f"{number:,.0f} {name}{'s' if number != 1 else ''}"
