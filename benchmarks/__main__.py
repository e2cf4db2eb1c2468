"""Every benchmark in one run, as ratios: ours against the reference's clone and lightly.

    python -m benchmarks --dino CLONE       # a clone of facebookresearch/dino; needs '.[bench]'

Contenders take turns within one process, so a machine that slows down slows all of them; the
table gives medians and their ratios. Peak memory is measured in a process of its own for each.
The results go to benchmarks/results.json with the machine described.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import torch  # noqa: E402
from contenders import CLIP, MOMENTUM, Setting, build  # noqa: E402

from dino_tutorial.runs.environment import describe_environment, native_bf16  # noqa: E402

NAMES = ("ours", "reference", "lightly")


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alternate(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, called in turn; the first turn is not counted."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            seconds = timed(work)
            if turn:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def training_step(clone: Path | None, rounds: int, bf16: bool) -> dict:
    """Augmentation and step; PIL's share is divided by the cores, as loader workers would."""
    setting = Setting(bf16=bf16)
    names = [name for name in NAMES if name != "reference" or clone]
    contenders = {name: build(name, setting, clone) for name in names}
    views = {name: contender.augment() for name, contender in contenders.items()}
    steps = alternate({n: lambda n=n: contenders[n].step(views[n]) for n in contenders}, rounds)
    crops = alternate({n: contenders[n].augment for n in contenders}, rounds)
    cores = torch.get_num_threads()
    whole = {n: steps[n] + (crops[n] if n == "ours" else crops[n] / cores) for n in contenders}
    floor = matrix_products(setting)
    return {
        "step_seconds": steps,
        "augmentation_seconds": crops,
        "whole_seconds": whole,
        "ratio_step": {n: steps[n] / steps["ours"] for n in steps if n != "ours"},
        "ratio_whole": {n: whole[n] / whole["ours"] for n in whole if n != "ours"},
        "matrix_products_seconds": floor,
        "fraction_of_matrix_product_rate": floor / steps["ours"],
    }


def matrix_products(s: Setting) -> float:
    """Seconds that the step's matrix products alone take, each timed at its own shape.

    Forward once for the teacher's tokens; forward and both gradients for the student's.
    """
    dtype = torch.bfloat16 if s.bf16 else torch.float32
    shapes = [
        (s.width, 3 * s.width),
        (s.width, s.width),
        (s.width, 4 * s.width),
        (4 * s.width, s.width),
    ]
    n_global, n_local = (s.global_size // s.patch) ** 2 + 1, (s.local_size // s.patch) ** 2 + 1
    groups = [(2 * s.batch * n_global, 2), (s.n_local * s.batch * n_local, 1)]
    total = 0.0
    for rows, networks in groups:
        for k, n in shapes:
            total += s.depth * _products(rows, k, n, dtype, teacher=networks == 2)
    head = [(s.width, 2048), (2048, 2048), (2048, 256), (256, s.out_dim)]
    for k, n in head:
        total += _products((2 + s.n_local) * s.batch, k, n, dtype, teacher=False)
        total += _one(2 * s.batch, k, n, dtype)
    return total


def _products(rows: int, k: int, n: int, dtype, teacher: bool) -> float:
    forward = _one(rows, k, n, dtype)
    inputs, weights = _one(rows, n, k, dtype), _one(k, rows, n, dtype)
    return forward * (2 if teacher else 1) + inputs + weights


def _one(m: int, k: int, n: int, dtype) -> float:
    a, b = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype)
    a @ b
    return statistics.median(timed(lambda: a @ b) for _ in range(5))


