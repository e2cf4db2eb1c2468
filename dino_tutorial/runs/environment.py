"""Where a result was made: versions, device, commit; and the device that a run gets."""

import os
import platform
import shutil
import subprocess
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch

from dino_tutorial.errors import UserError

PACKAGES = ("dino-tutorial", "torch", "torchvision", "timm", "numpy", "matplotlib")

COMPILED_STEPS = 5000  # of a run that wins back on a GPU what compiling costs at its start


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """``auto``: CUDA, else Apple's MPS, else the CPU.

    Raises:
        UserError: if the device asked for is unknown or not there.
    """
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, there in present.items() if there)
    if name not in present:
        raise UserError(f"device={name!s:.40} is unknown: use auto, {', '.join(present)}")
    if not present[name]:
        reason = "torch was built without CUDA" if not torch.version.cuda else "no driver or GPU"
        detail = f" ({reason})" if name == "cuda" else ""
        raise UserError(f"device={name} was asked for but is not available{detail}: use device=cpu")
    return torch.device(name, local_rank) if name == "cuda" else torch.device(name)


def choose_precision(name: str, device: torch.device) -> str:
    """``auto``: on CUDA bf16, or fp16 where it has no bf16 in hardware; fp32 elsewhere."""
    if name != "auto":
        return name
    if device.type != "cuda":
        return "fp32"
    return "bf16" if native_bf16(device) else "fp16"


def choose_compile(wanted: bool | None, device: torch.device, steps: int) -> bool:
    """``None``: on CUDA, in a run that is long enough, where what compiles for it is installed.

    Compiling takes a minute or two for each network, which short runs do not win back. It needs
    Triton, a C compiler for what calls its kernels, and a GPU that it knows.
    """
    if wanted is not None or device.type != "cuda" or steps < COMPILED_STEPS:
        return bool(wanted)
    c_compiler = os.environ.get("CC") or any(map(shutil.which, ("gcc", "clang")))
    known = torch.cuda.get_device_capability(device) >= (7, 0)
    return bool(known and c_compiler and find_spec("triton"))


def device_memory(device: torch.device) -> int:
    """Bytes that a GPU has; of the CPU, and of MPS that shares them, those of the machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    limit = Path("/sys/fs/cgroup/memory.max")
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        total = min(total, int(text))
    return total


def describe_device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_name()}, {torch.get_num_threads()} threads"


def describe_environment(device: torch.device) -> dict[str, str | int | bool | None]:
    """JSON-ready facts that a reader needs to judge or repeat a result; no paths, no names."""
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}",
        "device": describe_device(device),
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "native_bf16": native_bf16(device),
        "commit": commit(),
    }


def native_bf16(device: torch.device) -> bool:
    """Whether bf16 products run in hardware; emulated ones can be a hundred times slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = _cpuinfo("flags").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def commit() -> str | None:
    """The checkout's commit, with ``+`` when files differ from it; None outside a checkout."""
    folder = Path(__file__).parent
    head = _git(folder, "rev-parse", "--short=12", "HEAD")
    if not head:
        return None
    dirty = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".")
    return head + ("+" if dirty else "")


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")
