"""A step beside other work: with one thread, with all, and with as many as help now.

    python -m benchmarks.busy

Short trainings of DINO at the laptop preset take turns, first on the machine as it is, which should
be idle, then beside as many processes that never rest as there are cores. Times are wall-clock
medians over steps, kept as ratios to one thread's. The result is written to benchmarks/busy.json
with the machine described.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import torch

from dino_tutorial import configure
from dino_tutorial.datasets.scenes import SceneDataset
from dino_tutorial.runs import build_method
from dino_tutorial.runs.environment import describe_environment
from dino_tutorial.training.log import read_rows
from dino_tutorial.training.loop import Trainer
from dino_tutorial.views import Augment

RESULTS = Path(__file__).parent / "busy.json"
ALL = torch.get_num_threads()
MODES = ("one", "all", "follows")
ROUNDS = 4
STEPS = {"idle": 40, "busy": 16}


def step_seconds(mode: str, steps: int) -> list[float]:
    """Wall-clock seconds of the steps of one training, the first left out."""
    os.environ.pop("OMP_NUM_THREADS", None)
    if mode != "follows":  # a number that was asked for stays
        os.environ["OMP_NUM_THREADS"] = str(ALL)
    torch.set_num_threads(1 if mode == "one" else ALL)
    changes = {"train.epochs": 1, "train.log_every": 1, "train.workers": 0}
    config = configure("dino", "patterns", "laptop", changes)
    method = build_method(config)
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            method=method,
            augment=Augment(method.view_specs(config.views)),
            dataset=SceneDataset(n=config.train.batch_size * steps, look="pattern"),
            optim=config.optim,
            train=config.train,
            seed=0,
            device=torch.device("cpu"),
            folder=Path(folder),
        ).fit()
        ends = [row["seconds"] for row in read_rows(Path(folder) / "timings.jsonl")]
    return [after - before for before, after in pairwise(ends)]


@contextmanager
def other_work(processes: int) -> Iterator[None]:
    """As many processes that never rest."""
    running = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)
    ]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def alternate(beside: str) -> dict[str, float]:
    """Median milliseconds of a step in each mode, the modes taking turns."""
    taken: dict[str, list[float]] = {mode: [] for mode in MODES}
    with other_work((os.cpu_count() or 1) if beside == "busy" else 0):
        for _ in range(ROUNDS):
            for mode in MODES:
                taken[mode] += step_seconds(mode, STEPS[beside])
    return {mode: 1000 * statistics.median(seconds) for mode, seconds in taken.items()}


def main() -> None:
    measured = {beside: alternate(beside) for beside in STEPS}
    results = {
        "machine": describe_environment(torch.device("cpu")),
        "milliseconds": measured,
        "ratio_to_one": {
            beside: {mode: times[mode] / times["one"] for mode in MODES[1:]}
            for beside, times in measured.items()
        },
    }
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