def loss_at_k65536(clone: Path | None, rounds: int) -> dict:
    """Forward and backward of the DINO loss alone: batch 32, ten crops, K = 65536."""
    from dino_tutorial.losses import DINOLoss, dino_loss

    torch.manual_seed(0)
    student = torch.randn(10, 32, 65536, requires_grad=True)
    teacher = torch.randn(2, 32, 65536)
    ours = DINOLoss(65536)

    def run_ours() -> None:
        student.grad = None
        ours(student, teacher, 0.04).backward()

    def run_plain() -> None:
        student.grad = None
        dino_loss(student, ours.probabilities(teacher, 0.04), ours.student_temp).backward()

    works = {"ours": run_ours, "plain": run_plain}
    if clone:
        from contenders import _import_clone

        reference = _import_clone(clone)[0].DINOLoss(65536, 10, 0.04, 0.04, 0, 100)

        def run_reference() -> None:
            student.grad = None
            reference(student.flatten(0, 1), teacher.flatten(0, 1), 0).backward()

        works["reference"] = run_reference
    seconds = alternate(works, rounds)
    return {"seconds": seconds} | _ratio(seconds)


def clip_and_average(clone: Path | None, rounds: int) -> dict:
    """Clipping and the teacher's average alone, ViT-S/16 with a head of K = 65536."""
    from dino_tutorial.models import DINOHead, vit_small
    from dino_tutorial.training import Teacher, clip_gradients

    torch.manual_seed(0)
    student = torch.nn.Sequential(vit_small(), DINOHead(384, 65536))
    teacher = Teacher(student)
    parameters = [p for p in student.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter) * 1e-3

    def run_ours() -> None:
        clip_gradients(parameters, CLIP, "parameter")
        teacher.update(student, MOMENTUM)

    works = {"ours": run_ours}
    if clone:
        from contenders import _import_clone

        utils = _import_clone(clone)[1]

        def run_reference() -> None:
            utils.clip_gradients(student, CLIP)
            with torch.no_grad():
                pairs = zip(student.parameters(), teacher.network.parameters(), strict=True)
                for ours, theirs in pairs:
                    theirs.data.mul_(MOMENTUM).add_((1 - MOMENTUM) * ours.detach().data)

        works["reference"] = run_reference
    seconds = alternate(works, rounds)
    return {"seconds": seconds} | _ratio(seconds)


def peak_memory(clone: Path | None) -> dict:
    """Largest resident size (MiB) of a process that makes three steps, its imports included."""
    names = [name for name in NAMES if name != "reference" or clone]
    peaks = {}
    for name in names:
        arguments = [sys.executable, "-m", "benchmarks", "--memory-of", name]
        arguments += ["--dino", str(clone)] if clone else []
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        peaks[name] = float(done.stdout.split()[-1])
    return {"mib": peaks} | _ratio(peaks)


def measure_memory(name: str, clone: Path | None) -> None:
    contender = build(name, Setting(), clone)
    for _ in range(3):
        contender.step(contender.augment())
    # Not getrusage: on Linux its maximum outlives exec and would be the parent's.
    status = Path("/proc/self/status").read_text()
    print(next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line) / 1024)


def multi_crop_forward(rounds: int) -> dict:
    """All crops in one pass against one pass for each size, in a process with one thread."""
    results = {}
    for batch in (1, 2):
        code = f"import json, packing; print(json.dumps(packing.compare({rounds}, {batch})))"
        words = [sys.executable, "-c", code]
        done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=HERE)
        results[f"batch_{batch}"] = json.loads(done.stdout.splitlines()[-1])
    return results


def _ratio(values: dict[str, float]) -> dict:
    return {"ratio": {name: values[name] / values["ours"] for name in values if name != "ours"}}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--dino", type=Path, help="a clone of facebookresearch/dino")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory-of", choices=NAMES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        measure_memory(options.memory_of, options.dino)
        return
    clone, rounds = options.dino, options.rounds
    results = {
        "machine": describe_environment(torch.device("cpu")),
        "step_fp32": training_step(clone, rounds, bf16=False),
        "loss_k65536": loss_at_k65536(clone, rounds),
        "clip_and_average": clip_and_average(clone, rounds),
        "peak_memory": peak_memory(clone),
        "multi_crop_forward": multi_crop_forward(rounds),
    }
    if native_bf16(torch.device("cpu")):
        results["step_bf16"] = training_step(clone, rounds, bf16=True)
    else:
        results["step_bf16"] = "not measured: this processor emulates bf16"
    (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
