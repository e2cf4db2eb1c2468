"""What this machine is and what fits on it, in a form to paste into a bug report."""

import os
import shutil
from pathlib import Path

import torch

from dino_tutorial.runs.environment import choose_device, describe_environment


def examine() -> str:
    """Lines ``name: value``, then which presets fit."""
    device = choose_device("auto")
    facts = describe_environment(device)
    facts["memory"] = f"{_memory_gib():.1f} GiB"
    if device.type == "cuda":
        facts["device memory"] = f"{torch.cuda.mem_get_info(device)[1] / 2**30:.1f} GiB"
        facts["cuda"] = torch.version.cuda
    facts["free disk here"] = f"{shutil.disk_usage('.').free / 2**30:.1f} GiB"
    width = max(map(len, facts))
    lines = [f"{name + ':':<{width + 2}}{value}" for name, value in facts.items()]
    return "\n".join([*lines, "", *_presets(device)])


def _presets(device: torch.device) -> list[str]:
    gpu = device.type == "cuda"
    return [
        "preset smoke:   fits (seconds)",
        "preset laptop:  fits (about three minutes of training on two CPU cores)",
        f"preset gpu:     {'fits' if gpu else 'needs one CUDA GPU; here it would take days'}",
        f"preset paper:   {'several GPUs under torchrun' if gpu else 'needs several CUDA GPUs'}",
    ]


def _memory_gib() -> float:
    limit = Path("/sys/fs/cgroup/memory.max")
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        total = min(total, int(text))
    return total / 2**30
