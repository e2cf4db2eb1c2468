"""Images a second of a DINO step and of its views on one GPU: ours, lightly's, the reference's.

    python -m benchmarks.gpu_step --into FOLDER               # needs '.[bench]' for lightly
    python -m benchmarks.gpu_step --into FOLDER --dino CLONE  # the reference too, from its clone
    python -m benchmarks.gpu_step --into FOLDER --device cpu --size smoke

ViT-S/16, 2 x 224 + 8 x 96, K = 65536, bf16. Each contender takes larger and larger batches while
they fit; its best one counts, with the peak of the device's memory at it. Steps get views that are
there: the others' come from PIL on the CPU, and how many images that makes a second, on all cores,
is measured beside the views of this package on the device. `products` is the rate of large matrix
products, and `share_of_products` what our best step reaches of it. Writes summary.json,
environment.json and command.txt.
"""

import argparse
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch
from contenders import Setting, build
from pil_views import PilView

from dino_tutorial import configure
from dino_tutorial.files import make_folder, write_json, write_text
from dino_tutorial.runs.adapt import simulated
from dino_tutorial.runs.doctor import products_per_second
from dino_tutorial.runs.environment import describe_environment
from dino_tutorial.views import dino_views

FULL = Setting(384, 12, 6, 16, 224, 96, 8, source_size=256, out_dim=65536, bf16=True)
SMOKE = Setting(48, 1, 3, 16, 32, 16, 2, source_size=32, out_dim=64)
BATCHES = {"full": (32, 64, 128, 256, 512), "smoke": (2, 4)}
TURNS = {"full": 12, "smoke": 2}
WARM = 3  # turns that are not counted; a compiled step is made in them


def rate(work: Callable[[], object], images: int, turns: int, device: torch.device) -> float:
    """Images a second, from the median of so many turns."""
    seconds = []
    for turn in range(WARM + turns):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if turn >= WARM:
            seconds.append(time.perf_counter() - start)
    return images / statistics.median(seconds)


def views_of(s: Setting) -> list[torch.Tensor]:
    """Stand-ins for what augmentation gives, on the host; a step takes as long with any pixels."""
    sizes = [s.global_size] * 2 + [s.local_size] * s.n_local
    return [torch.randn(s.batch, 3, size, size) for size in sizes]


def step_rates(name: str, s: Setting, clone: Path | None, size: str) -> dict[str, Any]:
    """Of each batch that fits: images a second, and MiB of the device's memory at the peak."""
    device, found = torch.device(s.device), {}
    for batch in BATCHES[size]:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        own = replace(s, batch=batch)
        try:
            contender = build(name, own, clone)
            views = contender.augment() if name == "ours" else own.placed(views_of(own))
            step = lambda c=contender, v=views: c.step(v)  # noqa: E731
            row = {"images_per_second": round(rate(step, batch, TURNS[size], device), 1)}
        except torch.OutOfMemoryError:
            break
        finally:
            contender = views = step = None
        if device.type == "cuda":
            row["mib"] = round(torch.cuda.max_memory_allocated(device) / 2**20)
        found[str(batch)] = row
    return found


def best(rows: dict[str, Any]) -> dict[str, Any]:
    """The row with the most images a second, and its batch."""
    if not rows:
        return {}
    batch = max(rows, key=lambda b: rows[b]["images_per_second"])
    return {"batch": int(batch), **rows[batch]}


def device_views(s: Setting, size: str) -> float:
    """Images a second whose views this package makes on the device."""
    ours = build("ours", s, None)
    return rate(ours.augment, s.batch, TURNS[size], torch.device(s.device))


def pil_views(s: Setting, size: str) -> dict[str, float]:
    """Images a second whose views PIL makes, with a process on each core."""
    cores = os.cpu_count() or 1
    turns = TURNS[size] // 2
    with ProcessPoolExecutor(cores) as pool:
        list(pool.map(_pil_chunk, [replace(s, batch=1)] * cores, [1] * cores))  # imports
        start = time.perf_counter()
        list(pool.map(_pil_chunk, [s] * cores, [turns] * cores))
        seconds = time.perf_counter() - start
    return {"cores": cores, "images_per_second": round(cores * turns * s.batch / seconds, 1)}


def _pil_chunk(s: Setting, turns: int) -> None:
    torch.set_num_threads(1)
    views = [PilView(spec) for spec in dino_views(s.global_size, s.local_size, s.n_local)]
    pictures = s.pictures()
    for _ in range(turns):
        for picture in pictures:
            for view in views:
                view(picture)


def contenders(s: Setting, clone: Path | None) -> dict[str, tuple[str, Setting]]:
    """What is timed, by the name that results have; each with the name it is built by."""
    chosen = {"ours": ("ours", s)}
    if torch.device(s.device).type == "cuda":  # for a CPU that takes minutes and shows nothing
        chosen["ours, compiled"] = ("ours", replace(s, compiled=True))
    try:
        import lightly  # noqa: F401

        chosen["lightly"] = ("lightly", s)
    except ImportError:
        print("lightly is not installed: pip install '.[bench]'", file=sys.stderr)
    return chosen | ({"reference": ("reference", s)} if clone else {})


def measure(device: str, size: str, clone: Path | None) -> dict[str, Any]:
    s = replace(FULL if size == "full" else SMOKE, device=device)
    s = replace(s, batch=BATCHES[size][-1] if size == "smoke" else 64)
    rows = {
        name: step_rates(built, own, clone, size)
        for name, (built, own) in contenders(s, clone).items()
    }
    results: dict[str, Any] = {
        "setting": f"ViT of width {s.width}, 2 x {s.global_size} + {s.n_local} x {s.local_size}",
        "steps": {name: {"best": best(found), "batches": found} for name, found in rows.items()},
        "views": {
            "ours, on the device": round(device_views(s, size), 1),
            "PIL": pil_views(replace(s, batch=min(s.batch, 8)), size),
        },
    }
    if size == "full":
        there = torch.device(device)
        flops = simulated(configure("dino", preset="paper"), 0, there).flops
        products = products_per_second(there)
        own = [best(rows[name]) for name in rows if name.startswith("ours")]
        fastest = max(row.get("images_per_second", 0) for row in own)
        results["products"] = products
        results["share_of_products"] = round(fastest * flops / products, 3)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--into", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=tuple(BATCHES), default="full")
    parser.add_argument("--dino", type=Path, help="a clone of facebookresearch/dino")
    options = parser.parse_args()
    results = measure(options.device, options.size, options.dino)
    make_folder(options.into)
    there = torch.device(options.device)
    write_json(options.into / "environment.json", describe_environment(there))
    clone = " --dino CLONE" if options.dino else ""
    write_text(
        options.into / "command.txt", f"python -m benchmarks.gpu_step --into FOLDER{clone}\n"
    )
    write_json(options.into / "summary.json", results)
    for name, row in results["steps"].items():
        print(name, row["best"])
    print(results["views"])


if __name__ == "__main__":
    main()
