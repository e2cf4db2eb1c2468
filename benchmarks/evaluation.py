"""Time and memory of k-NN and the linear probe against the number of training features.

    python -m benchmarks.evaluation                  # 10,000, 100,000 and 1,000,000 features
    python -m benchmarks.evaluation --device cuda    # the same on a GPU

Features (N, 384) float32 are drawn around the centers of 100 classes, with 2,000 queries; the probe
takes 100 steps. Each size runs in a process of its own. `peak_mib` is what the work took at most
beside the features, on the host; `peak_device_mib` on the GPU. Results are added to
benchmarks/evaluation.json with the machine described.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.curation import Memory, memory
from dino_tutorial.evaluation import knn_accuracies, linear_probe
from dino_tutorial.runs.environment import choose_device, describe_environment

RESULTS = Path(__file__).parent / "evaluation.json"
DIM, CLASSES, QUERIES, PROBE_STEPS = 384, 100, 2000, 100


def draw(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, DIM) features and (n,) classes."""
    centers = torch.randn(CLASSES, DIM, generator=torch.Generator().manual_seed(0))
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (n,), generator=g)
    features = torch.randn(n, DIM, generator=g).mul_(3)
    for some in torch.arange(n).split(2**16):  # no second tensor of this size
        features[some] += centers[labels[some]]
    return features, labels


def measure(n: int, device: torch.device) -> dict:
    train_x, train_y = draw(n, 1)
    test_x, test_y = (tensor.to(device) for tensor in draw(QUERIES, 2))
    results: dict = {"features": n, "dim": DIM, "features_mib": round(n * DIM * 4 / 2**20, 1)}
    results |= {"device": device.type, "threads": torch.get_num_threads()}
    for name, work in (
        ("knn", lambda: knn_accuracies(train_x, train_y, test_x, test_y, [20])[20]),
        (
            "probe",
            lambda: (
                linear_probe(
                    train_x.to(device), train_y, test_x, test_y, steps=PROBE_STEPS
                ).test_accuracy
            ),
        ),
    ):
        before, watched = memory("RssAnon"), Memory()
        start, wall = time.process_time(), time.perf_counter()
        results[f"{name}_top1"] = round(work(), 4)
        results[f"{name}_cpu_seconds"] = round(time.process_time() - start, 2)
        results[f"{name}_seconds"] = round(time.perf_counter() - wall, 2)
        results[f"{name}_peak_mib"] = round(watched.anonymous - before, 1)
        if device.type == "cuda":
            results[f"{name}_peak_device_mib"] = torch.cuda.max_memory_allocated() / 2**20
            torch.cuda.reset_peak_memory_stats()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = choose_device(options.device)
    if options.one:
        print(json.dumps(measure(options.sizes[0], device)))
        return
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    for n in options.sizes:
        words = ["--one", "--sizes", str(n), "--device", options.device]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.evaluation", *words],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        row = json.loads(done.stdout)
        print(row)
        others = [r for r in rows if (r["features"], r["device"]) != (n, device.type)]
        rows = sorted([*others, row], key=lambda r: (r["device"], r["features"]))
        results = {"machine": describe_environment(device), "rows": rows}
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
